#!/usr/bin/env bash
# Make results/RESULTS.md and its plots from the measured JSON files in results/, on any machine.
#
#     local/make_results.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=egs/lm/path.sh
. ./path.sh
# shellcheck source=utils/results.sh
. ../../utils/results.sh

# Tables of perplexities from directories NAME/perplexity; SIZE-incremental is compared with SIZE-own.
lms() {
  local name=$1 title=$2 rows=() pairs=() one
  for place in "results/$name"/*/; do
    one=$(basename "$place")
    rows+=("$one=$place")
    [[ $one != *-incremental ]] || pairs+=("$one=${one%-incremental}-own")
  done
  python -m pruning.bin.lm_report --lms "${rows[@]}" ${pairs[@]+--against "${pairs[@]}"} --output "results/$name.md" \
    --title "$title"
}

section dense lms dense "Dense language models and the n-gram"
section grid sweep grid "The grid: 70 % of the small model gone" plot --speed results/speed_grid.json --plot-lines \
  magnitude-structured-cubic fisher-structured-cubic fisher-unstructured-cubic magnitude-low_rank-cubic taylor-low_rank-cubic
section tuning sweep tuning "What makes scores comparable: trials on dev" table
section corners sweep corners "Its corners on the larger model, at three sizes" plot --speed results/speed_corners.json \
  --plot-lines magnitude-structured-cubic fisher-structured-cubic fisher-unstructured-cubic magnitude-low_rank-cubic \
  taylor-low_rank-cubic
section sizes lms sizes "Several sizes from one run"
speeds benchmark_lm
write_results
