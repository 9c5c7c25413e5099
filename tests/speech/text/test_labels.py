"""Texts to train on: sentences, the teacher's where they are equal, and pseudo-labels without loops."""

from __future__ import annotations

import pytest

from pruning.speech.text.labels import EQUAL, TEACHER, TRANSCRIPT, Labelled, Labeller, Said, as_sentence


@pytest.mark.parametrize(
    ("transcript", "sentence"),
    [
        ("HELLO WORLD", "Hello world."),
        ("hello world", "Hello world."),
        ("SHALL I SAY I'M RIGHT AND I", "Shall I say I'm right and I."),
        ("Hello World?", "Hello World?"),
        (" ÉTÉ  INDIEN ", "Été indien."),
        ("IT IS", "It is."),
        ("", "."),
    ],
)
def test_sentences(transcript: str, sentence: str) -> None:
    assert as_sentence(transcript) == sentence


def words_of(text: str) -> list[str]:
    return [word.strip(",.?!").upper() for word in text.split()]


@pytest.mark.parametrize(
    ("labels", "said", "text"),
    [
        (TRANSCRIPT, Said("Well, hello world!"), "Well hello world."),
        (EQUAL, Said("Well, hello world!"), "Well, hello world!"),
        (EQUAL, Said("Well, yellow world!"), "Well hello world."),
        (EQUAL, Said(""), "Well hello world."),
        (TEACHER, Said("Yellow world."), "Yellow world."),
        (TEACHER, Said(""), ""),
        (TEACHER, Said(" "), ""),
        (TEACHER, Said("... - \u266a"), ""),
        (TEACHER, Said("Yellow world", ended=False), ""),
        (TEACHER, Said("and then " * 20), ""),
    ],
)
def test_the_text_of_an_utterance(labels: str, said: Said, text: str) -> None:
    labeller = Labeller(labels, words_of)
    assert labeller.text("WELL HELLO WORLD", said) == text
    counts = labeller.counts
    assert counts.replaced + counts.kept + counts.loops + counts.empty == 1 and not counts.long
    assert (counts.replaced == 1) == (text == said.text != "")
    assert (counts.loops == 1) == (labels == TEACHER and said.loops)


def test_ordinary_texts_do_not_loop() -> None:
    text = ("It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
            "foolishness, it was the epoch of belief, it was the epoch of incredulity.")  # fmt: skip
    assert not Said(text).loops and Said(f"{text} " * 4).loops
    counted = str(Labelled(5, 3, 2, 1, 4))
    assert counted == ("8 texts: 5 of the teacher, 3 transcripts; left out: 2 that loop, 1 that are empty, "
                       "4 that are longer than the network takes")  # fmt: skip


@pytest.mark.parametrize(
    ("transcript", "english", "sentence"),
    [
        ("KOTY I PSY", False, "Koty i psy."),
        ("AM I HERE", True, "Am I here."),
        ("\u4f60\u597d\u3002", False, "\u4f60\u597d\u3002"),
        ("\u0915\u094d\u092f\u093e \u0939\u0948\u0964", False, "\u0915\u094d\u092f\u093e \u0939\u0948\u0964"),
        ("wait\u2026", True, "Wait\u2026"),
        ('He said "yes."', True, 'He said "yes."'),
        ('He said "yes"', True, 'He said "yes".'),
    ],
)
def test_sentences_of_several_languages(transcript: str, english: bool, sentence: str) -> None:
    assert as_sentence(transcript, english) == sentence
