#!/usr/bin/env python3
"""Prepare text for language models: train.txt, dev.txt and test.txt, from transcripts, text files or both.

Transcripts go to the part of their cuts. From text files, contiguous blocks of lines go to dev and test, evenly
distributed over each file. words.txt lists the words of train.txt, the most frequent first: it is the vocabulary of
n-grams and of the comparison of models per word.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.errors import UserError
from pruning.files import atomic_path, write_text
from pruning.limits import COUNT, FRACTION
from pruning.speech.data import manifests
from pruning.speech.text.text_files import check_texts, read_sentences

PARTS = ("train", "dev", "test")


def part_of(line: int, block: int, dev_share: float, test_share: float) -> str:
    """Return the part of a line (counted from 0): whole blocks of lines go to dev and test, evenly over the file."""
    number = line // block
    for part, share, phase in (("test", test_share, 1.0), ("dev", dev_share, 0.37)):
        # the block where the running total of the share passes a whole number (shifted by phase) goes to the part
        if share and int(number * share + phase) != int((number + 1) * share + phase):
            return part
    return "train"


def lines_of(values: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield (part, sentence) for all non-empty sentences."""
    from pruning.speech.data.contents import transcripts

    for part in PARTS:
        for text in transcripts(_cuts(values, part)) if _cuts(values, part) else ():
            yield part, text
    for path in check_texts(values.text):
        block = block_of(path, values)
        empty = 0
        for number, line in enumerate(read_sentences(path)):
            if line:
                yield part_of(number, block, values.dev_share, values.test_share), line
            empty += not line
        if empty:
            logging.info("%s: %d empty lines left out", path, empty)


def block_of(path: Path, values: argparse.Namespace) -> int:
    """Return the lines per block: ``--block``, or fewer in a short text, so that each part gets at least two blocks."""
    shares = [share for share in (values.dev_share, values.test_share) if share]
    if not shares:
        return int(values.block)
    lines = sum(1 for _ in read_sentences(path))
    return max(1, min(values.block, int(lines * min(shares) / 2)))


def _cuts(values: argparse.Namespace, part: str) -> list[Path]:
    return values.cuts if part == "train" else getattr(values, f"{part}_cuts")


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and prepare the text."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--text", type=Path, nargs="*", default=[], help="text, one sentence a line, plain or gzipped")
    options.add_argument("--cuts", type=Path, nargs="*", default=[], help="manifests of the training cuts")
    options.add_argument("--dev-cuts", type=Path, nargs="*", default=[], help="manifests whose transcripts are dev")
    options.add_argument("--test-cuts", type=Path, nargs="*", default=[], help="manifests whose transcripts are test")
    options.add_argument("--output-dir", type=Path, required=True, help="e.g. data/lm")
    options.add_argument(
        "--block", type=COUNT.parse, default=200, help="lines of --text that stay together; fewer in short texts"
    )
    options.add_argument("--dev-share", type=FRACTION.parse, default=0.02, help="share of --text for dev.txt")
    options.add_argument(
        "--test-share", type=FRACTION.parse, default=0.02, help="share of --text for test.txt; 0: none"
    )
    values = options.parse_args(argv)
    if not values.text and not values.cuts:
        raise UserError("no text given", "give --text or --cuts")
    if values.dev_share + values.test_share >= 1:
        raise UserError("--dev-share and --test-share leave nothing for training", "lower one of them")
    check_texts(values.text)
    for part in PARTS:
        if _cuts(values, part):
            manifests.check_exists(_cuts(values, part))
    words: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    values.output_dir.mkdir(parents=True, exist_ok=True)
    wanted = [
        part
        for part in PARTS
        if part == "train" or _cuts(values, part) or (values.text and getattr(values, f"{part}_share"))
    ]
    with contextlib.ExitStack() as stack:
        streams = {}
        for part in wanted:
            path = stack.enter_context(atomic_path(values.output_dir / f"{part}.txt"))
            streams[part] = stack.enter_context(path.open("w", encoding="utf-8"))
        for part, line in lines_of(values):
            streams[part].write(f"{line}\n")
            counts[part] += 1
            if part == "train":
                words.update(line.split())
        empty = [part for part in wanted if not counts[part]]
        if empty:
            raise UserError(f"no sentences left for {' and '.join(empty)}", "lower --block, or change the shares")
    write_text(values.output_dir / "words.txt", "".join(f"{word} {count}\n" for word, count in words.most_common()))
    logging.info("%s: %s sentences, %d different words in training", values.output_dir,
                 ", ".join(f"{counts[part]} {part}" for part in wanted), len(words))  # fmt: skip


if __name__ == "__main__":
    command.run(main)
