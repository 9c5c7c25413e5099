# shellcheck shell=bash disable=SC2034
# Options shared by recipes that train an encoder with a head: intents (egs/slurp/run.sh) and CTC (run_ctc.sh of the
# others). A recipe declares its own options and sources this file, which reads the command line, changes to the
# recipe's folder and loads the stage helpers. The recipe then sets its defaults and sources encoder.sh, which lists the
# options that every recipe declares itself.

hears=samples           # input of the encoder: samples of recordings (also Whisper's), or features (filter banks) for a Conformer
pretrained=             # Hugging Face directory or name of an encoder to start from; default: random weights
warm_up=                # train the encoder by CTC first: true or false; default: set by the recipe
warm_up_cuts=           # cuts for the warm-up; default: the training cuts
warm_up_dev_cuts=       # dev cuts that select the checkpoint of the warm-up; default: the dev cuts
method=hj-mac           # pruning method: hj-size, hj-mac, hj-sepsize, l0 or a criterion
target=                 # share of the encoder's parameters to remove (hj-size: default 0.5)
target_macs=            # share of the encoder's MACs to remove (hj-mac: default from prune.yaml)
target_parts=           # shares of parts: "size:frontend: 0.4, size:attention+ffn: 0.5" (hj-sepsize: default half of the front end and of the rest)
warm_up_args=           # settings of the warm-up, override the file: "trainer.max_steps=2000"
dense_args=             # settings of the dense model, override the file
prune_args=             # settings of pruning, override the file
finetune_args=          # settings of fine-tuning, override the file
decode_args=            # additional options for pruning decode: "--device cuda"
teacher=                # dense model to prune instead of training one: a finished experiment
round_to=1              # at extraction, round the number of kept units to a multiple of this
stage=0                 # first stage to run
stop_stage=10           # last stage to run
nj=4                    # number of parallel jobs
seed=1                  # training seed
num_processes=1         # training processes (GPUs) per machine
num_nodes=1             # number of machines that train together (Slurm only)
num_threads=1           # number of threads for testing
results=                # file for the table; default: RESULTS.md (run_ctc.sh: RESULTS_CTC.md) in --exp-dir
cmd_backend=local       # local, slurm or sge: see cmd.sh

# shellcheck source=utils/parse_options.sh
. "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"
for _name in corpus_dir annotations; do # relative to the caller's folder, like any argument
  [ -z "${!_name:-}" ] || printf -v "$_name" '%s' "$(realpath -m "${!_name}")"
done
[ ! -d "$pretrained" ] || pretrained=$(realpath "$pretrained")
cd "$(dirname "$(realpath "${BASH_SOURCE[1]}")")" || exit
# shellcheck source=utils/stage.sh
. ../../utils/stage.sh
[ $# -eq 0 ] || fail "unexpected argument $1; $(basename "${_options_script:?}") --help lists the options"
[[ ${warm_up:-false} =~ ^(true|false)$ ]] || fail "--warm-up must be true or false, got '$warm_up'"
[ "${warm_up:-}" != false ] || [ -z "$warm_up_cuts$warm_up_dev_cuts" ] ||
  fail "--warm-up-cuts has no effect with --warm-up false; leave one of them out"
[[ $hears =~ ^(samples|features)$ ]] || fail "--hears must be samples or features, got '$hears'"
without_job corpus_dir data_dir exp_dir lang_dir lm_dir results teacher init_from text
