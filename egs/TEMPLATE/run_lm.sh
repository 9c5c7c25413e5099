#!/usr/bin/env bash
# Language models for the recogniser of run.sh: an n-gram, a Transformer and the pruned Transformer, and the effect of
# each on the error rate by shallow fusion and by rescoring. Run run.sh first, at least stages 0 to 4.
#
# Stages: 0 text, 1 n-gram, 2 Transformer, 3 pruning, 4 extraction, 5 fine-tuning, 6 perplexity, 7 decoding (with
# weights chosen on dev), 8 the tables. Finished stages are skipped. Paths are relative to this folder.
#
#     ./run_lm.sh --lm-text "news.txt.gz talks.txt"
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

train_parts="train"     # parts whose transcripts are the training text
dev_parts="dev"         # dev parts, which select checkpoints and weights
test_parts="test"       # test parts
data_dir=data           # data directory of run.sh
exp_dir=exp             # experiments of run.sh
conf=conf               # folder of lm.yaml, lm_prune.yaml and lm_finetune.yaml

# shellcheck source=utils/lm_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/lm_options.sh"

corpus=mycorpus # as in run.sh
: "${lang_dir:=$data_dir/lang_bpe_500}"

# shellcheck source=utils/lm.sh
. ../../utils/lm.sh
