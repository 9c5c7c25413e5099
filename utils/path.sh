# shellcheck shell=bash
# Sets PATH and PYTHONPATH, after making the environment where it is missing; a recipe's path.sh sources it.
# PRUNING_ENV names another environment than .venv, PRUNING_TORCH, PRUNING_TORCH_INDEX and PRUNING_K2_INDEX what it is
# made of (see utils/setup_env.sh); or PRUNING_ENV is "current": the python on PATH, with all that is needed.
_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ "${PRUNING_ENV:-}" != current ]; then
  "$_root/utils/setup_env.sh" --dir "${PRUNING_ENV:-$_root/.venv}" --torch "${PRUNING_TORCH:-1.13.1}" \
    --torch-index "${PRUNING_TORCH_INDEX:-}" --k2-index "${PRUNING_K2_INDEX:-}" --extras "${env_extras:-}" || return 1
  export PATH="${PRUNING_ENV:-$_root/.venv}/bin:$PATH"
fi
export PATH="$_root/utils:$PATH" PYTHONPATH="$_root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 PYTHONUTF8=1 # text is UTF-8 whatever the locale
# MKL_DEBUG_CPU_TYPE, where this processor and torch need it: for programs, too, that import torch before pruning
eval "$(python -c 'from pruning.processor import print_shell; print_shell()')"
# Huge pages (glibc 2.35 and later), and memory that is kept rather than given back to the system after each tensor: on
# virtual machines a training step on the processor takes half to two thirds of the time. Elsewhere it changes little.
_malloc=glibc.malloc
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-$_malloc.hugetlb=1:$_malloc.mmap_threshold=1073741824:\
$_malloc.trim_threshold=17179869184:$_malloc.arena_max=1}"
unset _malloc
unset _root
