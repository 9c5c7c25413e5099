"""A corpus in LibriSpeech's layout without a synthesiser: coloured noise of the right length, with transcripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pruning.speech.corpora import librispeech
from pruning.speech.data import features, manifests
from pruning.speech.text import bpe

WORDS = ["ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "TEN", "ELEVEN", "TWELVE"]
MakeCorpus = Callable[..., Path]


@pytest.fixture(scope="session")
def make_corpus() -> MakeCorpus:
    """``make_corpus(directory, {part: utterances}, seed=0, rate=16000)`` writes a corpus and returns its directory."""

    def make(directory: Path, parts: dict[str, int], seed: int = 0, rate: int = 16000) -> Path:
        generator = np.random.default_rng(seed)
        for reader, (part, count) in enumerate(parts.items(), 1):
            chapter = directory / part / str(reader) / "7"
            chapter.mkdir(parents=True)
            lines = []
            for index in range(count):
                identifier = f"{reader}-7-{index:04d}"
                words = generator.choice(WORDS, size=int(generator.integers(1, 6)))
                samples = generator.normal(scale=0.1, size=int(rate * generator.uniform(1.0, 2.5)))
                soundfile.write(chapter / f"{identifier}.flac", samples, rate)
                lines.append(f"{identifier} {' '.join(words)}\n")
            (chapter / f"{reader}-7.trans.txt").write_text("".join(lines))
        return directory

    return make


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory, make_corpus: MakeCorpus) -> Path:
    """Make a data directory with features: ``fbank/librispeech_cuts_{train-a,train-b,dev}`` and ``lang_bpe_30``."""
    directory = tmp_path_factory.mktemp("data")
    parts = {"train-a": 40, "train-b": 20, "dev": 9}
    corpus = make_corpus(directory / "LibriSpeech", parts)
    librispeech.prepare(corpus, list(parts), directory / "manifests")
    source, target = manifests.Paths(directory / "manifests"), manifests.Paths(directory / "fbank")
    config = features.FeatureConfig()
    for part in parts:
        features.compute_split(config, source, features.Job(target, part, 1, 1))
        features.combine(config, source, target, part, 1)
    texts = [cut.supervisions[0].text for cut in manifests.iterate_cuts(target.cuts("train-a"))]
    bpe.train(texts, directory / "lang_bpe_30", 30, "unigram")
    return directory
