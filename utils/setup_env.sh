#!/usr/bin/env bash
# Make the Python environment for the recipes and the tests, and check it with a real k2 call.
#
# Running it again does nothing while the lock files are unchanged. The packages come from requirements/*.txt, every
# file checked by its hash. For a GPU with a current torch:
#     utils/setup_env.sh --dir .venv-gpu --torch 2.13
#     utils/setup_env.sh --dir .venv-gpu --torch 2.8.0 --torch-index https://download.pytorch.org/whl/cu128 \
#         --k2-index https://k2-fsa.github.io/k2/cuda.html
# (a torch without a lock file uses the versions that its index has). PYTHON names the Python 3.11 to use.
set -euo pipefail

dir=.venv         # directory of the environment, relative to the repository
torch=1.13.1      # torch version: 1.13.1 (with k2 from PyPI), 2.13 (CUDA), 2.13-cpu, or another version, without a lock
torch_index=      # index that provides torch, instead of PyPI
k2_index=         # page of k2 wheels; without it only torch 1.13.1 has k2
extras=           # additional packages, separated by spaces: mini (the synthetic corpus, GPL), dev (tests), export (ONNX), graphs,
                  # hf (Hugging Face networks, and their tokens)
min_free_gb=6     # free disk space required before anything is downloaded

# shellcheck source=utils/parse_options.sh
. "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  echo "error: $1" >&2
  exit 1
}

[ $# -eq 0 ] || fail "unexpected argument $1; utils/setup_env.sh --help lists the options"
[[ $dir == /* ]] || dir=$root/$dir
own=false # an environment elsewhere may serve several checkouts, which find their own package by PYTHONPATH
[[ $dir != "$root"/* ]] || own=true
requirements=$root/requirements
stamp=$dir/.setup-stamp
log=$dir.setup.log
lock=$requirements/torch-$torch.txt
[ -f "$lock" ] || lock=
for extra in $extras; do
  [[ $extra =~ ^(mini|dev|export|graphs|hf)$ ]] ||
    fail "unknown extra '$extra'; choose from mini, dev, export, graphs and hf"
done

# extra_lock EXTRA: print its lock file for this torch (2.13-cpu uses that of 2.13), or the one for any torch.
extra_lock() {
  local name
  for name in "$1-torch-$torch" "$1-torch-${torch%-cpu}" "$1"; do
    [ ! -f "$requirements/$name.txt" ] || break
  done
  echo "$requirements/$name.txt"
}

# Print one line per requested item; the environment is ready if its stamp contains all of them.
wanted() {
  [ "$own" = false ] || echo "repository $root"
  echo "torch $torch ${torch_index:-} $(sha256sum < "${lock:-$requirements/common.in}")"
  if [ -n "$k2_index" ]; then
    echo "k2 $k2_index"
  elif [ "$torch" = 1.13.1 ]; then
    echo "k2 $(sha256sum < "$requirements/k2-1.23.4.txt")"
  fi
  local extra
  for extra in $extras; do
    echo "extra $extra $(sha256sum < "$(extra_lock "$extra")")"
  done
}

ready() {
  local lacking
  [ -x "$dir/bin/python" ] && [ -f "$stamp" ] || return 1
  # not grep -q: it ends at the first missing line, and wanted then fails on a closed pipe, which looks like success
  lacking=$(wanted | grep -vFx -f "$stamp") || true
  [ -z "$lacking" ]
}

find_python() {
  local candidate seen=
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null; then
      "$candidate" -c 'import ensurepip, venv' 2> /dev/null ||
        fail "$candidate has no module venv; install it (Debian and Ubuntu: apt install python3.11-venv)"
      echo "$candidate"
      return
    fi
    seen=${seen:-$("$candidate" --version 2> /dev/null || true)}
  done
  fail "Python 3.11 is required, found ${seen:-none}; install it, or give it: PYTHON=/path/to/python3.11 $0"
}

check_space() {
  local parent free
  parent=$(dirname "$dir")
  mkdir -p "$parent" || fail "cannot write in $parent; choose another directory with --dir"
  free=$(df -Pk "$parent" | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$free" -ge "$min_free_gb" ] ||
    fail "$parent has $free GB free of the $min_free_gb GB that the environment needs; free some or use --dir"
}

# step WHAT COMMAND...: run COMMAND with its output in the log; on failure, end with one line that says why.
step() {
  local what=$1 reason
  shift
  echo "$(basename "$dir"): $what" >&2
  "$@" > "$log" 2>&1 && return
  if grep -qiE 'no space left|disk quota' "$log"; then
    fail "the disk of $dir is full; free at least $min_free_gb GB and run the same command again"
  elif grep -qiE 'connect error|connection|name resolution|dns error|timed out|unreachable|failed to fetch' "$log"; then
    fail "$what: the package index could not be reached; check the network or set PIP_INDEX_URL (see $log)"
  fi
  reason=$(grep -iE 'error|×|hash' "$log" | tail -n 1 || true)
  fail "$what failed: ${reason:-see the log}; the full output is in $log"
}

# uv does not read pip's configuration: pass on pip's index, wheel folder and certificates.
adopt_pip_settings() {
  local settings
  settings=$("$dir/bin/python" -m pip config list 2> /dev/null || true)
  pip_setting() { sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" <<< "$settings" | tail -n 1; }
  export UV_INDEX_URL=${UV_INDEX_URL:-$(pip_setting index-url)}
  export UV_FIND_LINKS=${UV_FIND_LINKS:-$(pip_setting find-links | tr ' ' ',')}
  export SSL_CERT_FILE=${SSL_CERT_FILE:-$(pip_setting cert)}
  local name
  for name in UV_INDEX_URL UV_FIND_LINKS SSL_CERT_FILE; do
    [ -n "${!name}" ] || unset "$name"
  done
  # versions and hashes are fixed, so any index may provide the file
  export UV_INDEX_STRATEGY=unsafe-best-match UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
}

install_packages() {
  local install=("$dir/bin/uv" pip install --python "$dir/bin/python") extra index=()
  local files=()
  [ -z "$torch_index" ] && [ "$torch" = 2.13-cpu ] && [ -z "${UV_FIND_LINKS:-}" ] &&
    torch_index=https://download.pytorch.org/whl/cpu
  [ -n "$torch_index" ] && index=(--extra-index-url "$torch_index")
  for extra in $extras; do
    if [ -n "$lock" ]; then files+=(-r "$(extra_lock "$extra")"); else files+=(-r "$requirements/$extra.in"); fi
  done
  if [ -n "$lock" ]; then
    step "packages of $(basename "$lock") ${extras:+and $extras }(some minutes the first time)" \
      "${install[@]}" --require-hashes ${index[@]+"${index[@]}"} -r "$lock" ${files[@]+"${files[@]}"}
  else
    step "torch $torch and the newest packages, without a lock" \
      "${install[@]}" ${index[@]+"${index[@]}"} -r "$requirements/common.in" "torch==$torch" 'lhotse>=1.33,<1.34' \
      ${files[@]+"${files[@]}"}
  fi
  if [ -n "$k2_index" ]; then
    local wheel
    wheel=$("$dir/bin/python" "$root/utils/find_k2.py" --index "$k2_index") || exit 1
    step "k2 from $k2_index" "${install[@]}" --no-deps "$wheel"
  elif [ "$torch" = 1.13.1 ]; then
    step "k2 1.23.4" "${install[@]}" --no-deps --require-hashes -r "$requirements/k2-1.23.4.txt"
  fi
  if [ "$own" = false ] && (cd / && env -u PYTHONPATH "$dir/bin/python" -c 'import pruning') 2> /dev/null; then
    return 0 # installed from the checkout that made the environment
  fi
  step "the package itself" "${install[@]}" --no-deps --no-build-isolation --editable "$root"
}

make_environment() {
  local python of_k2 need_k2=()
  python=$(find_python)
  if [ ! -x "$dir/bin/python" ]; then
    check_space
    step "a virtual environment" "$python" -m venv --clear "$dir"
  fi
  if ! "$dir/bin/uv" --version 2> /dev/null | grep -qF "$(sed 's/==/ /' "$requirements/uv.in")"; then
    step "uv" "$dir/bin/python" -m pip install --retries 2 --quiet --require-hashes -r "$requirements/uv.txt"
  fi
  adopt_pip_settings
  install_packages
  of_k2=$(wanted | grep '^k2 ') || true
  [ -z "$of_k2" ] || need_k2=(--k2)
  "$dir/bin/python" "$root/utils/check_env.py" ${need_k2[@]+"${need_k2[@]}"} ||
    fail "the environment $dir does not work; remove it and run $0 again"
  # an existing stamp with the same lock keeps its extras
  { wanted; [ ! -f "$stamp" ] || grep '^extra ' "$stamp" || true; } | sort -u > "$stamp.tmp"
  mv "$stamp.tmp" "$stamp"
}

ready && exit 0
if command -v flock > /dev/null; then
  mkdir -p "$(dirname "$dir")" && exec 9> "$dir.lock" && flock 9 # another call may be making it at the moment
  ready && exit 0
fi
make_environment
