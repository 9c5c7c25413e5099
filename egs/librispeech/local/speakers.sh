# shellcheck shell=bash
# Speakers of LibriSpeech's dev-clean, sourced by scripts: those that serve for every choice, and those of the tests.
# shellcheck disable=SC2034  # read by the scripts that source this
dev_speakers="84 174 1988"
test_speakers="251 652 777 1272 1462 1673 2035 2412"
