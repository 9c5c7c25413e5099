#!/usr/bin/env bash
# Recognition by CTC with a wav2vec2-family encoder (or a Conformer, by a --conf of your own), pruned jointly, frontend
# and Transformer, and its table of word error rates. run.sh comes first, its stages 0 and 1 (with --hears features also
# 2).
#
# Stages: 2 cuts, 3 tokens, 4 warm-up, 5 the dense model, 6 pruning, 7 extraction, 8 fine-tuning, 9 decoding, 10 the
# table. A stage that is done is not redone; one that was interrupted goes on where it was. Paths are relative to this
# folder. For hlg_decoding, run_lm.sh makes the graph: its stages 0 and 1, with the same --lang-dir.
#
#     ./run_ctc.sh --pretrained facebook/wav2vec2-base --target-macs 0.4
#     ./run_ctc.sh --mini true
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

mini=false              # the synthetic corpus of run.sh --mini true, a small encoder of fresh weights
train_parts=            # default: train-clean-100 (mini: train-clean-mini)
dev_parts=              # default: dev-clean dev-other (mini: dev-clean-mini)
test_parts="test-clean test-other"  # to decode
data_dir=               # of run.sh; default: data (mini: data/mini)
exp_dir=                # experiments; default: exp/ctc (mini: exp/mini/ctc)
conf=                   # folder of warm_up.yaml, dense.yaml, prune.yaml and finetune.yaml; default: conf/ctc (mini: conf/mini_ctc)
lang_dir=               # tokens, made if it holds none; default: lang_char of --data-dir
unit=char               # kind of token: unigram, bpe, char or word
vocab_size=             # tokens; char may go without: as many as there are
methods="ctc_greedy_search ctc_decoding"  # decoding

# shellcheck source=utils/encoder_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/encoder_options.sh"

corpus=librispeech
task=ctc
[[ $mini =~ ^(true|false)$ ]] || fail "--mini takes true or false, not '$mini'"
if [ "$mini" = true ]; then
  : "${train_parts:=train-clean-mini}" "${dev_parts:=dev-clean-mini}" "${data_dir:=data/mini}"
  : "${exp_dir:=exp/mini/ctc}" "${conf:=conf/mini_ctc}"
else
  : "${train_parts:=train-clean-100}" "${dev_parts:=dev-clean dev-other}" "${data_dir:=data}"
  : "${exp_dir:=exp/ctc}" "${conf:=conf/ctc}"
fi
: "${warm_up:=false}" "${lang_dir:=$data_dir/lang_char}" "${results:=$exp_dir/RESULTS_CTC.md}"

# shellcheck source=utils/encoder.sh
. ../../utils/encoder.sh

encoder_cuts
encoder_tokens
encoder_training
encoder_tests
