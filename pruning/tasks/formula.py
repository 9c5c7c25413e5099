"""What the loss of a task is the sum of, for captions: the terms of the log with their weights, and their unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pruning.core.distillation import DistillationConfig


@dataclass(frozen=True)
class LossFormula:
    """The loss on dev of a run, by the names of the log. In training, a pruning method may add its ``penalty``.

    Attributes:
        unit: unit of the terms of the task.
        task: terms whose sum is ``task``, with their weights; empty: it has only one.
        added: further terms of ``loss``, with their weights.
    """

    unit: str
    task: Mapping[str, float] = field(default_factory=dict)
    added: Mapping[str, float] = field(default_factory=dict)

    @property
    def of_task(self) -> str:
        """The formula of ``task``: ``task = transducer + 0.5 simple + 0.5 ctc``; empty if it has only one term."""
        return f"task = {_sum(self.task)}" if self.task else ""

    @property
    def of_loss(self) -> str:
        """The formula of ``loss``: ``loss = task + 0.1 distil_output``."""
        return f"loss = {_sum({'task': 1.0, **self.added})}"


def distilled(config: DistillationConfig) -> dict[str, float]:
    """Return the weights of the terms of distillation, those that are not used left out; of layers before they fade."""
    layers = config.layer_weight if config.layers or config.spread else 0.0
    weights = {"distil_layers": layers, "distil_output": config.output_weight, "distil_ctc": config.ctc_weight}
    return {name: weight for name, weight in weights.items() if weight}


def _sum(terms: Mapping[str, float]) -> str:
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in terms.items() if weight)
