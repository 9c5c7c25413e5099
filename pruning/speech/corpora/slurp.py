"""SLURP in its official layout as lhotse manifests: annotations as JSON lines, one FLAC file a recording.

Source: Bastianelli et al., "SLURP: A Spoken Language Understanding Resource Package", EMNLP 2020, and the README of its
repository.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning.errors import UserError
from pruning.speech.data import audio

if TYPE_CHECKING:
    from lhotse import RecordingSet, SupervisionSet

logger = logging.getLogger(__name__)

PARTS = ("train", "devel", "test", "train_synthetic")
SAMPLING_RATE = 16000
ON_MISSING = ("error", "skip")
MICROPHONES = ("headset", "distant")
_SYNTHETIC = "train_synthetic"
_SHOWN = 5


@dataclass(frozen=True)
class Annotation:
    """A sentence and how it was recorded.

    Attributes:
        slurp_id: its number.
        sentence: its words.
        scenario, action: the pair is what accuracy is about.
        intent: as annotated, mostly ``scenario_action``.
        entities: type and words of each.
        recordings: names of FLAC files.
    """

    slurp_id: int
    sentence: str
    scenario: str
    action: str
    intent: str
    entities: tuple[tuple[str, str], ...]
    recordings: tuple[str, ...]


class Faults:
    """Lines and recordings that cannot be used: the first stops the work, or all are counted and told.

    Args:
        on_missing: ``error`` or ``skip``.
    """

    def __init__(self, on_missing: str) -> None:
        self.on_missing = on_missing
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, error: UserError) -> None:
        """Note one, of a ``kind`` such as ``missing recordings``.

        Raises:
            UserError: the same, where it is to stop.
        """
        if self.on_missing == "error":
            raise UserError(error.what, f"{error.remedy}, or give --on-missing skip")
        if self.counts[kind] < _SHOWN:
            logger.warning("skipped: %s", error.what)
        self.counts[kind] += 1

    def report(self, part: str) -> None:
        """Tell how many there were."""
        for kind, count in self.counts.items():
            logger.warning("%s: %d %s skipped", part, count, kind)


def read_annotations(path: Path, faults: Faults) -> Iterator[Annotation]:
    """The annotations of a part.

    Raises:
        UserError: the file is missing; a line is broken (see ``faults``).
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist", "give the directory that holds dataset/slurp/*.jsonl")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                yield _annotation(json.loads(line.decode("utf-8-sig")))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                what = f"{path} line {number} is no annotation ({type(error).__name__}: {error})"
                faults.add("broken lines", UserError(what, "restore the file"))


def _annotation(value: Mapping[str, Any]) -> Annotation:
    words = [str(token["surface"]) for token in value["tokens"]]
    entities = []
    for entity in value["entities"]:
        entities.append((str(entity["type"]), " ".join(words[place] for place in entity["span"])))
    sentence = " ".join(str(value["sentence"]).split())
    if not sentence:
        raise ValueError("its sentence is empty")
    for name in ("scenario", "action"):
        if not isinstance(value[name], str) or len(value[name].split()) != 1:
            raise ValueError(f"its {name}, {value[name]!r}, is no word")
    files = tuple(str(recording["file"]) for recording in value["recordings"])
    return Annotation(int(value["slurp_id"]), sentence, str(value["scenario"]), str(value["action"]),
                      str(value["intent"]), tuple(entities), files)  # fmt: skip


def annotation_path(corpus_dir: Path, part: str) -> Path:
    """The annotations of a part in the official layout."""
    return corpus_dir / "dataset" / "slurp" / f"{part}.jsonl"


def audio_dir(corpus_dir: Path, part: str) -> Path:
    """Where the recordings of a part are: ``slurp_real`` (or ``slurp_synth``), beside ``dataset`` or in ``audio``.

    Raises:
        UserError: nowhere.
    """
    name = "slurp_synth" if part == _SYNTHETIC else "slurp_real"
    places = [corpus_dir / name, corpus_dir / "audio" / name]
    for place in places:
        if place.is_dir():
            return place
    remedy = "fetch the audio with scripts/download_audio.sh of SLURP's repository"
    raise UserError(f"{places[0]} does not exist", remedy)


def speakers(corpus_dir: Path) -> dict[str, str]:
    """Speakers by name of recording, from ``dataset/slurp/metadata.json``; empty where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = corpus_dir / "dataset" / "slurp" / "metadata.json"
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        found = {name: str(facts["usrid"]) for sentence in value.values() for name, facts in
                 sentence["recordings"].items()}  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})", "restore it or remove it") from None
    return found


def read_part(
    corpus_dir: Path, part: str, on_missing: str = "error", microphone: Optional[str] = None
) -> tuple[RecordingSet, SupervisionSet]:
    """Recordings and supervisions of a part; intent and entities are fields of the supervisions' ``custom``.

    Args:
        corpus_dir: holds ``dataset/slurp`` and ``slurp_real``.
        part: one of `PARTS`.
        on_missing: ``error`` stops at a missing recording, a broken line or audio that is not 16 kHz; ``skip`` counts
            and tells them.
        microphone: one of `MICROPHONES` for its recordings alone; None: all.

    Raises:
        UserError: see ``on_missing``; or nothing is left.
    """
    from lhotse import RecordingSet, SupervisionSegment, SupervisionSet

    faults, of_speaker, place = Faults(on_missing), speakers(corpus_dir), audio_dir(corpus_dir, part)
    recordings, supervisions = [], []
    for annotation in read_annotations(annotation_path(corpus_dir, part), faults):
        for name in annotation.recordings:
            if microphone is not None and (Path(name).stem.endswith("-headset")) != (microphone == "headset"):
                continue
            recording = _recording(place / name, annotation, faults)
            if recording is None:
                continue
            recordings.append(recording)
            custom = {"slurp_id": annotation.slurp_id, "scenario": annotation.scenario, "action": annotation.action,
                      "intent": annotation.intent,
                      "entities": [{"type": kind, "filler": words} for kind, words in annotation.entities]}  # fmt: skip
            supervisions.append(SupervisionSegment(
                id=recording.id, recording_id=recording.id, start=0.0, duration=recording.duration, channel=0,
                text=annotation.sentence, language="English", speaker=of_speaker.get(name), custom=custom,
            ))  # fmt: skip
    faults.report(part)
    if not recordings:
        raise UserError(f"nothing of {part} can be used", "check the corpus directory")
    return RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(supervisions)


def _recording(path: Path, annotation: Annotation, faults: Faults) -> Any:
    """The recording, or None where it cannot be used and that does not stop the work."""
    if not path.is_file():
        what = f"{path} of sentence {annotation.slurp_id} does not exist"
        faults.add("missing recordings", UserError(what, "fetch it"))
        return None
    try:
        found = audio.recording(path, path.stem)
    except UserError as error:
        faults.add("unreadable recordings", error)
        return None
    if found.sampling_rate != SAMPLING_RATE:
        what = f"{path} has a sampling rate of {found.sampling_rate} Hz, not {SAMPLING_RATE}"
        faults.add("recordings of another sampling rate", UserError(what, "resample it"))
        return None
    return found
