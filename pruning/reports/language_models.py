"""Tables of language models: their perplexity, and their effect on WER and speed of the recogniser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from pruning.errors import UserError
from pruning.experiments.decoding_results import asked_at, perplexity_path
from pruning.files import read_json
from pruning.kinds.measured_text import blocks_of, in_blocks
from pruning.models import facts
from pruning.reports.document import estimate, tabulated
from pruning.speech.decoding.config import SETTINGS
from pruning.speech.scoring.bootstrap import Design, Estimate

NOTE = """\
Perplexity per word: for every model, the end of a sentence counts as a word and words outside the vocabulary do not.
Real-time factor: features, encoder, search and language model, with the number of threads given to decoding."""


AGAINST = """\
% above: difference in perplexity per word, paired, with the 95 % interval of a bootstrap that draws blocks of {block}
sentences; the interval does not include the variation between runs."""


def excess(place: Path, other: Path, set_name: str) -> Estimate:
    """Return by how many percent the perplexity per word of one model exceeds another's on the same text.

    Raises:
        UserError: a model was not measured, or the models were measured on different words.
    """
    found = [read_json(perplexity_path(one, set_name), "measure it with pruning.bin.perplexity")
             for one in (place, other)]  # fmt: skip
    words = np.array(in_blocks(found[0]["counted"]))
    if found[1]["counted"] != found[0]["counted"]:
        raise UserError(f"{place} and {other} were measured on different words of {set_name}", "measure both again")
    design = Design.of(blocks_of(len(found[0]["counted"])))
    rates = [design.rate(np.array(in_blocks(one["nll"]))[None], words) for one in found]
    value, low, high = (100 * math.expm1(rate / 100) for rate in (rates[0] - rates[1]).interval)
    return Estimate(value, low, high)


def perplexities(
    lms: Sequence[tuple[str, Path]],
    sets: Sequence[str],
    style: str = "github",
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
            found = read_json(perplexity_path(place, set_name), "measure it with pruning.bin.perplexity")
            row[f"{set_name}: per word"] = f"{found['perplexity_per_word']:.2f}"
            per_token = found.get("perplexity_per_token")
            row[f"{set_name}: per token"] = "-" if per_token is None else f"{per_token:.2f}"
            words = found["left_out"] + found["words"] - found["sentences"]
            row[f"{set_name}: left out"] = f"{found['left_out'] / max(1, words):.2%}"
            if against:
                compared = excess(place, places[against[name]], set_name) if name in against else None
                shown = "" if compared is None else estimate(compared.value, (compared.low, compared.high), sign=True)
                row[f"{set_name}: % above"] = f"{shown} {against.get(name, '')}".strip()
        rows.append(row)
    return tabulated(rows, style)


def decodings(systems: Iterable[tuple[str, Path]], sets: Sequence[str], style: str = "github") -> str:
    """Make the table of decodings, with a row for each decoding method and language model used on all ``sets``.

    If a set was decoded several times with them, the newest decoding counts.

    Raises:
        UserError: a system was not decoded on all sets.
    """
    rows = []
    for name, place in systems:
        found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        for path in sorted(place.glob("*/decode-*.json")):
            one = read_json(path)
            of_key = found.setdefault((one["method"], one.get("lm", "")), {})
            newer = of_key.get(one["set"])
            if newer is None or asked_at(one) > asked_at(newer):
                of_key[one["set"]] = one
        whole = {key: of_key for key, of_key in found.items() if all(set_name in of_key for set_name in sets)}
        if not whole:
            raise UserError(f"{place} was not decoded on all of {', '.join(sets)}", "decode it first")
        order = list(SETTINGS)
        for (method, lm), of_key in sorted(whole.items(), key=lambda item: (order.index(item[0][0]), item[0][1])):
            rows.append(_row(name, method, lm, [of_key[set_name] for set_name in sets]))
    return tabulated(rows, style)


def _row(system: str, method: str, lm: str, found: Sequence[dict[str, Any]]) -> dict[str, str]:
    scales = [f"{found[0][key]:g}" if key in found[0] else "-" for key in ("lm_scale", "ilm_scale")]
    row = {"system": system, "method": method, "language model": lm or "-", "weight": scales[0], "internal": scales[1]}
    for one in found:
        row[f"WER % {one['set']}"] = estimate(one["wer"], one["interval"])
    seconds, audio = (sum(one[key] for one in found) for key in ("decoding_seconds", "audio_seconds"))
    row["real-time factor"] = f"{seconds / audio:.4f}"
    return row
