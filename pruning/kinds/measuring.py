"""What a kind declares about how a sweep measures its networks, and how the resulting rate is shown."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from pruning.experiments.measurement import Measurement, Utterances
from pruning.files import PathLike


@dataclass(frozen=True)
class Measure:
    """How a rate is shown. For perplexity, the rate is 100 times the nats per word, so that differences are ratios.

    Attributes:
        name: heading of the rate.
        difference: heading of a difference of rates.
        shown: function from the rate to the number that is shown.
        shown_difference: function from a difference of rates to the number that is shown.
        part: part of the network whose size is shown.
        timed: part of the network that is timed.
        logarithmic: whether plots use a logarithmic scale.
        size, computation: keys of a network's facts for the axes of plots, each with its unit and the unit's value.
        unit: unit of differences.
        explanation: text above the table, with format fields ``seeds`` and ``block``.
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
WER over all test sets, averaged over seeds, with the 95 % interval of a bootstrap that draws, within each set,
speakers, then their utterances. {seeds} Minus the reference: paired, the same utterances for both; p is two-sided, with
Holm's correction over the lines of the table. Sizes are those of the encoder."""),
    "perplexity": Measure("perplexity / word", "% above", lambda rate: math.exp(rate / 100),
                          lambda rate: 100 * math.expm1(rate / 100), "blocks", "network", True,
                          ("blocks_parameters", "M parameters", 1e6), ("macs_per_token", "M MACs / token", 1e6),
                          "% of perplexity", """\
Perplexity per word (the sentence's end counts, words outside the vocabulary do not), geometric mean over seeds, with
the 95 % interval of a bootstrap that draws blocks of {block} sentences of each text. {seeds} Above the reference: in
percent of perplexity, paired, the same sentences for both; p is two-sided, with Holm's correction over the lines of the
table. Sizes are those of the blocks, without the embedding. Zero weights (unstructured) save
neither memory nor time in dense kernels."""),
    "intents": Measure("intent accuracy %", "minus", lambda rate: 100 - rate, lambda rate: -rate, "encoder", "encoder",
                       False, *_OF_ENCODER, "points", """\
Percent of utterances whose scenario and action are both right, over all test sets, averaged over seeds, with the 95 %
interval of a bootstrap that draws, within each set, speakers, then their utterances. {seeds} Minus the reference:
paired, the same utterances for both; p is two-sided, with Holm's correction over the lines of the table. Sizes are
those of the encoder including its front end."""),
}  # fmt: skip
"""Measures by their name in the results of a sweep."""
_SAID = "CER (every Chinese, Japanese or Korean character counts as a word)"
_WER = MEASURES["wer"]
MEASURES["cer"] = replace(_WER, name="CER %", explanation=_WER.explanation.replace("WER", _SAID, 1))


@dataclass(frozen=True)
class TestData:
    """What the networks of a sweep are measured on.

    Attributes:
        files: files of the test sets, one each.
        lang_dir: lang dir of the networks.
        decoding: decoding method, for networks that recognise words.
        vocabulary: file of the words that count, for language models.
        score_in: what errors of recognisers are counted in, see `pruning.speech.scoring.word_errors.SCORED`.
    """

    __test__ = False  # not a pytest class

    files: tuple[str, ...]
    lang_dir: str
    decoding: str
    vocabulary: Optional[str] = None
    score_in: str = "words"


@dataclass(frozen=True)
class Measuring:
    """How networks of a kind are measured.

    Attributes:
        measure: one of `MEASURES`, or a measure of the kind.
        name: name of the measure in results.
        commands: returns the commands that measure the network of a directory; they do not repeat finished work.
        gather: returns the measurements of the network of a directory, one for each test set.
        utterances: returns the utterances of each test set, which those of the measurements must be.
        decodings: decoding methods by which networks may be compared; empty if measuring involves no decoding.
    """

    measure: Measure
    name: str
    commands: Callable[[TestData, PathLike], Iterator[list[str]]]
    gather: Callable[[TestData, Path], list[Measurement]]
    utterances: Callable[[TestData], dict[str, Utterances]]
    decodings: tuple[str, ...] = ()


def python(module: str, *arguments: str) -> list[str]:
    """Return the command line of a command of `pruning.bin`."""
    return [sys.executable, "-m", f"pruning.bin.{module}", *arguments]
