"""Results of decoding: the files of a decoding, its measurement, and the choice of the newest."""

from __future__ import annotations

import datetime
import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning.errors import UserError
from pruning.experiments.measurement import WORD_ERRORS, Measurement, Utterances, read_if_possible
from pruning.files import PathLike
from pruning.models.chunk import Chunk
from pruning.provenance import today
from pruning.speech.scoring.word_errors import Transcript, count_errors, read_transcripts

if TYPE_CHECKING:
    from pruning.speech.decoding.recognition import FeatureTiming, Recognition

DECODINGS = "decodings.tsv"
"""Log of all decodings of an experiment: date, set, method, suffix."""
_AGAIN = "remove it and decode again"


def path_of(exp_dir: PathLike, method: str, set_name: str, suffix: str) -> Path:
    """Return the measurement of a decoding, next to its transcripts."""
    return Path(exp_dir) / method / f"decode-{set_name}-{suffix}.json"


def n_best_path(exp_dir: PathLike, method: str, set_name: str, suffix: str) -> Path:
    """Return the file of the n-best lists of a decoding."""
    return Path(exp_dir) / method / f"nbest-{set_name}-{suffix}.txt"


def weights_name(epoch: Optional[int], avg: Optional[int], use_averaged_model: bool) -> str:
    """Return the part of a suffix that names the weights that were decoded with; without epoch: the best on dev."""
    name = "best" if epoch is None else f"epoch-{epoch}"
    if avg is not None:
        name += f"-avg-{avg}" + ("-use-averaged-model" if use_averaged_model else "")
    return name


def is_one(path: Path) -> bool:
    """Return whether a file has the name of the measurement of a decoding."""
    return path.name.startswith("decode-") and path.suffix == ".json"


def files_of(path: Path) -> list[Path]:
    """Return the other files of the decoding with measurement ``path``: hypotheses, and n-best lists if asked for."""
    return _files(path, Measurement.read(path, _AGAIN))


def _files(path: Path, found: Measurement) -> list[Path]:
    return [path.parent / found.facts[key] for key in ("recogs", "nbest") if key in found.facts]


def is_done(path: Path, parameters: Mapping[str, Any], num_hypotheses: int = 0) -> bool:
    """Return whether the decoding at ``path`` has these parameters and this number of hypotheses per utterance."""
    found = read_if_possible(path)
    if found is None or found.parameters != parameters or not all(file.is_file() for file in _files(path, found)):
        return False
    return num_hypotheses in (0, found.facts.get("num_hypotheses", 0))


def note_asked(path: Path) -> None:
    """Record that a finished decoding was asked for again, so that it counts as the newest."""
    Measurement.read(path, _AGAIN).asked_now().write(path)


def count_decoding(exp_dir: PathLike, set_name: str, method: str, suffix: str) -> int:
    """Add a line to the log of an experiment's decodings, and return how many decodings of the set it has by now.

    Nothing removes lines, so that the log tells how often a test set has been looked at.
    """
    path = Path(exp_dir) / DECODINGS
    with path.open("a") as stream:
        stream.write(f"{today()}\t{set_name}\t{method}\t{suffix}\n")
    return sum(line.split("\t")[1:2] == [set_name] for line in path.read_text().splitlines())


def measured(
    set_name: str, found: Sequence[Transcript], parameters: Mapping[str, Any], facts: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Measurement:  # fmt: skip
    """Return the measurement of a decoding.

    Args:
        set_name: name of the test set.
        found: its transcripts, with speakers.
        parameters, facts, provenance: see `Measurement`; ``facts`` names the ``method``, its weights and its files.
    """
    found = sorted(found)
    counts = [count_errors(one) for one in found]
    columns = {"errors": [of["total"] for of in counts], "words": [len(one.reference) for one in found]}
    totals = {kind: sum(of[kind] for of in counts) for kind in ("ins", "del", "sub")}
    utterances = Utterances([one.id for one in found], [one.speaker for one in found])
    return Measurement(WORD_ERRORS, set_name, utterances, columns, totals, parameters, facts, provenance)


def transcripts(exp_dir: PathLike, of: Measurement) -> list[Transcript]:
    """The transcripts of a decoding, with test set and speakers.

    Args:
        exp_dir: of the network.
        of: measurement of the decoding.

    Raises:
        UserError: the transcripts are missing, or do not fit the measurement.
    """
    path = Path(exp_dir) / of.facts["method"] / of.facts["recogs"]
    speakers = dict(zip(of.utterances.ids, of.utterances.speakers))
    found = read_transcripts(path)
    if {one.id for one in found} != speakers.keys():
        raise UserError(f"{path} has other utterances than {of.set} had when it was decoded", "decode it again")
    return [one._replace(set=of.set, speaker=speakers[one.id]) for one in found]


def time_facts(recognition: Recognition, features: Optional[FeatureTiming]) -> dict[str, Any]:
    """Return seconds of audio and of computation, and their quotient, the real-time factor."""
    decoding = recognition.encoder_seconds + recognition.search_seconds + (features.seconds if features else 0.0)
    return {
        "audio_seconds": round(recognition.audio_seconds, 3),
        "feature_seconds": round(features.seconds, 4) if features else None,
        "features_included": features is not None,
        "encoder_seconds": round(recognition.encoder_seconds, 4),
        "search_seconds": round(recognition.search_seconds, 4),
        "decoding_seconds": round(decoding, 4),
        "real_time_factor": decoding / recognition.audio_seconds,
    }


def all_of(
    exp_dir: PathLike, method: str = "*", set_name: Optional[str] = None, begins: str = ""
) -> Iterator[Measurement]:
    """Yield the measurements of decodings under an experiment.

    Args:
        exp_dir: experiment directory of the network.
        method: decoding method; ``*``: any.
        set_name: name of the test set; None: any.
        begins: how the suffix begins.

    Raises:
        UserError: a file is not a measurement of a decoding.
    """
    name = "" if set_name is None else f"{set_name}-{begins}"
    for path in sorted(Path(exp_dir).glob(f"{method}/decode-{glob.escape(name)}*.json")):
        found = Measurement.read(path, _AGAIN)
        if set_name in (None, found.set):  # the name of a set may begin with that of another
            yield found


def newest(found: Iterable[Measurement]) -> Optional[Measurement]:
    """Return the decoding that was asked for last; None if there is none."""
    return max(found, key=lambda one: one.asked, default=None)


def read_results(
    exp_dir: PathLike, method: str, set_name: str, epoch: Optional[int] = None, avg: Optional[int] = None
) -> Optional[Measurement]:
    """Return the newest decoding of a set by a method; None if there is none.

    Args:
        exp_dir: experiment directory of the network.
        method: decoding method.
        set_name: name of the test set.
        epoch, avg: choice of the weights that were decoded with, as in :mod:`pruning.bin.decode`.

    Raises:
        UserError: a file is not a measurement of a decoding.
    """
    return newest(_by_weights(exp_dir, method, set_name, epoch, avg))


def _by_weights(
    exp_dir: PathLike, method: str, set_name: str, epoch: Optional[int], avg: Optional[int]
) -> Iterator[Measurement]:
    names = {weights_name(epoch, avg, use_averaged_model) for use_averaged_model in (False, True)}
    return (one for name in sorted(names) for one in all_of(exp_dir, method, set_name, f"{name}-{method}"))


def of_one_setting(found: Iterable[Measurement]) -> dict[str, Measurement]:
    """Return set -> decoding, all with the same settings: with those that most sets were decoded with, then the newest.

    Empty if there are no decodings.
    """
    by_settings: dict[str, dict[str, Measurement]] = {}
    for one in sorted(found, key=lambda one: one.asked):
        by_settings.setdefault(one.facts.get("suffix", ""), {})[one.set] = one
    return max(by_settings.values(), key=lambda sets: (len(sets), *_asked(sets)), default={})


def _asked(sets: Mapping[str, Measurement]) -> list[datetime.datetime]:
    return sorted((one.asked for one in sets.values()), reverse=True)


def read_by_chunk(
    exp_dir: PathLike, method: str, sets: Iterable[str], epoch: Optional[int] = None, avg: Optional[int] = None
) -> dict[Chunk, dict[str, Measurement]]:
    """Return the decodings of sets by each chunk and left context that they were decoded with, see `of_one_setting`.

    Whole utterances come first.
    """
    found: dict[Chunk, list[Measurement]] = {}
    for set_name in sets:
        for one in _by_weights(exp_dir, method, set_name, epoch, avg):
            found.setdefault(chunk_of(one), []).append(one)
    return {chunk: of_one_setting(found[chunk]) for chunk in sorted(found)}


def chunk_of(found: Measurement) -> Chunk:
    """Return the chunk and left context that an utterance was decoded with."""
    return Chunk(*found.parameters.get("chunk", ()))
