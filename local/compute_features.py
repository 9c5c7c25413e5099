#!/usr/bin/env python3
"""Compute filter-bank features for parts of a corpus, in one process or as parallel jobs whose splits are then joined.

One process: `compute_features.py --parts test-clean`. Parallel jobs: `compute_features.py --parts test-clean
--num-splits 8 --split JOB` for JOB in 1..8, then `compute_features.py --parts test-clean --num-splits 8 --combine`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.errors import UserError
from pruning.limits import COUNT, POSITIVE
from pruning.speech.data import manifests


def parser() -> argparse.ArgumentParser:
    """Return the option parser."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parts", nargs="+", required=True, help="names of the parts, e.g. train-clean-5 dev-clean-2")
    options.add_argument(
        "--manifests-dir", type=Path, default=Path("data/manifests"), help="directory of the manifests"
    )
    options.add_argument("--output-dir", type=Path, default=Path("data/fbank"), help="directory for features and cuts")
    options.add_argument("--prefix", default="librispeech", help="prefix of the manifest names")
    options.add_argument("--num-mel-bins", type=COUNT.parse, default=80, help="number of mel channels")
    options.add_argument("--sampling-rate", type=COUNT.parse, default=16000, help="Hz; other recordings are resampled")
    options.add_argument(
        "--speed-factors", type=POSITIVE.parse, nargs="*", default=[], help="add copies at these speeds, e.g. 0.9 1.1"
    )
    options.add_argument("--num-splits", type=COUNT.parse, default=1, help="number of jobs")
    which = options.add_mutually_exclusive_group()
    which.add_argument("--split", type=COUNT.parse, help="compute only this split, counted from 1")
    which.add_argument("--combine", action="store_true", help="join the splits")
    return options


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options, compute the features and join the splits."""
    values = parser().parse_args(argv)
    if values.split is not None and values.split > values.num_splits:
        raise UserError(f"--split must be at most --num-splits ({values.num_splits}), got {values.split}", "correct it")

    from pruning.speech.data import features

    config = features.FeatureConfig(values.num_mel_bins, values.sampling_rate, tuple(values.speed_factors))
    source = manifests.Paths(values.manifests_dir, values.prefix)
    target = manifests.Paths(values.output_dir, values.prefix)
    if not all(features.is_done(config, source, target, part) for part in values.parts):
        import torch

        torch.set_num_threads(1)  # the jobs are the parallelism
    splits = range(1, values.num_splits + 1) if values.split is None else [values.split]
    for part in values.parts:
        if not values.combine:
            for split in splits:
                features.compute_split(config, source, features.Job(target, part, split, values.num_splits))
        if values.split is None:
            features.combine(config, source, target, part, values.num_splits)


if __name__ == "__main__":
    command.run(main)
