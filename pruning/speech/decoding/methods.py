"""Decoding methods: turn encoder outputs into token ids."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.speech.decoding.beam import Hypothesis, n_best
from pruning.speech.decoding.config import GRAPHS, N_BEST, WITH_LM, DecodingConfig
from pruning.speech.decoding.ctc import ctc_decoding, ctc_greedy_search
from pruning.speech.decoding.fast_beam import fast_beam_lattice, fast_beam_search, lattice_n_best
from pruning.speech.decoding.fusion import Fusion
from pruning.speech.decoding.graphs import DecodingGraph
from pruning.speech.decoding.greedy import greedy_search
from pruning.speech.decoding.rescoring import Rescoring
from pruning.speech.interfaces import LanguageModelNetwork, TransducerNetwork


class LanguageModel(NamedTuple):
    """A language model over the tokens of a transducer, and its boundary token, which begins and ends sentences."""

    network: LanguageModelNetwork
    boundary: int


def _with_lm(
    model: TransducerNetwork, encoder_out: Tensor, lengths: Tensor, config: DecodingConfig, lm: LanguageModel
) -> list[list[int]]:
    scales = (*lm, config.lm_scale, config.ilm_scale)
    if config.method == "modified_beam_search_lm_rescore":
        found = n_best(model, encoder_out, lengths, config.beam_size)
        return Rescoring(*scales, config.length_norm).best(model, found, encoder_out)
    lattice = fast_beam_lattice(model, encoder_out, lengths, config.beam, config.max_contexts, config.max_states)
    found = lattice_n_best(lattice, config.num_paths, config.nbest_scale, model.decoder.blank_id)
    return Rescoring(*scales).best(model, found, encoder_out)


@torch.no_grad()
def decode_n_best(
    model: TransducerNetwork,
    encoder_out: Tensor,
    lengths: Tensor,
    config: DecodingConfig,
    lm: Optional[LanguageModel] = None,
) -> list[list[Hypothesis]]:
    """Decode a batch with one of the methods in `N_BEST`.

    Args:
        model, encoder_out, lengths, config, lm: see `decode`.

    Returns:
        The hypotheses of each utterance, best first, at most ``beam_size``.

    Raises:
        UserError: the method needs a language model but none is given.
    """
    fusion = None
    if config.method in WITH_LM:
        fusion = Fusion(*_needed(lm, config), config.lm_scale, config.ilm_scale)
    return n_best(model, encoder_out, lengths, config.beam_size, config.length_norm, fusion)


def _needed(lm: Optional[LanguageModel], config: DecodingConfig) -> LanguageModel:
    if lm is None:
        raise UserError(f"decoding method {config.method} needs a language model", "give --lm-exp-dir")
    return lm


@torch.no_grad()
def decode(
    model: TransducerNetwork,
    encoder_out: Tensor,
    lengths: Tensor,
    config: DecodingConfig,
    lm: Optional[LanguageModel] = None,
    graph: Optional[DecodingGraph] = None,
) -> list[list[int]]:
    """Decode a batch.

    Args:
        model: network with decoder, joiner and CTC head.
        encoder_out: (N, T, D).
        lengths: number of frames of each utterance, (N,).
        config: method and settings.
        lm: language model for the methods in `WITH_LM`.
        graph: decoding graph for the methods in :data:`GRAPHS`, of the matching type.

    Returns:
        Token ids of each utterance, without blank; empty for an utterance without frames.

    Raises:
        UserError: the method needs a language model but none is given.
        ValueError: the method is one of :data:`GRAPHS` and its graph is missing or of another type.
    """
    heard = lengths > 0
    if not bool(heard.all()):
        some = decode(model, encoder_out[heard], lengths[heard], config, lm, graph) if bool(heard.any()) else []
        found = iter(some)
        return [next(found) if one else [] for one in heard.tolist()]
    if config.method in GRAPHS:
        return _decode_with_graph(model, encoder_out, lengths, config, graph)
    settings = config.settings()
    if config.method in N_BEST:
        ranked = decode_n_best(model, encoder_out, lengths, config, lm)
        return [hypotheses[0].tokens if hypotheses else [] for hypotheses in ranked]
    if config.method in WITH_LM:
        return _with_lm(model, encoder_out, lengths, config, _needed(lm, config))
    if config.method == "ctc_greedy_search":
        return ctc_greedy_search(model.ctc(encoder_out), lengths)
    if config.method == "ctc_decoding":
        return ctc_decoding(model.ctc(encoder_out), lengths, **settings)  # type: ignore[arg-type]
    search = {"greedy_search": greedy_search, "fast_beam_search": fast_beam_search}[config.method]
    return search(model, encoder_out, lengths, **settings)  # type: ignore[operator]


def _decode_with_graph(
    model: TransducerNetwork,
    encoder_out: Tensor,
    lengths: Tensor,
    config: DecodingConfig,
    graph: Optional[DecodingGraph],
) -> list[list[int]]:
    kind, scale = GRAPHS[config.method]
    if graph is None or graph.kind != kind:
        raise ValueError(f"{config.method} needs a graph of type {kind}")
    settings: Any = config.settings()
    fsa = _scaled(graph, settings.pop(scale), str(encoder_out.device))
    if kind == "HLG":
        found = ctc_decoding(model.ctc(encoder_out), lengths, **settings, graph=fsa)
    else:
        found = fast_beam_search(model, encoder_out, lengths, **settings, graph=fsa)
    return [graph.tokens(words) for words in found]


@lru_cache(maxsize=1)
def _scaled(graph: DecodingGraph, scale: float, device: str) -> Any:
    return graph.fsa(scale, device)
