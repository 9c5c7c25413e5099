# shellcheck shell=bash
# What runs the jobs. To give a stage other resources, or Kaldi's own run.pl, slurm.pl or queue.pl, set train_cmd,
# cuda_cmd and decode_cmd below.
# shellcheck source=utils/cmd.sh
. ../../utils/cmd.sh
