#!/usr/bin/env bash
# Make the corpus of the experiments with pre-trained networks (conf/pretrained_runs.yaml, conf/one_shot) as cuts, in some
# minutes: train-clean-5 and AN4's training part; dev-3 for every choice, and its first 20 utterances as dev-few; test-8
# and an4-test; and both tests again with babble noise of six other speakers at 10 dB.
#
#     local/make_pretrained_corpus.sh --corpus-dir LIBRISPEECH --an4-dir AN4 [--data-dir data/real]
#
# LIBRISPEECH has train-clean-5 and dev-clean in LibriSpeech's layout, of which 11 speakers of dev-clean are used: three
# for choices, eight for tests. AN4 is what an4_sphere.tar.gz unpacks.
set -euo pipefail

corpus_dir=          # LibriSpeech, with train-clean-5 and dev-clean
an4_dir=             # what an4_sphere.tar.gz unpacks
data_dir=data/real   # where manifests and cuts are written

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../../utils/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."
[ $# -eq 0 ] || { echo "error: unexpected argument $1; --help lists the options" >&2 && exit 1; }
for name in corpus_dir an4_dir; do
  [ -d "${!name}" ] || { echo "error: --${name//_/-} '${!name}' is not a directory; give it" >&2 && exit 1; }
done
# shellcheck source=egs/librispeech/path.sh
. ./path.sh

# shellcheck source=egs/librispeech/local/speakers.sh
. local/speakers.sh
manifests=$data_dir/manifests cuts=$data_dir/cuts
set_of() { echo "$cuts/librispeech_cuts_$1.jsonl.gz"; }

python local/prepare_manifests.py --corpus-dir "$corpus_dir" --parts train-clean-5 dev-clean --output-dir "$manifests"
python ../an4/local/prepare_manifests.py --corpus-dir "$an4_dir" --data-dir "$data_dir"
python ../../local/make_cuts.py --manifests-dir "$manifests" --output-dir "$cuts" --prefix librispeech \
  --parts train-clean-5 dev-clean
python ../../local/make_cuts.py --manifests-dir "$manifests" --output-dir "$cuts" --prefix an4 --parts train dev test
# shellcheck disable=SC2086  # speakers are words
{
  python ../../local/select_cuts.py --cuts "$(set_of dev-clean)" --speakers $dev_speakers --output "$(set_of dev-3)"
  python ../../local/select_cuts.py --cuts "$(set_of dev-clean)" --speakers $test_speakers --output "$(set_of test-8)"
}
python ../../local/select_cuts.py --cuts "$(set_of dev-3)" --first 20 --output "$(set_of dev-few)"
for part in train test; do
  python ../../local/select_cuts.py --cuts "$cuts/an4_cuts_$part.jsonl.gz" --output "$(set_of "an4-$part")"
done
python ../../local/add_babble.py --cuts "$(set_of test-8)" "$(set_of an4-test)" --audio-dir "$data_dir/audio"
echo "the corpus is in $cuts"
