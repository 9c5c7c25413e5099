"""Kinds of network by name, each imported on first use.

The header of a checkpoint, a configuration and a network each name their kind. The kind implements everything that
differs between networks. Another package registers a kind by an entry point ``NAME = MODULE`` in the group
``pruning.kinds``; ``KIND`` in that module is the class.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Optional, TypeVar

from pruning.errors import UserError

if TYPE_CHECKING:
    from torch import nn

N = TypeVar("N", bound="nn.Module")
GROUP = "pruning.kinds"
CUTS, TEXT = "cuts", "text"
"""Forms of data, which commands take as ``--train-cuts`` or ``--train-text``."""

_MODULES = {
    "encoder_decoder": "pruning.kinds.encoder_decoder",
    "speech_model": "pruning.kinds.encoder_head",
    "transducer": "pruning.kinds.transducer",
    "transformer_lm": "pruning.kinds.language_model",
}
_OF_DATA = {CUTS: "transducer", TEXT: "transformer_lm"}
_OF_KEY = {"task": "speech_model"}


class NetworkKind(ABC, Generic[N]):
    """The part of a kind that checkpoints and tables need; see `pruning.kinds.kind.Kind` for the full interface.

    Attributes:
        name: name in checkpoint headers, in configurations and on the network itself (``kind``).
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def build(cls, config: Mapping[str, Any]) -> N:
        """Build a network with initial weights from plain values.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: the values do not describe a network of this kind.
        """

    @classmethod
    @abstractmethod
    def described(cls, network: N) -> dict[str, Any]:
        """Return the plain values from which `build` builds this network."""

    @classmethod
    @abstractmethod
    def input_length(cls, network: N, seconds: float) -> int:
        """Return the input length at which costs are counted: frames or samples of ``seconds`` of audio, or tokens."""

    @classmethod
    @abstractmethod
    def reference(cls, network: N) -> tuple[int, str]:
        """Return the input length at which MACs are reported, and the same length in words."""

    @classmethod
    @abstractmethod
    def facts(cls, network: N) -> dict[str, Any]:
        """Return parameters and MACs of the prunable part; see `pruning.models.facts`."""


@functools.cache
def _modules() -> dict[str, str]:
    """Return the modules by kind name: the kinds of this package, then registered ones."""
    found = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=GROUP)}
    return {**found, **_MODULES}


def find(name: object, source: str = "the checkpoint") -> type[NetworkKind[Any]]:
    """Return a kind by its name.

    Args:
        name: name of the kind.
        source: where the name was found, for the error message.

    Raises:
        UserError: there is no such kind.
    """
    module = _MODULES.get(str(name)) or _modules().get(str(name))
    if module is None:
        known = ", ".join(sorted(_modules()))
        raise UserError(f"{source} names an unknown kind of network {name!r}", f"this version supports {known}")
    kind: type[NetworkKind[Any]] = importlib.import_module(module).KIND
    return kind


def of(network: nn.Module) -> type[NetworkKind[Any]]:
    """Return the kind of a network.

    Raises:
        TypeError: the network does not name its kind.
    """
    name: Optional[str] = getattr(network, "kind", None)
    if name is None:
        raise TypeError(f"a {type(network).__name__} has no attribute 'kind', the name of its kind")
    return find(name, f"a {type(network).__name__}")


def name_for(configuration: Mapping[str, Any], data: str) -> str:
    """Return the kind name for a configuration: its key ``kind``, or otherwise what its keys and the data imply.

    Args:
        configuration: plain values.
        data: `CUTS` or `TEXT`.
    """
    implied = next((kind for key, kind in _OF_KEY.items() if configuration.get(key)), _OF_DATA[data])
    return str(configuration.get("kind") or implied)


def build(description: Mapping[str, Any], source: str = "the checkpoint") -> nn.Module:
    """Build the network described by ``{"type": ..., "config": {...}}``, with initial weights.

    Raises:
        UserError: the kind is unknown, or the configuration does not fit the kind.
    """
    if not isinstance(description, Mapping):
        raise UserError(f"{source} does not describe a network", "use the version that wrote it")
    kind = find(description.get("type"), source)
    try:
        network: nn.Module = kind.build(description["config"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"{source} has a {kind.name} configuration that does not build ({error})"
        raise UserError(what, "use the version that wrote it") from None
    return network


def describe(network: nn.Module) -> dict[str, Any]:
    """Return the kind and configuration of a network as plain values, the inverse of `build`."""
    kind = of(network)
    return {"type": kind.name, "config": kind.described(network)}
