"""Likelihood of transcripts under a transducer: a finer measure than word errors, without search."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from pruning.speech.data.batches import Batch
from pruning.speech.losses.pruned_range import pad_tokens, pruned_range_loss


class Likelihood(NamedTuple):
    """The likelihood of one utterance.

    Attributes:
        id: name of the cut.
        tokens: number of tokens in the transcript.
        nll: negative log-likelihood of the tokens, in nats; infinite if there are more tokens than frames.
    """

    id: str
    tokens: int
    nll: float


@torch.no_grad()
def likelihoods(model: Any, batches: Iterable[Batch], backend: str = "auto") -> list[Likelihood]:
    """Return the negative log-likelihood of each transcript over the whole lattice (arXiv 1211.3711, section 2.4).

    Args:
        model: transducer in evaluation mode.
        batches: batches with tokens, on the device of the model.
        backend: see `pruning.speech.losses.pruned_range.pruned_range_loss`.
    """
    found = []
    for batch in batches:
        encoded = model(batch.features, batch.lengths)
        for index, (name, tokens) in enumerate(zip(batch.ids, batch.tokens)):
            targets, target_lengths = pad_tokens([tokens], encoded.output.device)
            lengths = encoded.lengths[index : index + 1]
            if not lengths:  # fewer frames than the subsampling needs
                found.append(Likelihood(name, len(tokens), float("inf")))
                continue
            loss = pruned_range_loss(
                model,
                encoded.output[index : index + 1, : int(lengths)],
                lengths,
                targets,
                target_lengths,
                prune_range=targets.shape[1] + 1,  # every symbol position: nothing is pruned
                backend=backend,
            )
            found.append(Likelihood(name, len(tokens), float(loss.pruned) if bool(loss.counted) else float("inf")))
    return found
