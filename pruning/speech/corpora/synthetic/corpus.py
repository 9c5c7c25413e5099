"""The synthetic corpus in LibriSpeech's directory layout; the same configuration gives the same corpus anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from pruning.errors import UserError
from pruning.speech.corpora.synthetic import acoustics, speaking
from pruning.speech.corpora.synthetic.config import CorpusConfig
from pruning.speech.corpora.synthetic.sentence_file import SentenceFile
from pruning.speech.corpora.synthetic.speaking import Utterance
from pruning.speech.corpora.synthetic.text import Grammar, Source, unique_sentences
from pruning.speech.corpora.synthetic.voices import (
    ACCENTS,
    HELD_OUT_VARIANTS,
    TRAINING_VARIANTS,
    Speaker,
    draw_speaker,
)

TRAIN, DEV, TEST_CLEAN, TEST_OTHER = "train-clean-mini", "dev-clean-mini", "test-clean", "test-other"


@dataclass(frozen=True)
class Part:
    """A part of the corpus, e.g. test-clean."""

    name: str
    utterances: tuple[Utterance, ...]


def plan_corpus(config: CorpusConfig, source: Source) -> list[Part]:
    """Draw sentences from ``source`` and speakers of every part.

    Sentences of dev and test are drawn before those of training, which excludes them, so that the test sets do not
    change with the size of the training set.
    """
    clean = acoustics.Conditions(snr=config.train_snr)
    other = acoustics.Conditions(snr=config.other_snr, reverberation_time=config.other_reverberation_time)
    known = TRAINING_VARIANTS[: config.variants]
    # name, key of the random numbers, number of utterances, number of words, variants, conditions
    requests: list[tuple[str, int, int, int, tuple[str, ...], acoustics.Conditions]] = [
        (TEST_CLEAN, 1, 0, config.test_words, known, clean),
        (TEST_OTHER, 2, 0, config.test_words, HELD_OUT_VARIANTS, other),
        (DEV, 3, config.dev_utterances, 0, known, clean),
        (TRAIN, 4, config.train_utterances, 0, known, clean),
    ]
    parts: list[Part] = []
    used: set[str] = set()
    for name, key, count, words, variants, conditions in requests:
        generator = np.random.default_rng([config.seed, key])
        sentences = unique_sentences(source, generator, count, words, excluded=used)
        used.update(sentences)
        parts.append(Part(name, tuple(_utterances(config, key, sentences, variants, conditions))))
    return parts


def _utterances(
    config: CorpusConfig, key: int, sentences: list[str], variants: tuple[str, ...], conditions: acoustics.Conditions
) -> Iterator[Utterance]:
    generator = np.random.default_rng([config.seed, key, 1])
    speaker: Optional[Speaker] = None
    for index, sentence in enumerate(sentences):
        within = index % config.utterances_per_speaker
        if speaker is None or within == 0:
            number = 10000 * key + index // config.utterances_per_speaker
            speaker = draw_speaker(generator, number, variants, ACCENTS[: config.accents])
        identifier = f"{speaker.number}-{speaker.chapter}-{within:04d}"
        yield Utterance(identifier, sentence, speaker, conditions, (config.seed, key, 2, index))


def make_corpus(config: CorpusConfig, output_dir: Path, num_workers: int, text: Optional[Path] = None) -> None:
    """Write the corpus to ``output_dir``; see `speaking.make_whole`.

    Args:
        config: configuration of the corpus.
        output_dir: directory of the corpus.
        num_workers: number of processes; does not affect the audio.
        text: file of the sentences, if ``config.text`` is set.

    Raises:
        UserError: ``text`` is not the configured file, or there are too few sentences.
    """

    def build(directory: Path) -> dict[str, dict[str, float]]:
        parts = plan_corpus(config, sentences_of(config, text))
        seconds = _speak_all(parts, directory, num_workers)
        for part in parts:
            _write_transcripts(directory, part)
        _write_tables(directory, parts, seconds)
        return {part.name: speaking.statistics(part.utterances, seconds) for part in parts}

    speaking.make_whole(output_dir, asdict(config), build)


def sentences_of(config: CorpusConfig, text: Optional[Path] = None) -> Source:
    """Return the source of the sentences: the file ``text`` if ``config.text`` is set, otherwise the grammar."""
    if config.text is None:
        return Grammar(config.vocabulary_size)
    if text is None:
        raise UserError("the corpus is configured with a text, but none is given", "give --text")
    return SentenceFile(text, config.text)


def _speak_all(parts: list[Part], directory: Path, num_workers: int) -> dict[str, float]:
    tasks = []
    for part in parts:
        for utterance in part.utterances:
            chapter = _chapter_directory(directory, part, utterance)
            chapter.mkdir(parents=True, exist_ok=True)
            tasks.append((utterance, chapter / f"{utterance.identifier}.flac"))
    return speaking.speak_all(tasks, num_workers)


def _chapter_directory(directory: Path, part: Part, utterance: Utterance) -> Path:
    return directory / part.name / str(utterance.speaker.number) / str(utterance.speaker.chapter)


def _write_transcripts(directory: Path, part: Part) -> None:
    lines: dict[Path, list[str]] = {}
    for utterance in part.utterances:
        name = f"{utterance.speaker.number}-{utterance.speaker.chapter}.trans.txt"
        path = _chapter_directory(directory, part, utterance) / name
        lines.setdefault(path, []).append(f"{utterance.identifier} {utterance.text.upper()}\n")
    for path, content in lines.items():
        path.write_text("".join(content), encoding="utf-8")


def _write_tables(directory: Path, parts: list[Part], seconds: dict[str, float]) -> None:
    """Write SPEAKERS.TXT and CHAPTERS.TXT, with LibriSpeech's columns."""
    minutes: dict[tuple[str, Speaker], float] = {}
    for part in parts:
        for utterance in part.utterances:
            key = (part.name, utterance.speaker)
            minutes[key] = minutes.get(key, 0.0) + seconds[utterance.identifier] / 60
    speakers = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    chapters = [";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE"]
    for (name, speaker), length in sorted(minutes.items(), key=lambda item: item[0][1].number):
        speakers.append(f"{speaker.number} | {speaker.sex} | {name:16} | {length:5.2f} | {speaker.voice.name}")
        chapters.append(
            f"{speaker.chapter} | {speaker.number} | {length:5.2f} | {name:16} | 0 | 0 | synthetic | synthetic"
        )
    (directory / "SPEAKERS.TXT").write_text("\n".join(speakers) + "\n", encoding="utf-8")
    (directory / "CHAPTERS.TXT").write_text("\n".join(chapters) + "\n", encoding="utf-8")
