#!/usr/bin/env bash
# Measure a pre-trained language model of the Llama family and what pruning costs it. Stage 1 imports it and makes the
# text, 2 its perplexity by form and context, and the values in its matrices, 3 one-shot pruning on dev, then on test, 4
# pruning with training. What is done is not done again. The JSON files go to results/smollm2.
#
#     local/measure_smollm2.sh --network /networks/smollm2-135m --text /texts/general.txt [--speech DEV.txt]
set -euo pipefail

network=       # Hugging Face directory of SmolLM2-135M, or of another Llama
text=          # text, one normalised sentence a line, for scores, training, dev and test
speech=        # transcripts of recordings, one a line, for another perplexity; default: none
stage=1        # first stage to run
stop_stage=4   # last stage to run

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../../utils/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."
[ $# -eq 0 ] || { echo "error: unexpected argument $1; --help lists the options" >&2 && exit 1; }
# shellcheck source=egs/lm/path.sh
. ./path.sh
data=data/smollm2 exp=exp/smollm2 results=results/smollm2

in_stage() { [ "$stage" -le "$1" ] && [ "$1" -le "$stop_stage" ]; }

# sweep NAME RESULTS [SETTING...]: run a sweep, or measure its networks on other texts.
sweep() {
  python -m pruning.bin.sweep --config "conf/smollm2/$1.yaml" --exp-dir "$exp/$1" --results "$results/$2" "${@:3}"
}

if in_stage 1; then
  [ -d "$network" ] || { echo "error: --network '$network' is not a directory; give it" >&2 && exit 1; }
  [ -f "$text" ] || { echo "error: --text '$text' is not a file; give it" >&2 && exit 1; }
  python -m pruning.bin.import_hf --source "$network" --exp-dir "$exp/imported" --lang-dir "$exp/lang"
  python ../../local/prepare_lm_text.py --text "$text" --output-dir "$data"
  head -n 100 "$data/dev.txt" > "$data/few.txt"
fi

if in_stage 2; then
  python local/count_values.py --exp-dir "$exp/imported" --output "$results/values.json"
  texts=("$data/dev.txt")
  [ -z "$speech" ] || texts+=("$speech")
  for form in lower sentence; do
    for context in 0 1 3; do
      python -m pruning.bin.perplexity --exp-dir "$exp/imported" --lang-dir "$exp/lang" --text "${texts[@]}" \
        --form "$form" --context "$context"
    done
  done
  python -m pruning.bin.perplexity --exp-dir "$exp/imported" --lang-dir "$exp/lang" --text "${texts[@]}" \
    --form sentence --block 1024
  mkdir -p "$results/dense/perplexity"
  cp "$exp/imported/model.json" "$results/dense"
  cp "$exp/imported/perplexity"/*.json "$results/dense/perplexity"
fi

if in_stage 3; then
  sweep one_shot one_shot
  sweep one_shot one_shot_test "test_text=[$data/test.txt]"
fi

if in_stage 4; then
  sweep tuned tuned
fi
