"""The synthetic SLURP: sentences with their meaning, in the official layout, read by the recipe's own reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pruning.errors import UserError
from pruning.speech.corpora import slurp
from pruning.speech.corpora.synthetic import commands, slurp_corpus
from pruning.speech.corpora.synthetic.config import SlurpCorpusConfig
from pruning.speech.data import manifests
from tests.speech.corpora.test_slurp import line

SMALL = SlurpCorpusConfig(train_sentences=5, devel_sentences=2, test_sentences=3, sentences_per_speaker=2, recordings=2)


def test_templates_and_fillers_fit() -> None:
    """Every slot has fillers, every filler is used, and all are lower-case words."""
    slots = {slot for templates in commands.TEMPLATES.values() for text in templates
             for slot in commands._SLOT.findall(text)}  # fmt: skip
    assert slots == set(commands.FILLERS)
    words = [word for words in commands.FILLERS.values() for word in words]
    assert all(word == word.lower() and word.replace(" ", "").isalpha() for word in words)


def test_sentences_with_slots_are_in_one_part() -> None:
    parts = slurp_corpus.draw_parts(SlurpCorpusConfig(train_sentences=400, devel_sentences=60, test_sentences=100))
    filled = {name: {row["sentence"] for row in rows if row["entities"]} for name, rows in parts.items()}
    assert not filled["train"] & filled["test"] and not filled["devel"] & (filled["train"] | filled["test"])
    intents = {name: {row["intent"] for row in rows} for name, rows in parts.items()}
    assert intents["test"] <= intents["train"] and len(intents["train"]) == len(commands.TEMPLATES)
    assert slurp_corpus.draw_parts(SlurpCorpusConfig(train_sentences=10))["test"] == slurp_corpus.draw_parts(
        SlurpCorpusConfig(train_sentences=20))["test"]  # fmt: skip
    with pytest.raises(UserError, match="the templates have only"):
        commands.draw_all(np.random.default_rng(0), 10**6)


def test_annotations_are_the_readers() -> None:
    command = commands.Command(("add", "a", "lunch", "on", "monday"), "calendar", "set",
                               (("event_name", 2, 2), ("date", 3, 4)))  # fmt: skip
    row = slurp_corpus.annotation(command, 5)
    assert row["sentence_annotation"] == "add a [event_name : lunch] [date : on monday]"
    read = slurp._annotation(row)
    assert (read.scenario, read.action, read.intent) == ("calendar", "set", "calendar_set")
    assert read.entities == (("event_name", "lunch"), ("date", "on monday"))


def test_the_corpus_is_read_as_slurp(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="it speaks the synthetic corpus")
    slurp_corpus.make_corpus(SMALL, tmp_path / "slurp", 1)
    paths = manifests.Paths(tmp_path / "manifests", "slurp")
    speakers: dict[str, set[str]] = {}
    for part, count in {"train": 10, "devel": 2, "test": 3}.items():
        recordings, supervisions = slurp.read_part(tmp_path / "slurp", part)
        manifests.write(recordings, supervisions, paths, part)
        assert len(recordings) == count and all(0.4 < one.duration < 12 for one in recordings)
        speakers[part] = {one.speaker for one in supervisions}
    assert None not in speakers["train"] and not speakers["test"] & speakers["train"]
    slurp_corpus.make_corpus(SMALL, tmp_path / "slurp", 2)  # already exists


def test_real_annotations(tmp_path: Path) -> None:
    """devel.jsonl is split, test.jsonl is spoken as a whole; sentences do not depend on other settings."""
    place = tmp_path / "annotations" / "dataset" / "slurp"
    place.mkdir(parents=True)
    rows = [line(index, f"play song {'abcdefghij'[index]}", ("play", "music"), ["real.flac"]) for index in range(10)]
    for part in ("devel", "test"):
        (place / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    annotations = tmp_path / "annotations"
    config = SlurpCorpusConfig(annotations=slurp_corpus.fingerprint(annotations), devel_share=0.3, recordings=2)
    parts = slurp_corpus.read_parts(annotations, config)
    ids = {name: {row["slurp_id"] for row in rows} for name, rows in parts.items()}
    assert len(ids["devel"]) == 3 and ids["train"] | ids["devel"] == set(range(10)) and len(ids["test"]) == 10
    planned = list(slurp_corpus.plan(config, parts))
    assert len(planned) == 2 * 7 + 3 + 10 and len({one.identifier for _, _, one in planned}) == len(planned)
    (place / "test.jsonl").write_text('{"slurp_id"\n')
    with pytest.raises(UserError, match="line 1 is not an annotation"):
        slurp_corpus.read_parts(annotations, config)
    assert slurp_corpus.fingerprint(annotations) != config.annotations
    with pytest.raises(UserError, match="devel.jsonl does not exist"):
        slurp_corpus.fingerprint(tmp_path)


def test_marks_are_not_read_aloud() -> None:
    assert slurp_corpus.spoken("what's  on @bbc_news #today?") == "what's on bbc_news today?"


@pytest.mark.parametrize("changes", [{"recordings": 0}, {"devel_share": 1.0}, {"variants": 999}])
def test_bad_numbers(changes: dict[str, float]) -> None:
    with pytest.raises(UserError):
        SlurpCorpusConfig(**changes)  # type: ignore[arg-type]
