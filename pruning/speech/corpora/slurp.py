"""SLURP in its official layout as lhotse manifests: annotations as JSON lines, one FLAC file per recording.

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
    """An annotated sentence and its recordings.

    Attributes:
        slurp_id: number of the sentence.
        sentence: words of the sentence.
        scenario, action: the intent for which accuracy is measured.
        intent: intent as annotated, usually ``scenario_action``.
        entities: type and words of each entity.
        recordings: names of the FLAC files.
    """

    slurp_id: int
    sentence: str
    scenario: str
    action: str
    intent: str
    entities: tuple[tuple[str, str], ...]
    recordings: tuple[str, ...]


class Faults:
    """Collects unusable lines and recordings: the first is an error, or all are counted and reported.

    Args:
        on_missing: ``error`` or ``skip``.
    """

    def __init__(self, on_missing: str) -> None:
        self.on_missing = on_missing
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, error: UserError) -> None:
        """Add a fault of a ``kind`` such as ``missing recordings``.

        Raises:
            UserError: the given error, if ``on_missing`` is ``error``.
        """
        if self.on_missing == "error":
            raise UserError(error.what, f"{error.remedy}, or give --on-missing skip")
        if self.counts[kind] < _SHOWN:
            logger.warning("skipped: %s", error.what)
        self.counts[kind] += 1

    def report(self, part: str) -> None:
        """Log the number of faults of each kind."""
        for kind, count in self.counts.items():
            logger.warning("%s: %d %s skipped", part, count, kind)


def read_annotations(path: Path, faults: Faults) -> Iterator[Annotation]:
    """Yield the annotations of a part.

    Raises:
        UserError: the file is missing, or a line is broken and ``faults`` makes this an error.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist", "give the directory that contains dataset/slurp/*.jsonl")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                yield _annotation(json.loads(line.decode("utf-8-sig")))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                what = f"{path} line {number} is not an annotation ({type(error).__name__}: {error})"
                faults.add("broken lines", UserError(what, "restore the file"))


def _annotation(value: Mapping[str, Any]) -> Annotation:
    words = [str(token["surface"]) for token in value["tokens"]]
    entities = []
    for entity in value["entities"]:
        entities.append((str(entity["type"]), " ".join(words[place] for place in entity["span"])))
    sentence = " ".join(str(value["sentence"]).split())
    if not sentence:
        raise ValueError("the sentence is empty")
    for name in ("scenario", "action"):
        if not isinstance(value[name], str) or len(value[name].split()) != 1:
            raise ValueError(f"{name} must be one word, got {value[name]!r}")
    files = tuple(str(recording["file"]) for recording in value["recordings"])
    return Annotation(int(value["slurp_id"]), sentence, str(value["scenario"]), str(value["action"]),
                      str(value["intent"]), tuple(entities), files)  # fmt: skip


def annotation_path(corpus_dir: Path, part: str) -> Path:
    """Return the path of a part's annotations in the official layout."""
    return corpus_dir / "dataset" / "slurp" / f"{part}.jsonl"


def audio_dir(corpus_dir: Path, part: str) -> Path:
    """Return the directory of a part's recordings: ``slurp_real`` or ``slurp_synth``, at the top or in ``audio``.

    Raises:
        UserError: there is no such directory.
    """
    name = "slurp_synth" if part == _SYNTHETIC else "slurp_real"
    places = [corpus_dir / name, corpus_dir / "audio" / name]
    for place in places:
        if place.is_dir():
            return place
    remedy = "download the audio with scripts/download_audio.sh of SLURP's repository"
    raise UserError(f"{places[0]} does not exist", remedy)


def speakers(corpus_dir: Path) -> dict[str, str]:
    """Return speakers by name of recording, from ``dataset/slurp/metadata.json``; empty if the file is missing.

    Raises:
        UserError: the file is damaged.
    """
    path = corpus_dir / "dataset" / "slurp" / "metadata.json"
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        found = {name: str(facts["usrid"]) for sentence in value.values() for name, facts in
                 sentence["recordings"].items()}  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})", "restore or remove it") from None
    return found


def read_part(
    corpus_dir: Path, part: str, on_missing: str = "error", microphone: Optional[str] = None
) -> tuple[RecordingSet, SupervisionSet]:
    """Return recordings and supervisions of a part; intent and entities are in the supervisions' ``custom`` fields.

    Args:
        corpus_dir: corpus directory with ``dataset/slurp`` and ``slurp_real``.
        part: one of `PARTS`.
        on_missing: what to do with missing recordings, broken lines and audio that is not 16 kHz: ``error`` stops at
            the first, ``skip`` counts and reports them.
        microphone: one of `MICROPHONES` to use only its recordings; None: all.

    Raises:
        UserError: see ``on_missing``; or no recording is left.
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
        raise UserError(f"no recording of {part} can be used", "check the corpus directory")
    return RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(supervisions)


def _recording(path: Path, annotation: Annotation, faults: Faults) -> Any:
    """Return the recording, or None if it cannot be used and is skipped."""
    if not path.is_file():
        what = f"{path} of sentence {annotation.slurp_id} does not exist"
        faults.add("missing recordings", UserError(what, "download it"))
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
