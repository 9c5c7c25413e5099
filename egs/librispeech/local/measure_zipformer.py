#!/usr/bin/env python3
"""Measure a forward pass and a training step of our Zipformers against icefall's modules of the same weights.

Networks take turns in every round, on one thread and the same features, in an order that is drawn for each round. What
is compared is the processor's time, which other programs disturb less than the clock. A training step is the forward
pass of the encoder in training mode and the backward pass to all of its weights. Both networks drop hidden units, and
icefall's schedules are at a late batch; `icefall-plain` is icefall's without Balancer and Whiten.

icefall's modules need k2. In the recipe's folder:
    . ./path.sh && python local/measure_zipformer.py --icefall-dir /icefall
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import icefall_zipformer

from pruning.bin import command
from pruning.errors import UserError
from pruning.limits import COUNT, POSITIVE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pruning.models.zipformer_config import ZipformerConfig

CONF = Path(__file__).resolve().parents[1] / "conf"
LATE_BATCH = 100_000.0
OURS, ICEFALL, PLAIN = "ours", "icefall", "icefall-plain"
PHASES = {"forward": (OURS, ICEFALL), "training step": (OURS, ICEFALL, PLAIN)}


class Subject(NamedTuple):
    """A network that is measured, and how its outputs ``(N, T', D)`` are computed from features and lengths."""

    network: nn.Module
    outputs: Callable[[Tensor, Tensor], Tensor]


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Measure and write ``OUTPUT`` (JSON) and a table with the suffix .md."""
    options = parse(argv)

    import torch

    from pruning import provenance
    from pruning.files import write_json, write_text
    from pruning.measure import timing

    torch.set_num_threads(1)
    frames = round(100 * options.seconds)
    features = torch.randn(options.batch, frames, 80, generator=torch.Generator().manual_seed(0))
    lengths = torch.full((options.batch,), frames)
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        subjects = build(size, options.icefall_dir)
        for phase, names in PHASES.items():
            calls = {name: timed(subjects[name], phase, features, lengths) for name in names}
            found = timing.interleaved(list(calls.values()), options.rounds, clock=time.process_time)
            for name, seconds in zip(calls, found):
                rows.append({"size": size.upper(), "phase": phase, "network": name, "seconds": seconds})
                print(f"{size}, {phase}, {name}: {statistics.median(seconds):.3f} s", file=sys.stderr)
    facts = provenance.of_script("local/measure_zipformer.py", argv)
    facts |= {"batch": options.batch, "audio_seconds": options.seconds}
    write_json(options.output, {"rows": rows, **facts})
    write_text(options.output.with_suffix(".md"), document(rows, facts))


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """Parse and return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icefall-dir", type=Path, required=True, help="checkout of icefall")
    parser.add_argument("--sizes", nargs="+", choices=["s", "m", "l"], default=["s", "m"])
    parser.add_argument("--batch", type=COUNT.parse, default=4, help="number of utterances")
    parser.add_argument("--seconds", type=POSITIVE.parse, default=10.0, help="length of each utterance")
    parser.add_argument("--rounds", type=COUNT.parse, default=8)
    parser.add_argument("--output", type=Path, default=Path("results/zipformer/speed.json"))
    return parser.parse_args(argv)


def build(size: str, checkout: Path) -> dict[str, Subject]:
    """Return our network and icefall's two, of the same weights.

    Raises:
        UserError: the checkout has no such recipe, or its modules do not compute the same.
    """
    import torch

    from pruning.configuration import from_dict, read
    from pruning.importers.zipformer_names import theirs
    from pruning.models.prunable_zipformer import PrunableZipformer
    from pruning.models.zipformer_config import ZipformerConfig

    path = CONF / f"zipformer_{size}" / "teacher.yaml"
    config = from_dict(ZipformerConfig, read(path)["model"]["zipformer"], str(path))
    modules = icefall_zipformer.modules(checkout)
    torch.manual_seed(0)
    ours = PrunableZipformer(config)
    subjects = {OURS: Subject(ours, lambda features, lengths: ours(features, lengths).output),
                ICEFALL: icefall_network(config, modules), PLAIN: icefall_network(config, modules)}  # fmt: skip
    remove(subjects[PLAIN].network, (modules["scaling"].Balancer, modules["scaling"].Whiten))
    state = subjects[ICEFALL].network.state_dict()
    subjects[PLAIN].network.load_state_dict(state)
    ours.load_state_dict({name: tensor if name.startswith("feature_") else state[theirs(config, name)]
                          for name, tensor in ours.state_dict().items()})  # fmt: skip
    features, lengths = torch.randn(1, 300, 80), torch.tensor([300])
    outputs = []
    for subject in subjects.values():
        subject.network.eval()
        with torch.no_grad():
            outputs.append(subject.outputs(features, lengths))
    error = max(float((output - outputs[0]).abs().max() / outputs[0].abs().max()) for output in outputs)
    if not error < 1e-4:
        raise UserError(f"the outputs of the checkout's Zipformer differ by {error:.1e}", "give a newer checkout")
    return subjects


def icefall_network(config: ZipformerConfig, modules: Mapping[str, ModuleType]) -> Subject:
    """Return icefall's front end and encoder, whose schedules are at a late batch."""
    network = icefall_zipformer.network(config, modules)
    icefall_zipformer.set_batch(network, LATE_BATCH)
    return Subject(network, lambda features, lengths: icefall_zipformer.outputs(network, features, lengths)[0])


def remove(network: nn.Module, types: tuple[type, ...]) -> None:
    """Replace modules of some types by ones that do nothing."""
    from torch import nn

    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, types):
                setattr(module, name, nn.Identity())


def timed(subject: Subject, phase: str, features: Tensor, lengths: Tensor) -> Callable[[], None]:
    """Return what is timed of a network in a phase."""
    import torch

    network, outputs = subject

    def forward() -> None:
        network.eval()
        with torch.no_grad():
            outputs(features, lengths)

    def step() -> None:
        network.train()
        network.zero_grad(set_to_none=True)
        with torch.enable_grad():
            outputs(features, lengths).square().mean().backward()

    return forward if phase == "forward" else step


def document(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Return Markdown: medians over the rounds, and icefall's time in relation to ours in the same round."""
    lines = [
        "| network | what | processor seconds | icefall's time / ours (least to most) |",
        "| --- | --- | ---: | ---: |",
    ]
    for row in rows:
        ours = next(one["seconds"] for one in rows
                    if (one["size"], one["phase"], one["network"]) == (row["size"], row["phase"], OURS))  # fmt: skip
        ratios = [mine / other for mine, other in zip(row["seconds"], ours)]
        cell = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        middle = f"{statistics.median(row['seconds']):.2f}"
        cells = [f"{row['size']}, {row['network']}", row["phase"], middle, "" if row["network"] == OURS else cell]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([
        "# Our Zipformers and icefall's", "",
        f"{facts['batch']} utterances of {facts['audio_seconds']:g} s, one thread, same weights; medians over "
        f"{len(rows[0]['seconds'])} rounds in which",
        "the networks take turns. `icefall-plain`: without Balancer and Whiten.", "",
        *lines, "",
        f"{facts['processor']}, torch {facts['torch']}, k2 {facts['k2']}; commit {facts['commit']}, {facts['date']};",
        f"`{facts['command']}`.", "",
    ])  # fmt: skip


if __name__ == "__main__":
    command.run(main)
