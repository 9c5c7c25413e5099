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
unset _root
