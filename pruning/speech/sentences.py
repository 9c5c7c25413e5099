"""Sentences for language models: text files to batches of token ids."""

from __future__ import annotations

import gzip
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.speech.bpe import SOS_EOS, Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextConfig:
    """How sentences are put into batches.

    Attributes:
        max_tokens: of a batch, padding included.
        max_length: longer sentences are split into pieces of so many tokens.
        max_unknown: share of tokens that the tokenizer may not know; more is an error.
    """

    max_tokens: int = 4096
    max_length: int = 256
    max_unknown: float = 0.01

    def __post_init__(self) -> None:
        if self.max_length < 1 or self.max_tokens <= self.max_length:
            raise ValueError("data.max_length is at least 1, and data.max_tokens larger than it")


@dataclass(frozen=True)
class SentenceBatch:
    """Sentences of a language model.

    Attributes:
        inputs: ``(N, U)`` int64, the token that begins sentences and what follows; padded with it.
        targets: ``(N, U)`` int64, what comes next, at last the token that ends sentences; -1 on padding.
        places: ``(N,)`` number of each sentence in its file, from 0.
    """

    inputs: Tensor
    targets: Tensor
    places: Tensor

    def to(self, device: torch.device) -> SentenceBatch:
        """The batch on ``device``."""
        return SentenceBatch(self.inputs.to(device), self.targets.to(device), self.places.to(device))

    @property
    def ids(self) -> list[str]:
        """Names of the sentences."""
        return [str(place) for place in self.places.tolist()]

    @property
    def mask(self) -> Tensor:
        """``(N, U)`` bool, True where there is a target."""
        return self.targets >= 0


def boundary_id(tokenizer: Tokenizer) -> int:
    """The token that begins and ends sentences: ``<sos/eos>``, or blank where the model has none."""
    pieces = tokenizer.tokens()
    return pieces.index(SOS_EOS) if SOS_EOS in pieces else 0


class Sentences:
    """All sentences of text files as token ids, in memory: 4 bytes a token.

    Args:
        paths: text files, one sentence a line, plain or gzipped.
        tokenizer: of the recipe.
        config: see `TextConfig`.

    Raises:
        UserError: a file is missing, is no text, has no sentence, or has too many characters that are not covered.
    """

    def __init__(self, paths: Sequence[PathLike], tokenizer: Tokenizer, config: TextConfig) -> None:
        self.config = config
        self.boundary = boundary_id(tokenizer)
        pieces: list[np.ndarray] = []
        places: list[int] = []
        place = empty = 0
        for path in check_texts(paths):
            unknown = tokens = 0
            first = ""
            for number, line in enumerate(read_sentences(path), start=1):
                if not line:
                    empty += 1
                    continue
                ids = tokenizer.encode(line)
                strange, counted = tokenizer.count_unknown(ids)
                if strange and not first:
                    first = f"line {number}, {line[:40]!r}"
                unknown, tokens = unknown + strange, tokens + counted
                for start in range(0, len(ids), config.max_length):
                    pieces.append(np.array(ids[start : start + config.max_length], dtype=np.int32))
                    places.append(place)
                place += 1
            _check_covered(path, unknown, tokens, first, config.max_unknown)
        if not pieces:
            raise UserError(f"{', '.join(map(str, paths))} holds no sentence", "give text, one sentence a line")
        if empty:
            logger.info("%d empty lines left out", empty)
        self.lengths = np.array([len(piece) for piece in pieces])
        self.places = np.array(places)
        self._flat = np.concatenate(pieces)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Targets: all tokens and the end of each sentence."""
        return len(self._flat) + len(self)

    def batch(self, index: np.ndarray) -> SentenceBatch:
        """The sentences ``index (N,)``."""
        length = int(self.lengths[index].max())
        grid = np.arange(length)[None, :]
        inside = grid < self.lengths[index][:, None]  # (N, U - 1)
        ids = self._flat[np.where(inside, self._starts[index][:, None] + grid, 0)].astype(np.int64)
        targets = np.full((len(index), length + 1), -1, dtype=np.int64)
        targets[:, :length][inside] = ids[inside]
        targets[np.arange(len(index)), self.lengths[index]] = self.boundary
        inputs = np.full_like(targets, self.boundary)
        inputs[:, 1:][inside] = ids[inside]
        return SentenceBatch(*(torch.from_numpy(values) for values in (inputs, targets, self.places[index])))

    def _plan(self, order: np.ndarray) -> list[np.ndarray]:
        """Consecutive sentences of ``order`` cut into batches of at most ``max_tokens`` with padding."""
        longest = np.maximum.accumulate(self.lengths[order] + 1)
        plan, start = [], 0
        while start < len(order):
            window = longest[start : start + max(1, self.config.max_tokens // int(longest[start]))]
            area = window * np.arange(1, len(window) + 1)
            count = max(1, int(np.searchsorted(area, self.config.max_tokens, side="right")))
            plan.append(order[start : start + count])
            start += count
        return plan

    def _epoch(self, seed: int, epoch: int, world_size: int) -> list[np.ndarray]:
        """The batches of an epoch, a multiple of ``world_size``, shuffled."""
        draw = np.random.default_rng([seed, epoch])
        plan = self._plan(np.argsort(self.lengths * draw.uniform(0.9, 1.1, len(self)), kind="stable"))
        shuffled = [plan[index] for index in draw.permutation(len(plan))]
        return shuffled[: len(shuffled) // world_size * world_size]

    def training_batches(
        self, seed: int, epoch: int, skip: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[SentenceBatch]:
        """Batches of one epoch, in an order of its own; the same for the same arguments, as many for every rank.

        Sentences of like length come together.
        """
        for index in self._epoch(seed, epoch, world_size)[rank::world_size][skip:]:
            yield self.batch(index)

    def evaluation_batches(self, rank: int = 0, world_size: int = 1) -> Iterator[SentenceBatch]:
        """All sentences, by length."""
        for index in self._plan(np.argsort(self.lengths, kind="stable"))[rank::world_size]:
            yield self.batch(index)

    def count_batches(self, seed: int, world_size: int = 1) -> int:
        """Batches of the first epoch, for each process."""
        return len(self._epoch(seed, 1, world_size)) // world_size


def _check_covered(path: Path, unknown: int, tokens: int, first: str, most: float) -> None:
    share = unknown / max(1, tokens)
    if share > most:
        what = f"{path}: {share:.1%} of its tokens are unknown to the word pieces, first in {first}"
        raise UserError(what, "normalise the text as the transcripts, or raise data.max_unknown")
    if unknown:
        logger.warning("%s: %d of %d tokens are unknown to the word pieces, first in %s", path, unknown, tokens, first)


def check_texts(paths: Sequence[PathLike]) -> list[Path]:
    """The paths, after checking that the files are there.

    Raises:
        UserError: one is not.
    """
    for path in paths:
        if not Path(path).is_file():
            raise UserError(f"text {path} does not exist", "prepare it, or correct the path")
    return [Path(path) for path in paths]


def set_name(path: PathLike) -> str:
    """What a text is called in tables: its file's name without endings."""
    return Path(path).name.split(".")[0]


_NO_WIDTH = dict.fromkeys((0x200B, 0x2060, 0xFEFF), " ")
"""Separators that cannot be seen, which word pieces take for spaces."""


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def read_sentences(path: PathLike) -> Iterator[str]:
    """The lines of a text file, plain or gzipped, as NFC, their words separated by single spaces.

    Raises:
        UserError: it is no UTF-8 text, or broken.
    """
    number = 0
    try:
        with _open(Path(path)) as stream:
            for line in stream:
                number += 1
                yield " ".join(unicodedata.normalize("NFC", line).translate(_NO_WIDTH).split())
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"{path} cannot be read after line {number} ({error})", "give UTF-8 text") from None

