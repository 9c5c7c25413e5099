"""Filter-bank features by lhotse, computed in independent jobs and joined; a part's cuts appear when all are done."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

from pruning import files
from pruning.errors import UserError
from pruning.limits import Count, OutOfRange, Range, check_fields
from pruning.speech.data import audio, manifests
from pruning.speech.data.origin import Origin

_MISSING_SECONDS = 0.025
"""Seconds by which a recording may be shorter than in its manifest: one frame. lhotse fills the rest with mirrored
audio."""


_IDS = "of utterances"
"""Ids of the cuts: splits of older versions, named by recording and position, are computed again."""


@dataclass(frozen=True)
class FeatureConfig:
    """Log-Mel filter banks as in icefall.

    Attributes:
        num_mel_bins: number of channels.
        sampling_rate: Hz; recordings with another rate are resampled.
        speed_factors: speeds at which copies of every cut are made in addition to the recordings themselves. 1, which
            stands for the recordings themselves in Kaldi and ESPnet, adds no copy.
    """

    num_mel_bins: Count = 80
    sampling_rate: Count = 16000
    speed_factors: tuple[Annotated[float, Range(least=0.5, most=2)], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        factors = tuple(factor for factor in self.speed_factors if factor != 1)
        if len(set(factors)) < len(factors):
            raise OutOfRange(f"speed_factors must differ, got {list(self.speed_factors)}", "give each factor once")
        object.__setattr__(self, "speed_factors", factors)

    def describe(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return {**asdict(self), "speed_factors": list(self.speed_factors)}


@dataclass(frozen=True)
class Job:
    """Split number ``split`` (from 1) of ``num_splits`` of a part."""

    paths: manifests.Paths
    part: str
    split: int
    num_splits: int

    @property
    def directory(self) -> Path:
        """Directory of the part's features."""
        return self.paths.directory / f"{self.paths.prefix}_feats_{self.part}"

    def storage(self, version: str) -> Path:
        """Return the path of this split's feature archive; ``version``: see ``_version``."""
        return self.directory / f"feats-{self.split}-of-{self.num_splits}-{version}.lca"

    def cuts(self, version: str) -> Path:
        """Return the path of this split's cuts; the file exists if the split is done."""
        return self.directory / f"cuts-{self.split}-of-{self.num_splits}-{version}.jsonl.gz"


def _version(config: FeatureConfig, source: manifests.Paths, part: str) -> str:
    """Hash the input of splits to 8 characters, so that splits of other manifests or settings have other names."""
    digest = hashlib.sha256(json.dumps([config.describe(), _IDS]).encode())
    for path in (source.recordings(part), source.supervisions(part)):
        with manifests.naming(path), gzip.open(path, "rb") as stream:  # uncompressed: the archive contains its date
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:8]


def is_done(config: FeatureConfig, source: manifests.Paths, paths: manifests.Paths, part: str) -> bool:
    """Whether the cuts of ``part`` exist.

    Raises:
        UserError: see `pruning.speech.data.origin`.
    """
    record = _record(paths, part)
    return _origin(config, source, part).made(paths.cuts(part), record, record.parent)


def _origin(config: FeatureConfig, source: manifests.Paths, part: str) -> Origin:
    """What the cuts of ``part`` are made from; the paths of the audio, which is not read again, do not count."""
    return Origin(config.describe(), {"utterances": source.supervisions(part)})


def _record(paths: manifests.Paths, part: str) -> Path:
    """Return the path of the record of what the cuts of ``part`` were made from."""
    return Job(paths, part, 1, 1).directory / "config.json"


def compute_split(config: FeatureConfig, source: manifests.Paths, job: Job) -> None:
    """Compute the features of one split; does nothing if the split or the whole part is done.

    Raises:
        UserError: a manifest or an audio file is missing or damaged (the message names it), and nothing of the split
            is kept; or the part was made with another configuration or from other utterances.
    """
    whole = is_done(config, source, job.paths, job.part)
    version = "" if whole else _version(config, source, job.part)
    if whole or job.cuts(version).is_file():
        logging.info("%s: split %d of %d is done", job.part, job.split, job.num_splits)
        return
    from lhotse import CutSet, Fbank, FbankConfig, LilcomChunkyWriter

    cuts = list(manifests.read(source, job.part))
    chosen = cuts[len(cuts) * (job.split - 1) // job.num_splits : len(cuts) * job.split // job.num_splits]
    extractor = Fbank(FbankConfig(num_mel_bins=config.num_mel_bins, sampling_rate=config.sampling_rate))
    _refuse_missing_audio()
    job.directory.mkdir(parents=True, exist_ok=True)
    done = False
    try:
        with LilcomChunkyWriter(str(job.storage(version))) as writer:
            made = [_with_features(cut, extractor, writer) for cut in _perturbed(config, chosen)]
        with files.atomic_path(job.cuts(version)) as temporary:
            CutSet.from_cuts(made).to_file(temporary)
        done = True
    finally:
        if not done:
            job.storage(version).unlink(missing_ok=True)
    logging.info("%s: split %d of %d: %d cuts", job.part, job.split, job.num_splits, len(made))


def _refuse_missing_audio() -> None:
    """Make lhotse raise if a recording is shorter than in its manifest; by default it fills up to half a second."""
    import lhotse

    if lhotse.get_audio_duration_mismatch_tolerance() != _MISSING_SECONDS:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # it warns that augmentation may fail: changing speed or rate adds some samples
            lhotse.set_audio_duration_mismatch_tolerance(_MISSING_SECONDS)


def _perturbed(config: FeatureConfig, cuts: Iterable[Any]) -> Iterator[Any]:
    for cut in cuts:
        resampled = cut if cut.sampling_rate == config.sampling_rate else cut.resample(config.sampling_rate)
        yield resampled
        for factor in config.speed_factors:
            yield resampled.perturb_speed(factor)


def _with_features(cut: Any, extractor: Any, writer: Any) -> Any:
    """Compute and store the features of ``cut`` and return the cut with them.

    Raises:
        UserError: the audio cannot be read, is shorter than in the manifest, has several channels or samples that
            are not finite or far beyond full scale, or is too short for one frame.
        OSError: the disk is full.
    """
    import numpy as np
    from lhotse.utils import fastcopy

    source = cut.recording.sources[0].source
    try:
        samples = cut.load_audio()
    except Exception as error:  # raised by any of lhotse's audio backends
        raise UserError(
            f"{source}: the audio of {cut.id} is truncated or unreadable ({audio.first_line(error)})",
            "restore the file, or remove it with its transcript, and prepare the manifests again",
        ) from None
    if samples.shape[0] != 1:
        raise UserError(f"{source}: {cut.id} has {samples.shape[0]} channels", audio.CHOOSE_CHANNEL)
    wrong = audio.fault(float(np.abs(samples).max(initial=0.0)))
    if wrong is not None:
        raise UserError(f"{source}: the audio of {cut.id} {wrong[0]}", wrong[1])
    if samples.shape[1] < extractor.config.sampling_rate * 0.025:
        raise UserError(f"{source}: the audio of {cut.id} is shorter than one frame", "remove it with its transcript")
    stored = extractor.extract_from_samples_and_store(
        samples, storage=writer, sampling_rate=cut.sampling_rate, offset=cut.start, channel=cut.channel
    )
    return fastcopy(cut, features=stored)


def combine(config: FeatureConfig, source: manifests.Paths, paths: manifests.Paths, part: str, num_splits: int) -> None:
    """Join the splits of ``part`` into its cuts, in the order of the manifests; does nothing if the cuts exist.

    Raises:
        UserError: a split is missing or damaged, or its utterances differ from the manifests; or the cuts exist but
            were made with another configuration or from other utterances.
    """
    if is_done(config, source, paths, part):
        logging.info("%s: the cuts already exist", part)
        return
    from lhotse import CutSet

    version = _version(config, source, part)
    jobs = [Job(paths, part, split, num_splits) for split in range(1, num_splits + 1)]
    for job in jobs:
        for path in (job.cuts(version), job.storage(version)):
            if not path.is_file():
                raise UserError(f"{path} does not exist", f"compute split {job.split} of {num_splits} of {part} first")
    made = (cut for job in jobs for cut in manifests.iterate_cuts(job.cuts(version)))
    with files.atomic_path(paths.cuts(part)) as temporary:
        with CutSet.open_writer(temporary) as writer:
            for cut, wanted in zip_longest(made, _perturbed(config, manifests.read(source, part))):
                _check_same(cut, wanted, jobs[0].directory)
                writer.write(cut)
        _origin(config, source, part).write(_record(paths, part))
    for job in jobs:
        job.cuts(version).unlink()
    logging.info("%s: %s", part, paths.cuts(part))


def _check_same(cut: Any, wanted: Any, directory: Path) -> None:
    """Check that the cut with features is the next utterance of the manifests; None stands for a missing one."""
    remedy = "remove this directory and compute the features again"
    if cut is None:
        raise UserError(f"{directory} has no features of {wanted.id}", remedy)
    texts = [each.text for each in cut.supervisions]
    if wanted is None or (cut.id, texts) != (wanted.id, [each.text for each in wanted.supervisions]):
        raise UserError(
            f"{directory} has features of {cut.id}, which is missing from the manifests or at another place", remedy
        )
