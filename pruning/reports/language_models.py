"""Tables of language models: their perplexity, and their effect on WER and speed of the recogniser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Optional

from pruning.errors import UserError
from pruning.experiments import decoding_results, rescoring_results
from pruning.experiments.measurement import PERPLEXITY, Measurement, difference, path_of, percent_above, sample
from pruning.models import facts
from pruning.models.chunk import Chunk
from pruning.reports import load
from pruning.reports.document import estimate, tabulated
from pruning.reports.report import titled
from pruning.speech.decoding.config import SETTINGS
from pruning.speech.scoring.bootstrap import Estimate

NOTE = """\
Perplexity per word: for every model, the end of a sentence counts as a word and words outside the vocabulary do not.
Real-time factor: features, encoder, search and language model, with the number of threads given to decoding; *busy*:
measured while the machine had more running processes than processors, so too high."""

RESCORED = """\
Rescored n-best lists: the weights were chosen on dev. Oracle: the WER of the best hypothesis of each list. Minus: the
difference in WER to the first row, paired, in points. Real-time factor: scoring of the lists alone, without the
recogniser."""


AGAINST = """\
% above: difference in perplexity per word, paired, with the 95 % interval of a bootstrap that draws blocks of {block}
sentences; the interval does not include the variation between runs."""


def _measured(place: Path, set_name: str) -> Measurement:
    return Measurement.read(path_of(place, PERPLEXITY, set_name), "measure it with pruning.bin.perplexity")


def excess(place: Path, other: Path, set_name: str) -> Estimate:
    """Return by how many percent the perplexity per word of one model exceeds another's on the same text.

    Raises:
        UserError: a model was not measured, or the models were measured on different words.
    """
    return percent_above(_measured(place, set_name), _measured(other, set_name))


def per(found: Measurement, nats: str, of: str) -> Optional[float]:
    """Return the perplexity per word (``word_nll`` of ``words``) or token (``nll`` of ``tokens``); None: unknown."""
    if not found.has(nats):  # an n-gram has no tokens
        return None
    total, count = found.total(nats), found.total(of)
    return None if total is None or not count else math.exp(total / count)


def perplexities(
    lms: Sequence[tuple[str, Path]],
    sets: Sequence[str],
    style: str = "pipe",
    against: Optional[Mapping[str, str]] = None,
) -> str:
    """Make the table of perplexities, with a row for each language model.

    Each model that is a key of ``against`` is compared with the model that is its value.

    Raises:
        UserError: a text was not measured, or ``against`` names an unknown model.
    """
    rows, against, places = [], against or {}, dict(lms)
    for name in (*against, *against.values()):
        if name not in places:
            raise UserError(f"--against names {name!r}, which is not in --lms", f"choose from {', '.join(places)}")
    for name, place in lms:
        size = facts.read_facts(place) if (place / facts.FILE).exists() else None
        row: dict[str, str] = {"language model": name}
        row["M parameters"] = f"{size['parameters'] / 1e6:.3f}" if size is not None else "-"
        row["of them in blocks"] = f"{size['blocks_parameters'] / 1e6:.3f}" if size is not None else "-"
        for set_name in sets:
            found = _measured(place, set_name)
            for title, perplexity in (
                ("word", per(found, "word_nll", "words")),
                ("token", per(found, "nll", "tokens")),
            ):
                row[f"{set_name}: per {title}"] = "-" if perplexity is None else f"{perplexity:.2f}"
            left_out = found.total("left_out") or 0
            ends = found.totals.get("ends", len(found.utterances.ids))  # older files: all are scored
            words = left_out + (found.total("words") or 0) - (ends or 0)
            row[f"{set_name}: left out"] = f"{left_out / max(1, words):.2%}"
            if against:
                compared = excess(place, places[against[name]], set_name) if name in against else None
                shown = "" if compared is None else estimate(compared.value, (compared.low, compared.high), sign=True)
                row[f"{set_name}: % above"] = f"{shown} {against.get(name, '')}".strip()
        rows.append(row)
    return tabulated(rows, style)


def decodings(systems: Iterable[tuple[str, Path]], sets: Sequence[str], style: str = "pipe") -> str:
    """Make the table of decodings: a row for each method, language model and chunk that all ``sets`` were decoded with.

    All sets of a row were decoded with the same settings, such as the weight of the language model: with the newest, if
    they were decoded with several.

    Raises:
        UserError: a system was not decoded on all sets with the same settings.
    """
    rows, order = [], list(SETTINGS)
    for name, place in systems:
        found: dict[tuple[str, str, Chunk], list[Measurement]] = {}
        for one in decoding_results.all_of(place):
            if one.set in sets:
                key = (one.facts["method"], one.facts.get("lm", ""), decoding_results.chunk_of(one))
                found.setdefault(key, []).append(one)
        of_keys = {key: decoding_results.of_one_setting(of_key) for key, of_key in found.items()}
        whole = {key: of_key for key, of_key in of_keys.items() if len(of_key) == len(set(sets))}
        if not whole:
            what = f"{place} was not decoded on all of {', '.join(sets)} with the same settings"
            raise UserError(what, "decode it first")
        for method, lm, chunk in sorted(whole, key=lambda key: (order.index(key[0]), *key[1:])):
            of_key = whole[method, lm, chunk]
            rows.append(_row(titled(name, chunk), method, lm, [of_key[set_name] for set_name in sets]))
    return tabulated(rows, style)


def _row(system: str, method: str, lm: str, found: Sequence[Measurement]) -> dict[str, str]:
    facts = [one.facts for one in found]
    scales = [f"{facts[0][key]:g}" if key in facts[0] else "-" for key in ("lm_scale", "ilm_scale")]
    row = {"system": system, "method": method, "language model": lm or "-", "weight": scales[0], "internal": scales[1]}
    for one in found:
        rate = sample([one]).interval
        row[f"WER % {one.set}"] = estimate(rate.value, rate[1:])
    seconds, audio = (sum(of[key] for of in facts) for key in ("decoding_seconds", "audio_seconds"))
    row["real-time factor"] = f"{seconds / audio:.4f}{load.mark(found)}"
    return row


def rescorings(rows: Sequence[tuple[str, Path]], sets: Sequence[str], style: str = "pipe") -> str:
    """Make the table of rescored n-best lists, with a row for each language model; the first row is the reference.

    Args:
        rows: name and directory of each language model, with measurements that `pruning.bin.rescore` wrote.
        sets: names of the test sets.
        style: of the table.

    Raises:
        UserError: a set was not rescored with a language model, or the lists of two are of different utterances.
    """
    of_rows = {name: [rescoring_results.read(place, set_name) for set_name in sets] for name, place in rows}
    reference, *_ = of_rows.values()
    return tabulated([_rescored(name, found, reference) for name, found in of_rows.items()], style)


def _rescored(name: str, found: Sequence[Measurement], reference: Sequence[Measurement]) -> dict[str, str]:
    facts = found[0].facts
    weights = {title: f"{facts[key]:g}" for title, key in (("weight", "lm_scale"), ("word bonus", "word_bonus"))}
    row = {"language model": name, **weights, "form": facts["form"], "context": str(facts["context"])}
    for one, other in zip(found, reference):
        rate = sample([one]).interval
        row[f"WER % {one.set}"] = estimate(rate.value, rate[1:])
        minus = difference([one], [other]).interval
        row[f"{one.set}: minus"] = "" if found is reference else estimate(minus.value, minus[1:], sign=True)
        row[f"{one.set}: oracle"] = f"{100 * (one.total('oracle_errors') or 0) / (one.total('words') or 1):.2f}"
    spoken = [of.facts["audio_seconds"] for of in found]
    if all(spoken):
        seconds = sum(of.facts["seconds"] for of in found)
        row["real-time factor"] = f"{seconds / sum(spoken):.4f}{load.mark(found)}"
    return row
