"""What a kind of network says: everything that differs between transducers, encoders with heads and language models."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Optional, Protocol, TypeVar

from torch import nn

from pruning import registry
from pruning.core.prunable import plain
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.structure_files import check_extracted
from pruning.files import PathLike
from pruning.kinds.capabilities import Capabilities
from pruning.kinds.exports import Exports
from pruning.kinds.measuring import Measure, Measuring
from pruning.kinds.recogniser import Recogniser
from pruning.methods.base import Pruner
from pruning.registry import NetworkKind
from pruning.speech.text.table import OutputTable
from pruning.tasks.pruned import PrunedTask
from pruning.training import distributed
from pruning.training.run_data import RunData

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Inputs:
    """Where a run's data are.

    Attributes:
        train, dev: cut manifests or text files, as the kind takes them.
        lang_dir: holds what says what the network's outputs mean: tokens, intents.
    """

    train: Sequence[PathLike]
    dev: Sequence[PathLike]
    lang_dir: PathLike


class HasVocabulary(Protocol):
    """The dimensions of a network."""

    @property
    def vocab_size(self) -> int:
        """Tokens; 0: the tokenizer's."""


class Kind(NetworkKind[N], Generic[N]):
    """A kind of network. Its class says what is true of all of its networks; an object is a kind with the configuration
    and the data of a run, which `pruning.kinds.train_and_prune` trains and prunes.

    Args:
        config: of the run.
        inputs: its data.

    Attributes:
        network: class of the networks.
        wanted: what to give where a checkpoint is of another kind, for messages.
        called: its networks in words, for messages.
        data_form: `pruning.registry.CUTS` or ``TEXT``: by which options commands are given the data.
        training: class of the configurations of training and fine-tuning.
        pruning: class of the configurations of pruning.
    """

    network: ClassVar[type[nn.Module]]
    wanted: ClassVar[str]
    called: ClassVar[str]
    data_form: ClassVar[str]
    training: ClassVar[type[Any]]
    pruning: ClassVar[type[Any]]

    def __init__(self, config: Any, inputs: Inputs) -> None:
        if config.kind != self.name:
            raise UserError(f"the configuration is for {config.kind}, and was read as one for {self.name}",
                            "write kind in the file, not on the command line")  # fmt: skip
        self.config, self.inputs = config, inputs
        self.output_table: Any = self.table(config, inputs.lang_dir)

    # of any network of this kind

    @classmethod
    def described(cls, network: N) -> dict[str, Any]:
        """Its configuration, a dataclass, as plain values."""
        config: Any = network.config
        return dataclasses.asdict(config)

    @classmethod
    @abstractmethod
    def capabilities(cls, network: N) -> Capabilities:
        """What can be done with a network."""

    @classmethod
    @abstractmethod
    def table(cls, config: Any, lang_dir: PathLike) -> OutputTable:
        """What the outputs of a network mean; ``config`` is of a run or of the network."""

    @classmethod
    def table_of(cls, network: N, lang_dir: PathLike) -> OutputTable:
        """The table of a network that is there."""
        return cls.table(network.config, lang_dir)

    @classmethod
    @abstractmethod
    def forward(cls, network: N, batch: Any) -> object:
        """A forward pass."""

    @classmethod
    @abstractmethod
    def calibration(cls, network: N, table: Any, files: Sequence[PathLike], max_duration: float) -> Iterable[Any]:
        """Training batches from the first on, for statistics and repair.

        Args:
            network: what they are for.
            table: see `table_of`.
            files: the training data.
            max_duration: seconds of audio in a batch, where there is audio.
        """

    @classmethod
    @abstractmethod
    def measuring(cls, config: Any) -> Measuring:
        """How networks of a configuration (of fine-tuning) are measured in a sweep."""

    @classmethod
    def own_measures(cls) -> Mapping[str, Measure]:
        """Measures besides `pruning.kinds.measuring.MEASURES`, by name."""
        return {}

    @classmethod
    def recogniser(cls, network: N, source: PathLike) -> Recogniser:
        """A network as decoding takes it; ``source`` is where it is from, for the message.

        Raises:
            UserError: it does not recognise words.
        """
        raise UserError(f"{source} holds {cls.called}", "give a network that recognises words")

    @classmethod
    def exports(cls, network: N, lang_dir: Optional[PathLike]) -> Exports:
        """How a network is exported.

        Args:
            network: dense or extracted.
            lang_dir: of its tokens; None: where only its computation is looked at.

        Raises:
            UserError: networks of this kind are not exported.
        """
        raise UserError(f"{cls.called} cannot be exported", "give a network of another kind")

    @classmethod
    def narrowed(cls, network: N, narrow: str, cost: str, budget: float, seconds: float = 10.0) -> N:
        """The widest uniform network within a budget, with fresh weights: see `pruning.models.uniform`.

        Raises:
            UserError: networks of this kind are not narrowed, or even the narrowest costs more.
        """
        raise UserError(f"{cls.called} cannot be narrowed uniformly", "leave out what asks for a uniform network")

    @classmethod
    def own(cls, network: nn.Module) -> N:
        """``network`` as one of this kind.

        Raises:
            TypeError: it is of another kind.
        """
        if not isinstance(network, cls.network):
            raise TypeError(f"a {type(network).__name__} is no {cls.network.__name__}")
        return network  # type: ignore[return-value]  # cls.network is the class that N stands for

    @classmethod
    def load_network(cls, source: PathLike, table: Optional[OutputTable] = None) -> tuple[N, checkpoint.Header]:
        """A network of this kind, dense or extracted, from a checkpoint or experiment directory.

        Args:
            source: checkpoint or experiment.
            table: whose tokens it must have been trained with; None: any.

        Raises:
            UserError: no such checkpoint, another kind of network, one that is not extracted yet, or another table.
        """
        header = checkpoint.read_header(checkpoint.file_of(source))
        check_extracted(header, source)
        if header["model"].get("type") != cls.name:
            raise UserError(f"{source} holds a {header['model'].get('type')}", f"give {cls.wanted}")
        model, header = checkpoint.load_model(source)
        if table is not None:
            table.check_matches(header["tokenizer"])
        return cls.own(model), header

    # of a run

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.config.trainer.seed)

    @abstractmethod
    def new(self, vocab_size: int) -> N:
        """A network of the configuration's dimensions, with fresh weights."""

    @abstractmethod
    def task(self, network: N, teacher: Optional[N], pruner: Optional[Pruner] = None) -> PrunedTask:
        """What the loss of a batch is."""

    @abstractmethod
    def data(self, world: distributed.World) -> RunData:
        """This process's batches."""

    @abstractmethod
    def first_batches(self) -> Iterable[Any]:
        """Training batches from the first on, the same in every process."""

    @abstractmethod
    def wants_teacher(self) -> bool:
        """Whether the configuration asks for distillation."""

    def check(self, network: N) -> None:  # nothing, for most
        """Refuse data that do not fit the network."""

    def begin(self, network: N) -> None:
        """Prepare a network of fresh weights for its data."""

    def stands_on(self) -> dict[str, PathLike]:
        """Checkpoints besides the options' that the weights depend on, by name."""
        return {}

    def origin(self) -> dict[str, Any]:
        """What the header of a network that begins here says of its start."""
        return {}

    def check_teacher(self, teacher: N) -> None:
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

    def load(self, source: PathLike) -> tuple[N, checkpoint.Header]:
        """A network of this kind and these tokens, dense or extracted.

        Raises:
            UserError: see `load_network`.
        """
        return self.load_network(source, self.output_table)

    def teacher(self, source: Optional[PathLike]) -> Optional[N]:
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
        return self.own(plain(network))


def find(name: object, source: str = "the checkpoint") -> type[Kind[Any]]:
    """A kind by its name, whole.

    Raises:
        UserError: there is no such kind.
        TypeError: the class that is registered under this name is no Kind.
    """
    kind = registry.find(name, source)
    if not issubclass(kind, Kind):
        raise TypeError(f"KIND of the module of {name!r} is a {kind.__name__}, which is no Kind")
    return kind


def of(network: nn.Module) -> type[Kind[Any]]:
    """The kind of a network, whole."""
    return find(registry.of(network).name)


def load_network(source: PathLike) -> nn.Module:
    """Load a network of any kind, dense or extracted.

    Args:
        source: a checkpoint, or an experiment directory, of which it is the best checkpoint.

    Raises:
        UserError: no such checkpoint, or one that is not extracted yet.
    """
    network: nn.Module = load(source)[1]
    return network


def load(source: PathLike) -> tuple[type[Kind[Any]], Any, checkpoint.Header]:
    """A network of any kind, dense or extracted, with its kind and the header of its checkpoint.

    Raises:
        UserError: no such checkpoint, or one that is not extracted yet.
    """
    header = checkpoint.read_header(checkpoint.file_of(source))
    kind = find(header["model"].get("type"), str(source))
    network, header = kind.load_network(source)
    return kind, network, header
