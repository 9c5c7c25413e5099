"""The networks of a recipe before its first stage: some exist, others are still to be trained or imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from torch import nn

from pruning import registry
from pruning.experiments import checkpoint
from pruning.files import PathLike
from pruning.kinds.kind import Kind
from pruning.kinds.train_and_prune import with_dimensions
from pruning.registry import CUTS

_VOCABULARY = 500
"""Number of tokens of a network whose lang dir is not made yet; its encoder does not depend on it."""


class Networks:
    """Networks by experiment directory, in their dimensions and with any weights, for checks of what comes later."""

    def __init__(self) -> None:
        self._planned: dict[str, tuple[type[Kind[Any]], Any, Optional[PathLike]]] = {}

    def plan(self, exp_dir: PathLike, kind: type[Kind[Any]], config: Any, init: Optional[PathLike]) -> None:
        """Note a training that will write ``exp_dir``.

        Args:
            exp_dir: experiment directory.
            kind: kind of network.
            config: configuration of the training.
            init: experiment or checkpoint that it starts from; None: fresh weights.
        """
        self._planned[str(Path(exp_dir))] = kind, config, init

    def find(self, source: PathLike) -> Optional[nn.Module]:
        """Return the network that ``source`` contains or will contain; None: its dimensions are not known yet.

        Raises:
            UserError: no network can be made with the dimensions.
        """
        planned = self._planned.get(str(Path(source)))
        if planned is not None:
            kind, config, init = planned
            return self._fresh(kind, config) if init is None else self.find(init)
        path = checkpoint.file_of(source)
        return registry.build(checkpoint.read_header(path)["model"], str(path)) if path.is_file() else None

    def _fresh(self, kind: type[Kind[Any]], config: Any) -> Optional[nn.Module]:
        source: Optional[str] = getattr(config, "pretrained", None)  # only encoders with a head have it
        if source is not None and (str(Path(source)) in self._planned or checkpoint.file_of(source).is_file()):
            return self.find(source)  # with another head, whose units are not pruned
        if source is not None and not Path(source).is_dir():
            return None  # a name on the hub, where nothing is looked up for a check
        if config.model is None or kind.data_form != CUTS:
            return None  # of language models, the shares of units depend on the number of tokens
        return with_dimensions(kind, config, config.model.vocab_size or _VOCABULARY)
