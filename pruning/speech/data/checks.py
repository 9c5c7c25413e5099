"""Check cuts before training or decoding, so that errors appear early."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from pruning.errors import UserError
from pruning.speech.data import manifests, sampler, sources
from pruning.speech.scoring.word_errors import SCORED
from pruning.speech.text.table import CutTable, Spelling

logger = logging.getLogger(__name__)

FEATURES = "features"
"""Key of a checkpoint's header: the form of the features that its network was trained on, see `form_of_features`."""

_FIRST_CUTS = 100  # the features of a manifest are usually computed together


class TrainedOn(NamedTuple):
    """The features that a network was trained on.

    Attributes:
        network: the network, for messages.
        form: their form, see `form_of_features`.
    """

    network: str
    form: Mapping[str, float]

    @classmethod
    def of(cls, network: str, header: Mapping[str, Any]) -> Optional[TrainedOn]:
        """Return what a checkpoint's header tells; None for networks that take samples, and if it tells nothing."""
        return cls(network, header[FEATURES]) if FEATURES in header else None


def form_of_features(paths: Sequence[Path]) -> dict[str, float]:
    """Return the form that all features of a network must have, as the first cut has it: sampling rate, frame shift.

    Raises:
        UserError: a manifest is damaged, there are no cuts, or the first one has no features.
    """
    for path in paths:
        for cut in manifests.iterate_cuts(path):
            sources.num_frames(cut)
            return {"sampling_rate": cut.sampling_rate, "frame_shift": cut.frame_shift}
    raise UserError(f"{', '.join(map(str, paths))}: no cuts", "give a manifest with cuts")


def check_first_features(paths: Sequence[Path], feature_dim: int, trained: Optional[TrainedOn] = None) -> None:
    """Check the features of the first cuts of all manifests of one network without loading them.

    Args:
        paths: paths of the manifests.
        feature_dim: feature dimension of the network.
        trained: the features that it was trained on; None: unknown.

    Raises:
        UserError: a manifest is damaged, or a cut has no features, features of another dimension, or features of
            another sampling rate or frame shift than those of training, or than the first cut.
    """
    alike = _Alike(feature_dim, trained)
    for path in paths:
        for cut in itertools.islice(manifests.iterate_cuts(path), _FIRST_CUTS):
            alike.check(cut, path)


def check_recordings(train: Sequence[Path], dev: Sequence[Path], source: sources.Source, longest: float) -> None:
    """Check that an encoder can take the recordings of all cuts, without loading them.

    This takes about 9 s of one CPU for 100,000 cuts, almost all of it for reading them.

    Args:
        train, dev: paths of the manifests.
        source: the input of the network.
        longest: seconds of the longest cut that training takes.

    Raises:
        UserError: a manifest is damaged, or a cut has no recording, one of another sampling rate, or one that is too
            long for the encoder.
    """
    for path in train:
        for cut in manifests.iterate_cuts(path):
            if cut.duration <= longest:
                source.frames(cut)
    for path in dev:
        for cut in manifests.iterate_cuts(path):
            source.frames(cut)


def check_dev(paths: Sequence[Path], source: sources.Source, longest: float, table: CutTable) -> None:
    """Check durations and transcripts of dev sets, before the first validation would find what is wrong.

    Raises:
        UserError: a manifest is damaged, or a cut is longer than ``longest`` seconds or has no `targets_of`.
    """
    for path in paths:
        for cut in manifests.iterate_cuts(path):
            sampler.check_evaluated(cut, source, longest)
            targets_of(cut, path, table)


def targets_of(cut: Any, path: Path, table: CutTable) -> list[int]:
    """Return the targets of a cut of the manifest ``path``.

    Raises:
        UserError: the cut has no, several or an empty transcript, or one that the table refuses.
    """
    text = sampler.transcript(cut)
    try:
        return table.targets(cut, text)
    except UserError as error:
        raise UserError(f"{path}: cut {cut.id}: {error.what}", error.remedy) from None


def check_test_set(
    path: Path,
    tokenizer: Spelling,
    feature_dim: Optional[int],
    words_in: Callable[[str], list[str]] = SCORED["words"],
    source: sources.Source = sources.FEATURES,
    longest: float = math.inf,
    trained: Optional[TrainedOn] = None,
) -> None:
    """Check everything that decoding and scoring need from a test set, except the values of its features.

    Words that the tokens cannot spell can never be recognised, and neither can more tokens than there are frames (when
    the transcripts of many utterances were joined to one); log messages count both.

    Args:
        path: path of the manifest.
        tokenizer: tokens of the network.
        feature_dim: feature dimension of the network; None: the network takes samples as input.
        words_in: splits a text into the units that are scored.
        source: the input of the network.
        longest: seconds of the longest cut that may be decoded.
        trained: the features that the network was trained on; None: unknown.

    Raises:
        UserError: the manifest is damaged or has no cuts; a cut is longer than ``longest``, occurs twice, has no,
            several or an empty transcript, no features, features of another dimension, or features of another sampling
            rate or frame shift than those of training, or than the first cut.
    """
    alike = None if feature_dim is None else _Alike(feature_dim, trained)
    seen: set[str] = set()
    unspelled: list[str] = []  # one entry per transcript
    too_long: list[str] = []  # likewise
    cut_off: list[str] = []
    for cut in manifests.iterate_cuts(path):
        if cut.id in seen:
            raise UserError(f"{path}: cut {cut.id} occurs twice", "remove the repetitions from its cuts")
        seen.add(cut.id)
        if alike is not None:
            alike.check(cut, path)
        text = sampler.transcript(cut)
        tokens = tokenizer.encode(text)
        reference, spelled = words_in(text), words_in(tokenizer.decode(tokens))
        if reference != spelled:
            strange = next((word for word in reference if word not in spelled), text)
            unspelled.append(f"{cut.id} '{strange}'")
        if source.longest is not None and cut.duration > source.longest:
            cut_off.append(f"{cut.id}, {cut.duration:g} s")
        frames = source.frames(cut)
        sampler.check_evaluated(cut, source, longest)
        if len(tokens) > frames:
            too_long.append(f"{cut.id}, {len(tokens)} in {cut.duration:g} s")
    if not seen:
        raise UserError(f"{path} contains no cuts", "remove it and run the stage that writes it again")
    if unspelled:
        logger.warning(
            "%d of %d transcripts in %s contain words that the tokens cannot spell (first: %s); these count as errors",
            len(unspelled), len(seen), path, unspelled[0],
        )  # fmt: skip
    if cut_off:
        logger.warning(
            "%d of %d utterances of %s are longer than the %g s that the network takes (first: %s); only their "
            "beginnings are recognised, and the other words count as errors",
            len(cut_off), len(seen), path, source.longest, cut_off[0],
        )  # fmt: skip
    if too_long:
        logger.warning(
            "%d of %d transcripts of %s have more tokens than the network has frames (first: %s); all of these words "
            "cannot be recognised and count as errors", len(too_long), len(seen), path, too_long[0],
        )  # fmt: skip


class _Alike:
    """Checks the features of one network: their dimension, and that all have one sampling rate and one frame shift."""

    def __init__(self, feature_dim: int, trained: Optional[TrainedOn] = None) -> None:
        self._feature_dim = feature_dim
        self._first = None if trained is None else (f"the training of {trained.network}", dict(trained.form))

    def check(self, cut: Any, path: Path) -> None:
        """Raise UserError if a cut of ``path`` has no features, or features unlike those before."""
        sources.num_frames(cut)
        label, wanted = f"{path}: cut {cut.id}", self._feature_dim
        if cut.num_features != wanted:
            what = f"{label} has features of dimension {cut.num_features}, but the network takes {wanted}"
            raise UserError(what, "give cuts with features of that dimension, or another network")
        found = {"sampling_rate": cut.sampling_rate, "frame_shift": cut.frame_shift}
        name, first = self._first = self._first or (label, found)
        for key, value in found.items():
            if value != first[key]:
                called = key.replace("_", " ")
                what = f"{label} has features of {called} {value:g}, but those of {name} have {first[key]:g}"
                raise UserError(what, "compute all features alike, with one --sampling-rate")
