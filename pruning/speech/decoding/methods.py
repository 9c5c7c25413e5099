"""Decoding methods by name: their settings, and the call that turns encoder outputs into token ids."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.speech.decoding.beam import Hypothesis, n_best
from pruning.speech.decoding.ctc import ctc_decoding, ctc_greedy_search
from pruning.speech.decoding.fast_beam import fast_beam_lattice, fast_beam_search, lattice_n_best
from pruning.speech.decoding.fusion import Fusion
from pruning.speech.decoding.graphs import DecodingGraph
from pruning.speech.decoding.greedy import greedy_search
from pruning.speech.decoding.rescoring import Rescoring
from pruning.speech.losses.pruned_range import k2_is_installed
from pruning.speech.network import LanguageModelNetwork, TransducerNetwork

SETTINGS: dict[str, tuple[str, ...]] = {
    "greedy_search": (),
    "modified_beam_search": ("beam_size", "length_norm"),
    "modified_beam_search_lm_shallow_fusion": ("beam_size", "length_norm", "lm_scale", "ilm_scale"),
    "modified_beam_search_lm_rescore": ("beam_size", "length_norm", "lm_scale", "ilm_scale"),
    "fast_beam_search": ("beam", "max_contexts", "max_states"),
    "fast_beam_search_nbest_lm_rescore": (
        "beam",
        "max_contexts",
        "max_states",
        "num_paths",
        "nbest_scale",
        "lm_scale",
        "ilm_scale",
    ),
    "ctc_greedy_search": (),
    "ctc_decoding": ("search_beam", "output_beam", "min_active_states", "max_active_states"),
    "hlg_decoding": ("search_beam", "output_beam", "min_active_states", "max_active_states", "hlg_scale"),
    "fast_beam_search_LG": ("beam", "max_contexts", "max_states", "ngram_lm_scale"),
}
"""The settings that change the answer of each method."""

N_BEST = ("modified_beam_search", "modified_beam_search_lm_shallow_fusion")
"""The methods that rank several hypotheses of an utterance."""
WITH_LM = tuple(name for name, settings in SETTINGS.items() if "lm_scale" in settings)
"""The methods that need a language model."""
GRAPHS = {"hlg_decoding": ("HLG", "hlg_scale"), "fast_beam_search_LG": ("LG", "ngram_lm_scale")}
"""The methods that decode with a graph: its kind, and the setting that its scores are multiplied by."""

_NEEDS_K2 = ("fast_beam_search", "fast_beam_search_nbest_lm_rescore", "ctc_decoding", *GRAPHS)
WEIGHT_OF = {**dict.fromkeys(WITH_LM, "lm_scale"), **{method: scale for method, (_, scale) in GRAPHS.items()}}
"""The methods with a language model of any kind, and the setting that is its weight."""
_MAY_BE_ZERO = ("lm_scale", "ilm_scale", "hlg_scale", "ngram_lm_scale")


@dataclass(frozen=True)
class DecodingConfig:
    """A decoding method and its settings; those of other methods have no effect."""

    method: str = "modified_beam_search"
    beam_size: int = 4
    """modified_beam_search: hypotheses kept for each utterance."""
    length_norm: bool = True
    """modified_beam_search: choose by log-probability per token."""
    beam: float = 20.0
    """fast_beam_search: how much worse than the best a state may score."""
    max_contexts: int = 8
    """fast_beam_search: decoder contexts kept for each utterance and frame."""
    max_states: int = 64
    """fast_beam_search: graph states kept for each context."""
    search_beam: float = 10.0
    """ctc_decoding, hlg_decoding: how much worse than the best a state may score."""
    output_beam: float = 8.0
    """ctc_decoding, hlg_decoding: how much worse than the best path a path in the lattice may score."""
    min_active_states: int = 30
    """ctc_decoding, hlg_decoding: states kept in each frame at least."""
    max_active_states: int = 1000
    """ctc_decoding, hlg_decoding: states kept in each frame at most."""
    lm_scale: float = 0.3
    """methods with a language model: its weight."""
    ilm_scale: float = 0.0
    """methods with a language model: the weight at which the transducer's internal one is taken off."""
    num_paths: int = 100
    """fast_beam_search_nbest_lm_rescore: paths drawn from the lattice."""
    nbest_scale: float = 0.5
    """fast_beam_search_nbest_lm_rescore: of the lattice's scores while paths are drawn."""
    hlg_scale: float = 1.0
    """hlg_decoding: factor of the scores of the graph."""
    ngram_lm_scale: float = 0.01
    """fast_beam_search_LG: factor of the scores of the graph."""

    def __post_init__(self) -> None:
        if self.method not in SETTINGS:
            raise UserError(f"decoding method {self.method!r} is not known", f"choose one of {', '.join(SETTINGS)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            may_be_zero = field.name in _MAY_BE_ZERO
            if value < 0 or (value == 0 and not may_be_zero):
                least = "at least 0" if may_be_zero else "above 0"
                raise UserError(f"decoding setting {field.name} is {value}", f"give a value {least}")
        if self.method in _NEEDS_K2 and not k2_is_installed():
            raise UserError(
                f"decoding method {self.method} needs k2, which is not installed",
                "install k2 for this torch, or choose greedy_search, modified_beam_search or ctc_greedy_search",
            )

    def settings(self) -> dict[str, int | float | bool]:
        """The settings that change the answer of this method."""
        return {name: getattr(self, name) for name in SETTINGS[self.method]}

    def suffix(self) -> str:
        """The method and its settings as part of a file name, e.g. ``modified_beam_search-beam-size-4``."""
        parts = [self.method]
        for name, value in self.settings().items():
            words = name.replace("_", "-")
            if isinstance(value, bool):
                parts.append(words if value else f"no-{words}")
            else:
                parts.append(f"{words}-{value:g}")
        return "-".join(parts)


class LanguageModel(NamedTuple):
    """A language model over the tokens of a transducer, and the token that begins and ends its sentences."""

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
    """Decode a batch by one of the methods `N_BEST`.

    Args:
        model, encoder_out, lengths, config, lm: see `decode`.

    Returns:
        The hypotheses of each utterance, the best first, at most ``beam_size``.

    Raises:
        UserError: the method needs a language model and none is given.
    """
    fusion = None
    if config.method in WITH_LM:
        fusion = Fusion(*_needed(lm, config), config.lm_scale, config.ilm_scale)
    return n_best(model, encoder_out, lengths, config.beam_size, config.length_norm, fusion)


def _needed(lm: Optional[LanguageModel], config: DecodingConfig) -> LanguageModel:
    if lm is None:
        raise UserError(f"{config.method} needs a language model", "give --lm-exp-dir")
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
        model: decoder, joiner and CTC head.
        encoder_out: (N, T, D).
        lengths: frames of each utterance, (N,).
        config: method and settings.
        lm: of the methods `WITH_LM`.
        graph: for the methods of :data:`GRAPHS`, of their kind.

    Returns:
        Token ids of each utterance, without blank; none for an utterance without frames.

    Raises:
        UserError: the method needs a language model and none is given.
        ValueError: a method of :data:`GRAPHS` without its graph.
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
        raise ValueError(f"{config.method} needs a graph of kind {kind}")
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
