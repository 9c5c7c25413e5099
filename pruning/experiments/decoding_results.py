"""Result files of decoding, ``decode-<set>-<suffix>.json`` in the directory of the transcripts, for tables."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning import provenance
from pruning.errors import UserError
from pruning.files import PathLike, read_json, write_json
from pruning.speech.scoring.word_errors import Score, Transcript, count_errors, read_transcripts

if TYPE_CHECKING:
    from pruning.speech.decoding.recognition import FeatureTiming, Recognition


def path_of(exp_dir: PathLike, method: str, set_name: str, suffix: str) -> Path:
    """Return the result file of a decoding."""
    return Path(exp_dir) / method / f"decode-{set_name}-{suffix}.json"


def likelihood_path(exp_dir: PathLike, set_name: str) -> Path:
    """Return the file of the likelihoods of a set under an experiment's best checkpoint."""
    return Path(exp_dir) / "likelihood" / f"likelihood-{set_name}.json"


def intents_path(exp_dir: PathLike, set_name: str) -> Path:
    """Return the file of the intents that an experiment's best checkpoint found in a set."""
    return Path(exp_dir) / "intents" / f"intents-{set_name}.json"


def perplexity_path(exp_dir: PathLike, set_name: str) -> Path:
    """Return the file of the perplexity of a text under an experiment's best checkpoint."""
    return Path(exp_dir) / "perplexity" / f"perplexity-{set_name}.json"


def weights_name(epoch: Optional[int], avg: Optional[int], use_averaged_model: bool) -> str:
    """Return the part of a suffix that names the weights that were decoded with; without epoch: the best on dev."""
    name = "best" if epoch is None else f"epoch-{epoch}"
    if avg is not None:
        name += f"-avg-{avg}" + ("-use-averaged-model" if use_averaged_model else "")
    return name


def n_best_path(exp_dir: PathLike, method: str, set_name: str, suffix: str) -> Path:
    """Return the file of the n-best lists of a decoding."""
    return Path(exp_dir) / method / f"nbest-{set_name}-{suffix}.txt"


def is_one(path: Path) -> bool:
    """Return whether a file has the name of a result file of decoding."""
    return path.name.startswith("decode-") and path.suffix == ".json"


def files_of(path: Path) -> list[Path]:
    """Return the other files of the decoding with result file ``path``: hypotheses, and n-best lists if asked for."""
    facts = _read(path)
    return [path.parent / facts[key] for key in ("recogs", "nbest") if key in facts]


def is_done(path: Path, parameters: dict[str, Any], num_hypotheses: int = 0) -> bool:
    """Return whether the decoding at ``path`` has these parameters and this number of hypotheses per utterance."""
    if not path.is_file():
        return False
    facts = _read(path)
    found = facts.get("parameters") == parameters and all(file.is_file() for file in files_of(path))
    return found and num_hypotheses in (0, facts.get("num_hypotheses", 0))


def per_utterance(transcripts: Sequence[Transcript]) -> dict[str, list[Any]]:
    """Errors and reference words of every utterance of a set, in the order of ids, and who spoke it."""
    transcripts = sorted(transcripts, key=lambda t: t.id)
    return {
        "ids": [t.id for t in transcripts],
        "speakers": [t.speaker for t in transcripts],
        "errors": [count_errors(t)["total"] for t in transcripts],
        "words": [len(t.reference) for t in transcripts],
    }


def transcripts(exp_dir: PathLike, facts: Mapping[str, Any]) -> list[Transcript]:
    """The transcripts of a decoding, with test set and speakers.

    Args:
        exp_dir: of the network.
        facts: of `read_results`. Decodings of older versions do not tell the speakers.

    Raises:
        UserError: the transcripts are missing, or do not fit the facts.
    """
    path = Path(exp_dir) / facts["method"] / facts["recogs"]
    found = read_transcripts(path)
    known = facts.get("per_utterance", {})
    speakers = dict(zip(known.get("ids", ()), known.get("speakers", ())))
    if known and {t.id for t in found} != speakers.keys():
        raise UserError(f"{path} has other utterances than {facts['set']} had when it was decoded", "decode it again")
    return [t._replace(set=facts["set"], speaker=speakers.get(t.id, "")) for t in found]


def error_facts(result: Score) -> dict[str, Any]:
    """Return the word errors; the WER and its interval are in percent."""
    return {
        "wer": round(result.wer, 4),
        "interval": [round(bound, 4) for bound in result.interval],
        "errors": result.errors,
        "words": result.words,
        "ins": result.insertions,
        "del": result.deletions,
        "sub": result.substitutions,
        "utterances": result.utterances,
    }


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


def asked_at(facts: Mapping[str, Any]) -> datetime.datetime:
    """Return when a decoding was last asked for, with its time zone: results may come from several machines."""
    return datetime.datetime.fromisoformat(str(facts.get("asked", facts["date"]))).astimezone()


def note_asked(path: Path) -> None:
    """Record that a finished decoding was asked for again, so that it counts as the newest."""
    write_json(path, {**_read(path), "asked": provenance.today()})


def read_results(
    exp_dir: PathLike, method: str, set_name: str, epoch: Optional[int] = None, avg: Optional[int] = None
) -> Optional[dict[str, Any]]:
    """Return the newest decoding of a set by a method; None if there is none.

    Args:
        exp_dir: experiment directory of the network.
        method: decoding method.
        set_name: name of the test set.
        epoch, avg: choice of the weights that were decoded with, as in :mod:`pruning.bin.decode`.

    Raises:
        UserError: a result file was not written by :mod:`pruning.bin.decode`.
    """
    names = {weights_name(epoch, avg, use_averaged_model) for use_averaged_model in (False, True)}
    patterns = (f"decode-{set_name}-{name}-{method}*.json" for name in names)
    found = (_read(path) for pattern in patterns for path in Path(exp_dir, method).glob(pattern))
    of_set = (facts for facts in found if facts["set"] == set_name)  # the name of a set may begin with that of another
    return max(of_set, key=asked_at, default=None)


def _read(path: Path) -> dict[str, Any]:
    remedy = "remove it and decode again"
    facts = read_json(path, remedy)
    if not isinstance(facts, dict) or not {"set", "date", "recogs"} <= facts.keys():
        raise UserError(f"{path} is not a result file of decoding", remedy)
    return facts
