"""Result files compared with icefall's: equal lines, readable by each other's programs; needs a checkout of icefall."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest

from pruning.speech.scoring.word_errors import (
    Transcript,
    error_report,
    read_transcripts,
    recogs_path,
    score,
    write_results,
)
from tests.icefall import networks


@pytest.fixture()
def transcripts() -> list[Transcript]:
    chosen = random.Random(4)
    words = ["A", "BEE", "SEA", "IT'S", "E"]

    def sentence(least: int) -> list[str]:
        return [chosen.choice(words) for _ in range(chosen.randint(least, 9))]

    return [Transcript(f"19-{number}", sentence(1), sentence(0)) for number in range(40)]


def sections(text: str) -> list[tuple[str, list[str]]]:
    """Return the sections of an errs file with sorted lines, since equal counts have no order."""
    return [(part.splitlines()[0], sorted(line.rstrip() for line in part.splitlines()[1:]))
            for part in text.strip().split("\n\n")]  # fmt: skip


def test_the_same_lines_as_icefalls(transcripts: list[Transcript], tmp_path: Path) -> None:
    utils = networks.package("icefall.utils", networks.checkout())
    stream = io.StringIO()
    utils.write_error_stats(stream, "test", [tuple(t) for t in transcripts], enable_log=False)
    assert sections(error_report(transcripts, score(transcripts))) == sections(stream.getvalue())
    utils.store_transcripts(tmp_path / "theirs.txt", [tuple(t) for t in transcripts])
    write_results(tmp_path, "test", "epoch-1", transcripts)
    ours = recogs_path(tmp_path, "test", "epoch-1")
    assert sorted(ours.read_text().splitlines()) == sorted((tmp_path / "theirs.txt").read_text().splitlines())
    assert sorted(read_transcripts(tmp_path / "theirs.txt")) == sorted(transcripts)


def test_a_program_of_icefalls_reads_ours(transcripts: list[Transcript], tmp_path: Path) -> None:
    program = networks.checkout() / "egs/speechio/ASR/local/normalize_results.py"
    source = program.read_text(encoding="utf-8")
    reader = source[source.index("def extract_hyp_ref_wavname") : source.index("def get_filenames")]
    found: dict[str, Any] = {}
    exec(reader, found)  # the checkout is trusted; the whole program needs packages for Chinese
    write_results(tmp_path, "test", "epoch-1", transcripts)
    hypotheses, references, names = found["extract_hyp_ref_wavname"](str(recogs_path(tmp_path, "test", "epoch-1")))
    order = sorted(transcripts)
    assert sorted(names) == [t.id for t in order] and len(references) == len(hypotheses) == len(order)
