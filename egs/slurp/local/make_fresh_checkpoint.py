#!/usr/bin/env python3
"""Write a checkpoint like that of wav2vec2-base on the hub, but with random weights, to measure speed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.limits import SEED
from pruning.optional import package


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Make the checkpoint; do nothing if it exists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seed", type=SEED.parse, default=0)
    options = parser.parse_args(argv)

    import torch

    if (options.output_dir / "preprocessor_config.json").exists():  # written last
        return
    transformers = package("transformers", "a checkpoint of Hugging Face", "hf")
    torch.manual_seed(options.seed)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()).save_pretrained(options.output_dir)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(options.output_dir)


if __name__ == "__main__":
    command.run(main)
