"""What a kind says of how its networks are measured in a sweep, and how the rate that comes of it is shown."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from pruning.files import PathLike

SPOKEN = ("words", "tokens")
"""What is the same for every run, and is kept with the teacher's result alone."""
_MADE = ("command", "commit", "date")


@dataclass(frozen=True)
class Measure:
    """How a rate is shown. Of perplexity, the rate is 100 times the nats a word, so that differences are ratios.

    Attributes:
        name: heading of the rate.
        difference: of a difference.
        shown: the rate as people read it.
        shown_difference: the same of a difference.
        part: of the network, that sizes are of.
        timed: what is timed.
        logarithmic: its scale in plots.
        size, computation: keys of a network's facts that are its axes, each with its unit and the unit's size.
        unit: of differences.
        explanation: of the table, with places for ``seeds`` and ``block``.
    """

    name: str
    difference: str
    shown: Callable[[float], float]
    shown_difference: Callable[[float], float]
    part: str
    timed: str
    logarithmic: bool
    size: tuple[str, str, float]
    computation: tuple[str, str, float]
    unit: str
    explanation: str


_OF_ENCODER = (("encoder_parameters", "M parameters", 1e6), ("macs_10s", "GMACs 10 s", 1e9))
MEASURES = {
    "wer": Measure("WER %", "minus", lambda rate: rate, lambda rate: rate, "encoder", "encoder", False, *_OF_ENCODER,
                   "points", """\
WER over all test sets, averaged over seeds, with the 95 % interval of a bootstrap that draws speakers, then their
utterances, and seeds where there are several. {seeds} Minus the reference: paired, the same utterances for both; p is
two-sided, corrected by Holm over the lines of the table. Sizes are the encoder's."""),
    "perplexity": Measure("perplexity / word", "% above", lambda rate: math.exp(rate / 100),
                          lambda rate: 100 * math.expm1(rate / 100), "blocks", "network", True,
                          ("blocks_parameters", "M parameters", 1e6), ("macs_per_token", "M MACs / token", 1e6),
                          "% of perplexity", """\
Perplexity per word (the sentence's end counts, words outside the vocabulary do not), geometric mean over seeds, with
the 95 % interval of a bootstrap that draws blocks of {block} sentences, and seeds where there are several. {seeds}
Above the reference: in percent of perplexity, paired, the same sentences for both; p is two-sided, corrected by Holm
over the lines of the table. Sizes are those of the blocks, without the embedding. What is zero
(unstructured) saves nothing in dense kernels: neither memory nor time."""),
    "intents": Measure("intent accuracy %", "minus", lambda rate: 100 - rate, lambda rate: -rate, "encoder", "encoder",
                       False, *_OF_ENCODER, "points", """\
Percent of utterances whose scenario and action are both right, over all test sets, averaged over seeds, with the 95 %
interval of a bootstrap that draws speakers, then their utterances, and seeds where there are several. {seeds} Minus the
reference: paired, the same utterances for both; p is two-sided, corrected by Holm over the lines of the table. Sizes
are the encoder's, its frontend included."""),
}  # fmt: skip
"""By the name that a sweep's results have."""


@dataclass(frozen=True)
class TestData:
    """What the networks of a sweep are measured on.

    Attributes:
        files: a test set each.
        lang_dir: the tokens.
        decoding: method, of networks that recognise.
        vocabulary: file of the words that count, of language models.
    """

    __test__ = False  # no class of tests

    files: tuple[str, ...]
    lang_dir: str
    decoding: str
    vocabulary: Optional[str] = None


@dataclass(frozen=True)
class Measuring:
    """How networks of a kind are measured.

    Attributes:
        measure: of `MEASURES`, or the kind's own.
        name: of the measure, in results.
        commands: of a network's directory, that measure it and do nothing where that is done.
        gather: by test set, what they found of every utterance: ``errors``, ``nll`` (None: not known), where the
            network is the teacher also ``words`` and ``tokens``.
        utterances: by test set, names of what is drawn anew by the bootstrap, and who speaks each.
        decodings: methods of decoding that networks may be compared by; none: decoding has no part in it.
    """

    measure: Measure
    name: str
    commands: Callable[[TestData, PathLike], Iterator[list[str]]]
    gather: Callable[[TestData, Path, bool], dict[str, Any]]
    utterances: Callable[[TestData], dict[str, tuple[list[str], list[str]]]]
    decodings: tuple[str, ...] = ()


def python(module: str, *arguments: str) -> list[str]:
    """The command line of one of `pruning.bin`."""
    return [sys.executable, "-m", f"pruning.bin.{module}", *arguments]


def stamp(ids: Sequence[str]) -> str:
    """Stands for a list of utterances, which every run was measured on and one file names."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def made(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of a measured file, what says how it was made."""
    return {key: found[key] for key in _MADE}
