"""Measuring networks on cuts in sweeps: word errors and likelihood, or intents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Optional

from pruning.errors import UserError
from pruning.experiments.decoding_results import read_results
from pruning.experiments.measurement import INTENTS, LIKELIHOOD, Measurement, Utterances, path_of
from pruning.files import PathLike
from pruning.kinds.measuring import MEASURES, Measuring, TestData, python
from pruning.speech.data import manifests
from pruning.speech.decoding.config import OWN_DECODER, SETTINGS, WEIGHT_OF

_AGAIN = "run the sweep again"
ACOUSTIC = tuple(method for method in SETTINGS if method not in (*WEIGHT_OF, *OWN_DECODER))
"""Decoding methods that use neither a language model, nor a graph with one, nor a decoder that writes text."""


def _on_cuts(data: TestData, place: PathLike) -> list[str]:
    return ["--exp-dir", str(place), "--cuts", *data.files, "--lang-dir", data.lang_dir]


def _utterances(data: TestData) -> dict[str, Utterances]:
    return {manifests.set_name_of(path): Utterances.of(manifests.speakers(path))
            for path in manifests.check_exists(list(data.files))}  # fmt: skip


def word_errors(decodings: tuple[str, ...], likelihood: bool, normaliser: Optional[str] = None) -> Measuring:
    """Return how to measure word errors and, for transducers, the likelihood of the transcripts.

    Args:
        decodings: decoding methods that a sweep may choose.
        likelihood: whether to measure the likelihood.
        normaliser: normaliser of the texts that are scored, see `pruning.speech.scoring.scored_words`; None: none.
    """
    normalised = ["--normalise", normaliser] if normaliser is not None else []

    def commands(data: TestData, place: PathLike) -> Iterator[list[str]]:
        counted = ["--score-in", data.score_in] if data.score_in != "words" else []
        yield python("decode", *_on_cuts(data, place), "--method", data.decoding, *normalised, *counted)
        if likelihood:
            yield python("likelihood", *_on_cuts(data, place))

    def gather(data: TestData, place: Path) -> list[Measurement]:
        found = [_decoding(data, place, manifests.set_name_of(Path(cuts))) for cuts in data.files]
        return [_with_likelihood(one, place) for one in found] if likelihood else found

    return Measuring(MEASURES["wer"], "wer", commands, gather, _utterances, decodings)


def _decoding(data: TestData, place: Path, name: str) -> Measurement:
    decoded = read_results(place, data.decoding, name)
    if decoded is None:
        raise UserError(f"{place} was not decoded on {name}", _AGAIN)
    return replace(decoded, totals={})


def _with_likelihood(decoded: Measurement, place: Path) -> Measurement:
    """Return a decoding with the columns ``nll`` and ``tokens`` of the same utterances."""
    path = path_of(place, LIKELIHOOD, decoded.set)
    found = Measurement.read(path, _AGAIN)
    places = {name: index for index, name in enumerate(found.utterances.ids)}
    if places.keys() != set(decoded.utterances.ids):
        raise UserError(f"{path} has other utterances than the decoding of {decoded.set}", _AGAIN)
    columns = {name: [values[places[one]] for one in decoded.utterances.ids] for name, values in found.columns.items()}
    columns["nll"] = [None if nats is None else round(float(nats), 3) for nats in columns["nll"]]
    return replace(decoded, columns={**decoded.columns, **columns})


def _classify(data: TestData, place: PathLike) -> Iterator[list[str]]:
    yield python("classify", *_on_cuts(data, place))


def _intents(data: TestData, place: Path) -> list[Measurement]:
    """Gather intents: which are right."""
    paths = (path_of(place, INTENTS, manifests.set_name_of(Path(cuts))) for cuts in data.files)
    found = [Measurement.read(path, _AGAIN) for path in paths]
    return [replace(one, columns={"correct": one.columns["correct"]}, totals={}) for one in found]


INTENTS_OF_CUTS = Measuring(MEASURES["intents"], "intents", _classify, _intents, _utterances)
