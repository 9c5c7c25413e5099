#!/usr/bin/env bash
# Rescore the n-best lists of any recogniser with several language models: no language model, a word bonus alone, an
# n-gram, and networks, such as a dense one and a pruned one. All weights are chosen on dev before a test list is read.
#
# Stages: 0 weights on dev, 1 test lists, 2 the table. Finished work is not repeated. Paths are relative to this folder.
#
#     ./run_rescore.sh --lm "dense=exp/smollm2 pruned=exp/smollm2-50" --lang-dir exp/smollm2/lang \
#       --arpa "4-gram=data/4.arpa" \
#       --dev-nbest lists/dev.nbest --dev-references lists/dev.text \
#       --test-nbest "lists/test-clean.nbest" --test-references "lists/test-clean.text" \
#       --common-args "--normalise english --utt2dur lists/utt2dur" --lm-args "--form sentence --context 1"
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run_rescore.sh
set -euo pipefail

stage=0                 # first stage to run
stop_stage=2            # last stage to run
lm=                     # networks: NAME=EXPERIMENT, separated by spaces; the lang dir is lang in it, or --lang-dir
arpa=                   # n-grams: NAME=ARPA_FILE, separated by spaces
lang_dir=               # lang dir of networks that have none in their experiments: word pieces of a recogniser
dev_nbest=              # n-best list on which the weights are chosen: lines of UTTERANCE SCORE TEXT
dev_references=         # its references: lines of UTTERANCE WORDS, or recogs-*
test_nbest=             # n-best lists to rescore, separated by spaces
test_references=        # their references, in the same order
test_sets=              # their names; default: those of the files
exp_dir=exp/rescore     # directory for weights, rescored lists and results
lm_scales="0 0.1 0.2 0.3 0.5 0.7 1"  # weights of the language model to try on dev
word_bonuses="-1 -0.5 0 0.5 1 2 3"  # scores of a word to try on dev
lm_args=                # additional options of pruning rescore for networks: "--form sentence --context 1"
arpa_args=              # additional options for n-grams: "--form words"
common_args=            # additional options for all: "--normalise english --utt2dur FILE --utt2spk FILE"
num_threads=1           # number of threads
cmd_backend=local       # local, slurm or sge: see cmd.sh

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")"
# shellcheck source=utils/stage.sh
. ../../utils/stage.sh
[ $# -eq 0 ] || fail "unexpected argument $1; run_rescore.sh --help lists the options"
without_job exp_dir
# shellcheck source=egs/TEMPLATE/cmd.sh
. ./cmd.sh
# shellcheck source=egs/TEMPLATE/path.sh
. ./path.sh

read -ra lm <<< "$lm"
read -ra arpa <<< "$arpa"
read -ra test_nbest <<< "$test_nbest"
read -ra test_references <<< "$test_references"
read -ra test_sets <<< "$test_sets"
read -ra lm_scales <<< "$lm_scales"
read -ra word_bonuses <<< "$word_bonuses"
[ -n "$dev_nbest" ] && [ -n "$dev_references" ] || fail "no dev list given; give --dev-nbest and --dev-references"
[ "${#test_nbest[@]}" -eq "${#test_references[@]}" ] ||
  fail "--test-nbest has ${#test_nbest[@]} files and --test-references ${#test_references[@]}; give one for each list"
if [ "${#test_sets[@]}" -eq 0 ]; then
  for file in ${test_nbest[@]+"${test_nbest[@]}"}; do
    file=$(basename "$file")
    test_sets+=("${file%%.*}")
  done
fi
[ "${#test_sets[@]}" -eq "${#test_nbest[@]}" ] || fail "--test-sets has ${#test_sets[@]} names; give one for each list"
now=$(date +%Y%m%d-%H%M%S)

# rescored NAME OPTION...: queue the rescoring of a row of the table, with the list that is set in part.
rescored() {
  # shellcheck disable=SC2086  # options are words
  queued python -m pruning.bin.rescore --exp-dir "$exp_dir/$1" --lm-name "$1" --num-threads "$num_threads" \
    --dev-nbest "$dev_nbest" --dev-references "$dev_references" ${part[@]+"${part[@]}"} "${@:2}" $common_args
}

# all_rows: queue all rows.
all_rows() {
  local one place=()
  rescored no-lm --without-lm --word-bonuses 0
  rescored word-bonus --without-lm --word-bonuses "${word_bonuses[@]}"
  for one in ${arpa[@]+"${arpa[@]}"}; do
    # shellcheck disable=SC2086
    rescored "${one%%=*}" --arpa "${one#*=}" --lm-scales "${lm_scales[@]}" --word-bonuses "${word_bonuses[@]}" $arpa_args
  done
  for one in ${lm[@]+"${lm[@]}"}; do
    place=(--lm-exp-dir "${one#*=}")
    [ -z "$lang_dir" ] || [ -d "${one#*=}/lang" ] || place+=(--lang-dir "$lang_dir")
    # shellcheck disable=SC2086
    rescored "${one%%=*}" "${place[@]}" --lm-scales "${lm_scales[@]}" --word-bonuses "${word_bonuses[@]}" $lm_args
  done
}

rows=("no-lm=$exp_dir/no-lm" "word-bonus=$exp_dir/word-bonus") # the first is the reference of the table
for one in ${arpa[@]+"${arpa[@]}"} ${lm[@]+"${lm[@]}"}; do
  [[ $one == ?*=?* ]] || fail "$one has no name; write NAME=PATH"
  [ -e "${one#*=}" ] || fail "${one#*=} does not exist; correct the path"
  rows+=("${one%%=*}=$exp_dir/${one%%=*}")
done

if in_stage 0; then
  part=()
  all_rows
  # shellcheck disable=SC2086  # a runner is a command with its options
  run_queued "weights on dev" "$exp_dir/log/tune-$now.JOB.log" $decode_cmd --num-threads "$num_threads"
fi

if in_stage 1; then
  for index in "${!test_nbest[@]}"; do
    require "$exp_dir/no-lm/weights.json" 0
    part=(--nbest "${test_nbest[index]}" --references "${test_references[index]}" --set "${test_sets[index]}")
    all_rows
  done
  # shellcheck disable=SC2086
  run_queued "rescoring of ${test_sets[*]:-nothing}" "$exp_dir/log/rescore-$now.JOB.log" $decode_cmd \
    --num-threads "$num_threads"
fi

if in_stage 2 && [ "${#test_sets[@]}" -gt 0 ]; then
  for row in "${rows[@]}"; do
    for name in "${test_sets[@]}"; do require "${row#*=}/rescore-$name.json" 1; done
  done
  # shellcheck disable=SC2086
  run_logged "the table" "$exp_dir/log/report.log" $train_cmd -- \
    python -m pruning.bin.lm_report --rescored "${rows[@]}" --sets "${test_sets[@]}" --output "$exp_dir/RESULTS.md" \
    --title "Rescored n-best lists"
  show_report "$exp_dir/RESULTS.md" --title "rescored n-best lists"
fi
