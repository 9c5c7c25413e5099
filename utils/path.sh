# shellcheck shell=bash
# Sets PATH and PYTHONPATH, after making the environment where it is missing; a recipe's path.sh sources it.
# PRUNING_ENV names another environment than .venv (see utils/setup_env.sh), or is "current": the python on PATH.
_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ "${PRUNING_ENV:-}" != current ]; then
  "$_root/utils/setup_env.sh" --dir "${PRUNING_ENV:-$_root/.venv}" --torch "${PRUNING_TORCH:-1.13.1}" \
    --extras "${env_extras:-}" || return 1
  export PATH="${PRUNING_ENV:-$_root/.venv}/bin:$PATH"
fi
export PATH="$_root/utils:$PATH" PYTHONPATH="$_root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
# Large allocations on huge pages (glibc 2.35 and later): on virtual machines a training step on the processor takes
# half to two thirds of the time. Has no effect elsewhere.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
unset _root
