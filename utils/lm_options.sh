# shellcheck shell=bash disable=SC2034
# The options of all recipes' run_lm.sh. It declares its own and sources this file, which reads the command line, goes to
# the recipe's folder and defines the stages' helpers; after its defaults it sources lm.sh, which says what the options
# that every recipe declares itself are.

stage=0                 # first stage to run
stop_stage=8            # last stage to run
lang_dir=               # word pieces of the recogniser; default: those of run.sh
lm_text=                # text besides the transcripts, one sentence a line, plain or gzipped; several: with spaces
lm_dir=                 # prepared text and n-gram; default: lm of --data-dir
lm_exp_dir=             # language models; default: lm of --exp-dir
order=4                 # of the n-gram
lm_config=              # default: lm.yaml of the folder --conf
lm_prune_config=        # default: lm_prune.yaml
lm_finetune_config=     # default: lm_finetune.yaml
lm_args=                # settings that override the configuration: "trainer.max_steps=20000"
lm_prune_args=          # the same for pruning: "constraint.size=0.7"
lm_finetune_args=       # the same for fine-tuning
method=                 # of pruning: l0 or a criterion; default: the configuration's
technique=              # structured, unstructured or low_rank; default: the configuration's
scheduler=              # one_shot, linear or cubic; default: the configuration's
teacher=                # dense language model to prune instead of training one: a finished experiment
system=                 # recogniser to decode with: an experiment; default: teacher of --exp-dir
methods="modified_beam_search modified_beam_search_lm_shallow_fusion modified_beam_search_lm_rescore"  # of decoding
lm_scales="0 0.1 0.2 0.3 0.5"  # weights to try on dev
graph_scales="0.01 0.05 0.1 0.3"  # the same of the n-gram in fast_beam_search_LG and hlg_decoding
ilm_scales="0"          # weights of the internal language model to try on dev, where it is taken off: "0 0.2"
seed=1                  # of training
num_processes=1         # training processes (GPUs) on a machine
num_nodes=1             # machines that train together, of a Slurm cluster
num_threads=1           # threads of decoding
decode_args=            # more options of pruning decode: "--beam-size 8"
results=                # file for the tables; default: RESULTS_LM.md in the experiments' folder
cmd_backend=local       # local, slurm or sge: see cmd.sh

# shellcheck source=utils/parse_options.sh
. "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[1]}")")" || exit
# shellcheck source=utils/stage.sh
. ../../utils/stage.sh
[ $# -eq 0 ] || fail "$1 is not understood; run_lm.sh --help lists the options"
without_job corpus_dir data_dir exp_dir lang_dir lm_dir results teacher init_from text
