"""What a sweep measures of a network: perplexity, word errors and likelihood, word errors alone, or intents."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning import configuration
from pruning.errors import UserError
from pruning.experiments.decoding_results import intents_path, likelihood_path, perplexity_path, read_results
from pruning.files import PathLike, read_json
from pruning.speech.data import manifests
from pruning.speech.scoring.word_errors import count_errors, read_transcripts
from pruning.speech.text.text_files import set_name
from pruning.sweeps.definition import SweepConfig

SPOKEN = ("words", "tokens")
"""What is the same for every run, and is kept with the teacher's result alone."""
BLOCK = 20
"""Sentences of a text that are counted, and drawn, together: neighbours are of one source."""
_MADE = ("command", "commit", "date")


@dataclass(frozen=True)
class Measuring:
    """How networks of a kind are measured.

    Attributes:
        measure: of `pruning.sweeps.comparison.MEASURES`.
        commands: of a network's directory, that measure it and do nothing where that is done.
        gather: by test set, what they found of every utterance: ``errors``, ``nll`` (None: not known), where the
            network is the teacher also ``words`` and ``tokens``.
    """

    measure: str
    commands: Callable[[SweepConfig, PathLike], Iterator[list[str]]]
    gather: Callable[[SweepConfig, Path, bool], dict[str, Any]]


def of(config: SweepConfig) -> Measuring:
    """How a sweep's networks are measured."""
    return _KINDS[config.kind]


def python(module: str, *arguments: str) -> list[str]:
    """The command line of one of `pruning.bin`."""
    return [sys.executable, "-m", f"pruning.bin.{module}", *arguments]


def stamp(ids: Sequence[str]) -> str:
    """Stands for a list of utterances, which every run was measured on and one file names."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def _on_cuts(config: SweepConfig, place: PathLike) -> list[str]:
    return ["--exp-dir", str(place), "--cuts", *config.test_cuts, "--lang-dir", config.lang_dir]


def _read_text(config: SweepConfig, place: PathLike) -> Iterator[list[str]]:
    vocabulary = ["--vocabulary", config.vocabulary] if config.vocabulary is not None else []
    data = configuration.load(config.recipe.RunConfig, config.finetune, config.settings).data
    vocabulary += ["--on-empty", "skip"] if data.on_empty == "skip" else []
    yield python("perplexity", "--exp-dir", str(place), "--text", *config.test_text, "--lang-dir", config.lang_dir,
                 *vocabulary)  # fmt: skip


def _decode(config: SweepConfig, place: PathLike) -> Iterator[list[str]]:
    yield python("decode", *_on_cuts(config, place), "--method", config.decoding)
    if config.kind == "transducer":
        yield python("likelihood", *_on_cuts(config, place))


def _classify(config: SweepConfig, place: PathLike) -> Iterator[list[str]]:
    yield python("classify", *_on_cuts(config, place))


def in_blocks(values: Sequence[float]) -> list[float]:
    """Sums over blocks of `BLOCK`."""
    return [round(sum(values[start : start + BLOCK]), 3) for start in range(0, len(values), BLOCK)]


def blocks_of(sentences: int) -> list[str]:
    """Names of the blocks of a text."""
    return [str(start // BLOCK) for start in range(0, sentences, BLOCK)]


def _perplexities(config: SweepConfig, place: Path, whole: bool) -> dict[str, Any]:
    """Errors are nats of the words that count; in the place of utterances there are blocks of sentences."""
    sets: dict[str, Any] = {}
    for text in map(Path, config.test_text):
        name = set_name(text)
        found = read_json(perplexity_path(place, name), "run the sweep again")
        sets[name] = {
            "utterances": stamp(blocks_of(found["sentences"])),
            "errors": in_blocks(found["nll"]),
            "nll": [round(found["token_nll"], 3)],
            **_made(found),
        }
        if whole:
            sets[name] |= {"words": in_blocks(found["counted"]), "tokens": [found["tokens"]]}
    return sets


def _decodings(config: SweepConfig, place: Path, whole: bool) -> dict[str, Any]:
    """Word errors; of transducers also the likelihood of the transcripts."""
    sets: dict[str, Any] = {}
    for cuts in map(Path, config.test_cuts):
        name = manifests.set_name_of(cuts)
        decoded = read_results(place, config.decoding, name)
        if decoded is None:
            raise UserError(f"{place} was not decoded on {name}", "run the sweep again")
        transcripts = sorted(read_transcripts(place / config.decoding / decoded["recogs"]))
        nll: dict[str, tuple[Any, int]] = {one.id: (None, 0) for one in transcripts}
        if config.kind == "transducer":
            likelihood = read_json(likelihood_path(place, name), "run the sweep again")
            nll = dict(zip(likelihood["ids"], zip(likelihood["nll"], likelihood["tokens"])))
        sets[name] = {
            "utterances": stamp([one.id for one in transcripts]),
            "errors": [count_errors(one)["total"] for one in transcripts],
            "nll": [None if nll[one.id][0] is None else round(nll[one.id][0], 3) for one in transcripts],
            **_made(decoded),
        }
        if whole:
            counts = [(len(one.reference), nll[one.id][1]) for one in transcripts]
            sets[name] |= dict(zip(SPOKEN, map(list, zip(*counts))))
    return sets


def _intents(config: SweepConfig, place: Path, whole: bool) -> dict[str, Any]:
    """Errors are utterances whose scenario or action is another."""
    sets: dict[str, Any] = {}
    for cuts in map(Path, config.test_cuts):
        name = manifests.set_name_of(cuts)
        found = read_json(intents_path(place, name), "run the sweep again")
        errors = [1 - right for right in found["right"]]
        sets[name] = {"utterances": stamp(found["ids"]), "errors": errors, "nll": [None] * len(errors), **_made(found)}
        if whole:
            sets[name] |= {"words": [1] * len(errors), "tokens": [0] * len(errors)}
    return sets


def _made(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in _MADE}


_KINDS = {
    "text": Measuring("perplexity", _read_text, _perplexities),
    "transducer": Measuring("wer", _decode, _decodings),
    "ctc": Measuring("wer", _decode, _decodings),
    "intent": Measuring("intents", _classify, _intents),
}
