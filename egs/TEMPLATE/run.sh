#!/usr/bin/env bash
# From speech to a pruned Conformer transducer and its table of word error rates, on a corpus of your own.
#
# Stages: 0 the corpus, 1 manifests, 2 features, 3 word pieces, 4 teacher, 5 L0 pruning with layerwise distillation,
# 6 extraction, 7 fine-tuning, 8 a uniform model of the same size from scratch, 9 decoding of all, 10 the table.
# A stage that is done is not redone; one that was interrupted goes on where it was. Paths are relative to this folder.
#
#     ./run.sh --corpus-dir /kaldi/egs/mycorpus/s5/data --train-parts train --dev-parts dev --test-parts "test eval"
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

corpus_dir=             # the corpus; as it is: a directory of Kaldi data directories
train_parts="train"     # parts of the corpus to train on
dev_parts="dev"         # to choose checkpoints by
test_parts="test"       # to decode
data_dir=data           # manifests, features and word pieces
exp_dir=exp             # experiments
unit=unigram            # kind of token: unigram, bpe, char or word
vocab_size=500          # tokens; char may go without: as many as there are
speed_perturb=true      # also train on 0.9 and 1.1 of the speed
conf=conf               # folder of the four configurations
methods="greedy_search modified_beam_search"  # decoding

# shellcheck source=utils/asr_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/asr_options.sh"

corpus=mycorpus # manifests' names start so

# Stage 0 leaves the corpus in $corpus_dir: by a download, if there is one. As it is: --corpus-dir must be there.
get_corpus() {
  [ -n "$corpus_dir" ] || fail "there is no corpus; give --corpus-dir, with a Kaldi data directory for each part"
  [ -d "$corpus_dir" ] || fail "the corpus directory $corpus_dir does not exist; give another --corpus-dir"
}

# Stage 1 writes the manifests of "${parts[@]}" with the one program that a corpus needs.
make_manifests() {
  # shellcheck disable=SC2086
  run_logged "manifests" "$data_dir/log/manifests.log" $train_cmd -- \
    python local/prepare_manifests.py --corpus-dir "$corpus_dir" --parts "${parts[@]}" --prefix "$corpus" \
    --output-dir "$manifests" --audio-dir "$data_dir/audio"
}

# shellcheck source=utils/asr.sh
. ../../utils/asr.sh
