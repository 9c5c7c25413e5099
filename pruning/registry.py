"""Kinds of network by name, each imported when it is first asked for.

A checkpoint's header, a configuration and a network name their kind; everything that differs between networks is asked
of it. A kind from another package is registered by an entry point of the group ``pruning.kinds``, ``NAME = MODULE``;
``KIND`` of that module is its class.
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
"""Forms of data, by which commands are given them: ``--train-cuts`` or ``--train-text``."""

_MODULES = {
    "speech_model": "pruning.kinds.encoder_head",
    "transducer": "pruning.kinds.transducer",
    "transformer_lm": "pruning.kinds.language_model",
}
_OF_DATA = {CUTS: "transducer", TEXT: "transformer_lm"}
_OF_KEY = {"task": "speech_model"}


class NetworkKind(ABC, Generic[N]):
    """What checkpoints and tables need to know of a kind of network; `pruning.kinds.kind.Kind` is all of it.

    Attributes:
        name: in headers of checkpoints, in configurations and on the network itself (``kind``).
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def build(cls, config: Mapping[str, Any]) -> N:
        """A network of plain values, with initial weights.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: they make no network of this kind.
        """

    @classmethod
    @abstractmethod
    def described(cls, network: N) -> dict[str, Any]:
        """The inverse of `build`: plain values."""

    @classmethod
    @abstractmethod
    def input_length(cls, network: N, seconds: float) -> int:
        """Length of the input that costs are counted for: frames or samples of ``seconds`` of audio, or tokens."""

    @classmethod
    @abstractmethod
    def reference(cls, network: N) -> tuple[int, str]:
        """The input at which MACs are told: its length, and that length in words."""

    @classmethod
    @abstractmethod
    def facts(cls, network: N) -> dict[str, Any]:
        """Parameters and MACs of what is pruned; see `pruning.models.facts`."""


@functools.cache
def _modules() -> dict[str, str]:
    """Module by name: the kinds of this package, then those that are registered."""
    found = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=GROUP)}
    return {**found, **_MODULES}


def find(name: object, source: str = "the checkpoint") -> type[NetworkKind[Any]]:
    """A kind by its name.

    Args:
        name: of the kind.
        source: what names it, for the message.

    Raises:
        UserError: there is no such kind.
    """
    module = _MODULES.get(str(name)) or _modules().get(str(name))
    if module is None:
        known = ", ".join(sorted(_modules()))
        raise UserError(f"{source} names a network of type {name!r}", f"this version knows {known}")
    kind: type[NetworkKind[Any]] = importlib.import_module(module).KIND
    return kind


def of(network: nn.Module) -> type[NetworkKind[Any]]:
    """The kind of a network.

    Raises:
        TypeError: it names none.
    """
    name: Optional[str] = getattr(network, "kind", None)
    if name is None:
        raise TypeError(f"a {type(network).__name__} has no attribute 'kind', the name of its kind")
    return find(name, f"a {type(network).__name__}")


def name_for(configuration: Mapping[str, Any], data: str) -> str:
    """The kind that a configuration is for: what it says under ``kind``, or else what its keys and its data imply.

    Args:
        configuration: plain values.
        data: `CUTS` or `TEXT`.
    """
    implied = next((kind for key, kind in _OF_KEY.items() if configuration.get(key)), _OF_DATA[data])
    return str(configuration.get("kind") or implied)


def build(description: Mapping[str, Any], source: str = "the checkpoint") -> nn.Module:
    """The network of ``{"type": ..., "config": {...}}``, with initial weights.

    Raises:
        UserError: an unknown kind, or a configuration that is not of that kind.
    """
    if not isinstance(description, Mapping):
        raise UserError(f"{source} describes no network", "use the version that wrote it")
    kind = find(description.get("type"), source)
    try:
        network: nn.Module = kind.build(description["config"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"{source} has a {kind.name} configuration that does not build ({error})"
        raise UserError(what, "use the version that wrote it") from None
    return network


def describe(network: nn.Module) -> dict[str, Any]:
    """The inverse of `build`: kind and configuration, plain values."""
    kind = of(network)
    return {"type": kind.name, "config": kind.described(network)}
