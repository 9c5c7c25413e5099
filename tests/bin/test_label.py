"""What decides whether labels are written again."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pruning.bin import label
from pruning.speech.decoding import labelling
from pruning.speech.text import network_tokens


def test_transcripts_in_another_language_are_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """English alone has a capital I, so what was written for another language is not taken for English."""
    cuts = tmp_path / "cuts.jsonl.gz"
    cuts.write_bytes(gzip.compress(b"{}\n"))
    known: list[Any] = []
    monkeypatch.setattr(labelling, "label", lambda *given: known.append(given[-1]))
    for language in ("en", "de", "de"):
        tokens = SimpleNamespace(speech={"language": language})
        monkeypatch.setattr(network_tokens, "NetworkTokens", lambda _, tokens=tokens: tokens)
        label.main(["--cuts", str(cuts), "--labels", "transcript", "--lang-dir", str(tmp_path), "--output-dir",
                    str(tmp_path / "labels")])  # fmt: skip
    assert known[0] != known[1] == known[2]
