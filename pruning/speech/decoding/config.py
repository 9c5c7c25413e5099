"""Decoding methods by name, and their settings. Needs no torch."""

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
}
"""The settings that change the answer of each method."""

N_BEST = ("modified_beam_search", "modified_beam_search_lm_shallow_fusion")
"""The methods that rank several hypotheses of an utterance."""
WITH_LM = tuple(name for name, settings in SETTINGS.items() if "lm_scale" in settings)
"""The methods that need a language model."""
GRAPHS = {"hlg_decoding": ("HLG", "hlg_scale"), "fast_beam_search_LG": ("LG", "ngram_lm_scale")}
"""The methods that decode with a graph: its kind, and the setting that its scores are multiplied by."""
GRAPH_KINDS = ("LG", "HLG")

_NEEDS_K2 = ("fast_beam_search", "fast_beam_search_nbest_lm_rescore", "ctc_decoding", *GRAPHS)
WEIGHT_OF = {**dict.fromkeys(WITH_LM, "lm_scale"), **{method: scale for method, (_, scale) in GRAPHS.items()}}
"""The methods with a language model of any kind, and the setting that is its weight."""


@dataclass(frozen=True)
class DecodingConfig:
    """A decoding method and its settings; those of other methods have no effect."""

    method: Annotated[str, OneOf(tuple(SETTINGS))] = "modified_beam_search"
    beam_size: Count = 4
    """modified_beam_search: hypotheses kept for each utterance."""
    length_norm: bool = True
    """modified_beam_search: choose by log-probability per token."""
    beam: Positive = 20.0
    """fast_beam_search: how much worse than the best a state may score."""
    max_contexts: Count = 8
    """fast_beam_search: decoder contexts kept for each utterance and frame."""
    max_states: Count = 64
    """fast_beam_search: graph states kept for each context."""
    search_beam: Positive = 10.0
    """ctc_decoding, hlg_decoding: how much worse than the best a state may score."""
    output_beam: Positive = 8.0
    """ctc_decoding, hlg_decoding: how much worse than the best path a path in the lattice may score."""
    min_active_states: Count = 30
    """ctc_decoding, hlg_decoding: states kept in each frame at least."""
    max_active_states: Count = 1000
    """ctc_decoding, hlg_decoding: states kept in each frame at most."""
    lm_scale: NonNegative = 0.3
    """methods with a language model: its weight."""
    ilm_scale: NonNegative = 0.0
    """methods with a language model: the weight at which the transducer's internal one is taken off."""
    num_paths: Count = 100
    """fast_beam_search_nbest_lm_rescore: paths drawn from the lattice."""
    nbest_scale: Positive = 0.5
    """fast_beam_search_nbest_lm_rescore: of the lattice's scores while paths are drawn."""
    hlg_scale: NonNegative = 1.0
    """hlg_decoding: factor of the scores of the graph."""
    ngram_lm_scale: NonNegative = 0.01
    """fast_beam_search_LG: factor of the scores of the graph."""

    def __post_init__(self) -> None:
        check_fields(self)
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
