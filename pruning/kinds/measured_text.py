"""Measuring language models on text in sweeps: perplexity."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pruning.experiments.measurement import PERPLEXITY, Measurement, Utterances, path_of
from pruning.files import PathLike
from pruning.kinds.measuring import MEASURES, Measuring, TestData, python
from pruning.speech.text.text_files import check_texts, read_sentences, set_name


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


def _blocks(data: TestData) -> dict[str, Utterances]:
    """Return the blocks of sentences of each text."""
    return {set_name(path): Utterances.sentences(sum(1 for line in read_sentences(path) if line)).blocks()
            for path in check_texts(list(data.files))}  # fmt: skip


def _perplexities(data: TestData, place: Path) -> list[Measurement]:
    """Gather perplexities, in blocks of sentences."""
    paths = (path_of(place, PERPLEXITY, set_name(text)) for text in map(Path, data.files))
    return [Measurement.read(path, "run the sweep again").in_blocks() for path in paths]
