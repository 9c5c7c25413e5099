# shellcheck shell=bash disable=SC2034
# What runs the jobs: on this machine (local), through Slurm (slurm) or through a grid engine (sge). A recipe's cmd.sh
# sources it; the recipe's conf/slurm.conf and conf/sge.conf say how to ask for memory, threads and GPUs.
case ${cmd_backend:=local} in
  local)
    train_cmd="run.sh"
    cuda_cmd="run.sh"
    decode_cmd="run.sh --max-jobs-run 1" # real-time factors are of a decoding that has the machine to itself
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
    echo "error: there is no backend '$cmd_backend'; choose local, slurm or sge" >&2
    exit 1
    ;;
esac
