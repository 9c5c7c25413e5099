"""Filter-bank features by lhotse, computed in independent jobs and joined; a part's cuts appear when all is done."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning import files
from pruning.errors import UserError
from pruning.speech import manifests


@dataclass(frozen=True)
class FeatureConfig:
    """Log-Mel filter banks as icefall's.

    Attributes:
        num_mel_bins: channels.
        sampling_rate: Hz; recordings of another rate are resampled.
        speed_factors: besides the recordings themselves, copies at these speeds are made of every cut.
    """

    num_mel_bins: int = 80
    sampling_rate: int = 16000
    speed_factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Job:
    """Split number ``split`` (from 1) of ``num_splits`` of a part; ``name`` holds both."""

    paths: manifests.Paths
    part: str
    split: int
    num_splits: int

    @property
    def directory(self) -> Path:
        """Where the features of the part lie."""
        return self.paths.directory / f"{self.paths.prefix}_feats_{self.part}"

    @property
    def storage(self) -> Path:
        """The archive of this split's features."""
        return self.directory / f"feats-{self.split}-of-{self.num_splits}.lca"

    @property
    def cuts(self) -> Path:
        """The cuts of this split; their presence means that the split is done."""
        return self.directory / f"cuts-{self.split}-of-{self.num_splits}.jsonl.gz"


def compute_split(config: FeatureConfig, source: manifests.Paths, job: Job) -> None:
    """Compute the features of one split; does nothing if the split, or the whole part, is done.

    Raises:
        UserError: a manifest is missing or damaged, or an audio file is (naming it); nothing of the split remains.
    """
    from lhotse import CutSet, Fbank, FbankConfig, LilcomChunkyWriter

    if job.cuts.is_file() or job.paths.cuts(job.part).is_file():
        logging.info("%s: split %d of %d is done", job.part, job.split, job.num_splits)
        return
    cuts = list(manifests.read(source, job.part))
    chosen = cuts[len(cuts) * (job.split - 1) // job.num_splits : len(cuts) * job.split // job.num_splits]
    extractor = Fbank(FbankConfig(num_mel_bins=config.num_mel_bins, sampling_rate=config.sampling_rate))
    job.directory.mkdir(parents=True, exist_ok=True)
    done = False
    try:
        with LilcomChunkyWriter(str(job.storage)) as writer:
            made = [_with_features(cut, extractor, writer) for cut in _perturbed(config, chosen)]
        with files.atomic_path(job.cuts) as temporary:
            CutSet.from_cuts(made).to_file(temporary)
        done = True
    finally:
        if not done:
            job.storage.unlink(missing_ok=True)
    logging.info("%s: split %d of %d: %d cuts", job.part, job.split, job.num_splits, len(made))


def _perturbed(config: FeatureConfig, cuts: list[Any]) -> Iterator[Any]:
    for cut in cuts:
        resampled = cut if cut.sampling_rate == config.sampling_rate else cut.resample(config.sampling_rate)
        yield resampled
        for factor in config.speed_factors:
            yield resampled.perturb_speed(factor)


def _with_features(cut: Any, extractor: Any, writer: Any) -> Any:
    """``cut`` with its features computed and stored.

    Raises:
        UserError: the audio cannot be read, is shorter than the manifest says, or is too short for one frame.
        OSError: the disk is full.
    """
    from lhotse.utils import fastcopy

    source = cut.recording.sources[0].source
    try:
        samples = cut.load_audio()
    except Exception as error:  # of whichever audio backend lhotse took
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{source}: the audio of {cut.id} is truncated or unreadable ({reason})",
            "restore the file, or remove it and its transcript, and prepare the manifests again",
        ) from None
    if samples.shape[1] < extractor.config.sampling_rate * 0.025:
        raise UserError(f"{source}: the audio of {cut.id} is shorter than one frame", "remove it and its transcript")
    stored = extractor.extract_from_samples_and_store(
        samples, storage=writer, sampling_rate=cut.sampling_rate, offset=cut.start, channel=cut.channel
    )
    return fastcopy(cut, features=stored)


def combine(source: manifests.Paths, paths: manifests.Paths, part: str, num_splits: int) -> None:
    """Join the splits of ``part`` into its cuts, in the order of the manifests; does nothing if they are there.

    Raises:
        UserError: a split is missing or damaged, or lacks utterances of the manifests.
    """
    from lhotse import CutSet

    if paths.cuts(part).is_file():
        logging.info("%s: the cuts are there already", part)
        return
    jobs = [Job(paths, part, split, num_splits) for split in range(1, num_splits + 1)]
    for job in jobs:
        for path in (job.cuts, job.storage):
            if not path.is_file():
                raise UserError(f"{path} does not exist", f"compute split {job.split} of {num_splits} of {part} first")
    missing = {cut.supervisions[0].id for cut in manifests.read(source, part)}
    with files.atomic_path(paths.cuts(part)) as temporary:
        with CutSet.open_writer(temporary) as writer:
            for job in jobs:
                for cut in manifests.iterate_cuts(job.cuts):
                    missing.discard(cut.supervisions[0].id)
                    writer.write(cut)
        if missing:
            what = f"{jobs[0].directory} has no features of {min(missing)}, which is in the manifest of {part}"
            raise UserError(what, "remove that directory and compute the features again")
    for job in jobs:
        job.cuts.unlink()
    logging.info("%s: %s", part, paths.cuts(part))
