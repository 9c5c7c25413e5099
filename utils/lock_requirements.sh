#!/usr/bin/env bash
# Compile requirements/*.in into the lock files that utils/setup_env.sh installs, with the hash of every file.
# Versions in an existing lock are kept; delete a lock first to get the newest versions.
# Usage: utils/lock_requirements.sh [UV [OPTION OF UV]...]
set -euo pipefail

uv=${1:-uv}
shift || true
cd "$(dirname "$0")/../requirements"

compile() {
  "$uv" pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
    --no-header --no-annotate "$@"
}

compile torch-1.13.1.in -o torch-1.13.1.txt
compile torch-2.13.in -o torch-2.13.txt
# the same versions, except for torch and the CUDA libraries that only PyPI's torch requires
grep -E '^[a-z0-9-]+==' torch-2.13.txt | grep -v '^torch==' | sed 's/ \\$//' > constraints.tmp
trap 'rm -f constraints.tmp' EXIT
compile torch-2.13-cpu.in -c constraints.tmp -o torch-2.13-cpu.txt "$@"
compile dev.in -c torch-1.13.1.txt -o dev.txt
compile export.in -c torch-1.13.1.txt --no-emit-package numpy -o export.txt  # numpy is in the lock of each torch
compile graphs.in -o graphs.txt

# compile_beside LOCK ARGUMENTS...: lock packages missing from LOCK, compatible with it and with the test requirements.
compile_beside() {
  local lock=$1 present
  shift
  present=$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' "$lock")
  # shellcheck disable=SC2086 # options, one for each package
  compile "$@" -c "$lock" -c dev.txt -c export.txt $present
}
compile_beside torch-1.13.1.txt hf-torch-1.13.1.in -o hf-torch-1.13.1.txt
compile_beside torch-2.13.txt hf.in -o hf-torch-2.13.txt
compile mini.in -o mini.txt
compile uv.in -o uv.txt
