#!/usr/bin/env python3
"""Write a small Moonshine or Whisper with random weights as a Hugging Face directory, with tokens of transcripts."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.limits import COUNT, SEED
from pruning.models.names import FAMILY_NAMES, MOONSHINE


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and write the network, unless the directory has one."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--cuts", type=Path, nargs="+", required=True, help="manifests of the training cuts")
    options.add_argument("--output-dir", type=Path, required=True, help="directory to write")
    options.add_argument("--family", choices=FAMILY_NAMES, default=MOONSHINE, help="whose architecture")
    options.add_argument("--width", type=COUNT.parse, default=48, help="residual width, a multiple of 16")
    options.add_argument("--layers", type=COUNT.parse, default=2, help="number of layers of encoder and of decoder")
    options.add_argument("--vocab-size", type=COUNT.parse, default=400, help="largest number of tokens")
    options.add_argument("--seed", type=SEED.parse, default=0, help="seed of the weights")
    values = options.parse_args(argv)

    from pruning.importers.small_network import SmallConfig, write
    from pruning.speech.data.contents import transcripts
    from pruning.speech.text.labels import as_sentence

    config = SmallConfig(values.family, values.width, values.layers, values.vocab_size, seed=values.seed)
    if (values.output_dir / "config.json").is_file():
        logging.info("%s already has a network", values.output_dir)
        return
    write(values.output_dir, map(as_sentence, transcripts(values.cuts)), config)
    logging.info("%s: a %s with random weights", values.output_dir, config.family)


if __name__ == "__main__":
    command.run(main)
