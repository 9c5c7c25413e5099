"""The input of a network: features or samples of a cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Optional, TypeVar

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.speech.data.audio import fault, first_line
from pruning.speech.data.whisper_features import HOP, RATE, WhisperFeatureConfig, whisper_features

T = TypeVar("T")

PADDING = math.log(1e-10)
"""Padding value of features: the logarithm of zero energy, as in lhotse."""

_ROUNDING = 3
"""Number of frames that may be missing at each end of a cut: Kaldi computes none that reach beyond the audio."""


@dataclass(frozen=True)
class Source:
    """How to turn cuts into a network's inputs. It is sent to worker processes, so its functions must be picklable.

    Attributes:
        load: returns the input of one cut, ``(T, C)`` features or ``(S,)`` samples, float32.
        frames: returns the number of encoder output frames for a cut, without loading it.
        padding: value with which shorter inputs of a batch are padded.
        recorded: whether inputs are made of recordings, so that cuts need no features.
        extract: computes features ``(T, C)`` of samples ``(S,)``, as `load` does; None: `load` computes none.
        longest: seconds of the longest cut that fits the network; None: any cut fits.
        seconds: returns the seconds that the network computes for a cut, added silence included, by which batches are
            limited; None: the duration of the cut.
    """

    load: Callable[[Any], Tensor]
    frames: Callable[[Any], int]
    padding: float
    recorded: bool = False
    extract: Optional[Callable[[Tensor], Tensor]] = None
    longest: Optional[float] = None
    seconds: Optional[Callable[[Any], float]] = None

    def length(self, cut: Any) -> float:
        """Return the seconds that the network computes for a cut."""
        return float(cut.duration) if self.seconds is None else self.seconds(cut)


def frames_after_subsampling(frames: int) -> int:
    """Return the number of frames after convolutional subsampling by 4 (two kernels of 3 with stride 2, no padding)."""
    return max(0, ((frames - 1) // 2 - 1) // 2)


def num_frames(cut: Any) -> int:
    """Return the number of feature frames of a cut.

    Raises:
        UserError: the cut has no features, or features of another time.
    """
    if not cut.has_features:
        raise UserError(f"cut {cut.id} has no features", "compute them with local/compute_features.py")
    stored = getattr(cut, "features", None)  # not of cuts that were mixed or padded
    if stored is not None:
        rounding = _ROUNDING * stored.frame_shift
        if not stored.start - rounding <= cut.start < cut.end <= stored.start + stored.duration + rounding:
            what = (f"cut {cut.id} is of {cut.start:g} to {cut.end:g} s of its recording, and its features are of "
                    f"{stored.start:g} to {stored.start + stored.duration:g} s")  # fmt: skip
            raise UserError(what, "correct the times of the cut, or compute its features again")
    return int(cut.num_frames)


def load_features(cut: Any) -> Tensor:
    """Return the features of ``cut``, (T, C) float32.

    Raises:
        UserError: the cut has no features, their file is missing or damaged, they have another number of frames than
            the cut, or some are not finite.
    """
    frames = num_frames(cut)
    where = getattr(getattr(cut, "features", None), "storage_path", "the features")
    again = "remove the cuts and features of this part and run the feature stage again"
    try:
        features = torch.from_numpy(_begun(cut).load_features()).to(torch.float32)
    except Exception as error:  # lilcom and lhotse's storage types raise various exceptions
        reason = str(error).split("[extra info]")[0].strip()  # lhotse appends the whole cut
        what = f"{where}: cannot read the features of cut {cut.id} ({type(error).__name__}: {reason})"
        raise UserError(what, again) from None
    bins = int(cut.num_features)
    if features.dim() != 2 or len(features) < frames - _ROUNDING or features.shape[1] != bins:
        there = " x ".join(str(size) for size in features.shape)
        what = f"{where}: cut {cut.id} promises {frames} frames of {bins} features, and {there} are there"
        raise UserError(what, f"correct the times of the cut, or {again}")
    finite = features.isfinite().all(dim=1)
    if not finite.all():
        frame = int(finite.logical_not().nonzero()[0])
        what = f"the features of cut {cut.id} are not finite (first in frame {frame})"
        remedy = "run the feature stage of this part again, or remove the cut"
        mixed = getattr(cut, "tracks", ())[1:]
        if mixed:
            remedy = f"check its own features and those of the cuts mixed into it: {', '.join(t.cut.id for t in mixed)}"
        raise UserError(what, remedy)
    return features


def _begun(cut: Any) -> Any:
    """``cut``, not before its features, by less than whose rounding lhotse refuses to load them."""
    stored = getattr(cut, "features", None)
    if stored is None or not 0 < stored.start - cut.start <= _ROUNDING * stored.frame_shift:
        return cut
    from lhotse.utils import fastcopy

    return fastcopy(cut, start=stored.start)


def _frames_of_features(cut: Any) -> int:
    return frames_after_subsampling(num_frames(cut))


FEATURES = Source(load_features, _frames_of_features, PADDING)
"""Filter-bank features, for encoders that subsample by 4."""


def features(frames: Callable[[int], int]) -> Source:
    """Return filter-bank features for an encoder that makes ``frames(T)`` output frames of T feature frames."""
    return replace(FEATURES, frames=partial(_frames_by, frames))


def _frames_by(frames: Callable[[int], int], cut: Any) -> int:
    return frames(num_frames(cut))


def rate_of(cut: Any) -> int:
    """The sampling rate of the audio of ``cut``, which has some; a cut's own may be that of its features."""
    return int(getattr(cut, "recording", cut).sampling_rate)


def load_audio(sampling_rate: int, cut: Any) -> Tensor:
    """Return the samples of ``cut``, (S,) float32, between -1 and 1.

    Raises:
        UserError: the cut has no recording, another sampling rate, several channels or samples that are not finite or
            far beyond full scale, or its file is missing or damaged.
    """
    _check_recorded(cut, sampling_rate)
    try:
        samples = torch.from_numpy(cut.load_audio()).to(torch.float32)
    except Exception as error:  # raised by any of lhotse's audio backends
        what = f"cannot read the audio of cut {cut.id} ({type(error).__name__}: {first_line(error)})"
        raise UserError(what, "restore the file") from None
    if len(samples) != 1:
        raise UserError(f"cut {cut.id} has {len(samples)} channels", "choose one of them")
    wrong = fault(float(samples.abs().max()) if samples.numel() else 0.0)
    if wrong is not None:
        raise UserError(f"the audio of cut {cut.id} {wrong[0]}", wrong[1])
    return samples[0]


def _check_recorded(cut: Any, sampling_rate: int) -> None:
    if not cut.has_recording:
        raise UserError(f"cut {cut.id} has no recording", "create the cuts from recordings, not from features alone")
    rate = rate_of(cut)  # the cut's own rate may be that of its features
    if rate != sampling_rate:
        what = f"cut {cut.id} has a sampling rate of {rate} Hz, not {sampling_rate}"
        raise UserError(what, "create the cuts with local/make_cuts.py, which resamples")


def _frames_of_audio(sampling_rate: int, frames: Callable[[int], int], cut: Any) -> int:
    _check_recorded(cut, sampling_rate)
    return frames(int(cut.num_samples))


def audio(sampling_rate: int, frames: Callable[[int], int]) -> Source:
    """Return the source of samples, for encoders with their own front end.

    Args:
        sampling_rate: sampling rate of the encoder in Hz.
        frames: maps a number of samples to the number of encoder output frames.
    """
    return Source(partial(load_audio, sampling_rate), partial(_frames_of_audio, sampling_rate, frames), 0.0,
                  recorded=True)  # fmt: skip


def whisper(config: WhisperFeatureConfig, frames: Callable[[int], int]) -> Source:
    """Return the source of Whisper's features, which are computed from recordings of 16 kHz.

    All frames of a cut's features are input, also those of the silence behind it; those of its encoder's output, and
    the seconds that the network computes, are counted likewise. Frames that a batch adds are padding, which the encoder
    does not read.

    Args:
        config: settings of the features.
        frames: maps a number of feature frames to the number of encoder output frames.
    """
    return Source(
        partial(_load_whisper, config), partial(_frames_of_whisper, config, frames), 0.0, recorded=True,
        extract=partial(whisper_features, config=config), longest=config.seconds,
        seconds=partial(_seconds_of_whisper, config),
    )  # fmt: skip


def with_silence(source: Source, frames: int) -> Source:
    """Return a source of features that are followed by ``frames`` frames of silence."""
    return replace(source, load=partial(_followed_by_silence, source, frames)) if frames else source


def _followed_by_silence(source: Source, frames: int, cut: Any) -> Tensor:
    return torch.nn.functional.pad(source.load(cut), (0, 0, 0, frames), value=source.padding)


def of_beginning(source: Source) -> Source:
    """Return a source that reads the beginning of cuts that are longer than a network takes, as transformers does."""
    if source.longest is None:
        return source
    seconds = None if source.seconds is None else partial(_of_beginning, source.longest, source.seconds)
    load = partial(_of_beginning, source.longest, source.load)
    frames = partial(_of_beginning, source.longest, source.frames)
    return replace(source, load=load, frames=frames, seconds=seconds)


def _of_beginning(longest: float, of: Callable[[Any], T], cut: Any) -> T:
    return of(cut if cut.duration <= longest else cut.truncate(duration=longest, preserve_id=True))


def _load_whisper(config: WhisperFeatureConfig, cut: Any) -> Tensor:
    _frames_of_whisper(config, int, cut)  # refuses what does not fit, by the name of the cut
    return whisper_features(load_audio(RATE, cut), config)


def _frames_of_whisper(config: WhisperFeatureConfig, frames: Callable[[int], int], cut: Any) -> int:
    _check_recorded(cut, RATE)
    try:
        return frames(config.frames(int(cut.num_samples)))
    except UserError as error:
        raise UserError(f"cut {cut.id}: {error.what}", error.remedy) from None


def _seconds_of_whisper(config: WhisperFeatureConfig, cut: Any) -> float:
    return _frames_of_whisper(config, int, cut) * HOP / RATE
