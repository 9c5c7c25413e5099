"""The activations SwooshL and SwooshR (Zipformer, arXiv 2310.11230, equations 3 and 4)."""

from __future__ import annotations

from torch import Tensor, nn

_LINEAR = 40.0  # beyond this, log(1 + e^x) is x in double precision


def swoosh_l(x: Tensor) -> Tensor:
    """Return ``log(1 + e^(x - 4)) - 0.08 x - 0.035``; at 0 it is -0.0168."""
    return _swoosh(x, 4.0, 0.035)


def swoosh_r(x: Tensor) -> Tensor:
    """Return ``log(1 + e^(x - 1)) - 0.08 x - 0.313261687``; at 0 it is 0."""
    return _swoosh(x, 1.0, 0.313261687)


def _swoosh(x: Tensor, shift: float, constant: float) -> Tensor:
    """Return the formula in terms of ``u = x - shift``, in a form that does not overflow."""
    u = x - shift
    y = nn.functional.softplus(u, threshold=_LINEAR)
    return y.sub_(u, alpha=0.08).sub_(0.08 * shift + constant)  # softplus keeps its input for the backward pass
