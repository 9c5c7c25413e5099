# shellcheck shell=bash disable=SC2034
# Options shared by all run_lm.sh. A recipe declares its own options and sources this file, which reads the command
# line, changes to the recipe's folder and loads the stage helpers. The recipe then sets its defaults and sources lm.sh,
# which lists the options that every recipe declares itself.

stage=0                 # first stage to run
stop_stage=8            # last stage to run
lang_dir=               # lang dir of the recogniser; default: that of run.sh
lm_text=                # text files in addition to the transcripts, one sentence a line, plain or gzipped
lm_dir=                 # prepared text and n-gram; default: lm of --data-dir
lm_exp_dir=             # language models; default: lm of --exp-dir
order=4                 # order of the n-gram
lm_config=              # configuration of the language model; default: lm.yaml in --conf
lm_prune_config=        # pruning configuration; default: lm_prune.yaml in --conf
lm_finetune_config=     # fine-tuning configuration; default: lm_finetune.yaml in --conf
lm_args=                # settings of the language model, override the file: "trainer.max_steps=20000"
lm_prune_args=          # settings of pruning, override the file: "constraint.size=0.7"
lm_finetune_args=       # settings of fine-tuning, override the file
method=                 # pruning method: l0 or a criterion; default: from the configuration
technique=              # structured, unstructured or low_rank; default: from the configuration
scheduler=              # one_shot, linear or cubic; default: from the configuration
teacher=                # dense language model to prune instead of training one: a finished experiment
system=                 # recogniser to decode with: an experiment; default: teacher of --exp-dir
methods="modified_beam_search modified_beam_search_lm_shallow_fusion modified_beam_search_lm_rescore"  # decoding methods
lm_scales="0 0.1 0.2 0.3 0.5"  # weights of the language model to try on dev
graph_scales="0.01 0.05 0.1 0.3"  # weights of the n-gram to try on dev, for fast_beam_search_LG and hlg_decoding
ilm_scales="0"          # weights of the internal language model to try on dev, for methods that subtract it: "0 0.2"
seed=1                  # training seed
num_processes=1         # training processes (GPUs) per machine
num_nodes=1             # number of machines that train together (Slurm only)
num_threads=1           # number of decoding threads
decode_args=            # additional options for pruning decode: "--beam-size 8"
results=                # file for the tables; default: RESULTS_LM.md in --exp-dir
cmd_backend=local       # local, slurm or sge: see cmd.sh

# shellcheck source=utils/parse_options.sh
. "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[1]}")")" || exit
# shellcheck source=utils/stage.sh
. ../../utils/stage.sh
[ $# -eq 0 ] || fail "unexpected argument $1; run_lm.sh --help lists the options"
without_job corpus_dir data_dir exp_dir lang_dir lm_dir results teacher init_from text
