"""A kind of network from another package: a classifier of lines with four numbers. `python -m toy_kind` measures it."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Optional

import torch
from torch import Tensor, nn

from pruning import provenance
from pruning.core.cost import CostTerm
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.errors import UserError
from pruning.experiments.measurement import Measurement, Utterances
from pruning.files import PathLike
from pruning.kinds.capabilities import Capabilities
from pruning.kinds.kind import Kind
from pruning.kinds.measuring import Measure, Measuring, TestData
from pruning.methods.base import Pruner
from pruning.methods.config import PruningConfig
from pruning.models import facts
from pruning.models.layers import FeedForward
from pruning.models.module_units import ffn_groups
from pruning.registry import TEXT
from pruning.tasks.pruned import PrunedTask
from pruning.training import distributed
from pruning.training.run_data import RunData
from pruning.training.task import ParameterGroup, StepInfo, weight_groups
from pruning.training.trainer_config import TrainerConfig

NAME = "toy_classifier"


@dataclass(frozen=True)
class ToyConfig:
    """Dimensions of the residual stream, the hidden layer and the output (0: that of the table)."""

    d_model: int = 8
    hidden: int = 16
    vocab_size: int = 0


class Toy(nn.Module):
    """A network from four numbers to logits, with one feed-forward module and a norm."""

    kind: ClassVar[str] = NAME

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.input = nn.Linear(4, config.d_model)
        self.ffn_norm = nn.LayerNorm(config.d_model) if config.hidden else None
        self.ffn = FeedForward(config.d_model, config.hidden, 0.0) if config.hidden else None
        self.output = nn.Linear(config.d_model, config.vocab_size)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, 4) -> (N, V)``."""
        x = self.input(inputs)
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.ffn(self.ffn_norm(x))
        return self.output(x)

    def unit_groups(self) -> list[UnitGroup]:
        """Return the groups of the module and of its hidden units."""
        return ffn_groups("", "ffn", self.config.hidden, self.config.d_model) if self.config.hidden else []

    def cost_terms(self, frames: int) -> list[CostTerm]:
        """Return the costs of the module for ``frames`` lines."""
        if not self.config.hidden:
            return [CostTerm("ffn", (), 0, 0)]
        d = self.config.d_model
        return [CostTerm("ffn", ("ffn", "ffn.hidden"), 2 * d + 1, 2 * d * frames), CostTerm("ffn", ("ffn",), 3 * d, 0)]

    def probe(self, generator: torch.Generator) -> Tensor:
        """Return outputs for noise."""
        return self(torch.randn(5, 4, generator=generator))

    def shrink(self, structure: Structure) -> Toy:
        """Return the network that is left."""
        return Toy(replace(self.config, hidden=structure.count("ffn.hidden")))


@dataclass(frozen=True)
class Batch:
    """A batch of lines: numbers ``(N, 4)``, classes ``(N,)`` and names."""

    inputs: Tensor
    labels: Tensor
    ids: list[str]

    def to(self, device: Any) -> Batch:
        """Return the batch on a device."""
        return Batch(self.inputs.to(device), self.labels.to(device), self.ids)


class Classes:
    """The classes of ``classes.txt``, one per line."""

    def __init__(self, lang_dir: PathLike) -> None:
        self.path = Path(lang_dir) / "classes.txt"
        self.names = self.path.read_text().split()
        self.vocab_size = len(self.names)

    def describe(self) -> dict[str, Any]:
        """Return the classes for the header of a checkpoint."""
        return {"classes": self.names}

    def check_matches(self, recorded: Mapping[str, Any], source: str = "the checkpoint") -> None:
        """Refuse other classes."""
        if recorded != self.describe():
            raise UserError(f"{source} has other classes than {self.path}", "give the matching --lang-dir")

    def batches(self, files: Sequence[PathLike]) -> Iterator[Batch]:
        """Return batches of 16 lines in order."""
        lines = [line.split() for file in files for line in Path(file).read_text().splitlines()]
        for start in range(0, len(lines), 16):
            part = lines[start : start + 16]
            inputs = torch.tensor([[float(value) for value in line[1:]] for line in part])
            labels = torch.tensor([self.names.index(line[0]) for line in part])
            yield Batch(inputs, labels, [str(start + index) for index in range(len(part))])


class ToyTask(PrunedTask):
    """Cross-entropy per line."""

    def __init__(self, model: Toy, pruner: Optional[Pruner]) -> None:
        super().__init__(pruner)
        self.model: Toy = model

    def forward(self, batch: Batch, step: StepInfo) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch."""
        with self.pruned(step):
            loss = nn.functional.cross_entropy(self.model(batch.inputs), batch.labels)
        return self.with_penalty(loss, {"task": loss}, torch.tensor(float(len(batch.ids))), step)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the groups of the network and of the pruner."""
        return weight_groups([self.model]) + self.pruner_groups()


@dataclass(frozen=True)
class RunConfig:
    """Configuration of training and fine-tuning."""

    model: Optional[ToyConfig] = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    kind: str = NAME


@dataclass(frozen=True)
class PruneConfig(PruningConfig, RunConfig):
    """Configuration of pruning."""

    def __post_init__(self) -> None:
        self.check(self.trainer)


MISTAKES = Measure("mistakes %", "minus", lambda rate: rate, lambda rate: rate, "blocks", "network", False,
                   ("hidden_parameters", "parameters", 1.0), ("macs_per_line", "MACs / line", 1.0), "points",
                   "Mistakes over all lines. {seeds}")  # fmt: skip


class ToyKind(Kind[Toy]):
    """Classifiers of lines of numbers."""

    name = NAME
    network = Toy
    wanted, called = "a toy's checkpoint", "a toy"
    data_form = TEXT
    training, pruning = RunConfig, PruneConfig

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> Toy:
        """Build a network from plain values."""
        return Toy(ToyConfig(**config))

    @classmethod
    def input_length(cls, network: Toy, seconds: float) -> int:
        """Return the length of one line."""
        return 1

    @classmethod
    def reference(cls, network: Toy) -> tuple[int, str]:
        """Return the length of one line."""
        return 1, "a line"

    @classmethod
    def facts(cls, network: Toy) -> dict[str, Any]:
        """Return the costs of the module."""
        costs = facts.costs_at(network, 1).dense
        return {"hidden_parameters": int(costs["size"]), "macs_per_line": int(costs["macs"])}

    @classmethod
    def capabilities(cls, network: Toy) -> Capabilities:
        """Return the pruning of units only."""
        return Capabilities()

    @classmethod
    def table(cls, config: Any, lang_dir: PathLike) -> Any:
        """Return the classes."""
        return Classes(lang_dir)

    @classmethod
    def forward(cls, network: Toy, batch: Batch) -> object:
        """Compute the logits."""
        return network(batch.inputs)

    @classmethod
    def calibration(cls, network: Toy, table: Classes, files: Sequence[PathLike], max_duration: float) -> Any:
        """Return batches of lines."""
        return table.batches(files)

    @classmethod
    def measuring(cls, config: RunConfig) -> Measuring:
        """Return how to measure mistakes, by a command of this module."""
        return Measuring(MISTAKES, "mistakes", _commands, _gather, _utterances)

    @classmethod
    def own_measures(cls) -> Mapping[str, Measure]:
        """Return the measure of mistakes."""
        return {"mistakes": MISTAKES}

    @classmethod
    def new(cls, config: Any, vocab_size: int) -> Toy:
        """Make a network with the configuration's dimensions."""
        return Toy(replace(config.model, vocab_size=vocab_size))

    def wants_teacher(self) -> bool:
        """Return False: nothing is distilled."""
        return False

    def task(self, network: Toy, teacher: Optional[Toy], pruner: Optional[Pruner] = None) -> ToyTask:
        """Return the task."""
        return ToyTask(network, pruner)

    def first_batches(self) -> Iterable[Batch]:
        """Return the lines in order."""
        return self.output_table.batches(self.inputs.train)

    def data(self, world: distributed.World) -> RunData:
        """Return batches in an order that depends on the epoch."""

        def train_batches(epoch: int, skip: int) -> Iterable[Batch]:
            batches = list(self.first_batches())
            random.Random(f"{self.seed} {epoch}").shuffle(batches)
            return batches[skip:]

        files = {f"{part}_text": [Path(file) for file in getattr(self.inputs, part)] for part in ("train", "dev")}
        return RunData(train_batches, lambda: self.output_table.batches(self.inputs.dev), files)


def _place(exp_dir: PathLike, file: PathLike) -> Path:
    return Path(exp_dir) / f"mistakes-{Path(file).stem}.json"


def _commands(data: TestData, place: PathLike) -> Iterator[list[str]]:
    yield [sys.executable, "-m", "toy_kind", str(place), data.lang_dir, *data.files]


def _utterances(data: TestData) -> dict[str, Utterances]:
    return {Path(file).stem: _lines(len(Path(file).read_text().splitlines())) for file in data.files}


def _lines(count: int) -> Utterances:
    return Utterances([str(index) for index in range(count)], [""] * count)


def _gather(data: TestData, place: Path) -> list[Measurement]:
    return [Measurement.read(_place(place, file)) for file in data.files]


def main(exp_dir: str, lang_dir: str, *files: str) -> None:
    """Measure the network of an experiment on files."""
    model, _ = ToyKind.load_network(exp_dir, ToyKind.table(None, lang_dir))
    for file in files:
        errors: list[int] = []
        for batch in Classes(lang_dir).batches([file]):
            errors += (model(batch.inputs).argmax(dim=1) != batch.labels).long().tolist()
        columns = {"errors": errors, "words": [1] * len(errors)}
        made = provenance.environment("toy_kind", None, "cpu")
        Measurement("mistakes", Path(file).stem, _lines(len(errors)), columns, provenance=made).write(
            _place(exp_dir, file)
        )
    print(json.dumps({"mistakes": sum(errors)}))


KIND = ToyKind

if __name__ == "__main__":
    import toy_kind  # import the module as the registry does; its classes are not those of __main__

    toy_kind.main(*sys.argv[1:])
