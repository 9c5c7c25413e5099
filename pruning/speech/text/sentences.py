"""Batches of token ids from text files, for language models."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Optional

import numpy as np
import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.limits import Count, Natural, OneOf, OutOfRange, Share, check_fields
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.table import TextTable
from pruning.speech.text.text_files import ON_EMPTY, empty_line
from pruning.speech.text.tokenized import FileFacts, Form, tokenized
from pruning.speech.text.written_form import WRITTEN

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextConfig:
    """How text is written, and how sentences are grouped into batches.

    Attributes:
        max_tokens: maximum number of tokens in a batch, padding included.
        max_length: maximum number of tokens in a sentence; longer ones are split into pieces of this length.
        max_unknown: maximum share of unknown tokens; more is an error.
        on_empty: what to do with empty lines, ``error`` or ``skip``.
        form: how lines are written for the language model: ``as-is``, ``lower``, ``sentence`` (an English sentence:
            lower case with a capital and a full stop) or ``words`` (as in LibriSpeech's transcripts).
        block: number of tokens in a block of running text, into which consecutive lines are packed; 0: each line is a
            text of its own. For language models with tokens of their own.
        ends: whether the end of a line is predicted; None: not if the tokens are a network's own. Blocks have no ends.
    """

    max_tokens: Count = 4096
    max_length: Count = 256
    max_unknown: Share = 0.01
    on_empty: Annotated[str, OneOf(ON_EMPTY)] = ON_EMPTY[0]
    form: Annotated[str, OneOf(tuple(WRITTEN))] = "as-is"
    block: Natural = 0
    ends: Optional[bool] = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.block > self.max_tokens:
            raise OutOfRange(f"max_tokens must be at least block ({self.block}), got {self.max_tokens}",
                             "increase max_tokens")  # fmt: skip
        if not self.block and self.max_tokens <= self.max_length:
            raise OutOfRange(
                f"max_tokens must be above max_length ({self.max_length}), got {self.max_tokens}", "increase max_tokens"
            )
        if self.block and self.ends:
            raise ValueError("blocks of running text have no ends: set ends to false, or block to 0")

    @property
    def longest(self) -> int:
        """Largest number of tokens of a text, with the token before it but without one behind it."""
        return self.block or self.max_length + 1


@dataclass(frozen=True)
class SentenceBatch:
    """A batch of sentences.

    Attributes:
        inputs: ``(N, U)`` int64, the token before a text and the text; padded with the token before it.
        targets: ``(N, U)`` int64, the text and, if ends are predicted, the token behind it; padded with -1. Without
            ends, ``inputs`` lack the last token.
        places: ``(N,)`` index of each sentence, or block, in its file, from 0.
    """

    inputs: Tensor
    targets: Tensor
    places: Tensor

    def to(self, device: torch.device) -> SentenceBatch:
        """Return the batch on ``device``."""
        return SentenceBatch(self.inputs.to(device), self.targets.to(device), self.places.to(device))

    @property
    def ids(self) -> list[str]:
        """Names of the sentences: their indices."""
        return [str(place) for place in self.places.tolist()]

    @property
    def mask(self) -> Tensor:
        """``(N, U)`` bool, True where there is a target."""
        return self.targets >= 0


def boundary_id(tokenizer: Tokenizer) -> int:
    """Return the token that begins and ends sentences: ``<sos/eos>``, or blank if the model has no such token."""
    return tokenizer.boundaries[0]


class Sentences:
    """All sentences of text files as token ids.

    Args:
        paths: text files, one sentence per line, plain or gzipped.
        tokenizer: tokens of the language model.
        config: see `TextConfig`.
        keep: whether to cache the ids in ``text`` of the language directory (see `pruning.speech.text.tokenized`).

    Raises:
        UserError: a file is missing, is not text, has no sentences, has an empty line, or has too many unknown tokens.
    """

    def __init__(self, paths: Sequence[PathLike], tokenizer: TextTable, config: TextConfig, keep: bool = False) -> None:
        self.config = config
        self.start, self.end = tokenizer.boundaries
        if config.block and tokenizer.joint is None:
            raise UserError(f"data.block is {config.block}, but tokens of {tokenizer.path} are for single sentences",
                            "set data.block to 0")  # fmt: skip
        self.ended = config.block == 0 and (tokenizer.joint is None if config.ends is None else config.ends)
        form = Form(config.form, config.block > 0)
        text = tokenized(paths, tokenizer, tokenizer.lang_dir / "text" if keep else None, form)
        for facts in text.files:
            _check_covered(facts, config.max_unknown)
            if facts.first_empty and config.on_empty == "error":
                raise empty_line(facts.path, facts.first_empty, "data.on_empty=skip")
        empty = sum(facts.empty for facts in text.files)
        if not len(text.ids):
            raise UserError(f"{', '.join(map(str, paths))}: no sentences found", "give text with one sentence per line")
        if empty:
            logger.info("skipped %d empty lines", empty)
        lengths, most = text.lengths, config.max_length
        if config.block:
            lengths, most = np.array([len(text.ids)], dtype=np.int64), config.block
        pieces = -(-lengths // most)
        self.places = np.repeat(np.arange(len(pieces)), pieces)
        before = np.repeat(np.cumsum(pieces) - pieces, pieces)  # number of pieces of earlier sentences
        offsets = (np.arange(len(self.places)) - before) * most
        self.lengths = np.minimum(most, lengths[self.places] - offsets)
        self._flat = text.ids
        self._starts = (np.cumsum(lengths, dtype=np.int64) - lengths)[self.places] + offsets
        if config.block:
            self.places = np.arange(len(self.places))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Number of targets: all tokens and, if they are predicted, one end per sentence."""
        return len(self._flat) + len(self) * self.ended

    def batch(self, index: np.ndarray) -> SentenceBatch:
        """Return the batch of the sentences ``index (N,)``."""
        length = int(self.lengths[index].max())
        grid = np.arange(length)[None, :]
        inside = grid < self.lengths[index][:, None]  # (N, length)
        ids = self._flat[np.where(inside, self._starts[index][:, None] + grid, 0)].astype(np.int64)
        targets = np.full((len(index), length + self.ended), -1, dtype=np.int64)
        targets[:, :length][inside] = ids[inside]
        if self.ended:
            targets[np.arange(len(index)), self.lengths[index]] = self.end
        inputs = np.full_like(targets, self.start)
        following = inside[:, : targets.shape[1] - 1]
        inputs[:, 1:][following] = ids[:, : following.shape[1]][following]
        return SentenceBatch(*(torch.from_numpy(values) for values in (inputs, targets, self.places[index])))

    def _plan(self, order: np.ndarray) -> list[np.ndarray]:
        """Split ``order`` into batches of consecutive sentences of at most ``max_tokens`` with padding."""
        longest = np.maximum.accumulate(self.lengths[order] + self.ended)
        plan, start = [], 0
        while start < len(order):
            window = longest[start : start + max(1, self.config.max_tokens // int(longest[start]))]
            area = window * np.arange(1, len(window) + 1)
            count = max(1, int(np.searchsorted(area, self.config.max_tokens, side="right")))
            plan.append(order[start : start + count])
            start += count
        return plan

    def _epoch(self, seed: int, epoch: int, world_size: int) -> list[np.ndarray]:
        """Return the shuffled batches of an epoch; their number is a multiple of ``world_size``."""
        draw = np.random.default_rng([seed, epoch])
        plan = self._plan(np.argsort(self.lengths * draw.uniform(0.9, 1.1, len(self)), kind="stable"))
        shuffled = [plan[index] for index in draw.permutation(len(plan))]
        return shuffled[: len(shuffled) // world_size * world_size]

    def training_batches(
        self, seed: int, epoch: int, skip: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[SentenceBatch]:
        """Yield the batches of one epoch, shuffled differently in each epoch.

        The order depends only on the arguments; every rank gets the same number of batches. Sentences of similar
        length are batched together.
        """
        for index in self._epoch(seed, epoch, world_size)[rank::world_size][skip:]:
            yield self.batch(index)

    def evaluation_batches(self, rank: int = 0, world_size: int = 1) -> Iterator[SentenceBatch]:
        """Yield all sentences, sorted by length."""
        for index in self._plan(np.argsort(self.lengths, kind="stable"))[rank::world_size]:
            yield self.batch(index)

    def count_batches(self, seed: int, world_size: int = 1) -> int:
        """Return the number of batches per process in the first epoch."""
        return len(self._epoch(seed, 1, world_size)) // world_size


def _check_covered(facts: FileFacts, most: float) -> None:
    share = facts.unknown / max(1, facts.tokens)
    if share > most:
        what = f"{facts.path}: {share:.1%} of the tokens are unknown, first at {facts.first}"
        raise UserError(what, "normalise the text like the transcripts, or raise data.max_unknown")
    if facts.unknown:
        logger.warning("%s: %d of %d tokens are unknown, first at %s", facts.path, facts.unknown,
                       facts.tokens, facts.first)  # fmt: skip
