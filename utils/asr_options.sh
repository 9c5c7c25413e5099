# shellcheck shell=bash disable=SC2034
# The options of all recipes of transducers. A recipe's run.sh declares its own and sources this file, which reads the command line,
# goes to the recipe's folder and defines the stages' helpers; after its defaults it sources asr.sh, which says what the
# options that every recipe declares itself are.

stage=0                 # first stage to run
stop_stage=10           # last stage to run
plan=false              # print sizes, memory, steps and hours for this configuration and these parts; train nothing
nj=4                    # parallel jobs of feature extraction
lang_dir=               # word pieces, made if it holds none; default: lang_bpe_<vocab_size> or lang_char of --data-dir
teacher_config=         # default: teacher.yaml of the folder --conf
prune_config=           # default: prune.yaml
finetune_config=        # default: finetune.yaml
uniform_config=         # default: uniform.yaml
teacher_args=           # settings that override the configuration: "trainer.num_epochs=30 data.max_duration=400"
prune_args=             # the same for pruning
finetune_args=          # the same for fine-tuning
uniform_args=           # the same for the uniform model
init_from=              # start the teacher from this experiment or checkpoint, trained with the same --lang-dir
method=l0               # of pruning: l0, hj-size, hj-mac, hj-sepsize, magnitude, taylor, fisher, movement, wanda, activation or random
teacher=                # dense network to prune instead of training one: a finished experiment, of another --exp-dir
warm_up_cuts=           # cuts with features that teacher and uniform model are trained on first, each for itself
warm_up_dev_cuts=       # to choose the warm-up's checkpoint by
warm_up_args=           # settings of the warm-up, over those of what is warmed up: "trainer.max_steps=1500"
target=                 # share of the encoder's parameters to remove, over prune.yaml's; 0: no constraint on size
target_macs=            # share of the encoder's MACs to remove, over prune.yaml's; 0: no constraint on MACs
round_to=1              # round the kept counts to multiples of this at extraction
seed=1                  # of training
num_processes=1         # training processes (GPUs) on a machine
num_nodes=1             # machines that train together, of a Slurm cluster
systems="teacher finetuned uniform"  # what to decode and to tabulate; without uniform none is trained
epoch=                  # decode and tabulate this epoch's checkpoint instead of the best on dev
avg=                    # average over so many epochs up to it
score_in=words          # or characters: each Chinese, Japanese or Korean character counts as a word
num_threads=1           # threads of decoding
decode_args=            # more options of pruning decode: "--beam-size 8" or "--device cuda"
results=                # file for the table; default: RESULTS.md in the experiments' folder
cmd_backend=local       # local, slurm or sge: see cmd.sh

# shellcheck source=utils/parse_options.sh
. "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"
[ -z "${corpus_dir:=}" ] || corpus_dir=$(realpath -m "$corpus_dir") # of the caller's folder, like a command's argument
cd "$(dirname "$(realpath "${BASH_SOURCE[1]}")")" || exit
# shellcheck source=utils/stage.sh
. ../../utils/stage.sh
[ $# -eq 0 ] || fail "$1 is not understood; run.sh --help lists the options"
without_job corpus_dir data_dir exp_dir lang_dir lm_dir results teacher init_from text
