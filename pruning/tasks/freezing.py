"""Parameters that are not trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pruning.errors import UserError

FRONT_END = "front_end"
"""What ``loss.freeze`` calls the convolutions of any encoder that read its input."""


def freeze(model: nn.Module, prefixes: Sequence[str], convolutions: str) -> None:
    """Exclude the parameters whose names begin with one of ``prefixes`` from training.

    Args:
        model: network with an ``encoder``.
        prefixes: name prefixes, or `FRONT_END`.
        convolutions: name of the encoder's module of convolutions.

    Raises:
        UserError: no parameter has a name with one of them.
    """
    frozen = tuple(f"encoder.{convolutions}." if name == FRONT_END else name for name in prefixes)
    names = [name for name, _ in model.named_parameters()]
    for prefix in frozen:
        if not any(name.startswith(prefix) for name in names):
            tops = ", ".join(sorted({".".join(name.split(".")[:2]) for name in names}))
            raise UserError(
                f"loss.freeze has {prefix!r}, but no parameter name starts with it", f"choose from {FRONT_END}, {tops}"
            )
    for name, parameter in model.named_parameters():
        if name.startswith(frozen):
            parameter.requires_grad_(False)
