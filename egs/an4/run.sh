#!/usr/bin/env bash
# Train and prune a Conformer transducer on CMU AN4 (0.7 h of spelled words, numbers and commands), sized for 2 CPU
# cores, and make a table of its word error rates.
#
# Stages: 0 the corpus, 1 manifests, 2 features, 3 characters, 4 teacher, 5 L0 pruning with layerwise distillation,
# 6 extraction, 7 fine-tuning, 8 a uniform model of the same size from scratch, 9 decoding, 10 the table.
# Finished stages are skipped and interrupted stages are resumed. Paths are relative to this folder.
#
#     ./run.sh --corpus-dir /corpora/an4     # the directory unpacked from an4_sphere.tar.gz, with etc/ and wav/
#     ./run.sh --corpus-dir /corpora/an4 --warm-up false      # without the synthetic corpus
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

corpus_dir=download/an4 # directory with etc/ and wav/
dev_speakers=8          # number of speakers of the training list held out for dev
train_parts="train"     # training parts
dev_parts="dev"         # dev parts, which select checkpoints
test_parts="test"       # test parts
data_dir=data           # manifests, features and characters
exp_dir=exp             # experiments
unit=char               # kind of token: unigram, bpe, char or word
vocab_size=             # number of tokens; optional for char
speed_perturb=true      # also train on audio at 0.9 and 1.1 times the speed
conf=conf               # folder of the four configurations
methods="greedy_search modified_beam_search"  # decoding methods
warm_up=true            # first train teacher and uniform model on the synthetic corpus of the LibriSpeech recipe

# shellcheck source=utils/asr_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/asr_options.sh"

corpus=an4
[[ $warm_up =~ ^(true|false)$ ]] || fail "--warm-up must be true or false, got '$warm_up'"
if [ "$warm_up" = true ] && [ -z "$init_from$warm_up_cuts" ]; then
  env_extras=mini
  synthetic=../librispeech/data/mini
  warm_up_cuts=$synthetic/fbank/librispeech_cuts_train-clean-mini.jsonl.gz
  warm_up_dev_cuts=$synthetic/fbank/librispeech_cuts_dev-clean-mini.jsonl.gz
  : "${warm_up_args:=trainer.max_steps=1500}"
fi

: "${systems:=teacher finetuned uniform}" # as in RESULTS.md

get_corpus() {
  [ -d "$corpus_dir" ] || fail "the corpus directory $corpus_dir does not exist; unpack an4_sphere.tar.gz from \
http://www.speech.cs.cmu.edu/databases/an4 and give --corpus-dir"
  [ -z "${synthetic:-}" ] ||
    run_recipe ../librispeech/run.sh --mini true --stop-stage 2 --cmd-backend "$cmd_backend" --nj "$nj"
}

make_manifests() {
  # shellcheck disable=SC2086
  run_logged "manifests" "$data_dir/log/manifests.log" $train_cmd -- \
    python local/prepare_manifests.py --corpus-dir "$corpus_dir" --parts "${parts[@]}" --data-dir "$data_dir" \
    --dev-speakers "$dev_speakers"
}

# shellcheck source=utils/asr.sh
. ../../utils/asr.sh
