#!/usr/bin/env python3
"""Check that an environment works: import what the recipes need and compute a loss and its gradient with k2."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import math
import platform

import lhotse
import torch


def k2_loss() -> str:
    """Compute the pruned-range transducer loss of two random utterances and its gradient; return a summary.

    Raises:
        RuntimeError: the loss or its gradient is not finite.
    """
    import k2

    torch.manual_seed(0)
    batch, frames, symbols, vocabulary = 2, 6, 3, 5
    am = torch.randn(batch, frames, vocabulary, requires_grad=True)
    lm = torch.randn(batch, symbols + 1, vocabulary, requires_grad=True)
    targets = torch.randint(1, vocabulary, (batch, symbols))
    boundary = torch.tensor([[0, 0, symbols, frames]] * batch)
    simple, (px_grad, py_grad) = k2.rnnt_loss_smoothed(
        lm=lm, am=am, symbols=targets, termination_symbol=0, boundary=boundary, reduction="sum", return_grad=True
    )
    ranges = k2.get_rnnt_prune_ranges(px_grad=px_grad, py_grad=py_grad, boundary=boundary, s_range=2)
    am_pruned, lm_pruned = k2.do_rnnt_pruning(am=am, lm=lm, ranges=ranges)
    pruned = k2.rnnt_loss_pruned(
        logits=torch.tanh(am_pruned + lm_pruned),
        symbols=targets,
        ranges=ranges,
        termination_symbol=0,
        boundary=boundary,
        reduction="sum",
    )
    (simple + pruned).backward()
    if not math.isfinite(pruned.item()) or am.grad is None or not torch.isfinite(am.grad).all():
        raise RuntimeError(f"k2's pruned-range loss is {pruned.item()}, its gradient is not finite")
    return f"k2 {importlib.metadata.version('k2')} (pruned-range loss {pruned.item():.3f}, gradient finite)"


def main() -> None:
    """Print one line that says what works; fail with the cause otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--k2", action="store_true", help="fail if k2 is not installed")
    args = parser.parse_args()
    if args.k2 or importlib.util.find_spec("k2") is not None:
        k2 = k2_loss()
    else:
        k2 = "no k2 (training uses the loss in torch; decoding methods that need a lattice are not available)"
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "processor only"
    versions = f"Python {platform.python_version()}, torch {torch.__version__} ({device}), lhotse {lhotse.__version__}"
    print(f"ready: {versions}, {k2}")


if __name__ == "__main__":
    main()
