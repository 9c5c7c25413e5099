"""Modules and functions shared by the layers of several networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from pruning.core.precision import at_least_float32

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
    "swish": nn.functional.silu,
}
"""Activations by the names that Hugging Face gives them."""
_LEAST_WEIGHT = 1e-6  # lower bound of the divisor in a weighted norm


def per_layer(values: Sequence[int], num_layers: int, name: str) -> tuple[int, ...]:
    """Return one value per layer, given one value for all layers or one per layer.

    Raises:
        ValueError: the number of values is wrong; the message contains ``name``.
    """
    values = tuple(values)
    if len(values) not in (1, num_layers):
        raise ValueError(f"{name} has {len(values)} entries for {num_layers} layers; give one, or one per layer")
    return values if len(values) == num_layers else values * num_layers


def double_swish(x: Tensor) -> Tensor:
    """Return ``x sigmoid(x - 1)``, the activation of icefall's reworked Conformers."""
    return x * torch.sigmoid(x - 1.0)


class BasicNorm(nn.Module):
    """``x / sqrt(mean(x^2) + e)`` over the last axis, where the scalar ``e`` is the only weight.

    icefall's reworked Conformers use it instead of layer norms.

    Args:
        learned: whether ``e`` is a parameter; if not, it is a constant buffer.
        initial: initial value of ``e``.
    """

    log_eps: Tensor

    def __init__(self, learned: bool = True, initial: float = 0.25) -> None:
        super().__init__()
        log_eps = torch.tensor(math.log(initial))
        if learned:
            self.log_eps = nn.Parameter(log_eps)
        else:
            self.register_buffer("log_eps", log_eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        with torch.autocast(x.device.type, enabled=False):
            wide = at_least_float32(x)
            return (wide * (wide.square().mean(dim=-1, keepdim=True) + self.log_eps.exp()).rsqrt()).to(x.dtype)


def layer_norm(size: int, bias: bool = True) -> nn.LayerNorm:
    """Return a layer norm over ``size`` entries; torch 1.13 cannot make one without bias."""
    norm = nn.LayerNorm(size)
    if not bias:
        norm.register_parameter("bias", None)
    return norm


class RMSNorm(nn.Module):
    """``w x / sqrt(mean(x^2) + eps)`` over channels (arXiv 1910.07467, equation 4).

    Args:
        units: number of channels.
        eps: what is added to the mean square.
    """

    def __init__(self, units: int, eps: float) -> None:
        super().__init__()
        self.units, self.eps = units, eps
        self.weight = nn.Parameter(torch.ones(units))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., units) -> (..., units)``."""
        with torch.autocast(x.device.type, enabled=False):
            wide = at_least_float32(x)
            return self._scaled(wide, wide.square().mean(dim=-1, keepdim=True)).to(x.dtype)

    def normalised_over(self, weights: Tensor, x: Tensor) -> Tensor:
        """See `pruning.core.units.NormOverUnits`: the mean counts each channel by ``weights (units,)``."""
        with torch.autocast(x.device.type, enabled=False):
            wide = at_least_float32(x)
            weights = weights.to(wide)
            total = weights.sum().clamp(min=_LEAST_WEIGHT)  # all gates of a group may be sampled closed
            return self._scaled(wide, (wide.square() * weights).sum(dim=-1, keepdim=True) / total).to(x.dtype)

    def _scaled(self, x: Tensor, square: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(square + self.eps))


class FeedForward(nn.Module):
    """Two linear layers with an activation in between, ``(N, T, d_model) -> (N, T, d_model)``.

    Args:
        d_model: input and output dimension.
        hidden: number of hidden units.
        dropout: dropout of hidden units.
        activation: by default Swish.
        biased: which of ``linear1`` and ``linear2`` have a bias.
    """

    parts = 1
    """Number of outputs of ``linear1`` for each hidden unit."""

    def __init__(
        self,
        d_model: int,
        hidden: int,
        dropout: float,
        activation: Activation = nn.functional.silu,
        biased: Collection[str] = ("linear1", "linear2"),
    ) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, self.parts * hidden, bias="linear1" in biased)
        self.linear2 = nn.Linear(hidden, d_model, bias="linear2" in biased)
        self.dropout = nn.Dropout(dropout)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, d_model) -> (N, T, d_model)``."""
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class GatedFeedForward(FeedForward):
    """A feed-forward module whose hidden units are multiplied by gates (arXiv 2002.05202, equation 6).

    ``linear1`` computes the units, then their gates, to which the activation applies.
    """

    parts = 2

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, d_model) -> (N, T, d_model)``."""
        units, gates = self.linear1(x).chunk(2, dim=-1)
        return self.linear2(self.dropout(self.activation(gates) * units))


def scaled_linear(inputs: int, outputs: int, scale: float, bias: bool = True) -> nn.Linear:
    """Return a linear layer whose initial weights are ``scale`` times torch's, with biases up to ``0.1 scale``."""
    linear = nn.Linear(inputs, outputs, bias)
    with torch.no_grad():
        linear.weight.mul_(scale)
    if bias:
        nn.init.uniform_(linear.bias, -0.1 * scale, 0.1 * scale)
    return linear
