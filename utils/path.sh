# shellcheck shell=bash
# Set PATH and PYTHONPATH, and make the environment if it is missing; sourced by a recipe's path.sh.
# PRUNING_ENV names another environment than .venv, relative to the repository; PRUNING_TORCH, PRUNING_TORCH_INDEX and
# PRUNING_K2_INDEX choose its packages (see utils/setup_env.sh). PRUNING_ENV=current means the python on the PATH, with
# all packages installed.
_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
_env=${PRUNING_ENV:-.venv}
if [ "$_env" != current ]; then
  [[ $_env == /* ]] || _env=$_root/$_env
  [ -z "${PRUNING_ENV:-}" ] || export PRUNING_ENV="$_env" # the jobs of a cluster use the same
  "$_root/utils/setup_env.sh" --dir "$_env" --torch "${PRUNING_TORCH:-1.13.1}" \
    --torch-index "${PRUNING_TORCH_INDEX:-}" --k2-index "${PRUNING_K2_INDEX:-}" --extras "${env_extras:-}" || return 1
  export PATH="$_env/bin:$PATH"
fi
unset _env
export PATH="$_root/utils:$PATH" PYTHONPATH="$_root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 PYTHONUTF8=1 # text is UTF-8 whatever the locale
# set MKL_DEBUG_CPU_TYPE if this processor and torch need it, also for programs that import torch before pruning
eval "$(python -c 'from pruning.processor import print_shell; print_shell()')"
# Huge pages (glibc 2.35 and later), and memory that is kept instead of returned to the system after each tensor: on
# virtual machines this reduces the time of a training step on the processor by a third to a half; elsewhere by little.
_malloc=glibc.malloc
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-$_malloc.hugetlb=1:$_malloc.mmap_threshold=1073741824:\
$_malloc.trim_threshold=17179869184:$_malloc.arena_max=1}"
unset _malloc
unset _root
