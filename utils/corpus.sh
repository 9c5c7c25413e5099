# shellcheck shell=bash disable=SC2034,SC2154  # what recipes declare, and what they use
# What the stages of run.sh and run_lm.sh share: the parts of the corpus, and how training is launched. asr.sh and lm.sh
# source it.

read -ra train_parts <<< "$train_parts"
read -ra dev_parts <<< "$dev_parts"
read -ra test_parts <<< "$test_parts"
read -ra methods <<< "$methods"
now=$(date +%Y%m%d-%H%M%S)

cuts_of() { printf '%s\n' "${@/#/"$data_dir/${cuts_in:-fbank}/${corpus}_cuts_"}" | sed 's/$/.jsonl.gz/'; }
mapfile -t train_cuts < <(cuts_of "${train_parts[@]}")
mapfile -t dev_cuts < <(cuts_of "${dev_parts[@]}")
mapfile -t test_cuts < <(cuts_of "${test_parts[@]}")

# train_in DIR WHAT COMMAND ARGUMENT...: a training command with what all of them need.
train_in() {
  local dir=$1 what=$2 command=$3 launch=(python -m)
  shift 3
  [ "$num_processes" -eq 1 ] ||
    launch=(python -m pruning.bin.torchrun --standalone --nproc_per_node "$num_processes" -m)
  # shellcheck disable=SC2086  # a runner is a command with its options
  run_logged "$what" "$dir/log/train-$now.log" $cuda_cmd --gpu "$num_processes" -- \
    "${launch[@]}" "pruning.bin.$command" --exp-dir "$dir" --lang-dir "$lang_dir" "$@" "trainer.seed=$seed"
}
