#!/usr/bin/env bash
# Prune a Whisper or a Moonshine that recognises with its own decoder and tokens: front end, encoder and decoder jointly,
# and make a table of its word error rates. Run stages 0 and 1 of run.sh first.
#
# Stages: 2 cuts, 3 import, 4 labels, 5 fine-tuning of the dense model (--tune true), 6 pruning, 7 extraction,
# 8 fine-tuning, 9 decoding, 10 the table and, with --exports, the exports. Finished stages are skipped and interrupted
# stages are resumed. Paths are relative to this folder.
#
#     ./run_pretrained.sh --pretrained UsefulSensors/moonshine-tiny --method hj-mac --target-macs 0.5
#     ./run_pretrained.sh --mini true
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

mini=false              # use the synthetic corpus of run.sh --mini true and a small network with random weights
train_parts=            # training parts; default: train-clean-100 (mini: train-clean-mini)
dev_parts=              # dev parts, which select checkpoints; default: dev-clean dev-other (mini: dev-clean-mini)
test_parts="test-clean test-other"  # test parts
data_dir=               # data directory of run.sh; default: data (mini: data/mini)
exp_dir=                # experiments; default: exp/pretrained (mini: exp/mini/pretrained)
conf=                   # folder of dense.yaml, prune.yaml and finetune.yaml; default: conf/pretrained (mini: conf/mini_pretrained)
lang_dir=               # the network's tokens, written by the import; default: lang in --exp-dir
import_args=            # additional options of pruning.bin.import_hf, for a Whisper: "--tail 1", "--language de"
labels=                 # texts to train on: transcript, equal or teacher, see pruning.bin.label; default: equal (mini: transcript)
label_args=             # additional options of pruning.bin.label: "--tokens-per-second 30"
tune=                   # fine-tune the dense network before it is pruned: true or false; default: false (mini: true)
target=                 # share of the parameters of the whole network to remove, its decoder included (hj-size: default 0.5)
target_macs=            # share of the MACs of the whole network to remove, its decoder and output layer included (hj-mac: default from prune.yaml)
target_parts=           # shares of parts: "size:encoder_frontend: 0.4, size:encoder_attention+encoder_ffn: 0.5" (hj-sepsize: default half of both)
normalise=english       # normaliser of the texts that are scored
methods="decoder_greedy_search"  # decoding methods
exports=                # exports of the fine-tuned network: onnx (for sherpa-onnx), hugging_face, or both in quotes; default: none

# shellcheck source=utils/encoder_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/encoder_options.sh"

corpus=librispeech
task=transcripts
[[ $mini =~ ^(true|false)$ ]] || fail "--mini must be true or false, got '$mini'"
if [ "$mini" = true ]; then
  : "${train_parts:=train-clean-mini}" "${dev_parts:=dev-clean-mini}" "${data_dir:=data/mini}"
  : "${exp_dir:=exp/mini/pretrained}" "${conf:=conf/mini_pretrained}" "${labels:=transcript}" "${tune:=true}"
else
  : "${train_parts:=train-clean-100}" "${dev_parts:=dev-clean dev-other}" "${data_dir:=data}"
  : "${exp_dir:=exp/pretrained}" "${conf:=conf/pretrained}" "${labels:=equal}" "${tune:=false}"
fi
[ -n "$pretrained" ] || [ "$mini" = true ] || fail "no network given; give --pretrained DIRECTORY"
[[ $labels =~ ^(transcript|equal|teacher)$ ]] || fail "--labels must be transcript, equal or teacher, got '$labels'"
[[ $tune =~ ^(true|false)$ ]] || fail "--tune must be true or false, got '$tune'"
for _form in $exports; do
  [[ $_form =~ ^(onnx|hugging_face)$ ]] || fail "--exports must be onnx, hugging_face or both, got '$_form'"
done
[ "$hears" = samples ] || fail "--hears is not for this recipe, which reads recordings; leave it out"
[ -z "$warm_up" ] || fail "--warm-up is not for this recipe; leave it out"
: "${lang_dir:=$exp_dir/lang}" "${results:=$exp_dir/RESULTS_PRETRAINED.md}" "${warm_up:=false}"
imported=$exp_dir/imported
[ "$tune" = true ] || own_teacher=$imported teacher_stage=3
env_extras="hf${exports:+ export}"

# shellcheck source=utils/encoder.sh
. ../../utils/encoder.sh

# Import the network; with --mini true, a small one that is written here.
import_network() {
  local part
  in_stage 3 || return 0
  if [ -z "$pretrained" ]; then
    for part in "${train_cuts[@]}"; do require "$part" 2; done
    # shellcheck disable=SC2086
    run_logged "a small network" "$exp_dir/log/network.log" $train_cmd -- \
      python ../../local/make_small_network.py --cuts "${train_cuts[@]}" --output-dir "$exp_dir/network"
  fi
  # shellcheck disable=SC2086
  run_logged "import of ${pretrained:-the small network}" "$exp_dir/log/import.log" $train_cmd -- \
    python -m pruning.bin.import_hf --source "${pretrained:-$exp_dir/network}" --exp-dir "$imported" \
    --lang-dir "$lang_dir" $import_args
}

# Write the training and dev cuts with the texts to train on, which replace the cuts of the following stages.
make_labels() {
  local part places=("${train_cuts[@]}" "${dev_cuts[@]}")
  if in_stage 4; then
    for part in "${places[@]}"; do require "$part" 2; done
    require "$imported/.done" 3
    # shellcheck disable=SC2086
    run_logged "labels: $labels" "$exp_dir/log/labels-$now.log" $decode_cmd --num-threads "$num_threads" -- \
      python -m pruning.bin.label --cuts "${places[@]}" --output-dir "$exp_dir/labels" --labels "$labels" \
      --teacher "$imported" --lang-dir "$lang_dir" --num-threads "$num_threads" $label_args
  fi
  cuts_stage=4
  train_cuts=("${train_cuts[@]/#*\//"$exp_dir/labels/"}")
  dev_cuts=("${dev_cuts[@]/#*\//"$exp_dir/labels/"}")
}

# Export the fine-tuned network; each export has a model card.
export_network() {
  local form options
  in_stage 10 && [ -n "$exports" ] || return 0
  require "$finetuned/.done" 8
  for form in $exports; do
    options=(--exp-dir "$finetuned" --lang-dir "$lang_dir" --output "$exp_dir/export/$form")
    [ "$form" = onnx ] || options+=(--hugging-face)
    # shellcheck disable=SC2086
    run_logged "export: $form" "$exp_dir/log/export-$form.log" $train_cmd -- python -m pruning.bin.export "${options[@]}"
  done
}

encoder_cuts
import_network
! in_stage 3 || check_commands # the network is known now, and whether it can reach the targets
make_labels
encoder_training
[ "$teacher" = "$imported" ] || systems=("original=$imported" "${systems[@]}")
encoder_tests
export_network
