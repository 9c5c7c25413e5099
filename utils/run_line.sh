#!/usr/bin/env bash
# One job of an array of different commands: run_line.sh FILE N runs line N of FILE.
set -euo pipefail
line=$(sed -n "$2p" "$1")
[ -n "$line" ] || {
  echo "error: $1 has no line $2" >&2
  exit 1
}
echo "# $line"
eval "exec $line"
