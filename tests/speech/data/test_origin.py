"""Cuts of other settings or other manifests are refused; what is the same is taken as it is."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pruning.errors import UserError
from pruning.speech.data.origin import Origin


def zipped(path: Path, text: str, time: int = 0) -> Path:
    path.write_bytes(gzip.compress(text.encode(), mtime=time))
    return path


def test_what_cuts_were_made_from_is_compared(tmp_path: Path) -> None:
    cuts, record, texts = tmp_path / "cuts.jsonl.gz", tmp_path / "cuts.json", zipped(tmp_path / "a.gz", "ONE")
    origin = Origin({"rate": 8000}, {"utterances": texts, "recordings": zipped(tmp_path / "b.gz", "a.wav")})
    assert not origin.made(cuts, record, record)
    origin.write(record)
    assert not origin.made(cuts, record, record), "a record alone is left by an interruption"
    cuts.touch()
    zipped(texts, "ONE", time=5)
    assert origin.made(cuts, record, record), "an archive contains its date"
    with pytest.raises(UserError, match=r'made with {"rate": 8000}, not with {"rate": 16000}.*or remove .*cuts.json$'):
        Origin({"rate": 16000}, origin.sources).made(cuts, record, record)
    zipped(texts, "TWO")
    with pytest.raises(UserError, match="made from other utterances than .*a.gz has now"):
        origin.made(cuts, record, record)
    texts.unlink()
    assert origin.made(cuts, record, record), "manifests may be gone"
    zipped(tmp_path / "b.gz", "b.wav")
    with pytest.raises(UserError, match="made from other recordings than .*b.gz has now"):
        origin.made(cuts, record, record)
    record.unlink()
    assert origin.made(cuts, record, record), "cuts of icefall and of older versions have no record"
