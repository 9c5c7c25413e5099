"""Read, check and write lhotse manifests; errors name the file and the item."""

from __future__ import annotations

import gzip
import math
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning import files
from pruning.errors import UserError
from pruning.speech.text.normalisation import normalised

if TYPE_CHECKING:
    from lhotse import CutSet, RecordingSet, SupervisionSet

_BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Exceptions raised by damaged manifests: truncated or damaged archives, bad JSON, missing fields."""
_GIVE_OTHER_ID = "give one of them another id or remove it"


@dataclass(frozen=True)
class Paths:
    """Paths of a corpus's manifests, named as in icefall, e.g. ``librispeech_cuts_test-clean.jsonl.gz``."""

    directory: Path
    prefix: str = "librispeech"

    def recordings(self, part: str) -> Path:
        """Return the path of the recordings of ``part``."""
        return self.directory / f"{self.prefix}_recordings_{part}.jsonl.gz"

    def supervisions(self, part: str) -> Path:
        """Return the path of the supervisions (transcripts) of ``part``."""
        return self.directory / f"{self.prefix}_supervisions_{part}.jsonl.gz"

    def cuts(self, part: str) -> Path:
        """Return the path of the cuts of ``part``, with features."""
        return self.directory / f"{self.prefix}_cuts_{part}.jsonl.gz"


def set_name_of(cuts: Path) -> str:
    """Return the set name: ``test-clean`` for ``data/fbank/librispeech_cuts_test-clean.jsonl.gz``."""
    stem = cuts.name.split(".jsonl", 1)[0]
    return stem.split("_cuts_", 1)[-1]


@contextmanager
def naming(path: files.PathLike) -> Iterator[None]:
    """Turn exceptions raised by a damaged manifest into a UserError that names ``path``."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "run the stage that writes it first") from None
    except _BROKEN as error:
        what = f"{path} is not a manifest or is damaged ({type(error).__name__}: {error})"
        raise UserError(what, "remove it and run the stage that writes it again") from None


def check_exists(paths: Iterable[files.PathLike]) -> list[Path]:
    """Return the paths as ``Path`` after checking that the files exist.

    Raises:
        UserError: no path is given, or a file is missing or empty.
    """
    found = [Path(path) for path in paths]
    if not found:
        raise UserError("no manifest given", "give at least one file of cuts")
    for path in found:
        if not path.is_file():
            raise UserError(f"{path} does not exist", "run the stage that writes it first")
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty", "remove it and run the stage that writes it again")
    return found


def iterate_cuts(path: Path) -> Iterator[Any]:
    """Yield the cuts of a manifest lazily.

    Feature and audio files whose paths are relative to the directory where the manifest was made are found from any
    working directory, as long as they kept their place relative to the manifest.

    Raises:
        UserError: while iterating, if the manifest is damaged, has another format, or contains anything other than
            cuts with ids and durations.
    """
    from lhotse import load_manifest_lazy
    from lhotse.cut import Cut

    if ".jsonl" not in path.suffixes:
        raise UserError(f"{path} is not in JSON Lines format", f"convert it: lhotse copy {path.name} cuts.jsonl.gz")
    roots = _Roots(path)
    with naming(path):
        iterator = iter(load_manifest_lazy(path) or ())  # None if there are no cuts
    while True:
        with naming(path):
            try:
                cut = next(iterator)
            except StopIteration:
                return
        if not isinstance(cut, Cut):
            raise UserError(f"{path} contains {type(cut).__name__} items, not cuts", "give a file of cuts")
        if not isinstance(cut.id, str) or not _are_numbers(cut.duration):
            raise UserError(f"{path}: cut {cut.id!r} has an invalid id or duration ({cut.duration!r} s)",
                            "give it a string id and a duration above 0, or remove it")  # fmt: skip
        yield roots.located(cut)


class _Roots:
    """Finds the directories to which relative paths in a manifest refer: one above it, or the working directory.

    Directories above the manifest come first, since the working directory may contain other features with the same
    name. Links are resolved only if that fails, since ``data`` or ``data/fbank`` may be links to a larger disk. The
    first relative path decides for the whole manifest, since searching for each would be slow.
    """

    def __init__(self, manifest: Path) -> None:
        as_named = Path(os.path.abspath(manifest))
        self._above = list(dict.fromkeys([*as_named.parents, *manifest.resolve().parents]))
        self._of: dict[str, Optional[Path]] = {}

    def located(self, cut: Any) -> Any:
        """Return ``cut`` with paths that exist from the working directory, if the files can be found."""
        track = cut.tracks[0].cut if hasattr(cut, "tracks") else cut
        if track.has_features and track.features.storage_path:
            root = self._root("features", track.features.storage_path)
            cut = cut if root is None else cut.with_features_path_prefix(root)
        if track.has_recording and track.recording.sources[0].type == "file":
            root = self._root("recording", track.recording.sources[0].source)
            cut = cut if root is None else cut.with_recording_path_prefix(root)
        return cut

    def located_recording(self, recording: Any) -> Any:
        """Return ``recording`` with a path relative to the working directory that exists from there, if found."""
        if not recording.sources or recording.sources[0].type != "file":
            return recording
        root = self._root("recording", recording.sources[0].source)
        return recording if root is None else recording.with_path_prefix(os.path.relpath(root))

    def _root(self, kind: str, stored: str) -> Optional[Path]:
        if Path(stored).is_absolute():
            return None
        if kind not in self._of:
            found = next((root for root in self._above if (root / stored).exists()), None)
            as_it_is = found is None or (Path(stored).exists() and (found / stored).samefile(stored))
            self._of[kind] = None if as_it_is else found
        return self._of[kind]


class LazyCuts:
    """A manifest as lhotse's samplers take it: read again lazily at every iteration; errors name the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Any]:
        return iterate_cuts(self.path)


def speakers(path: Path) -> dict[str, str]:
    """The speaker of each cut of a test set by its id, in the order of ids; empty: unknown.

    Raises:
        UserError: see `iterate_cuts`.
    """
    found = {cut.id: str(cut.supervisions[0].speaker or "") for cut in iterate_cuts(path)}
    return dict(sorted(found.items()))


def count_lines(path: Path) -> int:
    """Return the number of items in a manifest (one per line), without parsing them.

    Raises:
        UserError: the file is missing or damaged.
    """
    with naming(path), gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
        return sum(1 for _ in stream)


def quiet_progress() -> None:
    """Show lhotse's progress bars only on terminals, not in log files. Call this before lhotse is used."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def validate(recordings: RecordingSet, supervisions: SupervisionSet, name: str) -> None:
    """Check manifests before anything is computed from them.

    Args:
        recordings: recordings of the part.
        supervisions: supervisions of the part.
        name: name of the part for error messages.

    Raises:
        UserError: an id occurs twice, a duration is not positive, a transcript is missing or empty, a recording has no
            transcript, a file is missing, or a supervision lies outside its recording or in none of its channels; the
            message names the first such item.
    """
    by_id: dict[str, Any] = {}
    for recording in recordings:
        if recording.id in by_id:
            raise UserError(f"{name}: recording {recording.id} occurs twice", _GIVE_OTHER_ID)
        if not _are_numbers(recording.duration, recording.sampling_rate, recording.num_samples):
            found = f"{recording.duration!r} s, {recording.num_samples} samples at {recording.sampling_rate} Hz"
            raise UserError(f"{name}: recording {recording.id} has {found}", "remove or restore it")
        if not recording.sources:
            raise UserError(f"{name}: recording {recording.id} has no sources", "add the path of its audio")
        by_id[recording.id] = recording
    if not by_id:
        raise UserError(f"{name} has no recordings", "check the corpus directory")
    seen: set[str] = set()
    for supervision in supervisions:
        if supervision.id in seen:
            raise UserError(f"{name}: utterance {supervision.id} occurs twice", _GIVE_OTHER_ID)
        seen.add(supervision.id)
        _check_supervision(supervision, by_id.get(supervision.recording_id), name)
    spoken = {supervision.recording_id for supervision in supervisions}
    for recording in by_id.values():
        if recording.id not in spoken:
            raise UserError(f"{name}: recording {recording.id} has no transcript", "add it or remove the recording")
        for source in recording.sources:
            if source.type == "file" and not Path(source.source).is_file():
                raise UserError(f"{name}: {source.source} of recording {recording.id} does not exist", "restore it")


def _are_numbers(*values: Any) -> bool:
    """Whether all values are numbers above 0."""
    return all(isinstance(value, (int, float)) and 0 < value < math.inf for value in values)


def _check_supervision(supervision: Any, recording: Any, name: str) -> None:
    """Check one supervision, see ``validate``; ``recording`` is its recording, None if it is missing."""
    if recording is None:
        what = f"{name}: recording {supervision.recording_id} of utterance {supervision.id} is missing"
        raise UserError(what, "add the recording or remove the transcript")
    if not isinstance(supervision.text or "", str):
        raise UserError(
            f"{name}: the transcript of {supervision.id}, {supervision.text!r}, is not a string", "put it in quotes"
        )
    if not normalised(supervision.text or "").strip():
        raise UserError(f"{name}: the transcript of {supervision.id} is empty", "add its words or remove the utterance")
    if not _are_numbers(supervision.duration) or supervision.duration * recording.sampling_rate < 0.5:
        what = f"{name}: utterance {supervision.id} lasts {supervision.duration} s, less than one sample"
        raise UserError(what, "correct its times or remove it")
    within = isinstance(supervision.start, (int, float)) and 0 <= supervision.start < recording.duration
    if not within or supervision.end > recording.duration + 0.05:  # tolerance for rounded segment files
        what = (
            f"{name}: utterance {supervision.id} lies at {supervision.start}..{supervision.end} s of recording "
            f"{recording.id}, which lasts {recording.duration} s"
        )
        raise UserError(what, "correct its times")
    if supervision.channel not in recording.channel_ids:  # a list of several channels is refused, too
        what = f"{name}: utterance {supervision.id} is in channel {supervision.channel} of recording {recording.id}"
        raise UserError(what, f"give it one of the channels {recording.channel_ids}")


def write(recordings: RecordingSet, supervisions: SupervisionSet, paths: Paths, part: str) -> None:
    """Check and write the manifests of ``part``, sorted by id, by rename; the supervisions, written last, mean done."""
    from lhotse import RecordingSet, SupervisionSet

    validate(recordings, supervisions, part)
    for path, manifest in (
        (paths.recordings(part), RecordingSet.from_recordings(sorted(recordings, key=lambda item: item.id))),
        (paths.supervisions(part), SupervisionSet.from_segments(sorted(supervisions, key=lambda item: item.id))),
    ):
        with files.atomic_path(path) as temporary:
            manifest.to_file(temporary)


def read(paths: Paths, part: str, sampling_rate: Optional[int] = None) -> CutSet:
    """Return cuts without features, one per supervision and with one channel, from the manifests of ``part``.

    A cut has the id of its supervision, whatever else the part contains and whatever the sampling rate is.

    Args:
        paths: paths of the manifests.
        part: part of the corpus.
        sampling_rate: Hz; recordings with another rate are resampled when they are read; None: keep all rates.

    Raises:
        UserError: a manifest is missing or damaged, or fails ``validate``.
    """
    from lhotse import CutSet, RecordingSet, SupervisionSet, load_manifest

    check_exists([paths.recordings(part), paths.supervisions(part)])
    with naming(paths.recordings(part)):
        roots = _Roots(paths.recordings(part))  # may be from another recipe, as in the warm-up of AN4
        recordings = RecordingSet.from_recordings(map(roots.located_recording, load_manifest(paths.recordings(part))))
    with naming(paths.supervisions(part)):
        supervisions = load_manifest(paths.supervisions(part))
    validate(recordings, supervisions, part)
    if sampling_rate is not None:
        recordings = recordings.resample(sampling_rate)
    ends = {recording.id: recording.duration for recording in recordings}
    within = [_within(supervision, ends[supervision.recording_id]) for supervision in supervisions]
    cuts = CutSet.from_manifests(recordings=recordings, supervisions=SupervisionSet.from_segments(within))
    trimmed = cuts.trim_to_supervisions(keep_overlapping=False)
    return CutSet.from_cuts(cut.with_id(cut.supervisions[0].id) for cut in trimmed)


def _within(supervision: Any, end: float) -> Any:
    """Return ``supervision`` cut off at the end (s) of its recording; lhotse would refuse to cut beyond it."""
    from lhotse.utils import fastcopy

    return supervision if supervision.end <= end else fastcopy(supervision, duration=round(end - supervision.start, 8))
