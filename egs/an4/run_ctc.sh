#!/usr/bin/env bash
# Recognition by CTC with a small encoder of samples, pruned jointly, frontend and Transformer, and its table of word
# error rates. run.sh comes first, its stages 0 and 1.
#
# Stages: 2 cuts, 3 characters, 4 warm-up on the synthetic corpus, 5 the dense model, 6 pruning, 7 extraction,
# 8 fine-tuning, 9 decoding, 10 the table. A stage that is done is not redone; one that was interrupted goes on where it
# was. Paths are relative to this folder.
#
#     ./run_ctc.sh --target-macs 0.5
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

train_parts="train"     # to train on
dev_parts="dev"         # to choose checkpoints by
test_parts="test"       # to decode
data_dir=data           # of run.sh
exp_dir=exp/ctc         # experiments
conf=conf/ctc           # folder of warm_up.yaml, dense.yaml, prune.yaml and finetune.yaml
lang_dir=data/lang_char # characters, made if it holds none
unit=char               # kind of token: unigram, bpe, char or word
vocab_size=             # tokens; char may go without: as many as there are
methods="ctc_greedy_search ctc_decoding"  # decoding

# shellcheck source=utils/encoder_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/encoder_options.sh"

corpus=an4
task=ctc
: "${warm_up:=true}" "${results:=$exp_dir/RESULTS_CTC.md}"
synthetic=
if [ "$warm_up" = true ] && [ -z "$warm_up_cuts" ]; then
  [ "$hears" = samples ] || fail "this warm-up is of samples; with --hears features give --warm-up-cuts or --warm-up false"
  synthetic=../librispeech/data/mini
  warm_up_cuts=$synthetic/cuts/librispeech_cuts_train-clean-mini.jsonl.gz
  warm_up_dev_cuts=$synthetic/cuts/librispeech_cuts_dev-clean-mini.jsonl.gz
fi

# shellcheck source=utils/encoder.sh
. ../../utils/encoder.sh

encoder_cuts
if in_stage 2 && [ -n "$synthetic" ]; then
  require "$synthetic/manifests/librispeech_supervisions_train-clean-mini.jsonl.gz" "0 of run.sh"
  make_cuts "$synthetic/manifests" "$synthetic/cuts" librispeech train-clean-mini dev-clean-mini
fi
encoder_tokens
encoder_training
encoder_tests
