#!/usr/bin/env bash
# Train and prune a Conformer transducer on LibriSpeech, and make a table of its word error rates.
#
# Stages: 0 download, 1 manifests, 2 features, 3 word pieces, 4 teacher, 5 L0 pruning with layerwise distillation,
# 6 extraction, 7 fine-tuning, 8 a uniform model of the same size from scratch, 9 decoding, 10 the table.
# Finished stages are skipped and interrupted stages are resumed. Paths are relative to this folder.
#
#     ./run.sh --mini true                              # a synthetic corpus, all stages in minutes
#     ./run.sh --corpus-dir /corpora/LibriSpeech        # 960 h, d512
#     ./run.sh --train-parts "train-clean-100" --conf conf/d256 --cmd-backend slurm
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

mini=false              # use a synthetic corpus and a small model
corpus_dir=             # directory with the parts; default: download/LibriSpeech (mini: corpus/LibriSpeech)
train_parts=            # training parts; default: train-clean-100 train-clean-360 train-other-500 (mini: train-clean-mini)
dev_parts=              # dev parts, which select checkpoints; default: dev-clean dev-other (mini: dev-clean-mini)
test_parts=             # test parts; default: test-clean test-other
data_dir=               # manifests, features and word pieces; default: data (mini: data/mini); may be made by icefall
exp_dir=                # experiments; default: exp (mini: exp/mini)
corpus_args=            # additional options for local/make_synthetic_corpus.py: "--train-utterances 500 --seed 3"
unit=unigram            # kind of token: unigram, bpe, char or word
vocab_size=             # number of tokens; default: 500 (mini: 60; char: all characters)
speed_perturb=          # also train on audio at 0.9 and 1.1 times the speed; default: true (mini: false)
conf=                   # folder of the four configurations; default: conf/d512 (mini: conf/mini)
methods=                # decoding methods; default: greedy_search modified_beam_search fast_beam_search (mini: greedy_search)

# shellcheck source=utils/asr_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/asr_options.sh"

corpus=librispeech
if [ "$mini" = true ]; then
  : "${corpus_dir:=corpus/LibriSpeech}" "${train_parts:=train-clean-mini}" "${dev_parts:=dev-clean-mini}"
  : "${data_dir:=data/mini}" "${exp_dir:=exp/mini}" "${speed_perturb:=false}" "${conf:=conf/mini}"
  : "${methods:=greedy_search}" "${systems:=teacher finetuned uniform_further}"
  [ "$unit" = char ] || : "${vocab_size:=60}"
  env_extras=mini title="synthetic speech, not $corpus"
else
  : "${corpus_dir:=download/LibriSpeech}" "${train_parts:=train-clean-100 train-clean-360 train-other-500}"
  : "${dev_parts:=dev-clean dev-other}" "${data_dir:=data}" "${exp_dir:=exp}"
  : "${speed_perturb:=true}" "${conf:=conf/d512}" "${methods:=greedy_search modified_beam_search fast_beam_search}"
  [ "$unit" = char ] || : "${vocab_size:=500}"
fi
: "${test_parts:=test-clean test-other}"

get_corpus() {
  if [ "$mini" = true ]; then
    # shellcheck disable=SC2086
    run_logged "synthetic corpus" "$data_dir/log/corpus.log" $train_cmd -- \
      python ../../local/make_synthetic_corpus.py --output-dir "$corpus_dir" $corpus_args
  else
    # shellcheck disable=SC2086
    run_logged "download of missing parts to $corpus_dir" "$data_dir/log/download.log" $train_cmd -- \
      python local/download.py --corpus-dir "$corpus_dir" --parts "${parts[@]}"
  fi
}

make_manifests() {
  # shellcheck disable=SC2086
  run_logged "manifests" "$data_dir/log/manifests.log" $train_cmd -- \
    python local/prepare_manifests.py --corpus-dir "$corpus_dir" --parts "${parts[@]}" --output-dir "$manifests" \
    --num-jobs "$nj"
}

# shellcheck source=utils/asr.sh
. ../../utils/asr.sh
