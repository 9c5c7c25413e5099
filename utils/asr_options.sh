# shellcheck shell=bash disable=SC2034
# Options shared by all transducer recipes. A recipe's run.sh declares its own options and sources this file, which
# reads the command line, changes to the recipe's folder and loads the stage helpers. The recipe then sets its defaults
# and sources asr.sh, which lists the options that every recipe declares itself.

stage=0                 # first stage to run
stop_stage=10           # last stage to run
plan=false              # print sizes, memory, steps and hours of the runs of these stages, with all these options; train nothing
nj=4                    # parallel jobs of feature extraction
lang_dir=               # lang dir, made if missing; default: lang_bpe_<vocab_size> or lang_char in --data-dir
teacher_config=         # teacher configuration; default: teacher.yaml in --conf
prune_config=           # pruning configuration; default: prune.yaml in --conf
finetune_config=        # fine-tuning configuration; default: finetune.yaml in --conf
uniform_config=         # configuration of the uniform model; default: uniform.yaml in --conf
teacher_args=           # settings of the teacher, override the file: "trainer.num_epochs=30 data.max_duration=400"
prune_args=             # settings of pruning, override the file
finetune_args=          # settings of fine-tuning, override the file
uniform_args=           # settings of the uniform model, override the file
init_from=              # initialise the teacher from this experiment or checkpoint, trained with the same --lang-dir
method=l0               # pruning method: l0, hj-size, hj-mac, hj-sepsize, magnitude, taylor, fisher, movement, wanda, activation, depth or random
teacher=                # dense network to prune instead of training one: a finished experiment from another --exp-dir
teacher_icefall=        # icefall experiment or checkpoint to prune instead, imported into imported of --exp-dir
icefall_args=           # options of pruning import_icefall: "--epoch 30 --avg 9 --use-averaged-model false"
warm_up_cuts=           # cuts with features on which the teacher and the uniform model are each trained first
warm_up_dev_cuts=       # dev cuts that select the checkpoint of the warm-up
warm_up_args=           # settings of the warm-up, over those of the warmed-up network: "trainer.max_steps=1500"
target=                 # share of the encoder's parameters to remove, overrides prune.yaml; 0: no constraint on size
target_macs=            # share of the encoder's MACs to remove, overrides prune.yaml; 0: no constraint on MACs
round_to=1              # at extraction, round the number of kept units to a multiple of this
seed=1                  # training seed
num_processes=1         # training processes (GPUs) per machine
num_nodes=1             # number of machines that train together (Slurm only)
systems=                # systems to train, decode and tabulate; default: teacher finetuned uniform uniform_further. Both uniform models are from scratch, uniform with the steps of the teacher as well, uniform_further without
epoch=                  # decode and tabulate this epoch's checkpoint instead of the best on dev
avg=                    # average over this number of epochs, up to --epoch
score_in=words          # words, or characters: each Chinese, Japanese or Korean character counts as a word
num_threads=1           # number of decoding threads
decode_args=            # additional options for pruning decode: "--beam-size 8" or "--device cuda"
results=                # file for the table; default: RESULTS.md in --exp-dir
cmd_backend=local       # local, slurm or sge: see cmd.sh

# shellcheck source=utils/parse_options.sh
. "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"
for _name in corpus_dir teacher_icefall; do # relative to the caller's folder, like any argument
  [ -z "${!_name:-}" ] || printf -v "$_name" '%s' "$(realpath -ms "${!_name}")"
done
cd "$(dirname "$(realpath "${BASH_SOURCE[1]}")")" || exit
# shellcheck source=utils/stage.sh
. ../../utils/stage.sh
[ $# -eq 0 ] || fail "unexpected argument $1; run.sh --help lists the options"
without_job corpus_dir data_dir exp_dir lang_dir lm_dir results teacher teacher_icefall init_from text
