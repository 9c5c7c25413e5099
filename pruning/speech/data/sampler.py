"""Sample batches of cuts: selection, merging of manifests, bucketing by lhotse; reads no audio."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from pruning.errors import UserError
from pruning.speech.data import manifests
from pruning.speech.data.data_config import DataConfig
from pruning.speech.data.sources import FEATURES, Source
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.normalisation import normalised

_BINS_FROM = 10_000  # number of cuts whose durations determine the bucket limits


class Selection:
    """Selects the cuts fit for training; counts the others, and the tokens of all cuts with a fitting duration.

    With ``durations=False``, for evaluation, cuts of any duration are selected, and those that are far too long for
    one computation are refused (`check_evaluated`).

    Attributes:
        source: input of the network.
    """

    def __init__(
        self, config: DataConfig, tokenizer: Optional[Tokenizer], durations: bool = True, source: Source = FEATURES
    ) -> None:
        self._config, self._tokenizer, self._durations, self.source = config, tokenizer, durations, source
        self.kept, self.wrong_duration, self.too_many_tokens = 0, 0, 0
        self.unknown, self.tokens = 0, 0

    def __call__(self, cut: Any) -> bool:
        if self._durations and not self._config.min_cut_duration <= cut.duration <= self._config.max_cut_duration:
            self.wrong_duration += 1
            return False
        if not self._durations:
            check_evaluated(cut, self.source, self._config.longest_evaluated)
        if self._tokenizer is not None:
            tokens = self._tokenizer.encode(transcript(cut))
            unknown, count = self._tokenizer.count_unknown(tokens)
            self.unknown, self.tokens = self.unknown + unknown, self.tokens + count
            if not tokens or self.source.frames(cut) < len(tokens):
                self.too_many_tokens += 1
                return False
        self.kept += 1
        return True

    def copy(self) -> Selection:
        """Return the same selection with all counts at 0."""
        return Selection(self._config, self._tokenizer, self._durations, self.source)

    def check_known(self, names: str) -> None:
        """Check that the tokeniser fits the transcripts seen so far.

        Args:
            names: names of the manifests for the error message.

        Raises:
            UserError: more than half of the tokens are unknown.
        """
        if self._tokenizer is not None and 2 * self.unknown > self.tokens:
            what = f"{self.unknown} of {self.tokens} tokens in {names} are unknown to {self._tokenizer.lang_dir}"
            raise UserError(what, "give the --lang-dir of these transcripts, or write them with its letters and case")

    def report(self, epoch: Optional[int]) -> None:
        """Log how many cuts were dropped and how many tokens are unknown, if any."""
        dropped = self.wrong_duration + self.too_many_tokens
        where = "evaluation" if epoch is None else f"epoch {epoch}"
        if self.unknown:
            logging.info("%s: %d of %d tokens are unknown (<unk>)", where, self.unknown, self.tokens)
        if dropped:
            logging.info(
                "%s: dropped %d of %d cuts: %d too short or too long, %d with more tokens than frames",
                where, dropped, dropped + self.kept, self.wrong_duration, self.too_many_tokens,
            )  # fmt: skip


def check_evaluated(cut: Any, source: Source, longest: float) -> None:
    """Check that a cut of a dev or test set can be computed at once.

    Raises:
        UserError: the network computes more than ``longest`` seconds for it.
    """
    seconds = source.length(cut)
    if seconds > longest:
        what = f"cut {cut.id} lasts {round(seconds, 1):g} s, but cuts of dev and test sets may last {longest:g} s"
        remedy = "divide its recording into utterances (segments), or raise the limit if there is memory for it: "
        raise UserError(what, remedy + "data.max_evaluated_duration in training, --max-duration of other programs")


def transcript(cut: Any) -> str:
    """Return the text of ``cut``, normalised by `pruning.speech.text.normalisation`.

    Raises:
        UserError: the cut has no or several transcripts, or one that is empty, not text, of no duration, or longer than
            the cut.
    """
    if len(cut.supervisions) != 1:
        what = f"cut {cut.id} has {len(cut.supervisions)} transcripts instead of one"
        raise UserError(what, "split it with `lhotse cut trim-to-supervisions`, or prepare the data again")
    text = cut.supervisions[0].text
    if not isinstance(text or "", str):
        raise UserError(f"the transcript of cut {cut.id}, {text!r}, is not a string", "put it in quotes")
    text = normalised(text or "")
    if not text.strip():
        raise UserError(f"the transcript of cut {cut.id} is empty", "add its words or remove the cut")
    supervision = cut.supervisions[0]
    start, duration = supervision.start, supervision.duration
    if (
        not all(isinstance(value, (int, float)) and math.isfinite(value) for value in (start, duration))
        or duration <= 0
    ):
        raise UserError(f"the transcript of cut {cut.id} begins at {start!r} s and lasts {duration!r} s",
                        "correct its times, or remove it")  # fmt: skip
    if supervision.start < -_TOLERANCE or supervision.end > cut.duration + _TOLERANCE:
        what = (f"the transcript of cut {cut.id} covers {supervision.start:g} to {supervision.end:g} s, but the cut "
                f"ends at {cut.duration:g} s: windows of a longer cut keep its whole transcript")  # fmt: skip
        raise UserError(what, "cut at the transcripts instead: lhotse cut trim-to-supervisions")
    return text


_TOLERANCE = 2e-3
"""Tolerance in seconds for transcripts beyond their cut, as in lhotse's `validate_for_asr`."""


class _Merged:
    """Cuts of several manifests, read lazily: shuffled in proportion to what is left of each, or one after another."""

    def __init__(self, paths: Sequence[Path], key: Optional[int]) -> None:
        self._sources = [manifests.LazyCuts(path) for path in paths]
        self._counts = [manifests.count_lines(path) for path in paths] if len(paths) > 1 else []
        self._key = key

    def __iter__(self) -> Iterator[Any]:
        if self._key is None or len(self._sources) == 1:
            for source in self._sources:
                yield from source
            return
        generator = random.Random(self._key)
        left, iterators = list(self._counts), [iter(source) for source in self._sources]
        while sum(left) > 0:
            (chosen,) = generator.choices(range(len(left)), weights=left)
            left[chosen] -= 1
            yield next(iterators[chosen])


def bucketing_sampler(
    config: DataConfig, paths: Sequence[Path], selection: Selection, key: Optional[int], rank: int, world_size: int
) -> Any:
    """Return lhotse's bucketing sampler over ``paths``; ``key`` seeds the order, None keeps the manifests' order.

    Raises:
        UserError: ``selection`` accepts no cut, or most of their tokens are unknown.
    """
    from lhotse.dataset import DynamicBucketingSampler

    cuts = _Merged(paths, key)
    names = ", ".join(str(path) for path in paths)
    trial = selection.copy()  # keeps these cuts out of the counts
    first = _first_lengths(cuts, trial)
    trial.check_known(names)
    if not first:
        raise UserError(
            f"no cut in {names} can be used",
            "check durations, transcripts, data.min_cut_duration and data.max_cut_duration",
        )
    sampler = DynamicBucketingSampler(
        cuts,
        **_limit(config, selection.source),
        duration_bins=_duration_bins(first, config.num_buckets),
        buffer_size=config.buffer_size or 5000 * config.num_buckets,
        shuffle=key is not None,
        drop_last=config.drop_last,  # if False, lhotse shares the last cuts among the ranks
        rank=rank,
        world_size=world_size,
        seed=key or 0,
    )
    sampler.filter(selection)
    return sampler


def _limit(config: DataConfig, source: Source) -> dict[str, Any]:
    """Return the option of lhotse's sampler that limits batches to ``max_duration`` of what the network computes."""
    if source.seconds is None:
        return {"max_duration": config.max_duration}
    from pruning.speech.data.computed_time import ComputedTime

    return {"constraint": ComputedTime(config.max_duration, source.seconds)}


def _first_lengths(cuts: Iterable[Any], selection: Selection) -> list[float]:
    """Return the seconds that the network computes for each of the first cuts fit for training."""
    lengths: list[float] = []
    for cut in cuts:
        if selection(cut):
            lengths.append(selection.source.length(cut))
        if len(lengths) == _BINS_FROM:
            break
    return lengths


def _duration_bins(durations: Sequence[float], num_buckets: int) -> list[float]:
    """Return limits between buckets (s) such that all buckets have about the same amount of audio."""
    ordered = sorted(durations)
    share, filled = sum(ordered) / num_buckets, 0.0
    limits: list[float] = []
    for duration in ordered:
        if filled >= share * (len(limits) + 1) and (not limits or duration > limits[-1]):
            limits.append(duration)
        filled += duration
    return limits[: num_buckets - 1]


class Skipping:
    """Numbered batches of cuts from a sampler, starting at ``skip``; earlier ones are drawn and discarded.

    Attributes:
        drawn: number of batches drawn so far, discarded ones included.
    """

    def __init__(self, sampler: Any, skip: int) -> None:
        self._sampler, self._skip = sampler, skip
        self.drawn = 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for index, cuts in enumerate(self._sampler):
            self.drawn = index + 1
            if index >= self._skip:
                yield index, cuts
