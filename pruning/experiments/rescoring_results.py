"""Results of rescoring n-best lists: the files of a language model, its measurements and its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning.errors import UserError
from pruning.experiments.measurement import WORD_ERRORS, Measurement, Utterances
from pruning.files import PathLike, read_json, write_json
from pruning.speech.scoring.word_errors import Transcript, count_errors

if TYPE_CHECKING:
    from pruning.speech.decoding.n_best_rescoring import Tuned, Weights

WEIGHTS = "weights.json"
_AGAIN = "rescore the set again"


def path_of(directory: PathLike, set_name: str) -> Path:
    """Return the measurement of a set."""
    return Path(directory) / f"rescore-{set_name}.json"


def n_best_path(directory: PathLike, set_name: str) -> Path:
    """Return the rescored n-best lists of a set."""
    return Path(directory) / f"rescored-{set_name}.txt"


def read(directory: PathLike, set_name: str) -> Measurement:
    """Read the measurement of a set.

    Raises:
        UserError: the set was not rescored, or the file is broken.
    """
    return Measurement.read(path_of(directory, set_name), _AGAIN)


def fingerprint(value: object) -> str:
    """Return the SHA-256 of lists or references in hexadecimal; they may come from a pipe, which is read once."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def measured(
    set_name: str,
    found: Sequence[Transcript],
    oracle: Mapping[str, int],
    parameters: Mapping[str, Any],
    facts: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Measurement:
    """Return the measurement of a rescored set.

    Args:
        set_name: name of the set.
        found: its transcripts, with speakers.
        oracle: fewest errors of any candidate of each utterance.
        parameters, facts, provenance: see `Measurement`.
    """
    found = sorted(found)
    counts = [count_errors(one) for one in found]
    columns = {"errors": [of["total"] for of in counts], "words": [len(one.reference) for one in found],
               "oracle_errors": [int(oracle[one.id]) for one in found]}  # fmt: skip
    totals = {kind: sum(of[kind] for of in counts) for kind in ("ins", "del", "sub")}
    utterances = Utterances([one.id for one in found], [one.speaker for one in found])
    return Measurement(WORD_ERRORS, set_name, utterances, columns, totals, parameters, facts, provenance)


def write_weights(
    directory: PathLike, tuned: Tuned, parameters: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Write the weights that were chosen on dev, with all that were tried."""
    tried = [{**one.weights._asdict(), "errors": one.errors, "wer": one.wer} for one in tuned.tried]
    best = {**tuned.best.weights._asdict(), "errors": tuned.best.errors, "wer": tuned.best.wer}
    write_json(Path(directory) / WEIGHTS, {"best": best, "at_edge": tuned.at_edge, "tried": tried,
                                           "parameters": dict(parameters), "provenance": dict(provenance)})  # fmt: skip


def read_weights(directory: PathLike, parameters: Mapping[str, Any]) -> Optional[Weights]:
    """Return the weights that were chosen with the same parameters; None if there are none.

    Raises:
        UserError: the file is broken.
    """
    from pruning.speech.decoding.n_best_rescoring import Weights

    path = Path(directory) / WEIGHTS
    if not path.is_file():
        return None
    value = read_json(path, "remove it")
    try:
        if value["parameters"] != parameters:
            return None
        return Weights(float(value["best"]["lm_scale"]), float(value["best"]["word_bonus"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} contains no weights", "remove it") from None
