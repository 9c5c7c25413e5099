# shellcheck shell=bash
# Sets PATH and PYTHONPATH; sourced by run.sh and by every job on the nodes of a cluster.
# PRUNING_ENV names another environment than .venv (see utils/setup_env.sh), or is "current": the python that is on PATH.
_root=$(cd ../.. && pwd)
if [ "${PRUNING_ENV:-}" != current ]; then
  "$_root/utils/setup_env.sh" --dir "${PRUNING_ENV:-$_root/.venv}" --torch "${PRUNING_TORCH:-1.13.1}" \
    --extras "${env_extras:-}" || return 1
  export PATH="${PRUNING_ENV:-$_root/.venv}/bin:$PATH"
fi
export PATH="$_root/utils:$PATH" PYTHONPATH="$_root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
unset _root
