"""Check cuts before training or decoding, so that errors appear early."""

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

_FIRST_CUTS = 100  # the features of a manifest are usually computed together


def check_first_features(path: Path, feature_dim: int) -> None:
    """Check the features of the first cuts of a manifest without loading them.

    Args:
        path: path of the manifest.
        feature_dim: feature dimension of the network.

    Raises:
        UserError: the manifest is damaged, or a cut has no features or features of another dimension.
    """
    for cut in itertools.islice(manifests.iterate_cuts(path), _FIRST_CUTS):
        _check_features(cut, path, feature_dim)


def check_test_set(
    path: Path,
    tokenizer: Tokenizer,
    feature_dim: Optional[int],
    words_in: Callable[[str], list[str]] = SCORED["words"],
) -> None:
    """Check everything that decoding and scoring need from a test set, except the values of its features.

    Words that the tokens cannot spell can never be recognised; a log message counts them.

    Args:
        path: path of the manifest.
        tokenizer: tokeniser of the network.
        feature_dim: feature dimension of the network; None: the network takes samples as input.
        words_in: splits a text into the units that are scored.

    Raises:
        UserError: the manifest is damaged or has no cuts; a cut occurs twice, has no, several or an empty transcript,
            no features, or features of another dimension.
    """
    seen: set[str] = set()
    unspelled: list[str] = []  # one entry per transcript
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
        raise UserError(f"{path} contains no cuts", "remove it and run the stage that writes it again")
    if unspelled:
        logger.warning(
            "%d of %d transcripts in %s contain words that the tokens cannot spell (first: %s); these count as errors",
            len(unspelled), len(seen), path, unspelled[0],
        )  # fmt: skip


def _check_features(cut: Any, path: Path, feature_dim: int) -> None:
    sources.num_frames(cut)
    if cut.num_features != feature_dim:
        what = f"{path}: cut {cut.id} has features of dimension {cut.num_features}, but the network takes {feature_dim}"
        raise UserError(what, "give cuts with features of that dimension, or another network")
