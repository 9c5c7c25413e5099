#!/usr/bin/env bash
# Make results/RESULTS.md and its plots from the measured JSON files in results/, on any machine.
#
#     local/make_results.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=egs/librispeech/path.sh
. ./path.sh

# shellcheck source=utils/results.sh
. ../../utils/results.sh

section comparison sweep comparison "Pruning methods compared" plot --across scratch \
  --speed results/speed_methods.json
section tuning sweep tuning "Trials on dev" table
section l0 sweep l0 "What L0 gates need in a short run" table
section costs sweep costs "What the constraint is on" table --speed results/speed_costs.json
section repair sweep repair "One-shot repair alone" plot
section an4 sweep an4 "The check on AN4" plot
speeds benchmark
write_results
