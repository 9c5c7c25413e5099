"""Training and pruning of any kind of network: what is the same whatever the network and its data are."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Optional

import torch
from torch import nn

from pruning.core.criteria import LOOK_INSIDE
from pruning.core.low_rank import Metric, linear_names
from pruning.core.prunable import plain
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import PathLike
from pruning.kinds import runs
from pruning.methods.base import Pruner
from pruning.methods.low_rank import calibrate
from pruning.models.facts import network_facts
from pruning.speech.data.batches import Table
from pruning.speech.text.bpe import Tokenizer
from pruning.tasks.pruned import PrunedTask
from pruning.training import distributed


class Recipe(ABC):
    """A kind of network with its configuration and data.

    Args:
        config: of the run: ``model``, ``distillation``, ``trainer``; for pruning `runs.PruningConfig`'s fields, too.
        lang_dir: holds ``bpe.model`` and ``tokens.txt``.

    Attributes:
        kind: class of the networks.
        wanted: what to give where a checkpoint is of another kind, for messages.
    """

    kind: ClassVar[type[nn.Module]]
    wanted: ClassVar[str]

    def __init__(self, config: Any, lang_dir: PathLike) -> None:
        self.config = config
        self.tokenizer: Any = self.table(lang_dir)

    def table(self, lang_dir: PathLike) -> Table:
        """What says what the network's outputs mean: tokens, if nothing else."""
        return Tokenizer(lang_dir)

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.config.trainer.seed)

    @abstractmethod
    def build(self, vocab_size: int) -> nn.Module:
        """A network of the configuration's dimensions, with fresh weights."""

    @abstractmethod
    def task(self, network: nn.Module, teacher: Optional[nn.Module], pruner: Optional[Pruner] = None) -> PrunedTask:
        """What the loss of a batch is."""

    @abstractmethod
    def data(self, world: distributed.World) -> runs.RunData:
        """This process's batches."""

    @abstractmethod
    def first_batches(self) -> Iterable[Any]:
        """Training batches from the first on, the same in every process."""

    @abstractmethod
    def wants_teacher(self) -> bool:
        """Whether the configuration asks for distillation."""

    def check(self, network: nn.Module) -> None:  # noqa: B027  # nothing, for most
        """Refuse data that do not fit the network."""

    def begin(self, network: nn.Module) -> None:  # noqa: B027
        """Prepare a network of fresh weights for its data."""

    def stands_on(self) -> dict[str, PathLike]:
        """Checkpoints besides the options' that the weights depend on, by name."""
        return {}

    def origin(self) -> dict[str, Any]:
        """What the header of a network that begins here says of its start."""
        return {}

    def check_teacher(self, teacher: nn.Module) -> None:  # noqa: B027
        """Refuse a distillation that the teacher cannot give."""

    def check_layers(self, last: int) -> None:
        """Refuse to distil from layers that a teacher of ``last`` layers does not have.

        Raises:
            UserError: naming the first one, and layers that it has.
        """
        for layer in self.config.distillation.layers:
            if not 0 <= layer <= last:
                there = ",".join(str(number) for number in sorted({round(last * third / 3) for third in range(4)}))
                raise UserError(f"distillation.layers has {layer}; the teacher has layers 0 (input) to {last}",
                                f"say others, such as distillation.layers=[{there}]")  # fmt: skip

    def load(self, source: PathLike) -> tuple[nn.Module, checkpoint.Header]:
        """A network of this kind and these tokens, dense or extracted.

        Raises:
            UserError: see `runs.load_network`.
        """
        return runs.load_network(source, self.kind, self.wanted, self.tokenizer)

    def fresh(self) -> nn.Module:
        """A network of fresh weights, its vocabulary that of the tokenizer.

        Raises:
            UserError: no dimensions are given, some that make no network, or another vocabulary size.
        """
        size = runs.vocabulary(self.config.model, self.tokenizer)
        torch.manual_seed(self.seed)
        try:
            network = self.build(size)
        except (ValueError, RuntimeError) as error:  # dimensions that do not fit together
            reason = str(error).split("\n", 1)[0]
            raise UserError(f"the network of the configuration's model cannot be made ({reason})",
                            "correct its dimensions") from None  # fmt: skip
        self.check(network)
        self.begin(network)
        return network

    def teacher(self, source: Optional[PathLike]) -> Optional[nn.Module]:
        """The teacher, if one is given and wanted.

        Raises:
            UserError: distillation is configured without a teacher, or asks for what the teacher does not have.
        """
        if not self.wants_teacher():
            return None
        if source is None:
            raise UserError("the configuration asks for distillation", "give --teacher, or set its weights to 0")
        network, _ = self.load(source)
        self.check_teacher(network)
        return plain(network)

    def train(self, exp_dir: PathLike, init: Optional[PathLike] = None, teacher: Optional[PathLike] = None) -> None:
        """Train a network, from scratch or from a checkpoint, with or without a teacher; the structure stays.

        Args:
            exp_dir: the experiment's directory; resumed when it holds a state.
            init: checkpoint or experiment to start from (fine-tuning); None starts with fresh weights.
            teacher: checkpoint or experiment to learn from.

        Raises:
            UserError: for anything wrong with the configuration, the data or the checkpoints.
        """
        header: dict[str, Any] = {}
        if init is not None:
            if self.config.model is not None:
                raise UserError("the configuration has a 'model' but --init brings one", "leave one of them out")
            network, found = self.load(init)
            self.check(network)
            header = runs.continued(network, found)
        else:
            network = self.fresh()
            header = self.origin()
        task = self.task(network.train(), self.teacher(teacher))
        self._fit(task, exp_dir, {"init": init, "teacher": teacher, **self.stands_on()}, header, header.get("dense"))

    def prune(self, exp_dir: PathLike, teacher: PathLike) -> None:
        """Train a copy of the teacher while it is pruned, until it costs what the constraint says.

        Args:
            exp_dir: the experiment's directory; its checkpoints hold dense weights and the structure that was found.
            teacher: checkpoint or experiment of the dense network.

        Raises:
            UserError: as `train`, and for a target that the enabled kinds cannot reach.
        """
        config: runs.PruningConfig = self.config
        if self.config.model is not None:
            raise UserError("the configuration has a 'model'", "leave it out: what is pruned is a copy of the teacher")
        network, found = self.load(teacher)
        self.check(network)
        if config.technique != "structured" or config.method in LOOK_INSIDE:
            network = plain(network)
        guide = self.teacher(teacher)
        facts = network_facts(network)
        metrics: dict[str, Metric] = {}
        if config.technique == "low_rank":
            world = distributed.initialise(self.config.trainer.device)
            batches = map(world.take, itertools.islice(self.first_batches(), config.calibration_batches))
            task = self.task(network, None).to(world.device)
            metrics = calibrate(task, linear_names(network), batches, config.method)
            network.cpu()
        pruner = runs.new_pruner(network, config, metrics)
        task = self.task(pruner.network.train(), guide, pruner)
        networks = {"teacher": teacher, "counts_from": config.counts_from,
                    "latency_table": config.constraint.latency_table}  # fmt: skip
        kept = {key: found[key] for key in (checkpoint.PRETRAINED,) if key in found}
        self._fit(task, exp_dir, networks, {"dense": facts, **kept}, facts)

    def _fit(
        self,
        task: PrunedTask,
        exp_dir: PathLike,
        networks: Mapping[str, Optional[PathLike]],
        header: Mapping[str, Any],
        dense: Optional[dict[str, Any]],
    ) -> None:
        world = distributed.initialise(self.config.trainer.device)
        runs.fit(task, self.config, self.data(world), self.tokenizer, exp_dir, networks, header, dense, world)
