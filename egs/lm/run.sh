#!/usr/bin/env bash
# Language models on any text, pruned by every criterion x technique x scheduler, against an n-gram.
#
# Stages: 0 text (contiguous blocks of it are held out), 1 word pieces, 2 n-gram, 3 dense models, 4 their perplexity, 5
# the grid on the small one, 6 corner cells on the larger one. Finished stages are skipped and interrupted stages are
# resumed. Paths are relative to this folder.
#
#     ./run.sh --text /texts/general.txt
#     ./run.sh --text /texts/general.txt --stop-stage 4 --num-threads 2
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run.sh
set -euo pipefail

stage=0                 # first stage to run
stop_stage=6            # last stage to run
text=                   # text files, one normalised sentence a line, plain or gzipped, separated by spaces
data_dir=data           # prepared text, word pieces and n-gram
exp_dir=exp             # language models and sweeps
conf=conf               # folder of configurations and sweep files
vocab_size=2000         # number of word pieces, including 3 special ones
order=4                 # order of the n-gram
dev_share=0.025         # share of the text for dev
test_share=0.05         # share of the text for test
models="small base"     # names of the configurations of dense models to train
sweeps="grid corners"   # sweep files of stages 5 and 6
max_jobs=2              # number of runs of a sweep at once
num_threads=1           # number of threads for measurements
train_args=             # settings of the dense models, override the files
cmd_backend=local       # local, slurm or sge: see cmd.sh

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../utils/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")"
# shellcheck source=utils/stage.sh
. ../../utils/stage.sh
[ $# -eq 0 ] || fail "unexpected argument $1; run.sh --help lists the options"
without_job data_dir exp_dir
not_empty models
# shellcheck source=egs/TEMPLATE/cmd.sh
. ./cmd.sh
# shellcheck source=egs/TEMPLATE/path.sh
. ./path.sh

if [ "$stop_stage" -ge 5 ] && [ "$data_dir $exp_dir $vocab_size" != "data exp 2000" ]; then
  fail "the sweep files of stages 5 and 6 are for --data-dir data, --exp-dir exp and --vocab-size 2000; give \
--stop-stage 4 with other values, and run your own sweep files with pruning.bin.sweep"
fi
read -ra text <<< "$text"
read -ra models <<< "$models"
read -ra sweeps <<< "$sweeps"
lang_dir=$data_dir/lang_bpe_$vocab_size
now=$(date +%Y%m%d-%H%M%S)

# config STAGE NAME: fail with one line if a later stage lacks its file.
config() { [ -f "$conf/$2.yaml" ] || fail "stage $1 needs $conf/$2.yaml, which does not exist; see --conf"; }

# train_dense NAME: set words to the command that trains a dense model.
train_dense() {
  # shellcheck disable=SC2206  # settings are words
  words=(train --config "$conf/$1.yaml" --exp-dir "$exp_dir/$1" --lang-dir "$lang_dir"
    --train-text "$data_dir/train.txt" --dev-text "$data_dir/dev.txt" $train_args)
}

# what users choose for the commands of later stages, checked before the first stage runs
if in_stage 3; then
  for name in "${models[@]}"; do
    config 3 "$name"
    train_dense "$name"
    checked "${words[@]}"
  done
fi
for index in "${!sweeps[@]}"; do
  ! in_stage $((5 + index)) || config $((5 + index)) "${sweeps[index]}"
done
check_commands

if in_stage 0; then
  [ ${#text[@]} -gt 0 ] || fail "no text given; give --text FILE"
  # shellcheck disable=SC2086  # a runner is a command with its options
  run_logged "text" "$data_dir/log/text.log" $train_cmd -- \
    python ../../local/prepare_lm_text.py --text "${text[@]}" --output-dir "$data_dir" --dev-share "$dev_share" \
    --test-share "$test_share"
fi

if in_stage 1; then
  require "$data_dir/train.txt" 0
  # shellcheck disable=SC2086
  run_logged "word pieces" "$data_dir/log/bpe.log" $train_cmd -- \
    python ../../local/train_bpe.py --text "$data_dir/train.txt" --lang-dir "$lang_dir" --vocab-size "$vocab_size"
fi

if in_stage 2; then
  require "$data_dir/train.txt" 0
  # shellcheck disable=SC2086
  run_logged "the $order-gram" "$data_dir/log/ngram.log" $train_cmd -- \
    python ../../local/make_ngram.py --text "$data_dir/train.txt" --order "$order" --output "$data_dir/$order.arpa"
fi

if in_stage 3; then
  require "$lang_dir/bpe.model" 1
  for name in "${models[@]}"; do
    train_dense "$name"
    # shellcheck disable=SC2086
    run_logged "the $name model" "$exp_dir/$name/log/train-$now.log" $cuda_cmd --gpu 1 -- \
      python -m "pruning.bin.${words[0]}" "${words[@]:1}"
  done
fi

if in_stage 4; then
  lms=("$order-gram=$exp_dir/ngram")
  require "$data_dir/$order.arpa" 2
  queued python -m pruning.bin.perplexity --exp-dir "$exp_dir/ngram" --arpa "$data_dir/$order.arpa" \
    --text "$data_dir/test.txt" --vocabulary "$data_dir/words.txt"
  for name in "${models[@]}"; do
    require "$exp_dir/$name/.done" 3
    queued python -m pruning.bin.perplexity --exp-dir "$exp_dir/$name" --lang-dir "$lang_dir" --text "$data_dir/test.txt" \
      --vocabulary "$data_dir/words.txt" --num-threads "$num_threads"
    lms+=("$name=$exp_dir/$name")
  done
  # shellcheck disable=SC2086
  run_queued "perplexities" "$exp_dir/log/perplexity-$now.JOB.log" $decode_cmd --num-threads "$num_threads"
  # shellcheck disable=SC2086
  run_logged "the table" "$exp_dir/log/report.log" $train_cmd -- \
    python -m pruning.bin.lm_report --lms "${lms[@]}" --output "$exp_dir/RESULTS.md"
  show_report "$exp_dir/RESULTS.md" --title "language models"
fi

for index in "${!sweeps[@]}"; do
  if in_stage $((5 + index)); then
    name=${sweeps[index]}
    # shellcheck disable=SC2086
    run_logged "the sweep $name" "$exp_dir/$name/log/sweep-$now.log" $train_cmd -- \
      python -m pruning.bin.sweep --config "$conf/$name.yaml" --exp-dir "$exp_dir/$name" \
      --runner "../../utils/run.sh --max-jobs-run $max_jobs"
    python -m pruning.bin.compare --results "$exp_dir/$name/results" --output "$exp_dir/$name/RESULTS.md" \
      --title "Language models: the sweep $name" --plot "$exp_dir/$name/plot.png"
    show_report "$exp_dir/$name/RESULTS.md" --plot "$exp_dir/$name/plot.png" --title "the sweep $name"
  fi
done
