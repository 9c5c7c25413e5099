#!/usr/bin/env bash
# Measure pre-trained networks on real speech, stage by stage; local/make_pretrained_corpus.sh makes the data first. What
# is done is not done again. The JSON files go to results/pretrained, which local/make_pretrained_results.sh tabulates.
#
#     local/measure_pretrained.sh --networks DIRECTORY [--stage 1] [--stop-stage 6]
#
# DIRECTORY has the Hugging Face directories moonshine-tiny, whisper-tiny.en and whisper-base. Stages: 1 imports, 2 the
# dense networks, 3 one-shot pruning on the dev speakers, then on the test speakers, 4 CTC, 5 Moonshine's own decoder, 6
# Whisper. Stages 4 to 6 are the training runs of conf/pretrained_runs.yaml: some 35 hours on one thread.
set -euo pipefail

networks=      # directory with moonshine-tiny, whisper-tiny.en and whisper-base
stage=1        # first stage to run
stop_stage=6   # last stage to run

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../../utils/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."
[ $# -eq 0 ] || { echo "error: unexpected argument $1; --help lists the options" >&2 && exit 1; }
# shellcheck source=egs/librispeech/path.sh
. ./path.sh
cuts=data/real/cuts/librispeech_cuts
results=results/pretrained
[ -f "${cuts}_test-8.jsonl.gz" ] || { echo "error: no data/real; run local/make_pretrained_corpus.sh first" >&2 && exit 1; }

in_stage() { [ "$stage" -le "$1" ] && [ "$1" -le "$stop_stage" ]; }
set_list() { printf "[%s]" "$(printf "%s, " "${@/#/"${cuts}_"}" | sed 's/, $//; s/\(,\|$\)/.jsonl.gz\1/g')"; }

# sweep FILE NAME [SETTING...]: run a sweep in exp/NAME, or measure its networks on other sets in results NAME.
sweep() {
  python -m pruning.bin.sweep --config "conf/$1.yaml" --exp-dir "exp/sweeps/${1//\//-}" --results "$results/$2" "${@:3}"
}

# import NAME DIRECTORY OPTION...: import a network as exp/NAME/imported.
import() {
  python -m pruning.bin.import_hf --source "$networks/$2" --exp-dir "exp/$1/imported" --lang-dir "exp/$1/lang" "${@:3}"
}

# labels NAME KIND DIRECTORY PART...: write cuts of these parts with texts to train on to exp/NAME/DIRECTORY.
labels() {
  local parts=("${@:4}")
  python -m pruning.bin.label --cuts "${parts[@]/#/"${cuts}_"}" --output-dir "exp/$1/$3" --labels "$2" \
    --teacher "exp/$1/imported" --lang-dir "exp/$1/lang"
}
trained_on=({train-clean-5,an4-train,dev-3}.jsonl.gz)

if in_stage 1; then
  [ -d "$networks" ] || { echo "error: --networks '$networks' is not a directory; give it" >&2 && exit 1; }
  import moonshine moonshine-tiny
  for name in whisper-tiny.en whisper-base; do
    import "$name" "$name"
    import "$name-tail" "$name" --tail 1
  done
fi

if in_stage 2; then
  for name in moonshine whisper-tiny.en whisper-base whisper-tiny.en-tail whisper-base-tail; do
    python -m pruning.bin.decode --exp-dir "exp/$name/imported" --lang-dir "exp/$name/lang" --normalise english \
      --cuts "${cuts}"_{dev-3,test-8,an4-test}.jsonl.gz --method decoder_greedy_search
    mkdir -p "$results/dense/$name/decoder_greedy_search"
    cp "exp/$name/imported/model.json" "$results/dense/$name"
    cp "exp/$name/imported/decoder_greedy_search"/decode-*.json "$results/dense/$name/decoder_greedy_search"
  done
fi

if in_stage 3; then
  for name in moonshine whisper-base; do # scores and repair need texts as the decoder writes them
    labels "$name" transcript sentences {train-clean-5,dev-few}.jsonl.gz
  done
  for name in moonshine_tiny whisper_base; do
    sweep "one_shot/$name" "one_shot_$name"
    sweep "one_shot/$name" "one_shot_${name}_test" "test_cuts=$(set_list test-8)"
  done
fi

if in_stage 4; then
  python ../../local/train_bpe.py --cuts "${cuts}"_{train-clean-5,an4-train}.jsonl.gz --lang-dir data/real/lang_char \
    --unit char
  python -m pruning.bin.train --config conf/moonshine_ctc/dense.yaml --exp-dir exp/moonshine_ctc/dense \
    --lang-dir data/real/lang_char --train-cuts "${cuts}"_{train-clean-5,an4-train}.jsonl.gz \
    --dev-cuts "${cuts}_dev-3.jsonl.gz" "pretrained=$networks/moonshine-tiny"
  sweep moonshine_ctc/comparison moonshine_ctc
  sweep moonshine_ctc/comparison moonshine_ctc_other "test_cuts=$(set_list test-8-babble an4-test an4-test-babble)"
fi

if in_stage 5; then
  labels moonshine equal labels "${trained_on[@]}"
  labels moonshine teacher pseudo "${trained_on[@]}"
  sweep moonshine/comparison moonshine
  sweep moonshine/comparison moonshine_other "test_cuts=$(set_list test-8-babble an4-test an4-test-babble)"
  sweep moonshine/pseudo moonshine_pseudo
fi

if in_stage 6; then
  for name in base tiny_en; do
    labels "whisper-${name/_/.}-tail" equal labels "${trained_on[@]}"
    sweep "whisper/$name" "whisper_$name"
  done
fi
