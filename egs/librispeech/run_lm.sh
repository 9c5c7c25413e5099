#!/usr/bin/env bash
# Language models for the recogniser of run.sh: an n-gram, a Transformer and the pruned Transformer, and the effect of
# each on the error rate by shallow fusion and by rescoring. Run run.sh first, at least stages 0 to 4.
#
# Stages: 0 text, 1 n-gram, 2 Transformer, 3 pruning, 4 extraction, 5 fine-tuning, 6 perplexity, 7 decoding (with
# weights chosen on dev), 8 the tables. Finished stages are skipped. Paths are relative to this folder.
#
#     ./run_lm.sh --mini true
#     ./run_lm.sh --lm-text download/librispeech-lm-norm.txt.gz --technique low_rank --method wanda
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

mini=false              # use the synthetic corpus of run.sh --mini true
train_parts=            # training parts; default: train-clean-100 train-clean-360 train-other-500 (mini: train-clean-mini)
dev_parts=              # dev parts; default: dev-clean dev-other (mini: dev-clean-mini)
test_parts=             # test parts; default: test-clean test-other
corpus_dir=download/LibriSpeech  # corpus of run.sh; librispeech-lm-norm.txt.gz in it or its parent is the default of --lm-text
data_dir=               # data directory of run.sh; default: data (mini: data/mini)
exp_dir=                # experiments of run.sh; default: exp (mini: exp/mini)
conf=                   # folder of lm.yaml, lm_prune.yaml and lm_finetune.yaml; default: conf/lm (mini: conf/mini)

# shellcheck source=utils/lm_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/lm_options.sh"

corpus=librispeech
if [ "$mini" = true ]; then
  : "${train_parts:=train-clean-mini}" "${dev_parts:=dev-clean-mini}" "${data_dir:=data/mini}" "${exp_dir:=exp/mini}"
  : "${conf:=conf/mini}" "${lang_dir:=$data_dir/lang_bpe_60}"
else
  : "${train_parts:=train-clean-100 train-clean-360 train-other-500}" "${dev_parts:=dev-clean dev-other}"
  : "${data_dir:=data}" "${exp_dir:=exp}" "${conf:=conf/lm}" "${lang_dir:=$data_dir/lang_bpe_500}"
  for place in "$corpus_dir" "$(dirname "$corpus_dir")"; do
    [ -n "$lm_text" ] || [ ! -f "$place/librispeech-lm-norm.txt.gz" ] || lm_text=$place/librispeech-lm-norm.txt.gz
  done
  [ -z "$lm_text" ] || echo "text in addition to the transcripts: $lm_text" >&2
fi
: "${test_parts:=test-clean test-other}"

# shellcheck source=utils/lm.sh
. ../../utils/lm.sh
