# shellcheck shell=bash disable=SC2154  # variables that recipes declare
# Stages shared by all transducer recipes. A recipe's run.sh sources asr_options.sh, then this file, after setting:
#
#     corpus                              prefix of the manifest names
#     corpus_dir data_dir exp_dir         the corpus; manifests, features and word pieces; experiments
#     train_parts dev_parts test_parts    parts of the corpus, separated by spaces
#     unit vocab_size                     kind and number of tokens (vocab_size may be empty for char)
#     speed_perturb                       true or false
#     conf                                folder of teacher.yaml, prune.yaml, finetune.yaml, uniform.yaml
#     methods                             decoding methods, separated by spaces
#     title                               name of the corpus on the page (default: $corpus)
#
# It also defines two stages as functions: get_corpus (0) puts the corpus into $corpus_dir; make_manifests (1) writes
# manifests of "${parts[@]}" to $manifests, named like pruning.speech.data.manifests.Paths.

: "${teacher_config:=$conf/teacher.yaml}" "${prune_config:=$conf/prune.yaml}"
: "${finetune_config:=$conf/finetune.yaml}" "${uniform_config:=$conf/uniform.yaml}"
: "${results:=$exp_dir/RESULTS.md}" "${title:=$corpus}" "${systems:=teacher finetuned uniform uniform_further}"

# checked before any stage runs
[[ $score_in =~ ^(words|characters)$ ]] || fail "--score-in must be words or characters, got '$score_in'"
[[ $speed_perturb =~ ^(true|false)$ ]] || fail "--speed-perturb must be true or false, got '$speed_perturb'"
not_empty train_parts dev_parts test_parts methods systems
declare -A stage_of=([teacher]=4 [finetuned]=7 [uniform]=8 [uniform_further]=8)
declare -A row_of=([finetuned]=pruned [uniform_further]=uniform-further)
narrow="a network narrower in all its widths, at most as large as the pruned one, from scratch"
declare -A words_of=(
  [teacher]="the dense network that was pruned"
  [finetuned]="pruned from the teacher by $method, extracted and fine-tuned"
  [uniform]="$narrow, with the steps of the teacher, of pruning and of fine-tuning together"
  [uniform_further]="$narrow, with the steps of pruning and of fine-tuning alone, which a user pays who has the teacher"
)
read -ra systems <<< "$systems"
for name in "${systems[@]}"; do
  [ -n "${stage_of[$name]:-}" ] || fail "unknown system '$name'; choose from teacher, finetuned, uniform and uniform_further"
done
check_teacher
[ -n "$teacher_icefall" ] || [ -z "$icefall_args" ] || fail "--icefall-args has no effect without --teacher-icefall"
if [ -n "$teacher_icefall" ]; then
  [ -z "$teacher" ] || fail "--teacher and --teacher-icefall exclude each other; give one of them"
  [ -e "$teacher_icefall" ] || fail "--teacher-icefall $teacher_icefall does not exist"
  teacher=$exp_dir/imported
fi
config_of=([4]=$teacher_config [5]=$prune_config [7]=$finetune_config [8]=$uniform_config)
for number in "${!config_of[@]}"; do
  in_stage "$number" || continue
  [ -f "${config_of[number]}" ] || fail "stage $number needs ${config_of[number]}, which does not exist; see --conf"
done
[ -z "$warm_up_cuts" ] || [ -z "$init_from" ] || fail "--init-from and a warm-up exclude each other; give one of them"
[ -z "$warm_up_cuts" ] || [ -n "$warm_up_dev_cuts" ] || fail "a warm-up needs --warm-up-dev-cuts as well"
case $unit in
  char) : "${lang_dir:=$data_dir/lang_char${vocab_size:+_$vocab_size}}" ;;
  unigram | bpe | word)
    [ -n "$vocab_size" ] || fail "--unit $unit needs --vocab-size"
    : "${lang_dir:=$data_dir/lang_bpe_$vocab_size}"
    ;;
  *) fail "--unit must be unigram, bpe, char or word, got '$unit'" ;;
esac

# shellcheck source=egs/TEMPLATE/cmd.sh
. ./cmd.sh
# shellcheck source=egs/TEMPLATE/path.sh
. ./path.sh
if in_stage 9 && [[ " $methods " =~ \ (fast_beam_search|ctc_decoding)\  ]]; then
  python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("k2") is None)' ||
    fail "${BASH_REMATCH[1]} needs k2, which is not installed; give --methods \"greedy_search modified_beam_search\""
fi

# shellcheck source=utils/corpus.sh
. ../../utils/corpus.sh
parts=("${train_parts[@]}" "${dev_parts[@]}" "${test_parts[@]}")
manifests=$data_dir/manifests
: "${teacher:=$exp_dir/teacher}"
pruned=$exp_dir/pruned extracted=$exp_dir/extracted uniform=$exp_dir/uniform

require_data() {
  local cuts
  for cuts in "${train_cuts[@]}" "${dev_cuts[@]}"; do require "$cuts" 2; done
  require "$lang_dir/bpe.model" 3
}

# train WHAT NAME COMMAND ARGUMENT...: run a training command on the cuts.
train() {
  train_in "$exp_dir/$2" "$1" "$3" --train-cuts "${train_cuts[@]}" --dev-cuts "${dev_cuts[@]}" "${@:4}"
}

# warm_up NAME ARGUMENT...: train the initial weights of NAME on other speech.
warm_up() {
  local name=$1 cuts train_cuts dev_cuts
  shift
  read -ra train_cuts <<< "$warm_up_cuts"
  read -ra dev_cuts <<< "$warm_up_dev_cuts"
  for cuts in "${train_cuts[@]}" "${dev_cuts[@]}"; do require "$cuts" 0; done
  # shellcheck disable=SC2086  # settings are words
  train "the warm-up of the $name" "warm_up_$name" train "$@" $warm_up_args
}

# features NAME WHAT OPTION...: compute features in parallel jobs, with additional options for the program.
features() {
  local name=$1 what=$2
  local compute=(python ../../local/compute_features.py --manifests-dir "$manifests" --output-dir "$data_dir/fbank"
    --prefix "$corpus" --num-splits "$nj" "${@:3}")
  # shellcheck disable=SC2086
  run_logged "features of $what" "$data_dir/log/features-$name.JOB.log" $train_cmd "JOB=1:$nj" -- \
    "${compute[@]}" --split JOB
  # shellcheck disable=SC2086
  run_logged "joining the features of $what" "$data_dir/log/features-$name.log" $train_cmd -- \
    "${compute[@]}" --combine
}

# what users choose for the commands of later stages, checked before the first stage runs
which=() # checkpoints to decode and tabulate
[ -z "$epoch" ] || which+=(--epoch "$epoch")
[ -z "$avg" ] || which+=(--avg "$avg")
of_method="--method $method $prune_args ${target:+constraint.size=$target} ${target_macs:+constraint.macs=$target_macs}"
# shellcheck disable=SC2206  # settings are words
{
  of_teacher=(--config "$teacher_config" $teacher_args)
  of_import=(--source "$teacher_icefall" --exp-dir "$teacher" --lang-dir "$lang_dir" $icefall_args)
  of_pruning=(--config "$prune_config" $of_method)
  of_finetuning=(--config "$finetune_config" $finetune_args)
  of_uniform=(--config "$uniform_config" $uniform_args)
  of_decoding=(--num-threads "$num_threads" --score-in "$score_in" ${which[@]+"${which[@]}"} $decode_args)
}
start=() end=() # a checkpoint defines its own dimensions
if [ -n "$warm_up_cuts" ]; then
  start=(--init "$exp_dir/warm_up_teacher") end=(model=null) # it already has the dimensions of the settings
elif [ -n "$init_from" ]; then
  start=(--init "$init_from" model=null)
fi
of_teacher_here=(${start[@]+"${start[@]}"} "${of_teacher[@]}" ${end[@]+"${end[@]}"})
# shellcheck disable=SC2086
if in_stage 4 && [ "$teacher" = "$exp_dir/teacher" ]; then
  [ -z "$warm_up_cuts" ] || check_training "$exp_dir/warm_up_teacher" train "${of_teacher[@]}" $warm_up_args
  check_training "$teacher" train "${of_teacher_here[@]}"
fi
[ -z "$teacher_icefall" ] || ! { in_stage 4 || in_stage 5; } || checked import_icefall "${of_import[@]}"
! in_stage 5 || check_training "$pruned" prune --teacher "$teacher" "${of_pruning[@]}"
! in_stage 6 || checked extract --pruned "$pruned" --exp-dir "$extracted" --round-to "$round_to"
! in_stage 7 || check_training "$exp_dir/finetuned" finetune --init "$extracted" "${of_finetuning[@]}"
# shellcheck disable=SC2086
if in_stage 8 && [[ " ${systems[*]} " == *" uniform"* ]]; then
  check_training "$uniform" train "${of_uniform[@]}"
  [ -z "$warm_up_cuts" ] || check_training "$exp_dir/warm_up_uniform" train "${of_uniform[@]}" $warm_up_args
fi
if in_stage 9; then
  for name in "${methods[@]}"; do
    checked decode --exp-dir "$teacher" --cuts "${test_cuts[@]}" --lang-dir "$lang_dir" --method "$name" \
      "${of_decoding[@]}"
  done
fi
check_commands

# Import the teacher of --teacher-icefall before the first stage that needs it, unless it is there; refuse another one.
import_teacher() {
  [ -n "$teacher_icefall" ] && { in_stage 4 || in_stage 5; } || return 0
  require "$lang_dir/bpe.model" 3
  # shellcheck disable=SC2086
  run_logged "import of $teacher_icefall" "$exp_dir/log/import-$now.log" $train_cmd -- \
    python -m pruning.bin.import_icefall "${of_import[@]}"
}

# Print the cost of the runs of these stages.
show_plan() {
  local copies=1 runs=() network=(--teacher "$teacher")
  [ "$speed_perturb" = false ] || copies=3
  if in_stage 4 && [ "$teacher" = "$exp_dir/teacher" ]; then
    runs+=(teacher) network=(--teacher-config "$teacher_config" --teacher-args="$teacher_args")
  fi
  ! in_stage 5 || runs+=(pruning)
  ! in_stage 7 || runs+=(fine-tuning)
  if in_stage 8; then
    [[ " ${systems[*]} " != *" uniform "* ]] || runs+=(uniform)
    [[ " ${systems[*]} " != *" uniform_further "* ]] || runs+=(uniform-further)
  fi
  [ "${#runs[@]}" -gt 0 ] || fail "no network is trained in stages $stage to $stop_stage; --plan has nothing to tell"
  python -m pruning.bin.plan "${network[@]}" --prune-config "$prune_config" --prune-args="$of_method" \
    --finetune-config "$finetune_config" --finetune-args="$finetune_args" --uniform-config "$uniform_config" \
    --uniform-args="$uniform_args" --runs "${runs[@]}" --train-cuts "${train_cuts[@]}" --parts "${train_parts[@]}" \
    --copies $copies --lang-dir "$lang_dir" ${vocab_size:+--vocab-size "$vocab_size"} \
    --processes $((num_nodes * num_processes)) --output "$exp_dir/plan.md"
}

if [ "$plan" = true ]; then
  import_teacher
  show_plan
  exit
fi

if in_stage 0; then
  get_corpus
fi

if in_stage 1; then
  require "$corpus_dir" 0
  make_manifests
fi

if in_stage 2; then
  for part in "${parts[@]}"; do
    require "$manifests/${corpus}_supervisions_$part.jsonl.gz" 1
  done
  factors=()
  [ "$speed_perturb" = false ] || factors=(--speed-factors 0.9 1.1)
  features train "the training parts" --parts "${train_parts[@]}" ${factors[@]+"${factors[@]}"}
  features test "the dev and test parts" --parts "${dev_parts[@]}" "${test_parts[@]}"
fi

if in_stage 3; then
  for cuts in "${train_cuts[@]}"; do require "$cuts" 2; done
  # shellcheck disable=SC2086
  run_logged "tokens ($unit${vocab_size:+, $vocab_size})" "$data_dir/log/bpe_${vocab_size:-$unit}.log" $train_cmd -- \
    python ../../local/train_bpe.py --cuts "${train_cuts[@]}" --lang-dir "$lang_dir" --unit "$unit" \
    ${vocab_size:+--vocab-size "$vocab_size"}
  for cuts in "${dev_cuts[@]}" "${test_cuts[@]}"; do require "$cuts" 2; done
  # shellcheck disable=SC2086
  run_logged "statistics of the data" "$data_dir/log/describe.log" $train_cmd -- \
    python -m pruning.bin.describe --cuts "${train_cuts[@]}" "${dev_cuts[@]}" "${test_cuts[@]}" \
    --lang-dir "$lang_dir" --output "$data_dir/statistics.md"
fi

# shellcheck disable=SC2086  # settings are words
if in_stage 4 && [ "$teacher" = "$exp_dir/teacher" ]; then
  require_data
  [ -z "$warm_up_cuts" ] || warm_up teacher "${of_teacher[@]}"
  train "the teacher" teacher train "${of_teacher_here[@]}"
fi

import_teacher

if in_stage 5; then
  require_data
  require "$teacher/.done" 4
  train "pruning by $method" pruned prune --teacher "$teacher" "${of_pruning[@]}"
fi

if in_stage 6; then
  require_data
  require "$pruned/.done" 5
  # shellcheck disable=SC2086
  run_logged "extraction" "$extracted/log/extract-$now.log" $train_cmd -- \
    python -m pruning.bin.extract --pruned "$pruned" --exp-dir "$extracted" --round-to "$round_to" \
    --train-cuts "${train_cuts[@]}" --lang-dir "$lang_dir"
fi

if in_stage 7; then
  require_data
  require "$extracted/best.safetensors" 6
  train "fine-tuning" finetuned finetune --init "$extracted" --teacher "$teacher" "${of_finetuning[@]}"
fi

# shellcheck disable=SC2086
if in_stage 8 && [[ " ${systems[*]} " == *" uniform"* ]]; then # otherwise it is not needed
  require_data
  require "$teacher/.done" 4
  require "$extracted/best.safetensors" 6
  run_logged "the dimensions of the uniform model" "$uniform/log/uniform-$now.log" $train_cmd -- \
    python -m pruning.bin.uniform --dense "$teacher" --reference "$extracted" --narrow width \
    --output "$uniform/dimensions.json"
  start=(--model "$uniform/dimensions.json")
  if [ -n "$warm_up_cuts" ]; then
    warm_up uniform "${of_uniform[@]}" "${start[@]}"
    start=(--init "$exp_dir/warm_up_uniform")
  fi
  if [[ " ${systems[*]} " == *" uniform "* ]]; then
    train "the uniform model" uniform train "${of_uniform[@]}" "${start[@]}"
  fi
  if [[ " ${systems[*]} " == *" uniform_further "* ]]; then
    for name in "$pruned" "$exp_dir/finetuned"; do require "$name/.done" 7; done
    train "the uniform model with further steps" uniform_further train "${of_uniform[@]}" "${start[@]}" \
      --steps-of "$pruned" "$exp_dir/finetuned"
  fi
fi

declare -A dir_of=([teacher]=$teacher [finetuned]=$exp_dir/finetuned [uniform]=$uniform
  [uniform_further]=$exp_dir/uniform_further)

if in_stage 9; then
  for cuts in "${test_cuts[@]}"; do require "$cuts" 2; done
  for name in "${systems[@]}"; do require "${dir_of[$name]}/.done" "${stage_of[$name]}"; done
  for name in "${systems[@]}"; do
    for method in "${methods[@]}"; do
      queued python -m pruning.bin.decode --exp-dir "${dir_of[$name]}" --cuts "${test_cuts[@]}" --lang-dir "$lang_dir" \
        --method "$method" "${of_decoding[@]}"
    done
  done
  # shellcheck disable=SC2086
  run_queued "decoding with ${systems[*]}, ${methods[*]}" "$exp_dir/log/decode-$now.JOB.log" \
    $decode_cmd --num-threads "$num_threads"
fi

if in_stage 10; then
  rows=() legend=()
  for name in "${systems[@]}"; do
    require "${dir_of[$name]}/${methods[0]}" 9
    rows+=("${row_of[$name]:-$name}=${dir_of[$name]}")
    legend+=("${row_of[$name]:-$name}=${words_of[$name]}")
  done
  sections=()
  for section in "$data_dir/statistics.md" "$exp_dir/plan.md"; do
    [ ! -f "$section" ] || sections+=("$section")
  done
  # shellcheck disable=SC2086
  run_logged "the table" "$exp_dir/log/report.log" $train_cmd -- \
    python -m pruning.bin.report --systems "${rows[@]}" --sets "${test_parts[@]}" --method "${methods[@]}" \
    ${which[@]+"${which[@]}"} --append ${sections[@]+"${sections[@]}"} --output "$results" --legend "${legend[@]}"
  shown=(--systems "${rows[@]}" --title "$title: pruned")
  [ "${#systems[@]}" -eq 1 ] || shown+=(--sets "${test_parts[@]}" --method "${methods[0]}" ${which[@]+"${which[@]}"})
  [ ! -f "$extracted/structure.json" ] || shown+=(--structure "$extracted")
  further_runs "$pruned" "$exp_dir/finetuned"
  shown+=(${further[@]+"${further[@]}"})
  show_report "$results" "${shown[@]}"
fi
