"""Measuring language models on text in sweeps: perplexity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pruning.experiments.measurement import PERPLEXITY, Measurement, Utterances, path_of
from pruning.files import PathLike
from pruning.kinds.measuring import MEASURES, Measuring, TestData, python
from pruning.speech.scoring.perplexity import variant
from pruning.speech.text.sentences import TextConfig
from pruning.speech.text.text_files import check_texts, read_sentences, set_name


def perplexity(config: TextConfig) -> Measuring:
    """Return how to measure the perplexity of test texts: written, and packed into blocks, like the text of ``config``.

    The lines of a text are the same utterances whatever blocks they are in.
    """
    settings = {"--on-empty": config.on_empty if config.on_empty == "skip" else "",
                "--form": config.form if config.form != "as-is" else "",
                "--block": str(config.block) if config.block else ""}  # fmt: skip
    suffix = variant(config.form, block=config.block)

    def commands(data: TestData, place: PathLike) -> Iterator[list[str]]:
        more = ["--vocabulary", data.vocabulary] if data.vocabulary is not None else []
        more += [word for option, value in settings.items() if value for word in (option, value)]
        yield python("perplexity", "--exp-dir", str(place), "--text", *data.files, "--lang-dir", data.lang_dir, *more)

    def gather(data: TestData, place: Path) -> list[Measurement]:
        return _perplexities(data, place, suffix)

    return Measuring(MEASURES["perplexity"], "perplexity", commands, gather, _blocks)


def _blocks(data: TestData) -> dict[str, Utterances]:
    """Return the blocks of sentences of each text."""
    return {set_name(path): Utterances.sentences(sum(1 for line in read_sentences(path) if line)).blocks()
            for path in check_texts(list(data.files))}  # fmt: skip


def _perplexities(data: TestData, place: Path, suffix: str) -> list[Measurement]:
    """Gather perplexities, in blocks of sentences; ``suffix``: what the settings add to the name of a set."""
    found = []
    for name in map(set_name, data.files):
        one = Measurement.read(path_of(place, PERPLEXITY, f"{name}{suffix}"), "run the sweep again")
        found.append(replace(one, set=name).in_blocks())
    return found
