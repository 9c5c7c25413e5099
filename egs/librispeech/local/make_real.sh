#!/usr/bin/env bash
# Make the teacher of the comparison on real speech (conf/real) with one command: some 80 minutes on one thread. It
# learns from train-clean-5; three speakers of dev-clean (dev-3) serve for every choice, eight others (test-8) for the
# results.
#
#     local/make_real.sh --corpus-dir LIBRISPEECH [--root .] [-- OPTION of run.sh ...]
#
# LIBRISPEECH has train-clean-5 and dev-clean in LibriSpeech's layout. ROOT gets corpus/real, data/real and exp/real.
set -euo pipefail

corpus_dir=  # LibriSpeech, with train-clean-5 and dev-clean
root=.       # directory for corpus/real, data/real and exp/real

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../../utils/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."
for part in train-clean-5 dev-clean; do
  [ -d "$corpus_dir/$part" ] || { echo "error: '$corpus_dir' has no $part; correct --corpus-dir" >&2 && exit 1; }
done
# shellcheck source=egs/librispeech/local/speakers.sh
. local/speakers.sh

corpus_dir=$(realpath "$corpus_dir")
corpus=$root/corpus/real
mkdir -p "$corpus"
ln -sfn "$corpus_dir/train-clean-5" "$corpus/train-clean-5"
copy_speakers() {
  local part=$1
  shift
  [ ! -d "$corpus/$part" ] || return 0
  rm -rf "$corpus/.$part"
  mkdir "$corpus/.$part"
  cp -r "${@/#/$corpus_dir/dev-clean/}" "$corpus/.$part"
  mv "$corpus/.$part" "$corpus/$part"
}
# shellcheck disable=SC2086  # speakers are words
{
  copy_speakers dev-3 $dev_speakers
  copy_speakers test-8 $test_speakers
}

exec ./run.sh --train-parts train-clean-5 --dev-parts dev-3 --test-parts test-8 --speed-perturb false --conf conf/real \
  --vocab-size 256 --stage 1 --stop-stage 4 --corpus-dir "$corpus" --data-dir "$root/data/real" \
  --exp-dir "$root/exp/real" "$@"
