#!/usr/bin/env bash
# Run the checks and the tests, after making the environment that they need.
#
# Words after -- go to pytest: utils/run_tests.sh -- tests/core -k cost
set -euo pipefail

torch=1.13.1  # torch version to test with; another one (2.13-cpu) uses its own environment and skips tests that need k2
checks=true   # also run ruff, mypy and shellcheck
marks="not slow and not long"  # marks of the tests to run (see pyproject.toml); '' for all tests
jobs=         # number of processes; default: number of processors, at most 4, and one more for tests that wait
k2_index=     # page of k2 wheels, see utils/setup_env.sh

# shellcheck source=utils/parse_options.sh
. "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=.venv
[ "$torch" = 1.13.1 ] || dir=.venv-torch$torch
utils/setup_env.sh --dir "$dir" --torch "$torch" --k2-index "$k2_index" --extras "mini dev export graphs hf"
export PATH="$PWD/$dir/bin:$PATH" PRUNING_ENV=current OMP_NUM_THREADS=1
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}" # huge pages, see utils/path.sh
eval "$(python -c 'from pruning.processor import print_shell; print_shell()')" # see utils/path.sh

if [ "$checks" = true ]; then
  echo "ruff"
  ruff check --quiet .
  ruff format --check --quiet . || { echo "error: files are not formatted; run ruff format" >&2; exit 1; }
  echo "mypy"
  mypy
  echo "shellcheck"
  git ls-files -z -- '*.sh' .ci/run | xargs -0 shellcheck --external-sources
fi
[ -n "$jobs" ] || jobs=$(python -c "import os; print(min(4, len(os.sched_getaffinity(0))) + 1)")
echo "pytest, $jobs processes"
exec pytest -m "$marks" --numprocesses "$jobs" --dist loadfile --no-loadscope-reorder --durations 20 "$@"
