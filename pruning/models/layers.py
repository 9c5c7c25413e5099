"""What the layers of several networks are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


def per_layer(values: Sequence[int], num_layers: int, name: str) -> tuple[int, ...]:
    """One value for each layer, from one for all or one for each.

    Raises:
        ValueError: another number of them; ``name`` says of what.
    """
    values = tuple(values)
    if len(values) not in (1, num_layers):
        raise ValueError(f"{name} has {len(values)} entries for {num_layers} layers; give one, or one per layer")
    return values if len(values) == num_layers else values * num_layers


class FeedForward(nn.Module):
    """Two linear layers with an activation (Swish, by default) between, ``(N, T, d_model) -> (N, T, d_model)``."""

    def __init__(
        self, d_model: int, hidden: int, dropout: float, activation: Activation = nn.functional.silu
    ) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, hidden)
        self.linear2 = nn.Linear(hidden, d_model)
        self.dropout = nn.Dropout(dropout)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, d_model) -> (N, T, d_model)``."""
        return self.linear2(self.dropout(self.activation(self.linear1(x))))
