"""Reading, checking and writing lhotse manifests; every fault is named by file and item before hours of work."""

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
"""What reading a damaged manifest raises: a cut-off or damaged archive, bad JSON, missing fields."""
_GIVE_OTHER_ID = "give one of them another id, or remove it"


@dataclass(frozen=True)
class Paths:
    """Where manifests of a corpus are, named as icefall names them, e.g. ``librispeech_cuts_test-clean.jsonl.gz``."""

    directory: Path
    prefix: str = "librispeech"

    def recordings(self, part: str) -> Path:
        """The recordings of ``part``."""
        return self.directory / f"{self.prefix}_recordings_{part}.jsonl.gz"

    def supervisions(self, part: str) -> Path:
        """The supervisions (transcripts) of ``part``."""
        return self.directory / f"{self.prefix}_supervisions_{part}.jsonl.gz"

    def cuts(self, part: str) -> Path:
        """The cuts of ``part``, with features."""
        return self.directory / f"{self.prefix}_cuts_{part}.jsonl.gz"


def set_name_of(cuts: Path) -> str:
    """``test-clean`` for ``data/fbank/librispeech_cuts_test-clean.jsonl.gz``."""
    stem = cuts.name.split(".jsonl", 1)[0]
    return stem.split("_cuts_", 1)[-1]


@contextmanager
def naming(path: files.PathLike) -> Iterator[None]:
    """Turn what a damaged manifest raises while it is read into a UserError that names ``path``."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "run the stage that writes it first") from None
    except _BROKEN as error:
        what = f"{path} is not a whole manifest ({type(error).__name__}: {error})"
        raise UserError(what, "remove it and run the stage that writes it again") from None


def check_exists(paths: Iterable[files.PathLike]) -> list[Path]:
    """The paths as ``Path``.

    Raises:
        UserError: there is none, or one of them is missing or empty.
    """
    found = [Path(path) for path in paths]
    if not found:
        raise UserError("no manifest is given", "name at least one file of cuts")
    for path in found:
        if not path.is_file():
            raise UserError(f"{path} does not exist", "run the stage that writes it first")
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty", "remove it and run the stage that writes it again")
    return found


def iterate_cuts(path: Path) -> Iterator[Any]:
    """The cuts of one manifest, read lazily.

    Files of features and audio that the manifest names relative to the directory it was made in are found from any
    working directory, as long as they kept their place relative to the manifest.

    Raises:
        UserError: while iterating, where the manifest is damaged, of another format, or holds something else than cuts
            with ids and durations.
    """
    from lhotse import load_manifest_lazy
    from lhotse.cut import Cut

    if ".jsonl" not in path.suffixes:
        raise UserError(f"{path} does not hold JSON lines", f"convert it: lhotse copy {path.name} cuts.jsonl.gz")
    roots = _Roots(path)
    with naming(path):
        iterator = iter(load_manifest_lazy(path) or ())  # None: it has no cuts
    while True:
        with naming(path):
            try:
                cut = next(iterator)
            except StopIteration:
                return
        if not isinstance(cut, Cut):
            raise UserError(f"{path} holds items of the kind {type(cut).__name__}, not cuts", "give a file of cuts")
        if not isinstance(cut.id, str) or not _are_numbers(cut.duration):
            raise UserError(f"{path}: cut {cut.id!r} lasts {cut.duration!r} s",
                            "give it an id that is text and a number of seconds above 0, or remove it")  # fmt: skip
        yield roots.located(cut)


class _Roots:
    """Finds the directories that relative paths in a manifest start from: one above it, or the working directory.

    Above it comes first: the working directory may hold other features of the same name. Links are followed only where
    that finds nothing, as ``data`` or ``data/fbank`` may be links to a larger disk. The first relative path decides
    for the whole manifest, since looking for each would be slow.
    """

    def __init__(self, manifest: Path) -> None:
        as_named = Path(os.path.abspath(manifest))
        self._above = list(dict.fromkeys([*as_named.parents, *manifest.resolve().parents]))
        self._of: dict[str, Optional[Path]] = {}

    def located(self, cut: Any) -> Any:
        """``cut`` with paths that exist from the working directory, where the files can be found at all."""
        track = cut.tracks[0].cut if hasattr(cut, "tracks") else cut
        if track.has_features and track.features.storage_path:
            root = self._root("features", track.features.storage_path)
            cut = cut if root is None else cut.with_features_path_prefix(root)
        if track.has_recording and track.recording.sources[0].type == "file":
            root = self._root("recording", track.recording.sources[0].source)
            cut = cut if root is None else cut.with_recording_path_prefix(root)
        return cut

    def located_recording(self, recording: Any) -> Any:
        """``recording`` with a path, relative to the working directory, that exists from there, likewise."""
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
    """A manifest as lhotse's samplers take it: read anew, lazily, at every iteration; faults name the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Any]:
        return iterate_cuts(self.path)


def count_lines(path: Path) -> int:
    """How many items a manifest holds (one a line), without parsing them.

    Raises:
        UserError: the file is missing or damaged.
    """
    with naming(path), gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
        return sum(1 for _ in stream)


def quiet_progress() -> None:
    """Keep lhotse's progress bars out of log files: they are drawn on terminals only. Call it before lhotse is used."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def validate(recordings: RecordingSet, supervisions: SupervisionSet, name: str) -> None:
    """Check manifests before anything is computed from them.

    Args:
        recordings: of the part.
        supervisions: of the part.
        name: of the part, for messages.

    Raises:
        UserError: naming the first item for which: an id occurs twice, a duration is not positive, a transcript is
            missing or empty, a recording has none, a file is absent, or a supervision lies outside of its recording or
            in no channel of it.
    """
    by_id: dict[str, Any] = {}
    for recording in recordings:
        if recording.id in by_id:
            raise UserError(f"{name}: recording {recording.id} occurs twice", _GIVE_OTHER_ID)
        if not _are_numbers(recording.duration, recording.sampling_rate, recording.num_samples):
            raise UserError(f"{name}: recording {recording.id} lasts {recording.duration} s", "remove or restore it")
        if not recording.sources:
            raise UserError(f"{name}: recording {recording.id} has no sources", "say where its audio is")
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
    """See ``validate``; ``recording`` is the supervision's, None if there is none."""
    if recording is None:
        what = f"{name}: recording {supervision.recording_id} of utterance {supervision.id} is missing"
        raise UserError(what, "add the recording or remove the transcript")
    if not isinstance(supervision.text or "", str):
        raise UserError(f"{name}: the transcript of {supervision.id}, {supervision.text!r}, is no text", "quote it")
    if not normalised(supervision.text or "").strip():
        raise UserError(f"{name}: the transcript of {supervision.id} is empty", "add its words or remove it")
    if not _are_numbers(supervision.duration) or supervision.duration * recording.sampling_rate < 0.5:
        what = f"{name}: utterance {supervision.id} lasts {supervision.duration} s, which is no sample"
        raise UserError(what, "correct its times, or remove it")
    within = isinstance(supervision.start, (int, float)) and 0 <= supervision.start < recording.duration
    if not within or supervision.end > recording.duration + 0.05:  # rounding of segment files
        what = (
            f"{name}: utterance {supervision.id} lies at {supervision.start}..{supervision.end} s of recording "
            f"{recording.id}, which lasts {recording.duration} s"
        )
        raise UserError(what, "correct its times")
    if supervision.channel not in recording.channel_ids:  # nor a list of several
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
    """Cuts without features, one a supervision and of one channel, from the manifests of ``part``.

    Args:
        paths: of the manifests.
        part: of the corpus.
        sampling_rate: Hz; recordings of another rate are resampled whenever they are read; None: all stay as they are.

    Raises:
        UserError: a manifest is missing or damaged, or does not pass ``validate``.
    """
    from lhotse import CutSet, RecordingSet, SupervisionSet, load_manifest

    check_exists([paths.recordings(part), paths.supervisions(part)])
    with naming(paths.recordings(part)):
        roots = _Roots(paths.recordings(part))  # of another recipe, perhaps: the warm-up of AN4
        recordings = RecordingSet.from_recordings(map(roots.located_recording, load_manifest(paths.recordings(part))))
    with naming(paths.supervisions(part)):
        supervisions = load_manifest(paths.supervisions(part))
    validate(recordings, supervisions, part)
    if sampling_rate is not None:
        recordings = recordings.resample(sampling_rate)
    ends = {recording.id: recording.duration for recording in recordings}
    within = [_within(supervision, ends[supervision.recording_id]) for supervision in supervisions]
    cuts = CutSet.from_manifests(recordings=recordings, supervisions=SupervisionSet.from_segments(within))
    if all(_is_whole(cut) for cut in cuts):
        return cuts  # keeps the ids of the recordings, as icefall does
    trimmed = cuts.trim_to_supervisions(keep_overlapping=False)
    return CutSet.from_cuts(cut.with_id(cut.supervisions[0].id) for cut in trimmed)


def _within(supervision: Any, end: float) -> Any:
    """``supervision`` without what lies past the end (s) of its recording, which lhotse would refuse to cut out."""
    from lhotse.utils import fastcopy

    return supervision if supervision.end <= end else fastcopy(supervision, duration=round(end - supervision.start, 8))


def _is_whole(cut: Any) -> bool:
    """Whether the cut of a recording is one utterance's: the only one, from end to end, in the only channel."""
    return cut.num_channels == 1 and [each.duration for each in cut.supervisions] == [cut.duration]
