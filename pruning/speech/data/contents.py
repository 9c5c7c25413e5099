"""Describe cut manifests in a table: utterances, speakers, hours, words, tokens and features of each part."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from tabulate import tabulate

from pruning.files import PathLike
from pruning.speech.data.manifests import check_exists, iterate_cuts, naming
from pruning.speech.data.sampler import transcript
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.normalisation import normalised

SPEED_PERTURBED = re.compile(r"_sp\d+\.\d+$")
"""lhotse's suffix to the id of a speed-perturbed cut."""


def transcripts(cuts_paths: Sequence[PathLike]) -> Iterator[str]:
    """Yield the transcripts of cuts, except those of speed-perturbed copies."""
    for path in check_exists(cuts_paths):
        for cut in iterate_cuts(path):
            if not SPEED_PERTURBED.search(cut.id):
                yield transcript(cut)


@dataclass(frozen=True)
class PartFacts:
    """Statistics of one manifest; speed-perturbed copies count for seconds, but not for words and speakers.

    Attributes:
        name: file name without extensions.
        cuts: number of cuts, copies included.
        utterances: number of cuts that are not copies.
        speakers: number of distinct speakers.
        seconds, longest: total and longest duration of audio, copies included.
        words, word_types: number of words and of distinct words in the transcripts.
        tokens, unknown: number of word pieces in the transcripts and of ``<unk>`` among them; None without a tokeniser.
        features: dimension of the feature vectors; 0: no features.
        names: names of the speakers.
    """

    name: str
    cuts: int
    utterances: int
    speakers: int
    seconds: float
    longest: float
    words: int
    word_types: int
    tokens: Optional[int]
    unknown: Optional[int]
    features: int
    names: frozenset[str] = frozenset()


def shared_speakers(parts: Sequence[PartFacts]) -> list[tuple[str, str, int]]:
    """Return pairs of parts that share speakers, and how many; a test set should not share any with training."""
    pairs = itertools.combinations(parts, 2)
    return [(one.name, other.name, count) for one, other in pairs if (count := len(one.names & other.names))]


def describe(path: PathLike, tokenizer: Optional[Tokenizer] = None) -> PartFacts:
    """Read a manifest line by line and describe it.

    Raises:
        UserError: the manifest is missing or damaged.
    """
    from lhotse.serialization import load_jsonl

    (path,) = check_exists([path])
    with naming(path):
        return _describe(path.name.split(".")[0], load_jsonl(path), tokenizer)


def _describe(name: str, items: Iterable[Mapping[str, Any]], tokenizer: Optional[Tokenizer]) -> PartFacts:
    speakers: set[str] = set()
    types: set[str] = set()
    dimensions: set[int] = set()
    cuts = utterances = words = tokens = unknown = 0
    seconds = longest = 0.0
    for item in map(_plain, items):
        duration = float(item["duration"])
        cuts, seconds, longest = cuts + 1, seconds + duration, max(longest, duration)
        dimensions.add(item.get("features", {}).get("num_features", 0))
        if SPEED_PERTURBED.search(item["id"]):
            continue
        utterances += 1
        for supervision in item["supervisions"]:
            text = normalised(supervision.get("text") or "")
            speakers.add(supervision.get("speaker") or "")
            types.update(text.split())
            words += len(text.split())
            if tokenizer is not None:
                pieces = tokenizer.encode(text)
                tokens, unknown = tokens + len(pieces), unknown + tokenizer.count_unknown(pieces)[0]
    with_tokens = tokenizer is not None
    return PartFacts(
        name, cuts, utterances, len(speakers), seconds, longest, words, len(types),
        tokens if with_tokens else None, unknown if with_tokens else None, min(dimensions, default=0),
        frozenset(speakers - {""}),
    )  # fmt: skip


def _plain(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the dictionary of a cut; a mixed cut is converted to the plain form by lhotse, which is slower."""
    if "duration" in item:
        return item
    from lhotse.serialization import deserialize_item

    cut = deserialize_item(item)
    supervisions = [{"text": spoken.text, "speaker": spoken.speaker} for spoken in cut.supervisions]
    features = {"num_features": cut.num_features} if cut.has_features else {}
    return {"id": cut.id, "duration": cut.duration, "supervisions": supervisions, "features": features}


def total_hours(parts: Sequence[PartFacts]) -> float:
    """Return the hours of audio, copies included."""
    return sum(part.seconds for part in parts) / 3600


def table(parts: Sequence[PartFacts], style: str = "pipe") -> str:
    """Return a table with one row per part.

    Args:
        parts: statistics of the parts.
        style: table format of tabulate: ``pipe`` for a file, ``simple`` for a terminal.
    """
    rows = [_cells(part) for part in parts]
    return tabulate(rows, "keys", style, disable_numparse=True, colalign=["left"] + ["right"] * (len(rows[0]) - 1))


def _cells(part: PartFacts) -> dict[str, str]:
    cells = {
        "cuts of": part.name,
        "cuts": f"{part.cuts}",
        "utterances": f"{part.utterances}",
        "speakers": f"{part.speakers}",
        "hours": f"{part.seconds / 3600:.2f}",
        "longest s": f"{part.longest:.1f}",
        "words": f"{part.words}",
        "word types": f"{part.word_types}",
        "feature bins": f"{part.features}" if part.features else "-",
    }
    if part.tokens is not None:
        cells["tokens / word"] = f"{part.tokens / max(part.words, 1):.2f}"
        cells["unknown tokens"] = f"{part.unknown}"
    return cells
