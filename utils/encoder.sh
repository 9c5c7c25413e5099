# shellcheck shell=bash disable=SC2034,SC2154  # variables that recipes declare
# Stages 4 to 10 of recipes that train an encoder with a head, or tune an encoder-decoder, prune it jointly and test it.
# A recipe sources encoder_options.sh, sets its defaults, sources this file, runs its own stages up to 3 (encoder_cuts
# and encoder_tokens if run.sh has made manifests), and calls encoder_training and encoder_tests. In addition to the
# options it sets:
#
#     task                                intent, ctc, or transcripts of an encoder-decoder
#     corpus data_dir exp_dir lang_dir    names, as in other recipes
#     train_parts dev_parts test_parts    parts of the corpus, separated by spaces
#     conf                                folder of warm_up.yaml, dense.yaml, prune.yaml and finetune.yaml
#     methods                             decoding methods, not for intent
#     normalise                           normaliser of the texts that are scored, for transcripts only
#     own_teacher teacher_stage           network to prune without --teacher, and the stage that makes it (default: 5)
#     cuts_stage                          the stage that makes the training cuts, for messages (default: 2)

not_empty train_parts dev_parts test_parts
[ "$task" = intent ] || not_empty methods
cuts_in=cuts
[ "$hears" = samples ] || cuts_in=fbank
[ -z "$pretrained" ] || [ "$warm_up" = false ] || fail "--pretrained and a warm-up exclude each other; give one of them"
: "${methods:=}" "${own_teacher:=$exp_dir/dense}" "${teacher_stage:=5}" "${cuts_stage:=2}"
check_teacher
: "${teacher:=$own_teacher}"
config_of=([6]=$conf/prune.yaml [8]=$conf/finetune.yaml)
[ "$teacher" != "$exp_dir/dense" ] || config_of[5]=$conf/dense.yaml
[ "$warm_up" = false ] || config_of[4]=$conf/warm_up.yaml
for number in "${!config_of[@]}"; do
  in_stage "$number" || continue
  [ -f "${config_of[number]}" ] || fail "stage $number needs ${config_of[number]}, which does not exist; see --conf"
done
# targets given as options replace those of prune.yaml; each HJ-Pruning method has one kind of target
targets=()
case $method:${target:+size}:${target_macs:+macs}:${target_parts:+parts} in
  hj-mac:size:* | hj-mac:*:parts) fail "--method hj-mac takes only --target-macs; leave the others out" ;;
  hj-size:*:macs:* | hj-size:*:parts) fail "--method hj-size takes only --target; leave the others out" ;;
  hj-sepsize:size:* | hj-sepsize:*:macs:*) fail "--method hj-sepsize takes only --target-parts; leave the others out" ;;
  *:::) ;;
  *) targets=("constraint.size=${target:-0}" "constraint.macs=${target_macs:-0}" "constraint.parts={${target_parts:-}}") ;;
esac
case $method in
  hj-size) targets=("constraint.size=${target:-0.5}") ;;
  hj-sepsize)
    halves="size:frontend: 0.5, size:attention+ffn: 0.5"
    [ "$hears" = samples ] || halves="size:subsampling: 0.5, size:attention+ffn+convolution: 0.5"
    [ "$task" != transcripts ] || halves="size:encoder_frontend: 0.5, size:encoder_attention+encoder_ffn: 0.5"
    targets=("constraint.parts={${target_parts:-$halves}}")
    ;;
esac
pruned=$exp_dir/pruned extracted=$exp_dir/extracted finetuned=$exp_dir/finetuned
systems=("dense=$teacher" "pruned=$finetuned") # rows of the table
hearing=("hears=$hears")
# encoders from Hugging Face need a package of their own
[ -z "$pretrained" ] || env_extras="${env_extras:-} hf"

# shellcheck source=egs/TEMPLATE/cmd.sh
. ./cmd.sh
# shellcheck source=egs/TEMPLATE/path.sh
. ./path.sh
# shellcheck source=utils/corpus.sh
. ../../utils/corpus.sh
parts=("${train_parts[@]}" "${dev_parts[@]}" "${test_parts[@]}")
words_or warm_up_cuts "${train_cuts[@]}"
words_or warm_up_dev_cuts "${dev_cuts[@]}"
case $task in
  intent) table=$lang_dir/intents.txt ;;
  ctc) table=$lang_dir/bpe.model ;;
  *) table=$lang_dir/tokenizer.json hearing=() ;;
esac

# what the dense model starts from
start=()
[ -z "$pretrained" ] || start=("pretrained=$pretrained")
[ "$task" != transcripts ] || start=(--init "$exp_dir/imported")
if [ "$warm_up" = true ]; then
  start=("pretrained=$exp_dir/warm_up")
  [ "$task" = intent ] || start=(--init "$exp_dir/warm_up" model=null) # including its head
fi

# what users choose for the commands of later stages, checked before the first stage runs
# shellcheck disable=SC2206  # settings are words
{
  of_warm_up=(--config "$conf/warm_up.yaml" "hears=$hears" $warm_up_args)
  of_dense=(${start[@]+"${start[@]}"} --config "$conf/dense.yaml" ${hearing[@]+"${hearing[@]}"} $dense_args)
  of_pruning=(--method "$method" --config "$conf/prune.yaml" ${hearing[@]+"${hearing[@]}"}
    ${targets[@]+"${targets[@]}"} $prune_args)
  of_finetuning=(--config "$conf/finetune.yaml" $finetune_args)
  of_decoding=(--lang-dir "$lang_dir" --num-threads "$num_threads" ${normalise:+--normalise "$normalise"} $decode_args)
}
if [ "$teacher" = "$exp_dir/dense" ]; then
  ! in_stage 4 || [ "$warm_up" = false ] || check_training "$exp_dir/warm_up" train "${of_warm_up[@]}"
  ! in_stage 5 || check_training "$teacher" train "${of_dense[@]}"
fi
! in_stage 6 || check_training "$pruned" prune --teacher "$teacher" "${of_pruning[@]}"
! in_stage 7 || checked extract --pruned "$pruned" --exp-dir "$extracted" --round-to "$round_to"
! in_stage 8 || check_training "$finetuned" finetune --init "$extracted" "${of_finetuning[@]}"
if in_stage 9 && [ "$task" != intent ]; then
  for name in "${methods[@]}"; do
    checked decode --exp-dir "$teacher" --cuts "${test_cuts[@]}" --method "$name" "${of_decoding[@]}"
  done
fi
check_commands

# make_cuts MANIFESTS OUTPUT_DIR PREFIX PART...: make cuts of recordings without features.
make_cuts() {
  local what=$3
  # shellcheck disable=SC2086  # a runner is a command with its options
  run_logged "cuts of $what" "$2/log/$what.log" $train_cmd -- \
    python ../../local/make_cuts.py --manifests-dir "$1" --output-dir "$2" --prefix "$3" --parts "${@:4}"
}

# Make cuts from the manifests of run.sh; if the encoder takes features, run.sh has made the cuts, too.
encoder_cuts() {
  local part
  in_stage 2 && [ "$hears" = samples ] || return 0
  for part in "${parts[@]}"; do require "$data_dir/manifests/${corpus}_supervisions_$part.jsonl.gz" "1 of run.sh"; done
  make_cuts "$data_dir/manifests" "$data_dir/cuts" "$corpus" "${parts[@]}"
}

# Make tokens from the training parts ($unit, $vocab_size) unless they exist.
encoder_tokens() {
  local cuts
  in_stage 3 || return 0
  for cuts in "${train_cuts[@]}"; do require "$cuts" "$cuts_stage"; done
  # shellcheck disable=SC2086
  run_logged "tokens ($unit${vocab_size:+, $vocab_size})" "$data_dir/log/tokens-$(basename "$lang_dir").log" $train_cmd -- \
    python ../../local/train_bpe.py --cuts "${train_cuts[@]}" --lang-dir "$lang_dir" --unit "$unit" \
    ${vocab_size:+--vocab-size "$vocab_size"}
}

# train WHAT NAME COMMAND ARGUMENT...: run a training command on the cuts.
train() {
  local cuts
  for cuts in "${train_cuts[@]}" "${dev_cuts[@]}"; do require "$cuts" "$cuts_stage"; done
  require "$table" 3
  train_in "$exp_dir/$2" "$1" "$3" --train-cuts "${train_cuts[@]}" --dev-cuts "${dev_cuts[@]}" "${@:4}"
}

# Train on the cuts of the warm-up; the local variables replace the training cuts.
encoder_warm_up() {
  local train_cuts=("${warm_up_cuts[@]}") dev_cuts=("${warm_up_dev_cuts[@]}")
  train "the warm-up by CTC" warm_up train "${of_warm_up[@]}"
}

# shellcheck disable=SC2086  # settings are words
encoder_training() {
  if in_stage 4 && [ "$warm_up" = true ] && [ "$teacher" = "$exp_dir/dense" ]; then
    encoder_warm_up
  fi

  if in_stage 5 && [ "$teacher" = "$exp_dir/dense" ]; then
    [ "$task" != transcripts ] || require "$exp_dir/imported/.done" 3
    [ "$warm_up" = false ] || require "$exp_dir/warm_up/.done" 4
    train "the dense model" dense train "${of_dense[@]}"
  fi

  if in_stage 6; then
    require "$teacher/.done" "$teacher_stage"
    train "pruning by $method" pruned prune --teacher "$teacher" "${of_pruning[@]}"
  fi

  if in_stage 7; then
    require "$pruned/.done" 6
    run_logged "extraction" "$extracted/log/extract-$now.log" $train_cmd -- \
      python -m pruning.bin.extract --pruned "$pruned" --exp-dir "$extracted" --round-to "$round_to" \
      --train-cuts "${train_cuts[@]}" --lang-dir "$lang_dir"
  fi

  if in_stage 8; then
    require "$extracted/best.safetensors" 7
    train "fine-tuning" finetuned finetune --init "$extracted" --teacher "$teacher" "${of_finetuning[@]}"
  fi
}

# shellcheck disable=SC2086
encoder_tests() {
  local system place decoding
  local -A stage_of=([original]=3 [dense]=$teacher_stage [pruned]=8)
  if in_stage 9; then
    for system in "${systems[@]}"; do
      place=${system#*=}
      require "$place/.done" "${stage_of[${system%%=*}]}"
      if [ "$task" = intent ]; then
        queued python -m pruning.bin.classify --exp-dir "$place" --cuts "${test_cuts[@]}" --lang-dir "$lang_dir" \
          --num-threads "$num_threads"
        continue
      fi
      for decoding in "${methods[@]}"; do
        queued python -m pruning.bin.decode --exp-dir "$place" --cuts "${test_cuts[@]}" --method "$decoding" \
          "${of_decoding[@]}"
      done
    done
    run_queued "decoding with teacher and pruned network" "$exp_dir/log/decode-$now.JOB.log" \
      $decode_cmd --num-threads "$num_threads"
  fi

  if in_stage 10; then
    local report=(python -m pruning.bin.report --method "${methods[@]}")
    if [ "$task" = intent ]; then
      report=(python -m pruning.bin.intent_report)
    else
      report+=(--legend "original=the imported network, before any training here" "dense=the network that was pruned"
        "pruned=pruned from it by $method, extracted and fine-tuned")
    fi
    run_logged "the table" "$exp_dir/log/report.log" $train_cmd -- \
      "${report[@]}" --systems "${systems[@]}" --sets "${test_parts[@]}" --output "$results"
    local shown=(--systems "${systems[@]}" --structure "$extracted" --title "$corpus: $method")
    [ "$task" = intent ] || shown+=(--sets "${test_parts[@]}" --method "${methods[0]}")
    further_runs "$pruned" "$finetuned"
    shown+=(${further[@]+"${further[@]}"})
    show_report "$results" "${shown[@]}"
  fi
}
