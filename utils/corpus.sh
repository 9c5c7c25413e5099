# shellcheck shell=bash disable=SC2034,SC2154  # variables that recipes declare and use
# Shared by the stages of run.sh and run_lm.sh: the parts of the corpus, and the launch of training. Sourced by asr.sh
# and lm.sh.

read -ra train_parts <<< "$train_parts"
read -ra dev_parts <<< "$dev_parts"
read -ra test_parts <<< "$test_parts"
read -ra methods <<< "$methods"
now=$(date +%Y%m%d-%H%M%S)

cuts_of() { printf '%s\n' "${@/#/"$data_dir/${cuts_in:-fbank}/${corpus}_cuts_"}" | sed 's/$/.jsonl.gz/'; }
mapfile -t train_cuts < <(cuts_of "${train_parts[@]}")
mapfile -t dev_cuts < <(cuts_of "${dev_parts[@]}")
mapfile -t test_cuts < <(cuts_of "${test_parts[@]}")

training_data=(--train-cuts "${train_cuts[@]}" --dev-cuts "${dev_cuts[@]}")

# check_training DIR COMMAND ARGUMENT...: have check_commands check a training command for an experiment directory.
check_training() {
  checked "$2" --exp-dir "$1" --lang-dir "$lang_dir" "${training_data[@]}" "${@:3}" "trainer.seed=$seed"
}

# words_or OPTION DEFAULT...: make OPTION the list of its words, or of the defaults if it is empty.
words_or() {
  if [ -n "${!1}" ]; then
    read -ra "$1" <<< "${!1}"
  else
    mapfile -t "$1" < <(printf '%s\n' "${@:2}") # paths may contain spaces
  fi
}

for _name in num_processes num_nodes nj num_threads; do # a recipe may not have all of them
  [ -z "${!_name+set}" ] || [[ ${!_name} =~ ^[1-9][0-9]*$ ]] ||
    fail "--${_name/_/-} must be a positive number, got '${!_name}'"
done
[ "$num_nodes" -eq 1 ] || [[ $cuda_cmd == *slurm* ]] ||
  fail "--num-nodes $num_nodes needs Slurm; give --cmd-backend slurm, or --num-processes alone"

# train_in DIR WHAT COMMAND ARGUMENT...: run a training command with the options that all of them need.
train_in() {
  local dir=$1 what=$2 command=$3 launch=(python -m) nodes=()
  shift 3
  if [ "$num_nodes" -gt 1 ]; then # one launcher per node; after the first ends, the others have a minute
    nodes=(--num-nodes "$num_nodes")
    launch=(srun --wait 60 python -m pruning.bin.torchrun --slurm)
  elif [ "$num_processes" -gt 1 ]; then
    launch=(python -m pruning.bin.torchrun --standalone)
  fi
  [ "$num_nodes" -eq 1 ] && [ "$num_processes" -eq 1 ] ||
    launch+=(--nproc_per_node "$num_processes" --max_restarts 3 -m)
  # shellcheck disable=SC2086  # a runner is a command with its options
  run_logged "$what" "$dir/log/train-$now.log" $cuda_cmd --gpu "$num_processes" ${nodes[@]+"${nodes[@]}"} -- \
    "${launch[@]}" "pruning.bin.$command" --exp-dir "$dir" --lang-dir "$lang_dir" "$@" "trainer.seed=$seed"
}
