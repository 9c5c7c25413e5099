"""Score recogs files again: word error rates of each file and of all pooled, and error reports."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.files import write_text
from pruning.speech.scoring.word_errors import SCORED, Score, Transcript, error_report, read_transcripts, score


def _row(name: str, result: Score) -> list[str]:
    low, high = result.interval
    return [
        name,
        f"{result.wer:.2f}",
        f"{low:.2f} - {high:.2f}",
        *(str(n) for n in (result.errors, result.words, result.insertions, result.deletions, result.substitutions)),
    ]


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recogs", nargs="+", type=Path, help="recogs files, written by this toolkit or by icefall")
    parser.add_argument("--output-dir", type=Path, help="directory for errs files; without it none are written")
    parser.add_argument("--score-in", choices=SCORED, default="words", help="characters: each CJK character is a word")
    arguments = parser.parse_args(argv)

    from tabulate import tabulate

    words_in = SCORED[arguments.score_in]
    rows: list[list[str]] = []
    pooled: list[Transcript] = []
    for path in arguments.recogs:
        transcripts = [
            t._replace(
                reference=words_in(" ".join(t.reference)), hypothesis=words_in(" ".join(t.hypothesis)), set=path.name
            )
            for t in read_transcripts(path)
        ]
        result = score(transcripts)
        rows.append(_row(path.name, result))
        pooled += transcripts
        if arguments.output_dir is not None:
            name = f"errs-{path.name.removeprefix('recogs-')}"
            write_text(arguments.output_dir / name, error_report(sorted(transcripts), result))
    if len(rows) > 1:
        rows.append(_row("pooled", score(pooled)))
    headers = ["file", "WER %", "95 % interval", "errors", "words", "ins", "del", "sub"]
    print(tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 7)))


if __name__ == "__main__":
    command.run(main)
