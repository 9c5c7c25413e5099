#!/usr/bin/env bash
# Classification of SLURP's intents from speech with an encoder of the wav2vec2 family, of Whisper or of Moonshine (or a
# Conformer), whose front end and Transformer are pruned jointly, and a table of its accuracy, size, computation and
# speed.
#
# Stages: 0 the corpus, 1 manifests, 2 cuts, 3 intents and characters, 4 warm-up by CTC, 5 the dense model, 6 pruning, 7
# extraction, 8 fine-tuning, 9 intents of the test set, 10 the table. Finished stages are skipped and interrupted stages
# are resumed. Paths are relative to this folder.
#
#     ./run.sh --corpus-dir /corpora/slurp --pretrained facebook/wav2vec2-base --target-macs 0.4
#     ./run.sh --mini true                                      # a synthetic corpus of templates
#     ./run.sh --mini true --annotations /repositories/slurp    # real sentences, spoken by eSpeak NG
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

mini=false              # use a synthetic corpus and a small encoder with random weights, for 2 cores
corpus_dir=             # directory with dataset/slurp and slurp_real; default: download/slurp (mini: made, by default in corpus/)
annotations=            # mini: directory with dataset/slurp/{devel,test}.jsonl, whose sentences are spoken
corpus_args=            # mini: additional options for local/make_synthetic_corpus.py: "--recordings 3"
train_parts=            # training parts; default: train train_synthetic (mini: train)
dev_parts="devel"       # dev parts, which select checkpoints
test_parts="test"       # test parts
on_missing=error        # action for missing recordings, broken lines and other sampling rates: error or skip
data_dir=               # manifests, cuts and lang dir; default: data (mini: data/mini)
exp_dir=                # experiments; default: exp (mini: exp/mini)
conf=                   # folder of warm_up.yaml, dense.yaml, prune.yaml and finetune.yaml; default: conf (mini: conf/mini)

# shellcheck source=utils/encoder_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/encoder_options.sh"

corpus=slurp
task=intent
made_here=false
[[ $mini =~ ^(true|false)$ ]] || fail "--mini must be true or false, got '$mini'"
if [ "$mini" = true ]; then
  : "${train_parts:=train}" "${data_dir:=data/mini}" "${exp_dir:=exp/mini}" "${conf:=conf/mini}" "${warm_up:=true}"
  [ "$hears" = samples ] || [ "$conf" != conf/mini ] || conf=conf/mini_features
  env_extras=mini
  # an existing directory is used as it is, unless options define its content
  [ -d "$corpus_dir" ] && [ -z "$annotations$corpus_args" ] || made_here=true
  : "${corpus_dir:=corpus/slurp${annotations:+-annotations}}"
else
  [ -z "$annotations$corpus_args" ] || fail "--annotations and --corpus-args need --mini true"
  : "${train_parts:=train train_synthetic}" "${data_dir:=data}" "${exp_dir:=exp}" "${conf:=conf}" "${warm_up:=false}"
  : "${corpus_dir:=download/slurp}"
fi
lang_dir=$data_dir/lang
manifests=$data_dir/manifests
: "${results:=$exp_dir/RESULTS.md}"

# shellcheck source=utils/encoder.sh
. ../../utils/encoder.sh

if in_stage 0; then
  if [ "$made_here" = true ]; then
    # shellcheck disable=SC2086  # a runner is a command with its options, and options are words
    run_logged "a synthetic corpus" "$data_dir/log/corpus.log" $train_cmd -- \
      python local/make_synthetic_corpus.py --output-dir "$corpus_dir" ${annotations:+--annotations "$annotations"} \
      $corpus_args
  else
    [ -d "$corpus_dir" ] || fail "the corpus directory $corpus_dir does not exist; fetch SLURP's repository and its audio \
(scripts/download_audio.sh there) and give --corpus-dir"
  fi
fi
if in_stage 1; then
  require "$corpus_dir" 0
  # shellcheck disable=SC2086
  run_logged "manifests" "$data_dir/log/manifests.log" $train_cmd -- \
    python local/prepare_manifests.py --corpus-dir "$corpus_dir" --parts "${parts[@]}" --output-dir "$manifests" \
    --on-missing "$on_missing"
fi

# shellcheck disable=SC2086
if in_stage 2; then
  for part in "${parts[@]}"; do require "$manifests/${corpus}_supervisions_$part.jsonl.gz" 1; done
  if [ "$hears" = samples ]; then
    make_cuts "$manifests" "$data_dir/cuts" "$corpus" "${parts[@]}"
  else
    compute=(python ../../local/compute_features.py --manifests-dir "$manifests" --output-dir "$data_dir/fbank"
      --prefix "$corpus" --num-splits "$nj" --parts "${parts[@]}")
    run_logged "features" "$data_dir/log/features.JOB.log" $train_cmd "JOB=1:$nj" -- "${compute[@]}" --split JOB
    run_logged "joining the features" "$data_dir/log/features.log" $train_cmd -- "${compute[@]}" --combine
  fi
fi

if in_stage 3; then
  for cuts in "${train_cuts[@]}" "${dev_cuts[@]}" "${test_cuts[@]}"; do require "$cuts" 2; done
  # shellcheck disable=SC2086
  run_logged "intents" "$data_dir/log/intents.log" $train_cmd -- \
    python ../../local/make_intents.py --cuts "${train_cuts[@]}" --other-cuts "${dev_cuts[@]}" "${test_cuts[@]}" \
    --lang-dir "$lang_dir"
  # shellcheck disable=SC2086
  run_logged "characters" "$data_dir/log/characters.log" $train_cmd -- \
    python ../../local/train_bpe.py --cuts "${train_cuts[@]}" --lang-dir "$lang_dir" --unit char
fi

encoder_training
encoder_tests
