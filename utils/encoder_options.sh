# shellcheck shell=bash disable=SC2034
# The options of recipes that train an encoder with a head: intents (egs/slurp/run.sh) and CTC (run_ctc.sh of the others).
# A recipe declares its own and sources this file, which reads the command line, goes to the recipe's folder and defines
# the stages' helpers; after its defaults it sources encoder.sh, which says what the options that every recipe declares
# itself are.

hears=samples           # samples, or features (filter banks) for a Conformer
pretrained=             # Hugging Face directory or name whose encoder is the start; default: fresh weights
warm_up=                # train the encoder by CTC first: true or false; default: as the recipe says
warm_up_cuts=           # that it is trained on; default: those of training
warm_up_dev_cuts=       # to choose its checkpoint by; default: those of dev
method=hj-mac           # of pruning: hj-size, hj-mac, hj-sepsize, l0 or a criterion
target=                 # share of the encoder's parameters to remove (hj-size: default 0.5)
target_macs=            # share of the encoder's MACs to remove (hj-mac: default prune.yaml's)
target_parts=           # shares of parts: "size:frontend: 0.4, size:attention+ffn: 0.5" (hj-sepsize: default half of frontend and rest)
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
num_processes=1         # training processes (GPUs) on a machine
num_nodes=1             # machines that train together, of a Slurm cluster
num_threads=1           # threads of testing
results=                # file for the table; default: RESULTS.md (run_ctc.sh: RESULTS_CTC.md) in the experiments' folder
cmd_backend=local       # local, slurm or sge: see cmd.sh

# shellcheck source=utils/parse_options.sh
. "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"
for _name in corpus_dir annotations; do # of the caller's folder, like a command's argument
  [ -z "${!_name:-}" ] || printf -v "$_name" '%s' "$(realpath -m "${!_name}")"
done
[ ! -d "$pretrained" ] || pretrained=$(realpath "$pretrained")
cd "$(dirname "$(realpath "${BASH_SOURCE[1]}")")" || exit
# shellcheck source=utils/stage.sh
. ../../utils/stage.sh
[ $# -eq 0 ] || fail "$1 is not understood; $(basename "${_options_script:?}") --help lists the options"
[[ ${warm_up:-false} =~ ^(true|false)$ ]] || fail "--warm-up takes true or false, not '$warm_up'"
[ "${warm_up:-}" != false ] || [ -z "$warm_up_cuts$warm_up_dev_cuts" ] || fail "--warm-up-cuts with --warm-up false"
[[ $hears =~ ^(samples|features)$ ]] || fail "--hears takes samples or features, not '$hears'"
without_job corpus_dir data_dir exp_dir lang_dir lm_dir results teacher init_from text
