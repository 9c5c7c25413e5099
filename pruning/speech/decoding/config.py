"""Names and settings of the decoding methods. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pruning.errors import UserError
from pruning.limits import Count, NonNegative, OneOf, Positive, check_fields
from pruning.optional import k2_is_installed

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
    "decoder_greedy_search": ("tokens_per_second",),
    "decoder_beam_search": ("beam_size", "length_norm", "tokens_per_second"),
}
"""Settings of each decoding method that affect its result."""

OWN_DECODER = ("decoder_greedy_search", "decoder_beam_search")
"""Decoding methods of networks that have a decoder of their own, which writes text: encoder-decoders."""
N_BEST = ("modified_beam_search", "modified_beam_search_lm_shallow_fusion", "decoder_beam_search")
"""Decoding methods that rank several hypotheses per utterance."""
WITH_LM = tuple(name for name, settings in SETTINGS.items() if "lm_scale" in settings)
"""Decoding methods that need a neural language model."""
GRAPHS = {"hlg_decoding": ("HLG", "hlg_scale"), "fast_beam_search_LG": ("LG", "ngram_lm_scale")}
"""Decoding methods that use a graph: type of the graph, and name of the setting that scales its scores."""
GRAPH_KINDS = ("LG", "HLG")

_NEEDS_K2 = ("fast_beam_search", "fast_beam_search_nbest_lm_rescore", "ctc_decoding", *GRAPHS)
WEIGHT_OF = {**dict.fromkeys(WITH_LM, "lm_scale"), **{method: scale for method, (_, scale) in GRAPHS.items()}}
"""Decoding methods with a language model of any type, and the setting that is its weight."""


@dataclass(frozen=True)
class DecodingConfig:
    """A decoding method and its settings; settings of other methods have no effect."""

    method: Annotated[str, OneOf(tuple(SETTINGS))] = "modified_beam_search"
    beam_size: Count = 4
    """Beam searches: number of hypotheses kept per utterance."""
    length_norm: bool = True
    """Beam searches: rank by log-probability per token."""
    beam: Positive = 20.0
    """fast_beam_search: states that score worse than the best by more than this are dropped."""
    max_contexts: Count = 8
    """fast_beam_search: number of decoder contexts kept per utterance and frame."""
    max_states: Count = 64
    """fast_beam_search: number of graph states kept per context."""
    search_beam: Positive = 10.0
    """ctc_decoding, hlg_decoding: states that score worse than the best by more than this are dropped."""
    output_beam: Positive = 8.0
    """ctc_decoding, hlg_decoding: lattice paths that score worse than the best by more than this are dropped."""
    min_active_states: Count = 30
    """ctc_decoding, hlg_decoding: minimum number of states kept per frame."""
    max_active_states: Count = 1000
    """ctc_decoding, hlg_decoding: maximum number of states kept per frame."""
    lm_scale: NonNegative = 0.3
    """Methods with a language model: weight of the language model."""
    ilm_scale: NonNegative = 0.0
    """Methods with a language model: weight of the transducer's internal language model, which is subtracted."""
    num_paths: Count = 100
    """fast_beam_search_nbest_lm_rescore: number of paths sampled from the lattice."""
    nbest_scale: Positive = 0.5
    """fast_beam_search_nbest_lm_rescore: scale of the lattice's scores while paths are sampled."""
    hlg_scale: NonNegative = 1.0
    """hlg_decoding: scale of the graph's scores."""
    ngram_lm_scale: NonNegative = 0.01
    """fast_beam_search_LG: scale of the graph's scores."""
    tokens_per_second: Positive = 10.0
    """decoder_greedy_search, decoder_beam_search: largest number of tokens per second of audio, a limit against loops;
    at least 10 tokens are allowed."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.method in _NEEDS_K2 and not k2_is_installed():
            raise UserError(
                f"decoding method {self.method} needs k2, which is not installed",
                "install k2 for this torch, or choose greedy_search, modified_beam_search or ctc_greedy_search",
            )

    def settings(self) -> dict[str, int | float | bool]:
        """Return the settings that affect the result of this method."""
        return {name: getattr(self, name) for name in SETTINGS[self.method]}

    def suffix(self) -> str:
        """Return method and settings as part of a file name, e.g. ``modified_beam_search-beam-size-4``."""
        parts = [self.method]
        for name, value in self.settings().items():
            words = name.replace("_", "-")
            if isinstance(value, bool):
                parts.append(words if value else f"no-{words}")
            else:
                parts.append(f"{words}-{value:g}")
        return "-".join(parts)
