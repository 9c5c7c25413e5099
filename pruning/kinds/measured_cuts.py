"""Measuring networks on cuts in sweeps: word errors and likelihood, or intents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruning.errors import UserError
from pruning.experiments.decoding_results import intents_path, likelihood_path, read_results
from pruning.files import PathLike, read_json
from pruning.kinds.measuring import MEASURES, SPOKEN, Measuring, TestData, made, python, stamp
from pruning.speech.data import manifests
from pruning.speech.decoding.config import SETTINGS, WEIGHT_OF
from pruning.speech.scoring.word_errors import count_errors, read_transcripts

ACOUSTIC = tuple(method for method in SETTINGS if method not in WEIGHT_OF)
"""Decoding methods that use neither a language model nor a graph with one."""


def _on_cuts(data: TestData, place: PathLike) -> list[str]:
    return ["--exp-dir", str(place), "--cuts", *data.files, "--lang-dir", data.lang_dir]


def _speakers(data: TestData) -> dict[str, tuple[list[str], list[str]]]:
    """Return utterance ids and their speakers, by test set."""
    sets = {}
    for path in manifests.check_exists(list(data.files)):
        found = manifests.speakers(path)
        sets[manifests.set_name_of(path)] = (list(found), [speaker or name for name, speaker in found.items()])
    return sets


def word_errors(decodings: tuple[str, ...], likelihood: bool) -> Measuring:
    """Return how to measure word errors and, for transducers, the likelihood of the transcripts.

    Args:
        decodings: decoding methods that a sweep may choose.
        likelihood: whether to measure the likelihood.
    """

    def commands(data: TestData, place: PathLike) -> Iterator[list[str]]:
        yield python("decode", *_on_cuts(data, place), "--method", data.decoding)
        if likelihood:
            yield python("likelihood", *_on_cuts(data, place))

    def gather(data: TestData, place: Path, whole: bool) -> dict[str, Any]:
        return dict(_decodings(data, place, whole, likelihood))

    return Measuring(MEASURES["wer"], "wer", commands, gather, _speakers, decodings)


def _decodings(data: TestData, place: Path, whole: bool, likelihood: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for cuts in map(Path, data.files):
        name = manifests.set_name_of(cuts)
        decoded = read_results(place, data.decoding, name)
        if decoded is None:
            raise UserError(f"{place} was not decoded on {name}", "run the sweep again")
        transcripts = sorted(read_transcripts(place / data.decoding / decoded["recogs"]))
        nll: dict[str, tuple[Any, int]] = {one.id: (None, 0) for one in transcripts}
        if likelihood:
            found = read_json(likelihood_path(place, name), "run the sweep again")
            nll = dict(zip(found["ids"], zip(found["nll"], found["tokens"])))
        result = {
            "utterances": stamp([one.id for one in transcripts]),
            "errors": [count_errors(one)["total"] for one in transcripts],
            "nll": [None if nll[one.id][0] is None else round(nll[one.id][0], 3) for one in transcripts],
            **made(decoded),
        }
        if whole:
            counts = [(len(one.reference), nll[one.id][1]) for one in transcripts]
            result |= dict(zip(SPOKEN, map(list, zip(*counts))))
        yield name, result


def _classify(data: TestData, place: PathLike) -> Iterator[list[str]]:
    yield python("classify", *_on_cuts(data, place))


def _intents(data: TestData, place: Path, whole: bool) -> dict[str, Any]:
    """Gather intents by test set; an utterance is an error if its scenario or action is wrong."""
    sets: dict[str, Any] = {}
    for cuts in map(Path, data.files):
        name = manifests.set_name_of(cuts)
        found = read_json(intents_path(place, name), "run the sweep again")
        errors = [1 - right for right in found["right"]]
        sets[name] = {"utterances": stamp(found["ids"]), "errors": errors, "nll": [None] * len(errors), **made(found)}
        if whole:
            sets[name] |= {"words": [1] * len(errors), "tokens": [0] * len(errors)}
    return sets


INTENTS = Measuring(MEASURES["intents"], "intents", _classify, _intents, _speakers)
