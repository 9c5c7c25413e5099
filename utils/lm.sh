# shellcheck shell=bash disable=SC2154  # variables that recipes declare
# Stages of all run_lm.sh: dense and pruned language models for a recogniser, and their effect on its errors.
# A recipe sources lm_options.sh, then this file, after setting:
#
#     corpus data_dir exp_dir             as in its run.sh, whose stages 0 to 4 come first
#     train_parts dev_parts test_parts    parts of the corpus, separated by spaces
#     lang_dir                            lang dir with word pieces
#     conf                                folder of lm.yaml, lm_prune.yaml, lm_finetune.yaml

not_empty train_parts dev_parts test_parts methods lm_scales graph_scales ilm_scales
: "${lm_config:=$conf/lm.yaml}" "${lm_prune_config:=$conf/lm_prune.yaml}"
: "${lm_finetune_config:=$conf/lm_finetune.yaml}" "${results:=$exp_dir/RESULTS_LM.md}"
: "${lm_dir:=$data_dir/lm}" "${lm_exp_dir:=$exp_dir/lm}" "${system:=$exp_dir/teacher}"
config_of=([2]=$lm_config [3]=$lm_prune_config [5]=$lm_finetune_config)
for number in "${!config_of[@]}"; do
  in_stage "$number" || continue
  [ -f "${config_of[number]}" ] || fail "stage $number needs ${config_of[number]}, which does not exist; see --conf"
done
check_teacher

# shellcheck source=egs/TEMPLATE/cmd.sh
. ./cmd.sh
# shellcheck source=egs/TEMPLATE/path.sh
. ./path.sh

# shellcheck source=utils/corpus.sh
. ../../utils/corpus.sh
read -ra lm_text <<< "$lm_text"
read -ra lm_scales <<< "$lm_scales"
read -ra ilm_scales <<< "$ilm_scales"
read -ra graph_scales <<< "$graph_scales"
: "${teacher:=$lm_exp_dir/dense}"
pruned=$lm_exp_dir/pruned extracted=$lm_exp_dir/extracted finetuned=$lm_exp_dir/finetuned

# what users choose for the commands of later stages, checked before the first stage runs
training_data=(--train-text "$lm_dir/train.txt" --dev-text "$lm_dir/dev.txt")
# shellcheck disable=SC2206  # settings are words
{
  of_dense=(--config "$lm_config" $lm_args)
  of_pruning=(--config "$lm_prune_config" ${method:+--method "$method"} ${technique:+--technique "$technique"}
    ${scheduler:+--scheduler "$scheduler"} $lm_prune_args)
  of_finetuning=(--config "$lm_finetune_config" $lm_finetune_args)
  of_decoding=(--lang-dir "$lang_dir" --num-threads "$num_threads" $decode_args)
}
! in_stage 2 || [ "$teacher" != "$lm_exp_dir/dense" ] || check_training "$teacher" train "${of_dense[@]}"
! in_stage 3 || check_training "$pruned" prune --teacher "$teacher" "${of_pruning[@]}"
! in_stage 5 || check_training "$finetuned" finetune --init "$extracted" "${of_finetuning[@]}"
if in_stage 7; then
  for name in "${methods[@]}"; do
    checked decode --exp-dir "$system" --cuts "${test_cuts[@]}" --method "$name" "${of_decoding[@]}"
  done
fi
check_commands

require_text() {
  require "$lm_dir/train.txt" 0
  require "$lang_dir/bpe.model" "3 of run.sh"
}

# train_lm WHAT NAME COMMAND ARGUMENT...: run a training command on the text.
train_lm() {
  train_in "$lm_exp_dir/$2" "$1" "$3" "${training_data[@]}" "${@:4}"
}

if in_stage 0; then
  for cuts in "${train_cuts[@]}" "${dev_cuts[@]}"; do require "$cuts" "2 of run.sh"; done
  # shellcheck disable=SC2086
  run_logged "text" "$lm_dir/log/text.log" $train_cmd -- \
    python ../../local/prepare_lm_text.py --cuts "${train_cuts[@]}" --dev-cuts "${dev_cuts[@]}" \
    --test-cuts "${test_cuts[@]}" --text ${lm_text[@]+"${lm_text[@]}"} --dev-share 0 --test-share 0 \
    --output-dir "$lm_dir"
fi

if in_stage 1; then
  require_text
  # shellcheck disable=SC2086
  run_logged "the $order-gram" "$lm_dir/log/ngram.log" $train_cmd -- \
    python ../../local/make_ngram.py --text "$lm_dir/train.txt" --order "$order" --output "$lm_dir/$order.arpa"
  if [[ " ${methods[*]} " =~ \ (fast_beam_search_LG|hlg_decoding)\  ]]; then
    # shellcheck disable=SC2086
    run_logged "decoding graphs" "$lm_dir/log/graphs.log" $train_cmd -- \
      python ../../local/make_graphs.py --arpa "$lm_dir/$order.arpa" --lang-dir "$lang_dir"
  fi
fi

if in_stage 2 && [ "$teacher" = "$lm_exp_dir/dense" ]; then
  require_text
  train_lm "the language model" dense train "${of_dense[@]}"
fi

if in_stage 3; then
  require_text
  require "$teacher/.done" 2
  train_lm "pruning of the language model" pruned prune --teacher "$teacher" "${of_pruning[@]}"
fi

if in_stage 4; then
  require "$pruned/.done" 3
  # shellcheck disable=SC2086
  run_logged "extraction" "$extracted/log/extract-$now.log" $train_cmd -- \
    python -m pruning.bin.extract --pruned "$pruned" --exp-dir "$extracted"
fi

if in_stage 5; then
  require_text
  require "$extracted/best.safetensors" 4
  train_lm "fine-tuning" finetuned finetune --init "$extracted" --teacher "$teacher" "${of_finetuning[@]}"
fi

names=(dense pruned)
dirs=("$teacher" "$finetuned")
if in_stage 6; then
  require "$lm_dir/test.txt" 0
  for place in "${dirs[@]}"; do require "$place/.done" 5; done
  for index in "${!names[@]}"; do
    queued python -m pruning.bin.perplexity --exp-dir "${dirs[index]}" --lang-dir "$lang_dir" --text "$lm_dir/test.txt" \
      --vocabulary "$lm_dir/words.txt" --num-threads "$num_threads"
  done
  require "$lm_dir/$order.arpa" 1
  queued python -m pruning.bin.perplexity --exp-dir "$lm_exp_dir/ngram" --arpa "$lm_dir/$order.arpa" \
    --text "$lm_dir/test.txt" --vocabulary "$lm_dir/words.txt"
  # shellcheck disable=SC2086
  run_queued "perplexities" "$lm_exp_dir/log/perplexity-$now.JOB.log" $decode_cmd --num-threads "$num_threads"
fi

if in_stage 7; then
  require "$system/.done" "4 of run.sh"
  for cuts in "${test_cuts[@]}"; do require "$cuts" "2 of run.sh"; done
  if [[ " ${methods[*]} " =~ \ (fast_beam_search_LG|hlg_decoding)\  ]]; then
    require "$lang_dir/LG.safetensors" 1
  fi
  for phase in tune decode; do # choose all weights before decoding the first test set
    for name in "${methods[@]}"; do
      decoding=(--exp-dir "$system" --method "$name" "${of_decoding[@]}")
      kind=
      [ "$name" != fast_beam_search_LG ] || kind=LG
      [ "$name" != hlg_decoding ] || kind=HLG
      if [ -z "$kind" ] && [[ $name != *_lm_* ]]; then
        [ "$phase" = tune ] || queued python -m pruning.bin.decode "${decoding[@]}" --cuts "${test_cuts[@]}"
        continue
      fi
      used=("${names[@]}")
      [ -z "$kind" ] || used=("$order-gram")
      for index in "${!used[@]}"; do
        if [ -n "$kind" ]; then
          lm=(--lm-name "$order-gram")
          weights=("${graph_scales[@]}")
        else
          require "${dirs[index]}/.done" 5
          lm=(--lm-exp-dir "${dirs[index]}" --lm-name "${names[index]}")
          weights=("${lm_scales[@]}")
        fi
        if [ "$phase" = tune ]; then
          queued python -m pruning.bin.tune_lm "${decoding[@]}" "${lm[@]}" --cuts "${dev_cuts[@]}" \
            --lm-scales "${weights[@]}" --ilm-scales "${ilm_scales[@]}"
        else
          queued python -m pruning.bin.decode "${decoding[@]}" "${lm[@]}" --cuts "${test_cuts[@]}" \
            --scales-from "$system/$name/lm-scales-${used[index]}.json"
        fi
      done
    done
    what="decoding with ${methods[*]}"
    [ "$phase" = decode ] || what="the weights of the language models, on dev"
    # shellcheck disable=SC2086
    run_queued "$what" "$lm_exp_dir/log/$phase-$now.JOB.log" $decode_cmd --num-threads "$num_threads"
  done
fi

if in_stage 8; then
  # shellcheck disable=SC2086
  run_logged "the tables" "$lm_exp_dir/log/report.log" $train_cmd -- \
    python -m pruning.bin.lm_report --lms "$order-gram=$lm_exp_dir/ngram" "dense=$teacher" "pruned=$finetuned" \
    --systems "$(basename "$system")=$system" --sets "${test_parts[@]}" --output "$results"
  further_runs "$pruned" "$finetuned"
  show_report "$results" --systems "dense=$teacher" "pruned=$finetuned" --structure "$extracted" \
    ${further[@]+"${further[@]}"} --title "language model: ${method:-pruned}"
fi
