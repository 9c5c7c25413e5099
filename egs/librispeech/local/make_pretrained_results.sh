#!/usr/bin/env bash
# Make results/pretrained/RESULTS.md and its plots from the measured JSON files in results/pretrained/, on any machine.
#
#     local/make_pretrained_results.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=egs/librispeech/path.sh
. ./path.sh
results=results/pretrained
# shellcheck source=utils/results.sh
. ../../utils/results.sh

# dense NAME TITLE SET...: the table of the networks in results/pretrained/NAME/, as they are published.
dense() {
  local name=$1 title=$2 rows=() place
  shift 2
  for place in "$results/$name"/*/; do rows+=("$(basename "$place")=${place%/}"); done
  python -m pruning.bin.report --measurements-only --systems "${rows[@]}" --sets "$@" --method decoder_greedy_search \
    --output "$results/$name.md" --title "$title" > /dev/null
  # as a section of a page: its headings one level down
  sed -i 's/^#/##/' "$results/$name.md"
}

dequantised="The weights of Moonshine are dequantised from the publisher's 8 bits. Its training data very probably include \
LibriSpeech's training set; those of Whisper are not known. The audio of all LibriSpeech sets here passed through MP3."
carried="A claim of HJ-Pruning, made of self-supervised encoders, carried over to an encoder that was pre-trained for \
recognition. $dequantised"
section dense dense dense "Dense networks, greedy decoding by their own decoders" test-8 an4-test
section dense_dev dense dense_dev "The same on the dev speakers" dev-3
section one_shot_moonshine_tiny sweep one_shot_moonshine_tiny "One-shot: Moonshine-tiny, shares of the encoder's MACs" plot \
  --note "$dequantised"
section one_shot_whisper_base sweep one_shot_whisper_base "One-shot: Whisper-base, shares of the encoder's MACs" plot
section moonshine_ctc sweep moonshine_ctc "Moonshine-tiny's encoder with a CTC head" plot --note "$carried"
section moonshine_ctc_other sweep moonshine_ctc_other "The same with babble noise, and on AN4" table --note "$carried"
section moonshine sweep moonshine "Moonshine-tiny with its own decoder" plot --note "$dequantised"
section moonshine_pseudo sweep moonshine_pseudo "The same without transcripts" table --note "$dequantised"
section whisper_base sweep whisper_base "Whisper-base" table
section whisper_tiny_en sweep whisper_tiny_en "Whisper-tiny.en, its smaller sibling" table
speeds benchmark
write_results
