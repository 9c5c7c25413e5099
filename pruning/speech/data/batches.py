"""Batches of features and transcripts from lhotse cuts; reproducible from the seed with any number of workers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Optional, Union

import torch
from torch import Tensor

from pruning import files
from pruning.errors import UserError
from pruning.speech.data import manifests, sampler, workers
from pruning.speech.data.data_config import DataConfig
from pruning.speech.data.sources import FEATURES, Source
from pruning.speech.text.table import CutTable


@dataclass(frozen=True)
class Batch:
    """Utterances of similar duration.

    Attributes:
        features: (N, T, C) float32; for networks with their own front end, (N, S) samples.
        lengths: (N,) int64, number of frames or samples.
        tokens: N lists of token ids without blank (0). For intents: one number each, -1 if it does not occur in
            training. Empty lists if no output table was given.
        ids: ids of the cuts.
        texts: transcripts.
        seconds: total duration of audio, without padding.
        durations: seconds of audio of each utterance; may be empty where they are not needed.
    """

    features: Tensor
    lengths: Tensor
    tokens: list[list[int]]
    ids: list[str]
    texts: list[str]
    seconds: float
    durations: list[float] = field(default_factory=list)

    def to(self, device: Union[str, torch.device]) -> Batch:
        """Return the batch with its tensors on ``device``."""
        return Batch(
            self.features.to(device, non_blocking=True),
            self.lengths.to(device, non_blocking=True),
            self.tokens,
            self.ids,
            self.texts,
            self.seconds,
            self.durations,
        )


def training_batches(
    config: DataConfig,
    cuts_paths: Sequence[files.PathLike],
    tokenizer: CutTable,
    seed: int,
    epoch: int,
    skip_batches: int = 0,
    rank: int = 0,
    world_size: int = 1,
    source: Source = FEATURES,
) -> Iterator[Batch]:
    """Yield the batches of one epoch of training.

    Order and noise depend only on (seed, epoch, batch, rank), so a run resumed with ``skip_batches`` gets the same
    batches as an uninterrupted one, with any number of workers; skipped batches are not loaded. Every rank gets the
    same number of batches.

    Args:
        config: data configuration.
        cuts_paths: manifests of cuts with features; several are merged at random, each cut equally likely anywhere.
        tokenizer: tokeniser of the transcripts, or the table of intents.
        seed: seed of the run.
        epoch: any whole number; every epoch has its own order.
        skip_batches: number of batches of this rank that are already consumed.
        rank: rank of this process, from 0.
        world_size: number of processes.
        source: input of the network.

    Raises:
        UserError: a manifest or feature file is missing or damaged, or no cut is fit for training.
    """
    paths = manifests.check_exists(cuts_paths)
    key = random.Random(f"{seed} {epoch}").getrandbits(31)  # all bits of a string go into the seed
    selection = sampler.Selection(config, tokenizer.speller, source=source)
    batches = sampler.bucketing_sampler(config, paths, selection, key if config.shuffle else None, rank, world_size)
    noise = None
    if config.musan_cuts:
        noise = _Noise(config, f"{key} {rank}")
        noise.check_fits(next(iter(manifests.iterate_cuts(paths[0])), None))
    dataset = _Dataset(tokenizer, noise, source)
    schedule = sampler.Skipping(batches, skip_batches)
    yield from _load(config, schedule, dataset)
    if config.drop_last and not schedule.drawn:
        what = f"no batch of {config.max_duration:g} s can be filled with {config.num_buckets} duration buckets"
        raise UserError(what, "lower data.max_duration or data.num_buckets, or set data.drop_last=false")
    selection.report(epoch)


def evaluation_batches(
    config: DataConfig,
    cuts_paths: Sequence[files.PathLike],
    tokenizer: Optional[CutTable] = None,
    for_loss: bool = False,
    rank: int = 0,
    world_size: int = 1,
    source: Source = FEATURES,
    skip_batches: int = 0,
) -> Iterator[Batch]:
    """Yield batches of all cuts in a fixed order, without augmentation.

    Args:
        config: data configuration.
        cuts_paths: manifests of cuts with features.
        tokenizer: tokeniser or table of intents; None: batches have no tokens.
        for_loss: leave out cuts with more tokens than frames, as in training (their loss is undefined).
        rank: rank of this process, from 0.
        world_size: number of processes.
        source: input of the network.
        skip_batches: number of batches of this rank to leave out at the beginning.

    Raises:
        UserError: a manifest or feature file is missing or damaged.
    """
    paths = manifests.check_exists(cuts_paths)
    config = replace(config, drop_last=False)
    selection = sampler.Selection(
        config, tokenizer.speller if for_loss and tokenizer is not None else None, durations=False, source=source
    )
    batches = sampler.bucketing_sampler(config, paths, selection, None, rank, world_size)
    yield from _load(config, sampler.Skipping(batches, skip_batches), _Dataset(tokenizer, None, source))
    selection.report(None)


def count_batches(
    config: DataConfig,
    cuts_paths: Sequence[files.PathLike],
    tokenizer: CutTable,
    seed: int = 0,
    world_size: int = 1,
    source: Source = FEATURES,
) -> int:
    """Return the number of batches per rank in one epoch, counted without loading features.

    Epochs differ by a few batches, since the order determines which cuts fit together.
    """
    paths = manifests.check_exists(cuts_paths)
    key = random.Random(f"{seed} 0").getrandbits(31)
    order, selection = key if config.shuffle else None, sampler.Selection(config, tokenizer.speller, source=source)
    batches = sampler.bucketing_sampler(config, paths, selection, order, 0, world_size)
    return sum(1 for _ in batches)


class _Noise:
    """Mixes noise into cuts, with a random generator for each batch."""

    def __init__(self, config: DataConfig, key: str) -> None:
        assert config.musan_cuts is not None
        (path,) = manifests.check_exists([config.musan_cuts])
        from lhotse import CutSet

        self._cuts = CutSet.from_cuts(cut.drop_supervisions() for cut in manifests.iterate_cuts(path))
        self._config, self._key = config, key

    def check_fits(self, cut: Any) -> None:
        """Check that the noise can be mixed into cuts such as ``cut``.

        Raises:
            UserError: there is no noise, or its features are of another type.
        """
        if not len(self._cuts):
            what = f"{self._config.musan_cuts} contains no cuts"
            raise UserError(what, "remove data.musan_cuts, or prepare the noise again")
        for noise in self._cuts:
            for name in ("num_features", "frame_shift", "sampling_rate"):
                theirs, ours = getattr(noise, name), getattr(cut, name, None)
                if cut is not None and theirs != ours:
                    what = f"{self._config.musan_cuts}: {name} of {noise.id} is {theirs}, but {cut.id} has {ours}"
                    raise UserError(what, "compute the features of the noise like those of the training cuts")

    def __call__(self, index: int, cuts: Any) -> Any:
        from lhotse.dataset.cut_transforms import CutMix

        mix = CutMix(
            self._cuts,
            snr=self._config.musan_snr,
            p=self._config.musan_probability,
            pad_to_longest=False,
            preserve_id=True,
            seed=random.Random(f"{self._key} {index}"),
            random_mix_offset=True,
        )
        return mix(cuts)


class _Fault(NamedTuple):
    """A UserError passed out of a worker, which could raise it only as another type."""

    what: str
    remedy: str


class _Dataset(torch.utils.data.Dataset):
    """Loads batches of cuts; runs in the workers."""

    def __init__(self, table: Optional[CutTable], noise: Optional[_Noise], source: Source) -> None:
        self._table, self._noise, self._source = table, noise, source

    def __getitem__(self, item: tuple[int, Any]) -> Union[Batch, _Fault]:
        index, cuts = item
        try:
            return self._batch(self._noise(index, cuts) if self._noise else cuts)
        except UserError as error:
            return _Fault(error.what, error.remedy)

    def _batch(self, cuts: Any) -> Batch:
        loaded = [self._source.load(cut) for cut in cuts]
        lengths = torch.tensor([len(features) for features in loaded], dtype=torch.int64)
        features = torch.nn.utils.rnn.pad_sequence(loaded, batch_first=True, padding_value=self._source.padding)
        texts = [sampler.transcript(cut) for cut in cuts]
        tokens = [[] if self._table is None else self._table.targets(cut, text) for cut, text in zip(cuts, texts)]
        durations = [cut.duration for cut in cuts]
        return Batch(features, lengths, tokens, [cut.id for cut in cuts], texts, sum(durations), durations)


def _load(config: DataConfig, schedule: sampler.Skipping, dataset: _Dataset) -> Iterator[Batch]:
    loader = torch.utils.data.DataLoader(
        dataset,
        sampler=schedule,
        batch_size=None,
        num_workers=config.num_workers,
        generator=torch.Generator().manual_seed(0),  # otherwise it would draw from the generator of training
        worker_init_fn=workers.heed_parent_alone,
    )
    with workers.sigterm_blocked():
        batches = iter(loader)
    for batch in batches:
        if isinstance(batch, _Fault):
            raise UserError(batch.what, batch.remedy)
        yield batch
