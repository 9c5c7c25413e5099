#!/usr/bin/env bash
# Make the corpus and the teacher of the comparisons in conf/open, with one command: some 65 minutes on one thread.
#
#     local/make_open.sh --text TEXT [--root .] [-- OPTION of run.sh ...]
#
# TEXT has one sentence per line, in letters and apostrophes; the corpus records its SHA-256 in .synthetic.json. Synthetic
# speech: 9,000 sentences, 4 accents, 24 voices, noise; the tests have other sentences and speakers, test-other has other
# voices and rooms as well. ROOT gets corpus/open, data/open and exp/open.
set -euo pipefail

text=   # sentences, one per line
root=.  # directory for corpus/open, data/open and exp/open

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../../utils/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."
[ -n "$text" ] || { echo "error: no text given; give --text FILE with one sentence per line" >&2 && exit 1; }
[ -f "$text" ] || { echo "error: $text does not exist; correct --text" >&2 && exit 1; }

exec ./run.sh --mini true --conf conf/open --vocab-size 256 --stop-stage 4 --corpus-dir "$root/corpus/open" \
  --data-dir "$root/data/open" --exp-dir "$root/exp/open" \
  --corpus-args "--text $text --words 3 14 --train-utterances 9000 --dev-utterances 600 --test-words 8000 --accents 4
    --variants 24 --train-snr 10 30 --other-snr 10 20" "$@"
