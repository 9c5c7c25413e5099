"""Measuring language models on text in sweeps: perplexity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pruning.experiments.decoding_results import perplexity_path
from pruning.files import PathLike, read_json
from pruning.kinds.measuring import MEASURES, Measuring, TestData, made, python, stamp
from pruning.speech.text.text_files import check_texts, read_sentences, set_name

BLOCK = 20
"""Number of neighbouring sentences that are counted and drawn together, because they come from the same source."""


def perplexity(on_empty: str) -> Measuring:
    """Return how to measure the perplexity of test texts.

    Args:
        on_empty: what to do with empty lines, see `pruning.speech.text.sentences.TextConfig`.
    """

    def commands(data: TestData, place: PathLike) -> Iterator[list[str]]:
        more = ["--vocabulary", data.vocabulary] if data.vocabulary is not None else []
        more += ["--on-empty", "skip"] if on_empty == "skip" else []
        yield python("perplexity", "--exp-dir", str(place), "--text", *data.files, "--lang-dir", data.lang_dir, *more)

    return Measuring(MEASURES["perplexity"], "perplexity", commands, _perplexities, _blocks)


def in_blocks(values: Sequence[float]) -> list[float]:
    """Return the sums of values over blocks of `BLOCK`."""
    return [round(sum(values[start : start + BLOCK]), 3) for start in range(0, len(values), BLOCK)]


def blocks_of(sentences: int) -> list[str]:
    """Return the names of the blocks of a text."""
    return [str(start // BLOCK) for start in range(0, sentences, BLOCK)]


def _blocks(data: TestData) -> dict[str, tuple[list[str], list[str]]]:
    sets = {}
    for path in check_texts(list(data.files)):
        names = blocks_of(sum(1 for line in read_sentences(path) if line))
        sets[set_name(path)] = (names, [f"block {name}" for name in names])
    return sets


def _perplexities(data: TestData, place: Path, whole: bool) -> dict[str, Any]:
    """Gather perplexities by test set; errors are nats of the counted words, utterances are blocks of sentences."""
    sets: dict[str, Any] = {}
    for text in map(Path, data.files):
        name = set_name(text)
        found = read_json(perplexity_path(place, name), "run the sweep again")
        sets[name] = {
            "utterances": stamp(blocks_of(found["sentences"])),
            "errors": in_blocks(found["nll"]),
            "nll": [round(found["token_nll"], 3)],
            **made(found),
        }
        if whole:
            sets[name] |= {"words": in_blocks(found["counted"]), "tokens": [found["tokens"]]}
    return sets
