#!/usr/bin/env python3
"""Train a small Zipformer of ours and icefall's of the same dimensions for equal steps, and compare losses on dev.

All of them have the same decoder, joiner, losses, batches, normalised features and optimiser. Ours has neither Balancer
nor Whiten, and skips nothing at random. `icefall` is icefall's network as it trains, with its schedules at the batch
that it would count (in batches of 600 s of audio, `--reference-duration`); `icefall-late` the same with its schedules
at their end, which is where long trainings are: dropout and skipped layers are low there, Balancer and Whiten work.

icefall's modules need k2. In the recipe's folder:
    . ./path.sh && python local/compare_zipformer_training.py --icefall-dir /icefall --exp-dir exp/zipformer_training \\
        --lang-dir data/open/lang_bpe_256 --train-cuts TRAIN --dev-cuts DEV trainer.max_steps=1500
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import icefall_zipformer

from pruning.bin import command
from pruning.limits import POSITIVE

if TYPE_CHECKING:
    from types import ModuleType

    from pruning.kinds.transducer import RunConfig, TransducerKind

CONF = Path(__file__).resolve().parents[1] / "conf/mini_zipformer/teacher.yaml"
TRAINER = ["model.zipformer.convnext_dim=96", "trainer.optimiser.name=scaled_adam", "trainer.optimiser.lr=0.045"]
LATE_BATCH = 100_000.0
OURS, ICEFALL, LATE = "ours", "icefall", "icefall-late"


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Train what has not been trained yet, and write ``OUTPUT`` (JSON) and a table with the suffix .md."""
    options = parse(argv)

    import torch

    from pruning import configuration, provenance
    from pruning.files import write_json, write_text
    from pruning.kinds import train_and_prune
    from pruning.kinds.kind import Inputs
    from pruning.kinds.transducer import TransducerKind

    inputs = Inputs([options.train_cuts], [options.dev_cuts], options.lang_dir)
    config = configuration.load(TransducerKind.training, options.config, [*TRAINER, *options.overrides])
    torch.set_num_threads(config.trainer.num_threads or 1)
    modules = icefall_zipformer.modules(options.icefall_dir)
    per_step = config.data.max_duration / options.reference_duration
    kinds: dict[str, type[TransducerKind]] = {
        OURS: TransducerKind,
        ICEFALL: kind_of(modules, per_step, 0.0),
        LATE: kind_of(modules, 0.0, LATE_BATCH),
    }
    rows = []
    for name in options.networks:
        train_and_prune.train(kinds[name](config, inputs), options.exp_dir / name)
        rows.append(row(name, options.exp_dir / name))
    facts = provenance.of_script("local/compare_zipformer_training.py", argv)
    write_json(options.output, {"rows": rows, **facts})
    write_text(options.output.with_suffix(".md"), document(rows, config, facts))


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """Parse and return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icefall-dir", type=Path, required=True, help="checkout of icefall")
    parser.add_argument("--exp-dir", type=Path, required=True, help="directory of the experiments")
    parser.add_argument("--lang-dir", type=Path, required=True, help="directory with the tokens")
    parser.add_argument("--train-cuts", type=Path, required=True)
    parser.add_argument("--dev-cuts", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONF, help="dimensions, losses, batches and steps")
    parser.add_argument("--networks", nargs="+", choices=[OURS, ICEFALL, LATE], default=[OURS, ICEFALL, LATE])
    parser.add_argument("--reference-duration", type=POSITIVE.parse, default=600.0, help="icefall's --ref-duration")
    parser.add_argument("--output", type=Path, default=Path("results/zipformer/training.json"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the training")
    return parser.parse_args(argv)


def kind_of(modules: Mapping[str, ModuleType], per_step: float, first: float) -> type[TransducerKind]:
    """Return the kind of transducers whose encoder is icefall's.

    Args:
        modules: see `icefall_zipformer.modules`.
        per_step: number of batches that icefall counts for each step.
        first: batch at which its schedules are in the first step.
    """
    from torch import Tensor

    from pruning.kinds.transducer import TransducerKind
    from pruning.models.conformer import EncoderOutput
    from pruning.models.prunable_zipformer import PrunableZipformer
    from pruning.models.transducer import Transducer
    from pruning.models.zipformer_config import ZipformerConfig

    class TheirEncoder(PrunableZipformer):
        """icefall's network with features normalised as ours has them."""

        def __init__(self, config: ZipformerConfig) -> None:
            super().__init__(config)
            for name in list(self._modules):
                delattr(self, name)
            self.theirs = icefall_zipformer.network(config, modules)
            self.steps = 0

        def forward(self, features: Tensor, lengths: Tensor, *_: object) -> EncoderOutput:
            """See `ZipformerEncoder.forward`; there are no outputs of stacks."""
            if self.training:
                icefall_zipformer.set_batch(self.theirs, first + per_step * self.steps)
                self.steps += 1
            features = (features - self.feature_mean) * self.feature_scale
            return EncoderOutput(*icefall_zipformer.outputs(self.theirs, features, lengths), [])

    class TheirKind(TransducerKind):
        """Transducers with icefall's encoder."""

        @classmethod
        def new(cls, config: Any, vocab_size: int) -> Transducer:
            network = super().new(config, vocab_size)
            assert network.config.zipformer is not None
            network.encoder = TheirEncoder(network.config.zipformer)
            return network

    return TheirKind


def row(name: str, exp_dir: Path) -> dict[str, Any]:
    """Return the dev losses of a training by step."""
    from pruning.reports.pictures import read_metrics

    return {"network": name, "dev": {one["step"]: one["task"] for one in read_metrics(exp_dir) if one["kind"] == "dev"}}


def document(rows: Sequence[Mapping[str, Any]], config: RunConfig, facts: Mapping[str, Any]) -> str:
    """Return Markdown."""
    from tabulate import tabulate

    steps = sorted(set.intersection(*(set(row["dev"]) for row in rows)))
    table = [[row["network"], *(f"{row['dev'][step]:.3f}" for step in steps)] for row in rows]
    return f"""# Our Zipformer and icefall's, trained for equal steps

Loss on dev in nats per frame (transducer and CTC) by step; one seed. See `local/compare_zipformer_training.py` for what
the names mean.

{tabulate(table, ["network", *map(str, steps)], "github", disable_numparse=True)}

{facts["processor"]}, torch {facts["torch"]}, k2 {facts["k2"]}; commit {facts["commit"]}, {facts["date"]};
`{facts["command"]}`.
"""


if __name__ == "__main__":
    command.run(main)
