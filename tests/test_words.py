"""The prose of code and documentation: renamed words do not come back, and the glossary has each word once."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RENAMED = {
    r"\bto be had\b": "available",
    r"\b(could|can) ?not be told\b": "no significant difference, or: cannot be distinguished",
    r"\bmethod (?-i:[AC])\b": "the name of the method: L0 pruning with layerwise distillation, HJ-Pruning",
    r"\bis come to\b": "reaches",
    r"\banew\b": "again",
    r"\bjust one of\b": "exactly one of",
    r"\bso many (utterances|tokens|steps|epochs|batches|frames|units|sentences)\b": "the number of ...",
    r"\bwhich is to be\b": "must",
    r"\bnot known here\b": "not supported",
    r"\bis not clear\b": "what is missing: no teacher given",
    r"\bnothing but\b": "only",
    r"\b(those who|whoever)\b": "you, or the users",
    r"\bencoders? of samples\b": "speech encoder",
    r"\bthe network hears\b": "the network takes as input",
    r"\bbesides\b": "in addition to",
    r"\bis no (file|directory|number|text|manifest)\b": "is not a ...",
}
"""Patterns that were rewritten in plain English, and what to write instead."""


def prose() -> list[Path]:
    """The text files of the repository but generated results and this file."""
    names = subprocess.run(["git", "ls-files", "*.py", "*.sh", "*.md", "*.yaml", ".ci/run"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.split()  # fmt: skip
    generated = re.compile(r"egs/[^/]+/(results/|RESULTS)")
    return [ROOT / name for name in names if not generated.match(name) and name != "tests/test_words.py"]


@pytest.mark.parametrize("pattern", RENAMED)
def test_renamed_words_do_not_come_back(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in prose()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(pattern, line, re.IGNORECASE)
    ]
    assert found == [], f"write {RENAMED[pattern]!r}"


def test_the_glossary_has_each_word_once() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \|", text.split("## Glossary", 1)[1].split("\n## ", 1)[0], re.MULTILINE)
    words = [word.strip() for row in rows if not row.startswith(("word", "---")) for word in row.split(",")]
    assert len(words) > 15 and sorted(words) == sorted(set(words))
