#!/usr/bin/env bash
# CTC recognition with a small encoder on samples, whose front end and Transformer are pruned jointly, and a table of
# its word error rates. Run stages 0 and 1 of run.sh first.
#
# Stages: 2 cuts, 3 characters, 4 warm-up on the synthetic corpus, 5 the dense model, 6 pruning, 7 extraction,
# 8 fine-tuning, 9 decoding, 10 the table. Finished stages are skipped and interrupted stages are resumed. Paths are
# relative to this folder.
#
#     ./run_ctc.sh --target-macs 0.5
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

train_parts="train"     # training parts
dev_parts="dev"         # dev parts, which select checkpoints
test_parts="test"       # test parts
data_dir=data           # data directory of run.sh
exp_dir=exp/ctc         # experiments
conf=conf/ctc           # folder of warm_up.yaml, dense.yaml, prune.yaml and finetune.yaml
lang_dir=data/lang_char # lang dir with characters, made if missing
unit=char               # kind of token: unigram, bpe, char or word
vocab_size=             # number of tokens; optional for char
methods="ctc_greedy_search ctc_decoding"  # decoding methods

# shellcheck source=utils/encoder_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/encoder_options.sh"

corpus=an4
task=ctc
: "${warm_up:=true}" "${results:=$exp_dir/RESULTS_CTC.md}"
synthetic=
if [ "$warm_up" = true ] && [ -z "$warm_up_cuts" ]; then
  [ "$hears" = samples ] ||
    fail "the default warm-up uses samples; with --hears features give --warm-up-cuts or --warm-up false"
  synthetic=../librispeech/data/mini
  warm_up_cuts=$synthetic/cuts/librispeech_cuts_train-clean-mini.jsonl.gz
  warm_up_dev_cuts=$synthetic/cuts/librispeech_cuts_dev-clean-mini.jsonl.gz
fi

[ "$hears" = samples ] || cuts_stage="2 of run.sh"

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
