#!/usr/bin/env bash
# Train and prune a Conformer transducer on a corpus of your own, and make a table of its word error rates.
#
# Stages: 0 the corpus, 1 manifests, 2 features, 3 word pieces, 4 teacher, 5 L0 pruning with layerwise distillation,
# 6 extraction, 7 fine-tuning, 8 a uniform model of the same size from scratch, 9 decoding, 10 the table.
# Finished stages are skipped and interrupted stages are resumed. Paths are relative to this folder.
#
#     ./run.sh --corpus-dir /kaldi/egs/mycorpus/s5/data --train-parts train --dev-parts dev --test-parts "test eval"
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

corpus_dir=             # directory of the corpus; by default a directory of Kaldi data directories
train_parts="train"     # training parts
dev_parts="dev"         # dev parts, which select checkpoints
test_parts="test"       # test parts
data_dir=data           # manifests, features and word pieces
exp_dir=exp             # experiments
unit=unigram            # kind of token: unigram, bpe, char or word
vocab_size=500          # number of tokens; optional for char
speed_perturb=true      # also train on audio at 0.9 and 1.1 times the speed
conf=conf               # folder of the four configurations
methods="greedy_search modified_beam_search"  # decoding methods

# shellcheck source=utils/asr_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/asr_options.sh"

corpus=mycorpus # prefix of the manifest names

# Stage 0 puts the corpus into $corpus_dir, e.g. by a download. Unchanged, it requires --corpus-dir to exist.
get_corpus() {
  [ -n "$corpus_dir" ] || fail "no corpus given; give --corpus-dir with a Kaldi data directory for each part"
  [ -d "$corpus_dir" ] || fail "the corpus directory $corpus_dir does not exist; give another --corpus-dir"
}

# Stage 1 writes the manifests of "${parts[@]}" with the only program that a new corpus needs.
make_manifests() {
  # shellcheck disable=SC2086
  run_logged "manifests" "$data_dir/log/manifests.log" $train_cmd -- \
    python local/prepare_manifests.py --corpus-dir "$corpus_dir" --parts "${parts[@]}" --prefix "$corpus" \
    --output-dir "$manifests" --audio-dir "$data_dir/audio"
}

# shellcheck source=utils/asr.sh
. ../../utils/asr.sh
