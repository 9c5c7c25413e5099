#!/usr/bin/env bash
# CTC recognition with an encoder of the wav2vec2 family, of Whisper or of Moonshine (or a Conformer, with your own
# --conf), whose front end and Transformer are pruned jointly, and a table of its word error rates. Run stages 0 and 1
# of run.sh first (with --hears features also 2).
#
# Stages: 2 cuts, 3 tokens, 4 warm-up, 5 the dense model, 6 pruning, 7 extraction, 8 fine-tuning, 9 decoding, 10 the
# table. Finished stages are skipped and interrupted stages are resumed. Paths are relative to this folder. For
# hlg_decoding, stages 0 and 1 of run_lm.sh make the graph, with the same --lang-dir.
#
#     ./run_ctc.sh --pretrained facebook/wav2vec2-base --target-macs 0.4
#     ./run_ctc.sh --pretrained /networks/moonshine-tiny --method hj-mac --target-macs 0.5
#     ./run_ctc.sh --mini true
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

mini=false              # use the synthetic corpus of run.sh --mini true and a small encoder with random weights
train_parts=            # training parts; default: train-clean-100 (mini: train-clean-mini)
dev_parts=              # dev parts, which select checkpoints; default: dev-clean dev-other (mini: dev-clean-mini)
test_parts="test-clean test-other"  # test parts
data_dir=               # data directory of run.sh; default: data (mini: data/mini)
exp_dir=                # experiments; default: exp/ctc (mini: exp/mini/ctc)
conf=                   # folder of warm_up.yaml, dense.yaml, prune.yaml and finetune.yaml; default: conf/ctc (mini: conf/mini_ctc)
lang_dir=               # lang dir, made if missing; default: lang_char in --data-dir
unit=char               # kind of token: unigram, bpe, char or word
vocab_size=             # number of tokens; optional for char
methods="ctc_greedy_search ctc_decoding"  # decoding methods

# shellcheck source=utils/encoder_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/encoder_options.sh"

corpus=librispeech
task=ctc
[[ $mini =~ ^(true|false)$ ]] || fail "--mini must be true or false, got '$mini'"
if [ "$mini" = true ]; then
  : "${train_parts:=train-clean-mini}" "${dev_parts:=dev-clean-mini}" "${data_dir:=data/mini}"
  : "${exp_dir:=exp/mini/ctc}" "${conf:=conf/mini_ctc}"
else
  : "${train_parts:=train-clean-100}" "${dev_parts:=dev-clean dev-other}" "${data_dir:=data}"
  : "${exp_dir:=exp/ctc}" "${conf:=conf/ctc}"
fi
: "${warm_up:=false}" "${lang_dir:=$data_dir/lang_char}" "${results:=$exp_dir/RESULTS_CTC.md}"

[ "$hears" = samples ] || cuts_stage="2 of run.sh"

# shellcheck source=utils/encoder.sh
. ../../utils/encoder.sh

encoder_cuts
encoder_tokens
encoder_training
encoder_tests
