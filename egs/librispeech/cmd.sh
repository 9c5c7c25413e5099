# shellcheck shell=bash
# Runners of jobs. To give a stage other resources, or to use Kaldi's own run.pl, slurm.pl or queue.pl, set train_cmd,
# cuda_cmd and decode_cmd below.
# shellcheck source=utils/cmd.sh
. ../../utils/cmd.sh
