#!/usr/bin/env bash
# Make results/RESULTS.md and its plots from the measured JSON files in results/, on any machine.
#
#     local/make_results.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=egs/slurp/path.sh
. ./path.sh
# shellcheck source=utils/results.sh
. ../../utils/results.sh

not_pretrained="The encoder was not pre-trained: 1.0 M parameters from scratch, a warm-up by CTC on the same sentences. The \
figures compare methods there, and say nothing of findings about pre-trained encoders. The sentences are SLURP's own: 1,830 \
of devel.jsonl for training, each spoken by three of eSpeak NG's voices, and all 2,974 of test.jsonl, spoken by others. \
Counts match in MACs; sizes follow."
section comparison sweep comparison "Joint pruning for SLURP's intents" plot --note "$not_pretrained" \
  --speed results/speed_comparison.json
speeds benchmark
write_results
