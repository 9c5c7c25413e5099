#!/usr/bin/env bash
# Intents of SLURP from speech: a wav2vec2-family encoder (or a Conformer) trained for them, pruned jointly, frontend and
# Transformer, and its table of accuracy, size, computation and speed.
#
# Stages: 0 the corpus, 1 manifests, 2 cuts, 3 intents and characters, 4 warm-up by CTC, 5 the dense model, 6 pruning,
# 7 extraction, 8 fine-tuning, 9 intents of the test set, 10 the table. A stage that is done is not redone; one that was
# interrupted goes on where it was. Paths are relative to this folder.
#
#     ./run.sh --corpus-dir /corpora/slurp --pretrained facebook/wav2vec2-base --target-macs 0.4
#     ./run.sh --mini true                                      # a synthetic corpus of templates
#     ./run.sh --mini true --annotations /repositories/slurp    # real sentences, spoken by eSpeak NG
set -euo pipefail

mini=false              # a synthetic corpus and a small encoder of fresh weights, for 2 cores
corpus_dir=             # holds dataset/slurp and slurp_real; default: download/slurp (mini: made in corpus/)
annotations=            # mini: directory with dataset/slurp/{devel,test}.jsonl, whose sentences are spoken
train_parts=            # default: train train_synthetic (mini: train)
dev_parts="devel"       # to choose checkpoints by
test_parts="test"       # to classify
on_missing=error        # missing recordings, broken lines, other sampling rates: error or skip
data_dir=               # manifests, cuts and tables; default: data (mini: data/mini)
exp_dir=                # experiments; default: exp (mini: exp/mini)
conf=                   # folder of warm_up.yaml, dense.yaml, prune.yaml and finetune.yaml; default: conf (mini: conf/mini)
hears=samples           # samples, or features (filter banks) for a Conformer
pretrained=             # Hugging Face directory or name whose encoder is the start; default: fresh weights
warm_up=                # train the encoder by CTC on the sentences first: true or false; default: false (mini: true)
method=hj-mac           # of pruning: hj-size, hj-mac, hj-sepsize, l0 or a criterion
target=                 # share of the encoder's parameters to remove, over prune.yaml's
target_macs=            # share of the encoder's MACs to remove, over prune.yaml's
warm_up_args=           # settings over the configuration: "trainer.max_steps=2000"
dense_args=             # the same for the dense model
prune_args=             # the same for pruning
finetune_args=          # the same for fine-tuning
teacher=                # dense model to prune instead of training one: a finished experiment
round_to=1              # round the kept counts to multiples of this at extraction
stage=0                 # first stage to run
stop_stage=10           # last stage to run
nj=4                    # parallel jobs
seed=1                  # of training
num_processes=1         # training processes (GPUs) on one machine
num_threads=1           # threads of classification
results=                # file for the table; default: RESULTS.md in the experiments' folder
cmd_backend=local       # local, slurm or sge: see cmd.sh

# shellcheck source=utils/parse_options.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../utils/parse_options.sh"
for name in corpus_dir annotations; do # of the caller's folder, like a command's argument
  [ -z "${!name}" ] || printf -v "$name" '%s' "$(realpath -m "${!name}")"
done
[ ! -d "$pretrained" ] || pretrained=$(realpath "$pretrained")
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=utils/stage.sh
. ../../utils/stage.sh
[ $# -eq 0 ] || fail "$1 is not understood; run.sh --help lists the options"

for name in mini warm_up; do
  [[ ${!name:-false} =~ ^(true|false)$ ]] || fail "--${name/_/-} takes true or false, not '${!name}'"
done
[[ $hears =~ ^(samples|features)$ ]] || fail "--hears takes samples or features, not '$hears'"
if [ "$mini" = true ]; then
  : "${train_parts:=train}" "${data_dir:=data/mini}" "${exp_dir:=exp/mini}" "${conf:=conf/mini}" "${warm_up:=true}"
  [ "$hears" = samples ] || [ "$conf" != conf/mini ] || conf=conf/mini_features
  env_extras=mini
else
  [ -z "$annotations" ] || fail "--annotations is of --mini true"
  : "${train_parts:=train train_synthetic}" "${data_dir:=data}" "${exp_dir:=exp}" "${conf:=conf}" "${warm_up:=false}"
  : "${corpus_dir:=download/slurp}"
fi
[ -z "$pretrained" ] || [ "$warm_up" = false ] || fail "--pretrained and a warm-up are two starts; give one of them"
config_of=([5]=$conf/dense.yaml [6]=$conf/prune.yaml [8]=$conf/finetune.yaml)
[ "$warm_up" = false ] || config_of[4]=$conf/warm_up.yaml
for number in "${!config_of[@]}"; do
  in_stage "$number" || continue
  [ -f "${config_of[number]}" ] || fail "stage $number needs ${config_of[number]}, which does not exist; see --conf"
done

corpus=slurp
lang_dir=$data_dir/lang
manifests=$data_dir/manifests
cuts_in=cuts
[ "$hears" = samples ] || cuts_in=fbank
methods=
: "${results:=$exp_dir/RESULTS.md}" "${teacher:=$exp_dir/dense}"
pruned=$exp_dir/pruned extracted=$exp_dir/extracted finetuned=$exp_dir/finetuned
# the encoders of Hugging Face come with a package of their own
[ -z "$pretrained" ] || env_extras="${env_extras:-} hf"

# shellcheck source=egs/TEMPLATE/cmd.sh
. ./cmd.sh
# shellcheck source=egs/TEMPLATE/path.sh
. ./path.sh
# shellcheck source=utils/corpus.sh
. ../../utils/corpus.sh
parts=("${train_parts[@]}" "${dev_parts[@]}" "${test_parts[@]}")

# train WHAT NAME COMMAND ARGUMENT...: a training command on the cuts.
train() {
  local cuts
  for cuts in "${train_cuts[@]}" "${dev_cuts[@]}"; do require "$cuts" 2; done
  require "$lang_dir/intents.txt" 3
  train_in "$exp_dir/$2" "$1" "$3" --train-cuts "${train_cuts[@]}" --dev-cuts "${dev_cuts[@]}" "${@:4}"
}

if in_stage 0; then
  if [ "$mini" = true ] && [ -z "$corpus_dir" ]; then
    name=slurp
    [ -z "$annotations" ] || name=slurp-annotations
    # shellcheck disable=SC2086  # a runner is a command with its options
    run_logged "a synthetic corpus" "$data_dir/log/corpus.log" $train_cmd -- \
      python local/make_synthetic_corpus.py --output-dir "corpus/$name" ${annotations:+--annotations "$annotations"}
  else
    [ -d "$corpus_dir" ] || fail "the corpus directory $corpus_dir does not exist; fetch SLURP's repository and its audio \
(scripts/download_audio.sh there) and give --corpus-dir"
  fi
fi
if [ "$mini" = true ] && [ -z "$corpus_dir" ]; then
  corpus_dir=corpus/slurp
  [ -z "$annotations" ] || corpus_dir=corpus/slurp-annotations
fi

if in_stage 1; then
  require "$corpus_dir" 0
  # shellcheck disable=SC2086
  run_logged "manifests" "$data_dir/log/manifests.log" $train_cmd -- \
    python local/prepare_manifests.py --corpus-dir "$corpus_dir" --parts "${parts[@]}" --output-dir "$manifests" \
    --on-missing "$on_missing"
fi

# shellcheck disable=SC2086
if in_stage 2; then
  for part in "${parts[@]}"; do require "$manifests/${corpus}_supervisions_$part.jsonl.gz" 1; done
  if [ "$hears" = samples ]; then
    run_logged "cuts" "$data_dir/log/cuts.log" $train_cmd -- \
      python ../../local/make_cuts.py --manifests-dir "$manifests" --output-dir "$data_dir/cuts" --prefix "$corpus" \
      --parts "${parts[@]}"
  else
    compute=(python ../../local/compute_features.py --manifests-dir "$manifests" --output-dir "$data_dir/fbank"
      --prefix "$corpus" --num-splits "$nj" --parts "${parts[@]}")
    run_logged "features" "$data_dir/log/features.JOB.log" $train_cmd "JOB=1:$nj" -- "${compute[@]}" --split JOB
    run_logged "joining the features" "$data_dir/log/features.log" $train_cmd -- "${compute[@]}" --combine
  fi
fi

if in_stage 3; then
  for cuts in "${train_cuts[@]}" "${dev_cuts[@]}" "${test_cuts[@]}"; do require "$cuts" 2; done
  # shellcheck disable=SC2086
  run_logged "intents" "$data_dir/log/intents.log" $train_cmd -- \
    python ../../local/make_intents.py --cuts "${train_cuts[@]}" --other-cuts "${dev_cuts[@]}" "${test_cuts[@]}" \
    --lang-dir "$lang_dir"
  # shellcheck disable=SC2086
  run_logged "characters" "$data_dir/log/characters.log" $train_cmd -- \
    python ../../local/train_bpe.py --cuts "${train_cuts[@]}" --lang-dir "$lang_dir" --unit char
fi

# shellcheck disable=SC2086  # settings are words
if in_stage 4 && [ "$warm_up" = true ] && [ "$teacher" = "$exp_dir/dense" ]; then
  train "the warm-up by CTC" warm_up train --config "$conf/warm_up.yaml" $warm_up_args
fi

# shellcheck disable=SC2086
if in_stage 5 && [ "$teacher" = "$exp_dir/dense" ]; then
  start=()
  [ -z "$pretrained" ] || start=("pretrained=$pretrained")
  if [ "$warm_up" = true ]; then
    require "$exp_dir/warm_up/.done" 4
    start=("pretrained=$exp_dir/warm_up")
  fi
  train "the dense model" dense train --config "$conf/dense.yaml" ${start[@]+"${start[@]}"} $dense_args
fi

# shellcheck disable=SC2086
if in_stage 6; then
  require "$teacher/.done" 5
  train "pruning by $method" pruned prune --method "$method" --config "$conf/prune.yaml" --teacher "$teacher" \
    $prune_args ${target:+"constraint.size=$target"} ${target_macs:+"constraint.macs=$target_macs"}
fi

if in_stage 7; then
  require "$pruned/.done" 6
  # shellcheck disable=SC2086
  run_logged "extraction" "$extracted/log/extract-$now.log" $train_cmd -- \
    python -m pruning.bin.extract --pruned "$pruned" --exp-dir "$extracted" --round-to "$round_to" \
    --train-cuts "${train_cuts[@]}" --lang-dir "$lang_dir"
fi

# shellcheck disable=SC2086
if in_stage 8; then
  require "$extracted/best.safetensors" 7
  train "fine-tuning" finetuned finetune --config "$conf/finetune.yaml" --init "$extracted" --teacher "$teacher" \
    $finetune_args
fi

if in_stage 9; then
  for place in "$teacher" "$finetuned"; do
    require "$place/.done" 8
    # shellcheck disable=SC2086
    run_logged "intents by $(basename "$place")" "$place/log/classify-$now.log" \
      $decode_cmd --num-threads "$num_threads" -- \
      python -m pruning.bin.classify --exp-dir "$place" --cuts "${test_cuts[@]}" --lang-dir "$lang_dir" \
      --num-threads "$num_threads"
  done
fi

if in_stage 10; then
  note=
  [ -n "$pretrained" ] || note="This encoder was not pre-trained: it says nothing of findings about pre-trained ones."
  # shellcheck disable=SC2086
  run_logged "the table" "$exp_dir/log/report.log" $train_cmd -- \
    python -m pruning.bin.intent_report --systems "dense=$teacher" "pruned=$finetuned" --sets "${test_parts[@]}" \
    --output "$results" ${note:+--note "$note"}
  cat "$results"
fi
