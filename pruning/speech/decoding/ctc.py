"""CTC decoding: greedy search, and the best path through a k2 lattice."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pruning.errors import UserError

MAX_VOCAB_SIZE = 2000
"""Largest vocabulary of a CTC lattice, whose topology has ``vocab_size ** 2`` arcs."""


def ctc_greedy_search(log_probs: Tensor, lengths: Tensor) -> list[list[int]]:
    """Take the best symbol of each frame, merge repetitions, drop blanks.

    Args:
        log_probs: (N, T, V), blank 0.
        lengths: number of frames of each utterance, (N,).

    Returns:
        Token ids of each utterance.
    """
    best = log_probs.argmax(dim=2)  # (N, T)
    before = torch.nn.functional.pad(best[:, :-1], (1, 0), value=0)
    inside = torch.arange(best.size(1), device=best.device) < lengths.unsqueeze(1)
    kept = (best != before) & (best != 0) & inside
    return [row[mask].tolist() for row, mask in zip(best.cpu(), kept.cpu())]


@lru_cache(maxsize=2)
def _topology(vocab_size: int, device: str) -> Any:
    """Return the CTC topology as a k2 FSA in which every token can follow every other.

    k2's smaller "modified" topology does not avoid the ``vocab_size ** 2`` arcs: it scores a token held for two frames
    and the same token emitted twice alike, so its best path is ambiguous.
    """
    import k2

    check_vocabulary(vocab_size, "choose ctc_greedy_search, which finds the same path")
    return k2.ctc_topo(vocab_size - 1, modified=False, device=device)


def check_vocabulary(vocab_size: int, remedy: str) -> None:
    """Refuse vocabularies whose CTC topology would be too large, with ``remedy`` in the error message."""
    if vocab_size > MAX_VOCAB_SIZE:
        what = f"the CTC lattice of a vocabulary of {vocab_size} tokens would need {vocab_size**2} arcs"
        raise UserError(what, remedy)


def ctc_decoding(
    log_probs: Tensor,
    lengths: Tensor,
    search_beam: float = 10.0,
    output_beam: float = 8.0,
    min_active_states: int = 30,
    max_active_states: int = 1000,
    graph: Any = None,
) -> list[list[int]]:
    """Return the best path through the k2 lattice of the CTC topology, or of a graph that contains it.

    Args:
        log_probs: (N, T, V), blank 0.
        lengths: number of frames of each utterance, (N,).
        search_beam: states whose score is worse than the frame's best by more than this are dropped.
        output_beam: arcs on paths worse than the best path by more than this are dropped from the lattice.
        min_active_states: minimum number of states kept per frame, whatever the beam.
        max_active_states: maximum number of states kept per frame.
        graph: k2 FSA of tokens, blank and repetitions included, used instead of the topology.

    Returns:
        Output labels of each utterance: token ids, or the output labels of the graph; empty if the search ends in no
        final state of the graph.

    Raises:
        UserError: the vocabulary has more than :data:`MAX_VOCAB_SIZE` tokens.
    """
    import k2

    order = lengths.argsort(descending=True, stable=True).cpu()  # k2 expects the longest first
    frames = lengths.cpu()[order]
    segments = torch.stack((order, torch.zeros_like(order), frames), dim=1).to(torch.int32)
    lattice = k2.intersect_dense_pruned(
        _topology(log_probs.size(2), str(log_probs.device)) if graph is None else graph,
        k2.DenseFsaVec(log_probs.float().contiguous(), segments),
        search_beam=search_beam,
        output_beam=output_beam,
        min_active_states=min_active_states,
        max_active_states=max_active_states,
    )
    found = best_path_tokens(lattice)
    answer: list[list[int]] = [[] for _ in found]
    for index, tokens in zip(order.tolist(), found):
        answer[index] = tokens
    return answer


def best_path_tokens(lattice: Any) -> list[list[int]]:
    """Return the output labels of each FSA's best path in a k2 lattice, without blanks; arcs may have several."""
    import k2

    path = k2.shortest_path(lattice, use_double_scores=True)
    if isinstance(path.aux_labels, k2.RaggedTensor):
        labels = path.aux_labels.remove_values_leq(0)
        shape = path.arcs.shape().compose(labels.shape).remove_axis(1).remove_axis(1)
        return k2.RaggedTensor(shape, labels.values).tolist()
    labels = k2.RaggedTensor(path.arcs.shape().remove_axis(1), path.aux_labels.to(torch.int32))
    return labels.remove_values_leq(0).tolist()
