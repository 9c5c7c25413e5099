#!/usr/bin/env bash
# Language models for the recogniser of run.sh: an n-gram, a Transformer, the Transformer pruned, and what each does to
# the error rate by shallow fusion and by rescoring. run.sh comes first, at least its stages 0 to 4.
#
# Stages: 0 text, 1 n-gram, 2 Transformer, 3 pruning, 4 extraction, 5 fine-tuning, 6 perplexity, 7 decoding (weights are
# chosen on dev), 8 the tables. A stage that is done is not redone. Paths are relative to this folder.
#
#     ./run_lm.sh --lm-text "news.txt.gz talks.txt"
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

train_parts="train"     # whose transcripts are the text
dev_parts="dev"         # to choose checkpoints and weights by
test_parts="test"       # to decode
data_dir=data           # of run.sh
exp_dir=exp             # of run.sh
conf=conf               # folder of lm.yaml, lm_prune.yaml and lm_finetune.yaml

# shellcheck source=utils/lm_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/lm_options.sh"

corpus=mycorpus # as in run.sh
: "${lang_dir:=$data_dir/lang_bpe_500}"

# shellcheck source=utils/lm.sh
. ../../utils/lm.sh
