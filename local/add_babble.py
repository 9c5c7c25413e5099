#!/usr/bin/env python3
"""Write noisy copies of test sets: each utterance with the voices of other speakers of its set behind it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.limits import COUNT, NUMBER, SEED


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and write the cuts and their audio; existing cuts are skipped."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--cuts", nargs="+", type=Path, required=True, help="cuts with recordings and speakers")
    options.add_argument("--suffix", default="babble", help="NAME_cuts_SET becomes NAME_cuts_SET-SUFFIX beside it")
    options.add_argument("--audio-dir", type=Path, required=True, help="directory for the audio, a folder for each set")
    options.add_argument("--snr", type=NUMBER.parse, default=10.0, help="signal-to-noise ratio in dB")
    options.add_argument("--talkers", type=COUNT.parse, default=6, help="number of voices, each of another speaker")
    options.add_argument("--seed", type=SEED.parse, default=1, help="seed of the choice of voices")
    values = options.parse_args(argv)

    from pruning.speech.corpora import babble
    from pruning.speech.data.manifests import set_name_of

    for source in values.cuts:
        name, *rest = source.name.split(".jsonl")
        output = source.with_name(f"{name}-{values.suffix}.jsonl{''.join(rest)}")
        audio_dir = values.audio_dir / set_name_of(output)
        babble.write_part(source, output, audio_dir, values.snr, values.talkers, values.seed)


if __name__ == "__main__":
    command.run(main)
