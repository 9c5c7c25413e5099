#!/usr/bin/env bash
# From speech to a pruned Conformer transducer and its table of word error rates, on LibriSpeech.
#
# Stages: 0 download, 1 manifests, 2 features, 3 word pieces, 4 teacher, 5 L0 pruning with layerwise distillation,
# 6 extraction, 7 fine-tuning, 8 a uniform model of the same size from scratch, 9 decoding of all, 10 the table.
# A stage that is done is not redone; one that was interrupted goes on where it was. Paths are relative to this folder.
#
#     ./run.sh --mini true                              # a synthetic corpus, everything in minutes
#     ./run.sh --corpus-dir /corpora/LibriSpeech        # 960 h, d512
#     ./run.sh --train-parts "train-clean-100" --conf conf/d256 --cmd-backend slurm
set -euo pipefail

stage=0                 # first stage to run
stop_stage=10           # last stage to run
mini=false              # a synthetic corpus instead of LibriSpeech, and a small model
plan=false              # print sizes, memory, steps and hours for this configuration and these parts; train nothing
corpus_dir=             # directory that holds the parts; else download/LibriSpeech (mini: corpus/LibriSpeech)
train_parts=            # default: train-clean-100 train-clean-360 train-other-500 (mini: train-clean-mini)
dev_parts=              # default: dev-clean dev-other (mini: dev-clean-mini)
test_parts=             # default: test-clean test-other
data_dir=               # manifests, features and word pieces; default: data (mini: data/mini); icefall's own fits
exp_dir=                # experiments; default: exp (mini: exp/mini)
corpus_args=            # more options of local/make_synthetic_corpus.py: "--train-utterances 500 --seed 3"
nj=4                    # parallel jobs of feature extraction
vocab_size=             # word pieces; default: 500 (mini: 60)
speed_perturb=          # also train on 0.9 and 1.1 of the speed; default: true (mini: false)
conf=                   # folder of the four configurations below; default: conf/d512 (mini: conf/mini)
teacher_config=         # default: teacher.yaml of the folder
prune_config=           # default: prune.yaml
finetune_config=        # default: finetune.yaml
uniform_config=         # default: uniform.yaml
teacher_args=           # settings that override the configuration: "trainer.num_epochs=30 data.max_duration=400"
prune_args=             # the same for pruning
finetune_args=          # the same for fine-tuning
uniform_args=           # the same for the uniform model
target=0.5              # share of the encoder's parameters to remove; 0: no constraint on size
target_macs=0           # share of the encoder's MACs to remove; 0: no constraint on MACs
round_to=1              # round the kept counts to multiples of this at extraction
seed=1                  # of training
num_processes=1         # training processes (GPUs) on one machine
systems="teacher finetuned uniform"  # what to decode and to tabulate
methods=                # decoding; default: greedy_search modified_beam_search fast_beam_search (mini: greedy_search)
epoch=                  # decode this epoch's checkpoint instead of the best on dev
avg=                    # average over so many epochs up to it
num_threads=1           # threads of decoding
results=                # file for the table; default: RESULTS.md in the experiments' folder
cmd_backend=local       # local, slurm or sge: see cmd.sh

# shellcheck source=utils/parse_options.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../utils/parse_options.sh"
[ -z "$corpus_dir" ] || corpus_dir=$(realpath -m "$corpus_dir")
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=utils/stage.sh
. ../../utils/stage.sh
[ $# -eq 0 ] || fail "$1 is not understood; run.sh --help lists the options"
[[ ${speed_perturb:-true} =~ ^(true|false)$ ]] || fail "--speed-perturb takes true or false, not '$speed_perturb'"

if [ "$mini" = true ]; then
  : "${corpus_dir:=corpus/LibriSpeech}" "${train_parts:=train-clean-mini}" "${dev_parts:=dev-clean-mini}"
  : "${data_dir:=data/mini}" "${exp_dir:=exp/mini}" "${vocab_size:=60}" "${speed_perturb:=false}" "${conf:=conf/mini}"
  : "${methods:=greedy_search}"
  env_extras=mini
else
  : "${corpus_dir:=download/LibriSpeech}" "${train_parts:=train-clean-100 train-clean-360 train-other-500}"
  : "${dev_parts:=dev-clean dev-other}" "${data_dir:=data}" "${exp_dir:=exp}" "${vocab_size:=500}"
  : "${speed_perturb:=true}" "${conf:=conf/d512}" "${methods:=greedy_search modified_beam_search fast_beam_search}"
fi
: "${test_parts:=test-clean test-other}" "${results:=$exp_dir/RESULTS.md}"
: "${teacher_config:=$conf/teacher.yaml}" "${prune_config:=$conf/prune.yaml}"
: "${finetune_config:=$conf/finetune.yaml}" "${uniform_config:=$conf/uniform.yaml}"

# told now rather than after the stages before
declare -A stage_of=([teacher]=4 [finetuned]=7 [uniform]=8) row_of=([finetuned]=pruned)
read -ra systems <<< "$systems"
for name in "${systems[@]}"; do
  [ -n "${stage_of[$name]:-}" ] || fail "there is no system '$name'; choose from teacher, finetuned and uniform"
done
config_of=([4]=$teacher_config [5]=$prune_config [7]=$finetune_config [8]=$uniform_config)
for number in "${!config_of[@]}"; do
  in_stage "$number" || continue
  [ -f "${config_of[number]}" ] || fail "stage $number needs ${config_of[number]}, which does not exist; see --conf"
done

# shellcheck source=egs/librispeech/cmd.sh
. ./cmd.sh
# shellcheck source=egs/librispeech/path.sh
. ./path.sh

read -ra train_parts <<< "$train_parts"
read -ra dev_parts <<< "$dev_parts"
read -ra test_parts <<< "$test_parts"
read -ra methods <<< "$methods"
parts=("${train_parts[@]}" "${dev_parts[@]}" "${test_parts[@]}")
manifests=$data_dir/manifests
lang_dir=$data_dir/lang_bpe_$vocab_size
teacher=$exp_dir/teacher pruned=$exp_dir/pruned extracted=$exp_dir/extracted uniform=$exp_dir/uniform
now=$(date +%Y%m%d-%H%M%S)

cuts_of() { printf '%s\n' "${@/#/"$data_dir/fbank/librispeech_cuts_"}" | sed 's/$/.jsonl.gz/'; }
mapfile -t train_cuts < <(cuts_of "${train_parts[@]}")
mapfile -t dev_cuts < <(cuts_of "${dev_parts[@]}")
mapfile -t test_cuts < <(cuts_of "${test_parts[@]}")

require_data() {
  local cuts
  for cuts in "${train_cuts[@]}" "${dev_cuts[@]}"; do require "$cuts" 2; done
  require "$lang_dir/bpe.model" 3
}

# train WHAT NAME COMMAND ARGUMENT...: a training command with what all of them need.
train() {
  local what=$1 name=$2 command=$3 launch=(python -m)
  shift 3
  [ "$num_processes" -eq 1 ] ||
    launch=(python -m pruning.bin.torchrun --standalone --nproc_per_node "$num_processes" -m)
  # shellcheck disable=SC2086  # a runner is a command with its options
  run_logged "$what" "$exp_dir/$name/log/train-$now.log" $cuda_cmd --gpu "$num_processes" -- \
    "${launch[@]}" "pruning.bin.$command" --exp-dir "$exp_dir/$name" --lang-dir "$lang_dir" \
    --train-cuts "${train_cuts[@]}" --dev-cuts "${dev_cuts[@]}" "$@" "trainer.seed=$seed"
}

# features PARTS...: computes the features of the parts in parallel; options of the program may follow.
features() {
  # shellcheck disable=SC2086
  run_logged "features of $2" "$data_dir/log/features-$1.JOB.log" $train_cmd "JOB=1:$nj" -- \
    python ../../local/compute_features.py --manifests-dir "$manifests" --output-dir "$data_dir/fbank" \
    --num-splits "$nj" --split JOB "${@:3}"
  # shellcheck disable=SC2086
  run_logged "joining the features of $2" "$data_dir/log/features-$1.log" $train_cmd -- \
    python ../../local/compute_features.py --manifests-dir "$manifests" --output-dir "$data_dir/fbank" \
    --num-splits "$nj" --combine "${@:3}"
}

if [ "$plan" = true ]; then
  copies=1
  [ "$speed_perturb" = false ] || copies=3
  # shellcheck disable=SC2086  # settings are words
  exec python -m pruning.bin.plan --teacher-config "$teacher_config" --prune-config "$prune_config" \
    --finetune-config "$finetune_config" --uniform-config "$uniform_config" --train-cuts "${train_cuts[@]}" \
    --parts "${train_parts[@]}" --copies $copies --lang-dir "$lang_dir" --vocab-size "$vocab_size" \
    --processes "$num_processes" $teacher_args
fi

if in_stage 0; then
  if [ "$mini" = true ]; then
    # shellcheck disable=SC2086
    run_logged "synthetic corpus" "$data_dir/log/corpus.log" $train_cmd -- \
      python ../../local/make_synthetic_corpus.py --output-dir "$corpus_dir" $corpus_args
  else
    # shellcheck disable=SC2086
    run_logged "download of what $corpus_dir lacks" "$data_dir/log/download.log" $train_cmd -- \
      python local/download.py --corpus-dir "$corpus_dir" --parts "${parts[@]}"
  fi
fi

if in_stage 1; then
  require "$corpus_dir" 0
  # shellcheck disable=SC2086
  run_logged "manifests" "$data_dir/log/manifests.log" $train_cmd -- \
    python local/prepare_manifests.py --corpus-dir "$corpus_dir" --parts "${parts[@]}" --output-dir "$manifests" \
    --num-jobs "$nj"
fi

if in_stage 2; then
  for part in "${parts[@]}"; do
    require "$manifests/librispeech_supervisions_$part.jsonl.gz" 1
  done
  factors=()
  [ "$speed_perturb" = false ] || factors=(--speed-factors 0.9 1.1)
  features train "the training parts" --parts "${train_parts[@]}" ${factors[@]+"${factors[@]}"}
  features test "the dev and test parts" --parts "${dev_parts[@]}" "${test_parts[@]}"
fi

if in_stage 3; then
  for cuts in "${train_cuts[@]}"; do require "$cuts" 2; done
  # shellcheck disable=SC2086
  run_logged "$vocab_size word pieces" "$data_dir/log/bpe_$vocab_size.log" $train_cmd -- \
    python ../../local/train_bpe.py --cuts "${train_cuts[@]}" --lang-dir "$lang_dir" --vocab-size "$vocab_size"
fi

# shellcheck disable=SC2086  # settings are words
if in_stage 4; then
  require_data
  train "the teacher" teacher train --config "$teacher_config" $teacher_args
fi

# shellcheck disable=SC2086
if in_stage 5; then
  require_data
  require "$teacher/.done" 4
  train "L0 pruning" pruned prune --method l0 --config "$prune_config" --teacher "$teacher" $prune_args \
    "gating.constraint.size=$target" "gating.constraint.macs=$target_macs"
fi

if in_stage 6; then
  require_data
  require "$pruned/.done" 5
  # shellcheck disable=SC2086
  run_logged "extraction" "$extracted/log/extract-$now.log" $train_cmd -- \
    python -m pruning.bin.extract --pruned "$pruned" --exp-dir "$extracted" --round-to "$round_to" \
    --train-cuts "${train_cuts[@]}" --lang-dir "$lang_dir"
fi

# shellcheck disable=SC2086
if in_stage 7; then
  require_data
  require "$extracted/best.safetensors" 6
  train "fine-tuning" finetuned finetune --config "$finetune_config" --init "$extracted" --teacher "$teacher" \
    $finetune_args
fi

# shellcheck disable=SC2086
if in_stage 8; then
  require_data
  require "$teacher/.done" 4
  require "$extracted/best.safetensors" 6
  cost=size
  [ "$target" != 0 ] || cost=macs
  run_logged "the dimensions of the uniform model" "$uniform/log/uniform-$now.log" $train_cmd -- \
    python -m pruning.bin.uniform --dense "$teacher" --reference "$extracted" --cost $cost \
    --output "$uniform/dimensions.json"
  train "the uniform model" uniform train --config "$uniform_config" --model "$uniform/dimensions.json" $uniform_args
fi

if in_stage 9; then
  for cuts in "${test_cuts[@]}"; do require "$cuts" 2; done
  for name in "${systems[@]}"; do require "$exp_dir/$name/.done" "${stage_of[$name]}"; done
  which=()
  [ -z "$epoch" ] || which+=(--epoch "$epoch")
  [ -z "$avg" ] || which+=(--avg "$avg")
  for name in "${systems[@]}"; do
    for method in "${methods[@]}"; do
      # shellcheck disable=SC2086
      run_logged "decoding with $name, $method" "$exp_dir/$name/log/decode-$method-$now.log" \
        $decode_cmd --num-threads "$num_threads" -- \
        python -m pruning.bin.decode --exp-dir "$exp_dir/$name" --cuts "${test_cuts[@]}" --lang-dir "$lang_dir" \
        --method "$method" --num-threads "$num_threads" ${which[@]+"${which[@]}"}
    done
  done
fi

if in_stage 10; then
  rows=()
  for name in "${systems[@]}"; do
    require "$exp_dir/$name/${methods[0]}" 9
    rows+=("${row_of[$name]:-$name}=$exp_dir/$name")
  done
  # shellcheck disable=SC2086
  run_logged "the table" "$exp_dir/log/report.log" $train_cmd -- \
    python -m pruning.bin.report --systems "${rows[@]}" --sets "${test_parts[@]}" --method "${methods[@]}" \
    --output "$results"
  cat "$results"
fi
