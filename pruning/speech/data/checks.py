"""Faults of cuts that would come up only after hours of work: told after reading the manifests, before any of it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from pruning.errors import UserError
from pruning.speech.data import manifests, sampler, sources
from pruning.speech.scoring.word_errors import SCORED
from pruning.speech.text.bpe import Tokenizer

logger = logging.getLogger(__name__)

_FIRST_CUTS = 100  # features of one manifest are made in one go, as a rule


def check_first_features(path: Path, feature_dim: int) -> None:
    """Check the features of the first cuts of a manifest; none are loaded.

    Args:
        path: the manifest.
        feature_dim: of the network.

    Raises:
        UserError: the manifest is damaged, or a cut has no features or features of another width.
    """
    for cut in itertools.islice(manifests.iterate_cuts(path), _FIRST_CUTS):
        _check_features(cut, path, feature_dim)


def check_test_set(
    path: Path,
    tokenizer: Tokenizer,
    feature_dim: Optional[int],
    words_in: Callable[[str], list[str]] = SCORED["words"],
) -> None:
    """Check all that decoding and scoring need of a test set, but its features, which are not loaded.

    Words that the tokens cannot spell can never be recognised; a line in the log tells of them.

    Args:
        path: the manifest.
        tokenizer: of the network.
        feature_dim: of the network; None: it hears samples.
        words_in: divides a text into what is scored.

    Raises:
        UserError: the manifest is damaged or holds no cuts; a cut occurs twice, has no transcript, several or an empty
            one, no features, or features of another width.
    """
    seen: set[str] = set()
    unspelled: list[str] = []  # one entry a transcript
    for cut in manifests.iterate_cuts(path):
        if cut.id in seen:
            raise UserError(f"{path}: cut {cut.id} occurs twice", "remove the repetitions from its cuts")
        seen.add(cut.id)
        if feature_dim is not None:
            _check_features(cut, path, feature_dim)
        text = sampler.transcript(cut)
        reference, spelled = words_in(text), words_in(tokenizer.spell(text))
        if reference != spelled:
            strange = next((word for word in reference if word not in spelled), text)
            unspelled.append(f"{cut.id} '{strange}'")
    if not seen:
        raise UserError(f"{path} holds no cuts", "remove it and run the stage that writes it again")
    if unspelled:
        logger.warning(
            "%d of %d transcripts of %s hold words that these tokens cannot spell (first: %s); they count as errors",
            len(unspelled), len(seen), path, unspelled[0],
        )  # fmt: skip


def _check_features(cut: Any, path: Path, feature_dim: int) -> None:
    sources.num_frames(cut)
    if cut.num_features != feature_dim:
        what = f"{path}: cut {cut.id} has {cut.num_features} features a frame, the network takes {feature_dim}"
        raise UserError(what, "give cuts with features of that width, or another network")
