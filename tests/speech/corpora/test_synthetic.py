"""The synthetic corpus: text, acoustics, layout, and bit-equal results for equal seeds."""

from __future__ import annotations

import errno
import filecmp
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.errors import UserError
from pruning.speech.corpora import librispeech
from pruning.speech.corpora.synthetic import acoustics, corpus, text, voices
from pruning.speech.corpora.synthetic.config import CorpusConfig
from pruning.speech.corpora.synthetic.vocabulary import CLASSES, TEMPLATES
from pruning.speech.data import manifests

SMALL = CorpusConfig(train_utterances=5, dev_utterances=2, test_words=15, utterances_per_speaker=2)


def test_sentences_are_unique_and_exclude_what_they_must() -> None:
    grammar = text.Grammar(300)
    first = text.unique_sentences(grammar, np.random.default_rng(0), count=500)
    second = text.unique_sentences(grammar, np.random.default_rng(0), count=500, excluded=set(first))
    assert len(set(first) | set(second)) == 1000
    assert text.unique_sentences(grammar, np.random.default_rng(0), count=500) == first
    by_words = text.unique_sentences(grammar, np.random.default_rng(0), words=400)
    assert 400 <= sum(len(sentence.split()) for sentence in by_words) < 400 + 20


@settings(max_examples=25, deadline=None)
@given(size=st.integers(24, 900), larger=st.integers(0, 400))
def test_smaller_vocabularies_are_subsets(size: int, larger: int) -> None:
    small, large = text.Grammar(size).classes, text.Grammar(size + larger).classes
    assert all(set(small[name]) <= set(large[name]) <= set(CLASSES[name]) for name in CLASSES)
    assert all(len(words) >= 2 for words in small.values())
    available = sum(len(words) for words in CLASSES.values())
    assert sum(len(words) for words in small.values()) <= min(size, available) + 2 * len(CLASSES)


def test_sentences_are_plain_words_of_the_vocabulary() -> None:
    known = {word for words in CLASSES.values() for word in words}
    known |= {text.plural(word) for name in ("ANIMAL", "OBJECT") for word in CLASSES[name]}
    known |= {word for template in TEMPLATES for word in template.split() if word.islower()} | {"an", "hundred"}
    known |= set(f"{text.DIGITS} {text.TEENS} {text.TENS}".split())
    for sentence in text.unique_sentences(text.Grammar(900), np.random.default_rng(1), count=2000):
        words = sentence.split()
        assert set(words) <= known
        for article, following in zip(words, words[1:]):
            if article in ("a", "an"):
                assert (article == "an") == (following[0] in "aeiou" and following != "useful"), sentence


def test_an_exhausted_grammar_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "TEMPLATES", ("a COLOR OBJECT",))
    grammar = text.Grammar(24)
    possible = len(grammar.classes["COLOR"]) * len(grammar.classes["OBJECT"])
    assert len(text.unique_sentences(grammar, np.random.default_rng(0), count=possible)) == possible
    with pytest.raises(UserError, match=f"found only {possible} new sentences; request fewer"):
        text.unique_sentences(grammar, np.random.default_rng(0), count=possible + 1)
    with pytest.raises(UserError, match="vocabulary size 3 is too small"):
        text.Grammar(3)


def test_test_other_has_voices_of_its_own() -> None:
    assert not set(voices.TRAINING_VARIANTS) & set(voices.HELD_OUT_VARIANTS)
    config = replace(SMALL, train_utterances=400, test_words=500)
    parts = {part.name: part for part in corpus.plan_corpus(config, corpus.sentences_of(config))}
    spoken = {
        name: {utterance.speaker.voice.name.split("+")[1] for utterance in part.utterances}
        for name, part in parts.items()
    }
    assert not spoken[corpus.TEST_OTHER] & (spoken[corpus.TRAIN] | spoken[corpus.TEST_CLEAN] | spoken[corpus.DEV])
    assert len(spoken[corpus.TRAIN]) == SMALL.variants
    numbers = [{utterance.speaker.number for utterance in part.utterances} for part in parts.values()]
    assert len(set.union(*numbers)) == sum(map(len, numbers)), "no speaker is in two parts"


def test_training_size_does_not_change_the_tests() -> None:
    source = corpus.sentences_of(SMALL)
    small, large = (corpus.plan_corpus(replace(SMALL, train_utterances=count), source) for count in (5, 300))
    for left, right in zip(small, large):
        if left.name != corpus.TRAIN:
            assert left == right
    sentences = [utterance.text for part in large for utterance in part.utterances]
    assert len(sentences) == len(set(sentences)), "no sentence occurs twice"


@settings(max_examples=20, deadline=None)
@given(snr=st.floats(-5, 40), seed=st.integers(0, 1000), level=st.floats(-40, -3), room=st.booleans())
def test_recordings_keep_level_and_never_clip(snr: float, seed: int, level: float, room: bool) -> None:
    generator = np.random.default_rng(seed)
    speech = (generator.standard_normal(22050) * 3000).astype(np.int16)
    speech[:4000] = speech[-4000:] = 0
    conditions = acoustics.Conditions(
        snr=(snr, snr), level=(level, level), reverberation_time=(0.2, 0.2) if room else None
    )
    wave = acoustics.record(speech, 22050, conditions, generator)
    assert wave.dtype == np.int16
    assert np.abs(wave.astype(int)).max() <= 0.91 * 32767
    reached = 20 * np.log10(np.sqrt(np.mean((wave / 32767) ** 2)))
    assert reached <= level + 0.1
    speaking = (22050 - 8000) / 22050 + 0.04
    assert speaking + 0.2 - 0.01 <= len(wave) / 16000 <= speaking + 0.7 + 0.01


@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_noise_has_its_ratio(snr: float) -> None:
    speech = (np.sin(np.arange(22050) * 2 * np.pi * 500 / 22050) * 8000).astype(np.int16)
    conditions = acoustics.Conditions(snr=(snr, snr), pause=(0.0, 0.0), level=(-20.0, -20.0))
    wave = acoustics.record(speech, 22050, conditions, np.random.default_rng(0)).astype(float)[200:-200]
    time = np.arange(len(wave)) * 2 * np.pi * 500 / 16000
    basis = np.stack([np.sin(time), np.cos(time)])
    tone = (basis @ wave / len(wave) * 2) @ basis
    ratio = 10 * np.log10(np.mean(tone**2) / np.mean((wave - tone) ** 2))
    assert ratio == pytest.approx(snr, abs=1.0)


def test_room_decays_by_sixty_decibels() -> None:
    response = acoustics.room_response(0.4, 3.0, np.random.default_rng(0))
    assert len(response) == 6400 and response[0] == 1.0
    assert 10 * np.log10(1.0 / np.sum(response[1:] ** 2)) == pytest.approx(3.0)
    early, late = (np.mean(response[start : start + 640] ** 2) for start in (640, 5120))
    assert 10 * np.log10(early / late) == pytest.approx(60 * 4480 / 6400, abs=2)


def test_noise_slopes() -> None:
    for slope in (0.0, 1.0, 2.0):
        noise = acoustics.coloured_noise(1 << 17, slope, np.random.default_rng(0))
        assert np.mean(noise**2) == pytest.approx(1.0)
        power = np.abs(np.fft.rfft(noise)) ** 2
        frequency = np.fft.rfftfreq(len(noise), 1 / 16000)
        low, high = (power[(frequency > centre / 1.2) & (frequency < centre * 1.2)].mean() for centre in (200, 3200))
        assert np.log2(low / high) == pytest.approx(4 * slope, abs=0.4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("espeakng_loader", reason="it speaks the synthetic corpus")
    directory = tmp_path_factory.mktemp("synthetic") / "LibriSpeech"
    corpus.make_corpus(SMALL, directory, num_workers=2)
    return directory


def test_corpus_has_librispeechs_layout(made: Path, tmp_path: Path) -> None:
    parts = [corpus.TRAIN, corpus.DEV, corpus.TEST_CLEAN, corpus.TEST_OTHER]
    assert librispeech.present_parts(made) == sorted(parts)
    librispeech.prepare(made, parts, tmp_path)
    cuts = list(manifests.read(manifests.Paths(tmp_path), corpus.TRAIN))
    assert len(cuts) == 5
    for cut in cuts:
        supervision = cut.supervisions[0]
        assert supervision.text == supervision.text.upper()
        assert cut.sampling_rate == 16000 and 0.3 < cut.duration / len(supervision.text.split()) * 2 < 2
    tables = [(made / name).read_text().splitlines() for name in ("SPEAKERS.TXT", "CHAPTERS.TXT")]
    readers = {path.name for part in parts for path in (made / part).iterdir()}
    assert {line.split("|")[0].strip() for line in tables[0] if not line.startswith(";")} == readers
    assert {line.split("|")[1].strip() for line in tables[1] if not line.startswith(";")} == readers


def test_same_seed_same_bits(made: Path, tmp_path: Path) -> None:
    corpus.make_corpus(SMALL, tmp_path / "again", num_workers=1)
    names = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file())
    _, different, missing = filecmp.cmpfiles(made, tmp_path / "again", names, shallow=False)
    assert not different and not missing
    source = corpus.sentences_of(SMALL)
    other, same = (corpus.plan_corpus(replace(SMALL, seed=seed), source) for seed in (1, SMALL.seed))
    assert other[0].utterances[0].text != same[0].utterances[0].text


def test_voices_differ(made: Path) -> None:
    waves = [soundfile.read(path)[0] for path in sorted(made.rglob("*.flac"))]
    spectra = [np.abs(np.fft.rfft(wave, 16000))[:4000] for wave in waves]
    assert np.corrcoef([np.log(spectrum + 1e-3) for spectrum in spectra]).min() < 0.9
    assert all(0.01 < np.sqrt(np.mean(wave**2)) < 0.11 for wave in waves)


def test_a_finished_corpus_is_left_alone(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    with caplog.at_level(logging.INFO):
        corpus.make_corpus(SMALL, made, num_workers=2)
    assert "already exists" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    with pytest.raises(UserError, match="contains a corpus made with other options"):
        corpus.make_corpus(replace(SMALL, seed=1), made, num_workers=2)


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train-clean-5").mkdir()
    with pytest.raises(UserError, match="exists and is not a synthetic corpus"):
        corpus.make_corpus(SMALL, tmp_path, num_workers=1)
    assert (tmp_path / "train-clean-5").is_dir()


def test_a_full_disk_leaves_nothing(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name.endswith("0001.flac"):  # the workers are forked and inherit this
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as caught:
        corpus.make_corpus(SMALL, tmp_path / "LibriSpeech", num_workers=2)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_voice_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader", reason="it speaks the synthetic corpus")
    monkeypatch.setattr(corpus, "ACCENTS", ("xx-nowhere",) * 6)
    with pytest.raises(UserError, match=r"eSpeak NG has no voice xx-nowhere\+"):
        corpus.make_corpus(SMALL, tmp_path / "LibriSpeech", num_workers=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting", [{"accents": 9}, {"variants": 0}, {"test_words": 0}])
def test_impossible_settings_are_named(setting: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        CorpusConfig(**setting)
