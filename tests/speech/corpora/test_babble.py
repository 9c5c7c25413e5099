"""Babble noise: its power, its voices, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.errors import UserError
from pruning.speech.corpora import babble
from pruning.speech.data.manifests import iterate_cuts
from tests.speech.data.test_sources import cuts


def spoken(directory: Path, names: str) -> Path:
    """Write six recordings by the speakers of ``names``."""
    from lhotse import CutSet, load_manifest

    found = list(load_manifest(cuts(directory)))
    for cut, name in zip(found, names):
        cut.supervisions[0].speaker = name.strip() or None
    CutSet.from_cuts(found).to_file(directory / "cuts.jsonl.gz")
    return directory / "cuts.jsonl.gz"


@pytest.mark.parametrize("snr", [-5.0, 10.0])
def test_power(snr: float) -> None:
    generator = np.random.default_rng(0)
    speech, *voices = (level * generator.normal(size=size) for level, size in ((0.02, 4000), (0.5, 900), (0.001, 9000)))
    mixed = babble.mix(speech, voices, snr, random.Random(0))
    noise = mixed - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(noise**2)) == pytest.approx(snr, abs=1e-6)
    louder = babble.mix(speech, [1000 * voices[0], voices[1]], snr, random.Random(0))
    assert mixed == pytest.approx(louder), "voices of any level are equally loud"
    assert np.abs(babble.mix(speech * 20, voices, snr, random.Random(0))).max() <= max(0.9, np.abs(speech * 20).max())


def made(directory: Path, names: str, talkers: int = 2, seed: int = 1) -> dict[str, Any]:
    output = directory / f"noisy-{seed}.jsonl.gz"
    babble.write_part(spoken(directory, names), output, directory / f"audio-{seed}", 10.0, talkers, seed)
    return {cut.id: cut for cut in iterate_cuts(output)}


def test_cuts_keep_ids_and_texts_and_noise_is_of_others(tmp_path: Path) -> None:
    noisy = made(tmp_path, "aabbcd")
    clean = {cut.id: cut for cut in iterate_cuts(tmp_path / "cuts.jsonl.gz")}
    assert noisy.keys() == clean.keys()
    for name, cut in noisy.items():
        (ours,), (theirs,) = cut.supervisions, clean[name].supervisions
        assert (ours.text, ours.speaker, cut.num_samples) == (theirs.text, theirs.speaker, clean[name].num_samples)
        signal, noise = clean[name].load_audio()[0], cut.load_audio()[0] - clean[name].load_audio()[0]
        assert 10 * np.log10(np.mean(signal**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.1)
    other = made(tmp_path, "aabbcd", seed=2)
    assert any((other[name].load_audio() != noisy[name].load_audio()).any() for name in noisy)
    before = (tmp_path / "noisy-1.jsonl.gz").stat().st_mtime_ns
    made(tmp_path, "aabbcd")
    assert (tmp_path / "noisy-1.jsonl.gz").stat().st_mtime_ns == before, "what exists is kept"


@pytest.mark.parametrize(("names", "message"), [
    ("aabb  ", "cut r4 has no speaker; write the speakers"),
    ("aabbaa", "has 2 speakers, too few for 2 other ones; give a lower --talkers"),
])  # fmt: skip
def test_refused(tmp_path: Path, names: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(tmp_path, names)
