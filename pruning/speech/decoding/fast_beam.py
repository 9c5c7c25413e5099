"""Fast beam search: k2's batched transducer search over a decoding graph, by default that of all token sequences."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pruning.speech.decoding.beam import Hypothesis
from pruning.speech.decoding.ctc import best_path_tokens
from pruning.speech.interfaces import TransducerNetwork

_LOG_ZERO = -1.0e4


@lru_cache(maxsize=2)
def _trivial_graph(vocab_size: int, device: str) -> Any:
    import k2

    return k2.trivial_graph(vocab_size - 1, device=device)


@torch.no_grad()
def fast_beam_lattice(
    model: TransducerNetwork,
    encoder_out: Tensor,
    lengths: Tensor,
    beam: float = 20.0,
    max_contexts: int = 8,
    max_states: int = 64,
    graph: Any = None,
) -> Any:
    """Return the lattice that k2's decoding streams create over the trivial graph or a given one.

    k2 lets a path end only after a blank, so it would lose a token on the last frame. Therefore each utterance is
    followed by one extra frame that is blank with probability 1.

    Args:
        model: network with decoder and joiner.
        encoder_out: (N, T, D).
        lengths: number of frames of each utterance, (N,).
        beam: states whose score is worse than the frame's best by more than this are dropped.
        max_contexts: number of decoder contexts kept per utterance and frame.
        max_states: number of graph states kept per context.
        graph: k2 FSA of tokens without blank, used instead of the trivial graph.

    Returns:
        A k2.Fsa with one lattice per utterance; its labels are token ids, its output labels those of the graph.
    """
    import k2

    decoder, joiner = model.decoder, model.joiner
    utterances, frames, _ = encoder_out.shape
    config = k2.RnntDecodingConfig(
        vocab_size=decoder.vocab_size,
        decoder_history_len=decoder.context_size,
        beam=beam,
        max_contexts=max_contexts,
        max_states=max_states,
    )
    graph = _trivial_graph(decoder.vocab_size, str(encoder_out.device)) if graph is None else graph
    streams = k2.RnntDecodingStreams([k2.RnntDecodingStream(graph) for _ in range(utterances)], config)
    am = torch.nn.functional.pad(
        joiner.encoder_proj(encoder_out), (0, 0, 0, 1)
    )  # one frame after the longest utterance
    only_blank = torch.full((decoder.vocab_size,), _LOG_ZERO, device=am.device)
    only_blank[decoder.blank_id] = 0.0
    for t in range(am.size(1)):
        shape, contexts = streams.get_contexts()  # contexts: (contexts of all utterances, C)
        utterance = shape.row_ids(1).to(torch.int64)
        lm = joiner.decoder_proj(decoder(contexts.to(torch.int64), pad=False)).squeeze(1)
        log_probs = joiner(am[utterance, t], lm, project=False).float().log_softmax(dim=1)
        ended = (t >= lengths)[utterance].unsqueeze(1)
        streams.advance(torch.where(ended, only_blank, log_probs))
    streams.terminate_and_flush_to_streams()
    return streams.format_output((lengths + 1).tolist(), allow_partial=True)


def fast_beam_search(
    model: TransducerNetwork, encoder_out: Tensor, lengths: Tensor, **settings: Any
) -> list[list[int]]:
    """Return the best path through the lattice of `fast_beam_lattice`, which takes the same arguments.

    Returns:
        Token ids of each utterance, without blank; with a graph, its output labels.
    """
    return best_path_tokens(fast_beam_lattice(model, encoder_out, lengths, **settings))


def lattice_n_best(lattice: Any, num_paths: int, nbest_scale: float, blank: int = 0) -> list[list[Hypothesis]]:
    """Sample distinct token sequences from a lattice according to their probability.

    Args:
        lattice: k2.Fsa, see `fast_beam_lattice`.
        num_paths: number of paths sampled per utterance; equal token sequences count once.
        nbest_scale: scale of the scores while paths are sampled; below 1 the paths differ more.
        blank: id of blank.

    Returns:
        The hypotheses of each utterance, best first; a score is that of the best path with these tokens.
    """
    import k2

    scores = lattice.scores
    lattice.scores = scores * nbest_scale
    paths = k2.random_paths(lattice, use_double_scores=True, num_paths=num_paths)  # [utterance][path][arc]
    lattice.scores = scores
    found = []
    for of_utterance in paths.tolist():
        best: dict[tuple[int, ...], float] = {}
        for arcs in of_utterance:
            index = torch.tensor(arcs, dtype=torch.long, device=scores.device)
            labels = lattice.labels[index]
            tokens = tuple(int(label) for label in labels if label > blank)
            best[tokens] = max(best.get(tokens, float("-inf")), float(scores[index].sum()))
        ordered = sorted(best.items(), key=lambda item: -item[1])
        found.append([Hypothesis(list(tokens), score) for tokens, score in ordered])
    return found
