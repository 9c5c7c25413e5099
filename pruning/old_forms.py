"""Convert what older versions wrote to the form of today. No other module knows the old forms."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MOVED = {"gating": "l0", "calibration_batches": "low_rank.calibration_batches"}
"""Old key of a configuration -> the key that replaced it."""
_OF_LANGUAGE_MODELS = {
    "shared_by": (), "norm": "layer", "norm_eps": 1e-5, "gated": False, "activation": "gelu",
    "biased": ("in_proj", "out_proj", "linear1", "linear2"), "rotary_base": 10000.0, "rotary_scaling": None,
    "positions": 0,
}  # fmt: skip
ADDED = {
    "model.encoder.dense_dim": ("d_model", 0),
    "model.decoder_group": ("context_size", 1),
    "model.ranks": ("mix", {}),
    **{f"model.{key}": ("tied", value) for key, value in _OF_LANGUAGE_MODELS.items()},
}
"""New key of an optional part of a configuration -> a key that this part always has, and the value that older versions
had without the new key. Keys of parts that are not optional have their defaults."""

NEEDED_BY = {"distillation.loss": ("distillation", "layers")}
"""Key whose default has changed -> place of the key without which it has no effect."""


def without_effect(key: str, config: Mapping[str, Any]) -> bool:
    """Return whether a run with ``config`` is the same with another value of ``key``, whose default has changed."""
    if key not in NEEDED_BY:
        return False
    section, needed = NEEDED_BY[key]
    return not (config.get(section) or {}).get(needed)


def configuration(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plain configuration with the keys of today.

    Args:
        values: plain values, as YAML gives them; they are not changed.

    Raises:
        ValueError: an old key and the key that replaced it are both there.
    """
    result = dict(values)
    for old, new in MOVED.items():
        if old not in result:
            continue
        *sections, key = new.split(".")
        place = result
        for section in sections:
            place[section] = dict(place.get(section) or {})
            place = place[section]
        if key in place:
            raise ValueError(f"{old!r} is the old name of {new!r}, and both are given")
        place[key] = result.pop(old)
    for new, (sign, value) in ADDED.items():
        *sections, key = new.split(".")
        result = _with_added(result, sections, key, sign, value)
    return result


def _with_added(values: dict[str, Any], sections: Sequence[str], key: str, sign: str, value: object) -> dict[str, Any]:
    """Return values that have ``key`` in the part under ``sections``, if that part is there, which ``sign`` shows."""
    if not sections:
        return {**values, key: value} if sign in values and key not in values else values
    part = values.get(sections[0])
    if not isinstance(part, Mapping):
        return values
    return {**values, sections[0]: _with_added(dict(part), sections[1:], key, sign, value)}


def setting(text: str) -> str:
    """Return a setting ``KEY=VALUE`` with the key of today."""
    for old, new in MOVED.items():
        if text.startswith((f"{old}.", f"{old}=")):
            return new + text[len(old) :]
    return text


_PROVENANCE = ("processor", "processors", "device", "threads", "load_average", "torch", "mkl_debug_cpu_type", "k2",
               "peak_memory_mib", "command", "commit", "date", "asked")  # fmt: skip
_DERIVED = {"set", "parameters", "wer", "interval", "errors", "words", "utterances", "per_utterance", "accuracy",
            "perplexity_per_word", "perplexity_per_token", "nll_per_token", "left_out", "sentences", "word_nll",
            "ids", "speakers", "nll", "counted", "right", "unseen", "found"}  # fmt: skip
"""Keys of results whose values are in columns and totals today, or are computed from them."""
_BLOCK = 20


def measurement(value: Mapping[str, Any], transcripts: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
    """Return a result of decoding, of likelihoods, perplexities or intents in the form of today (1).

    Speakers that are not known are empty; sentences of a text are numbered; times are in UTC.

    Args:
        value: content of a file without a number of its form.
        transcripts: file of transcripts -> their ``ids``, ``errors`` and ``words``, for decodings that lack these.

    Raises:
        KeyError: something is missing, and must be measured again.
    """
    found = value
    if "recogs" in value:
        found = value["per_utterance"] if "per_utterance" in value else transcripts(value["recogs"])
        what, columns = "word_errors", {key: found[key] for key in ("errors", "words")}
        totals = {key: value[key] for key in ("ins", "del", "sub")}
    elif "perplexity_per_word" in value:
        what, columns = "perplexity", {"word_nll": value["nll"], "words": value["counted"]}
        totals = {"left_out": value["left_out"]}
        if value["perplexity_per_token"] is not None:
            totals |= {"nll": value["token_nll"], "tokens": value["tokens"]}
            value = {key: of for key, of in value.items() if key != "token_nll"}  # that of an n-gram stays among facts
    elif "accuracy" in value:
        what, columns = "intents", {"correct": value["right"], "found": value["found"]}
        totals = {key: round(value["accuracy"][key] * len(value["right"])) for key in ("scenario", "action")}
    elif "nll_per_token" not in value:
        raise KeyError("schema")
    else:
        what, columns, totals = "likelihood", {key: value[key] for key in ("nll", "tokens")}, {}
    if what == "perplexity":
        utterances = {"sentences": len(value["nll"]), "block": _BLOCK}
    else:
        utterances = {"ids": found["ids"], "speakers": found.get("speakers", [""] * len(found["ids"]))}
    facts = {key: of for key, of in value.items() if key not in _DERIVED.union(_PROVENANCE, totals, columns)}
    return {"schema": 1, "what": what, "set": value["set"], "utterances": utterances, "columns": columns,
            "totals": totals, "parameters": value["parameters"], "facts": facts,
            "provenance": _made(value)}  # fmt: skip


def _made(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of a result, with times in UTC."""
    times = {key: datetime.datetime.fromisoformat(value[key]).astimezone(datetime.UTC).isoformat(timespec="seconds")
             for key in ("date", "asked") if key in value}  # fmt: skip
    return {key: value[key] for key in _PROVENANCE if key in value} | times


def sweep_result(value: Mapping[str, Any], measure: str) -> dict[str, Any]:
    """Return the result of a run of a sweep in the form of today (1).

    Args:
        value: content of a file without a number of its form.
        measure: the measure of the sweep.
    """
    sets = {name: _sweep_set(of, measure) for name, of in value["sets"].items()}
    return {"schema": 1, **value, "sets": sets}


def _sweep_set(of: Mapping[str, Any], measure: str) -> dict[str, Any]:
    known = any(one is not None for one in of["nll"])  # of the likelihoods
    spoken = {key: of[key] for key in ("words", *(("tokens",) if known else ())) if key in of}
    columns, totals = {"errors": of["errors"], **spoken, **({"nll": of["nll"]} if known else {})}, {}
    if measure == "intents":
        columns = {"correct": [1 - wrong for wrong in of["errors"]]}
    elif measure == "perplexity":
        totals = {key: of[key][0] for key in ("nll", "tokens") if key in of}
        columns = {"word_nll": of["errors"], **{key: of[key] for key in ("words",) if key in of}}
    return {"what": "word_errors" if measure == "wer" else measure, "utterances": of["utterances"], "columns": columns,
            **({"totals": totals} if totals else {}), "provenance": _made(of)}  # fmt: skip


def sweep_utterances(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the list of the utterances of a sweep in the form of today (1)."""
    return {"schema": 1, "sets": dict(value)}


def legend(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the legend of a sweep in the form of today (1): the first sweeps had one measure, and did not name it."""
    return {"schema": 1, "measure": "wer", **value}
