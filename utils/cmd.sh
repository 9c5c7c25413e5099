# shellcheck shell=bash disable=SC2034
# Runners of jobs: on this machine (local), through Slurm (slurm) or through a grid engine (sge). Sourced by a recipe's
# cmd.sh; the recipe's conf/slurm.conf and conf/sge.conf define how to request memory, threads and GPUs.
case ${cmd_backend:=local} in
  local)
    train_cmd="run.sh"
    cuda_cmd="run.sh"
    decode_cmd="run.sh --max-jobs-run 1" # for real-time factors, one decoding at a time
    ;;
  slurm)
    train_cmd="slurm.sh --mem 4G --config conf/slurm.conf"
    cuda_cmd="slurm.sh --mem 32G --config conf/slurm.conf"
    decode_cmd="slurm.sh --mem 16G --config conf/slurm.conf"
    ;;
  sge)
    train_cmd="queue.sh --mem 4G --config conf/sge.conf"
    cuda_cmd="queue.sh --mem 32G --config conf/sge.conf"
    decode_cmd="queue.sh --mem 16G --config conf/sge.conf"
    ;;
  *)
    echo "error: unknown backend '$cmd_backend'; choose local, slurm or sge" >&2
    exit 1
    ;;
esac
