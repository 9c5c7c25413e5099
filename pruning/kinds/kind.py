"""Base class of a kind of network: all that differs between transducers, encoders with a head and language models."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Optional, Protocol, TypeVar

from torch import nn

from pruning import configuration, registry
from pruning.core.prunable import plain
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.structure_files import check_extracted
from pruning.files import PathLike
from pruning.kinds.capabilities import Capabilities
from pruning.kinds.exports import Exports, HuggingFaceForm
from pruning.kinds.measuring import Measure, Measuring
from pruning.kinds.recogniser import Recogniser
from pruning.methods.base import Pruner
from pruning.models.chunk import Chunk
from pruning.models.zipformer_stream import ZipformerStream
from pruning.registry import NetworkKind
from pruning.speech.data.checks import TrainedOn
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.table import OutputTable, Spelling
from pruning.tasks.formula import LossFormula
from pruning.tasks.pruned import PrunedTask
from pruning.training import distributed
from pruning.training.run_data import RunData

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Inputs:
    """Paths of a run's data.

    Attributes:
        train, dev: cut manifests or text files, depending on the kind of network.
        lang_dir: directory with the output table: tokens or intents.
    """

    train: Sequence[PathLike]
    dev: Sequence[PathLike]
    lang_dir: PathLike


class HasVocabulary(Protocol):
    """Dimensions of a network that include the vocabulary size."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens; 0: that of the tokenizer."""


class Kind(NetworkKind[N], Generic[N]):
    """A kind of network.

    The class describes all networks of the kind. An instance is the kind with the configuration and the data of one
    run, which `pruning.kinds.train_and_prune` trains or prunes.

    Args:
        config: configuration of the run.
        inputs: data of the run.

    Attributes:
        network: class of the networks.
        wanted: what to give instead of a checkpoint of another kind, for messages.
        called: a network of this kind in words, for messages.
        around_encoder: modules around the encoder, which a network from scratch may take over from a teacher.
        data_form: `pruning.registry.CUTS` or ``TEXT``: which options of commands name the data.
        training: configuration class for training and fine-tuning.
        pruning: configuration class for pruning.
    """

    network: ClassVar[type[nn.Module]]
    wanted: ClassVar[str]
    called: ClassVar[str]
    around_encoder: ClassVar[tuple[str, ...]] = ()
    data_form: ClassVar[str]
    training: ClassVar[type[Any]]
    pruning: ClassVar[type[Any]]

    def __init__(self, config: Any, inputs: Inputs) -> None:
        if config.kind != self.name:
            raise UserError(f"the configuration is for kind {config.kind}, but was read as one for {self.name}",
                            "set kind in the configuration file, not on the command line")  # fmt: skip
        self.config, self.inputs = config, inputs
        self.output_table: Any = self.table(config, inputs.lang_dir)

    # class methods: about any network of this kind

    @classmethod
    def described(cls, network: N) -> dict[str, Any]:
        """Return the network's configuration (a dataclass) as plain values."""
        config: Any = network.config
        return dataclasses.asdict(config)

    @classmethod
    @abstractmethod
    def capabilities(cls, network: N) -> Capabilities:
        """Return what a network supports."""

    @classmethod
    def parts(cls) -> dict[str, tuple[str, ...]]:
        """Return prefixes of parameter names, by the name of the part of a network whose gradients are reported."""
        return {}

    @classmethod
    @abstractmethod
    def table(cls, config: Any, lang_dir: PathLike) -> OutputTable:
        """Return the output table for the configuration of a run or of a network."""

    @classmethod
    def table_of(cls, network: N, lang_dir: PathLike) -> OutputTable:
        """Return the output table of an existing network."""
        return cls.table(network.config, lang_dir)

    @classmethod
    @abstractmethod
    def new(cls, config: Any, vocab_size: int) -> N:
        """Make a network with the dimensions of the configuration of a run and fresh weights."""

    @classmethod
    @abstractmethod
    def forward(cls, network: N, batch: Any) -> object:
        """Run a forward pass."""

    @classmethod
    @abstractmethod
    def calibration(cls, network: N, table: Any, files: Sequence[PathLike], max_duration: float) -> Iterable[Any]:
        """Return training batches from the start, for statistics and repair.

        Args:
            network: network that will process the batches.
            table: output table of the network, see `table_of`.
            files: files of training data.
            max_duration: seconds of audio in a batch; not used for text.
        """

    @classmethod
    def check_files(cls, network: N, files: Sequence[PathLike], trained: Optional[TrainedOn] = None) -> None:
        """Refuse files of data that do not fit a network, before they are read for training or compared on.

        Args:
            network: network that will process them.
            files: files of data.
            trained: the features that the network was trained on; None: unknown, or it takes none.

        Raises:
            UserError: a file does not fit.
        """

    @classmethod
    def calibration_of_run(
        cls, config: Any, network: N, table: Any, files: Sequence[PathLike], max_duration: float
    ) -> Iterable[Any]:
        """Return `calibration` with the settings of data that the configuration ``config`` of a run has."""
        return cls.calibration(network, table, files, max_duration)

    @classmethod
    def loss_formula(cls, config: Any) -> Optional[LossFormula]:
        """Return what the loss of runs with a configuration is the sum of; None: it is not told."""
        return None

    @classmethod
    def config_of(cls, path: PathLike) -> Any:
        """Read the configuration of a run, ``config.yaml`` of its experiment directory: of training, or of pruning."""
        of_pruning = "constraint" in configuration.read(path)
        return configuration.load(cls.pruning if of_pruning else cls.training, path)

    @classmethod
    @abstractmethod
    def measuring(cls, config: Any) -> Measuring:
        """Return how a sweep measures networks with this fine-tuning configuration."""

    @classmethod
    def own_measures(cls) -> Mapping[str, Measure]:
        """Return measures in addition to `pruning.kinds.measuring.MEASURES`, by name."""
        return {}

    @classmethod
    def spelling(cls, lang_dir: PathLike) -> Spelling:
        """Return the tokens in which networks that recognise words spell them."""
        return Tokenizer(lang_dir)

    @classmethod
    def recogniser(cls, network: N, source: PathLike) -> Recogniser:
        """Return a network in the form that decoding uses; ``source`` names its origin in messages.

        Raises:
            UserError: the network does not recognise words.
        """
        raise UserError(f"{source} contains {cls.called}", "give a network that recognises words")

    @classmethod
    def see(cls, network: N, chunk: Chunk) -> Optional[ZipformerStream]:
        """Restrict a network to chunks and a left context, for decoding as in streaming.

        Returns:
            What encodes streams by the same chunks; None if ``chunk`` has all earlier frames as left context.

        Raises:
            UserError: the network is not causal, or cannot compute such chunks.
        """
        raise UserError(f"{cls.called} cannot compute chunk by chunk", "give no chunk size")

    @classmethod
    def exports(cls, network: N, lang_dir: Optional[PathLike]) -> Exports:
        """Return how a network is exported.

        Args:
            network: dense or extracted network.
            lang_dir: lang dir of its tokens; None if only its computation matters.

        Raises:
            UserError: networks of this kind cannot be exported.
        """
        raise UserError(f"{cls.called} cannot be exported", "give a network of another kind")

    @classmethod
    def hugging_face(cls, network: N, lang_dir: PathLike) -> HuggingFaceForm:
        """Return a network as Hugging Face writes it.

        Args:
            network: dense or extracted network.
            lang_dir: lang dir of its tokens, with what the import kept.

        Raises:
            UserError: networks of this kind, or of these shapes, cannot be written as a Hugging Face directory.
        """
        raise UserError(f"{cls.called} cannot be written as a Hugging Face directory", "leave out --hugging-face")

    @classmethod
    def export_notes(cls, network: N) -> tuple[str, ...]:
        """Return sentences about a network that users of its export must know, for the model card."""
        return ()

    @classmethod
    def streams(cls, network: N, chunk: Chunk) -> Exports:
        """Return how a network is exported as a stream, chunk by chunk with caches.

        Raises:
            UserError: the network is not causal, or cannot compute such chunks.
        """
        raise UserError(f"{cls.called} cannot be exported as a stream", "give no chunk size")

    @classmethod
    def narrowed(cls, network: N, narrow: str, cost: str, budget: float, seconds: float = 10.0) -> N:
        """Return the widest uniform network within a budget, with fresh weights: see `pruning.models.uniform`.

        Raises:
            UserError: networks of this kind cannot be narrowed, or even the narrowest exceeds the budget.
        """
        raise UserError(f"{cls.called} cannot be narrowed uniformly", "do not ask for a uniform network")

    @classmethod
    def own(cls, network: nn.Module) -> N:
        """Return ``network``, typed as a network of this kind.

        Raises:
            TypeError: the network is of another kind.
        """
        if not isinstance(network, cls.network):
            raise TypeError(f"expected a {cls.network.__name__}, got a {type(network).__name__}")
        return network  # type: ignore[return-value]  # cls.network is the class that N stands for

    @classmethod
    def load_network(cls, source: PathLike, table: Optional[OutputTable] = None) -> tuple[N, checkpoint.Header]:
        """Load a network of this kind, dense or extracted, from a checkpoint or experiment directory.

        Args:
            source: checkpoint or experiment directory.
            table: output table that the network must have been trained with; None: any.

        Raises:
            UserError: the checkpoint does not exist, is of another kind or of a pruning run, or has another table.
        """
        header = checkpoint.read_header(checkpoint.file_of(source))
        check_extracted(header, source)
        if header["model"].get("type") != cls.name:
            raise UserError(f"{source} contains a network of kind {header['model'].get('type')}", f"give {cls.wanted}")
        model, header = checkpoint.load_model(source)
        if table is not None:
            table.check_matches(header["tokenizer"])
        return cls.own(model), header

    # methods: about one run

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config.trainer.seed)

    @abstractmethod
    def task(self, network: N, teacher: Optional[N], pruner: Optional[Pruner] = None) -> PrunedTask:
        """Return the task, which computes the loss of a batch."""

    @abstractmethod
    def data(self, world: distributed.World) -> RunData:
        """Return the batches of this process."""

    @abstractmethod
    def first_batches(self) -> Iterable[Any]:
        """Return training batches from the start, the same in every process."""

    @abstractmethod
    def wants_teacher(self) -> bool:
        """Return whether the configuration asks for distillation."""

    def check(self, network: N) -> None:  # most kinds check nothing
        """Refuse data that do not fit the network."""

    def begin(self, network: N) -> None:
        """Prepare a network with fresh weights for its data."""

    def heard(self) -> dict[str, Any]:
        """Return header entries about the form of the data."""
        return {}

    def stands_on(self) -> dict[str, list[Path]]:
        """Return files of networks, in addition to those of options, that the weights depend on, by name."""
        return {}

    def origin(self) -> dict[str, Any]:
        """Return header entries about the origin of a network that is trained from fresh weights."""
        return {}

    def check_teacher(self, teacher: N) -> None:
        """Refuse distillation that the teacher does not support."""

    def check_layers(self, last: int) -> None:
        """Refuse to distil from layers that a teacher with ``last`` layers does not have.

        Raises:
            UserError: a layer does not exist; the message suggests layers that do.
        """
        for layer in self.config.distillation.layers:
            if not 0 <= layer <= last:
                there = ",".join(str(number) for number in sorted({round(last * third / 3) for third in range(4)}))
                raise UserError(f"distillation.layers has {layer}; the teacher has layers 0 (input) to {last}",
                                f"choose among these, such as distillation.layers=[{there}]")  # fmt: skip

    def load(self, source: PathLike) -> tuple[N, checkpoint.Header]:
        """Load a network of this kind with the output table of the run, dense or extracted.

        Raises:
            UserError: see `load_network`.
        """
        return self.load_network(source, self.output_table)

    def teacher(self, source: Optional[PathLike]) -> Optional[N]:
        """Load the teacher if the configuration asks for distillation.

        Raises:
            UserError: distillation is configured but no teacher is given, or the teacher does not support it.
        """
        if not self.wants_teacher():
            return None
        if source is None:
            raise UserError("the configuration asks for distillation, but no teacher is given",
                            "give --teacher, or set the weights of distillation to 0")  # fmt: skip
        network, _ = self.load(source)
        self.check_teacher(network)
        return self.own(plain(network))


def find(name: object, source: str = "the checkpoint") -> type[Kind[Any]]:
    """Return a kind by its name.

    Raises:
        UserError: there is no such kind.
        TypeError: the class that is registered under this name is not a `Kind`.
    """
    kind = registry.find(name, source)
    if not issubclass(kind, Kind):
        raise TypeError(f"KIND in the module of {name!r} is {kind.__name__}, which is not a Kind")
    return kind


def of(network: nn.Module) -> type[Kind[Any]]:
    """Return the kind of a network."""
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
    """Load a network of any kind, dense or extracted; return its kind, the network and its checkpoint's header.

    Raises:
        UserError: the checkpoint does not exist, or is of a pruning run.
    """
    header = checkpoint.read_header(checkpoint.file_of(source))
    kind = find(header["model"].get("type"), str(source))
    network, header = kind.load_network(source)
    return kind, network, header
