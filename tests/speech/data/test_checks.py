"""Faults of cuts are found from the manifest alone; words that the tokens cannot spell are counted."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import UserError
from pruning.speech.data import checks, manifests, sources
from pruning.speech.scoring.word_errors import SCORED
from pruning.speech.text import bpe

TEXTS = ["ONE TWO", "THREE", "TWO ONE"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> bpe.Tokenizer:
    return bpe.train([*TEXTS, "CAFÉ", "语音"], tmp_path_factory.mktemp("lang"), None, "char")


def make(directory: Path, *texts: str, **change: Any) -> Path:
    """Write a manifest of cuts with these transcripts and non-existent features; ``change`` applies to the last cut."""
    items = []
    for index, text in enumerate(texts):
        identifier, times = f"utt{index}", {"start": 0, "duration": 1.0}
        spoken = {"id": identifier, "recording_id": identifier, **times, "channel": 0, "text": text}
        stored = {
            "type": "kaldifeat-fbank", "num_frames": 100, "num_features": 80, "frame_shift": 0.01, "channels": 0,
            "sampling_rate": 16000, "storage_type": "lilcom_chunky", "storage_path": "absent.lca", "storage_key": "0",
            "recording_id": identifier, **times,
        }  # fmt: skip
        items.append(
            {"id": identifier, **times, "channel": 0, "supervisions": [spoken], "features": stored, "type": "MonoCut"}
        )
    for key in ("num_features", "sampling_rate", "frame_shift"):
        if key in change:
            items[-1]["features"][key] = change.pop(key)  # type: ignore[index]
    if items:
        items[-1] = {key: value for key, value in {**items[-1], **change}.items() if value is not None}
    path = directory / "cuts.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


@pytest.mark.parametrize(
    ("texts", "change", "message"),
    [
        (TEXTS, {"id": "utt1"}, "cuts.jsonl: cut utt1 occurs twice; remove the repetitions"),
        (
            TEXTS,
            {"num_features": 40},
            "cuts.jsonl: cut utt2 has features of dimension 40, but the network takes 80; give cuts",
        ),
        (TEXTS, {"sampling_rate": 8000}, "utt2 has features of sampling rate 8000, but those of .*utt0 have 16000"),
        (TEXTS, {"frame_shift": 0.02}, "cut utt2 has features of frame shift 0.02, but those of .*utt0 have 0.01"),
        ([*TEXTS, " "], {}, "the transcript of cut utt3 is empty"),
        ([*TEXTS, "\u200b\x01"], {}, "the transcript of cut utt3 is empty"),
        (TEXTS, {"supervisions": []}, "cut utt2 has 0 transcripts instead of one"),
        (TEXTS, {"features": None}, "cut utt2 has no features"),
        ([], {}, "cuts.jsonl contains no cuts"),
    ],
)
def test_faults_of_a_test_set_are_named(
    tmp_path: Path, tokenizer: bpe.Tokenizer, texts: list[str], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        checks.check_test_set(make(tmp_path, *texts, **change), tokenizer, 80)


def test_utterances_too_long_for_one_computation_are_named(tmp_path: Path, tokenizer: bpe.Tokenizer) -> None:
    path = make(tmp_path, *TEXTS)
    checks.check_dev([path], sources.FEATURES, 1.0, tokenizer)
    checks.check_test_set(path, tokenizer, 80, longest=1.0)
    message = "utt0 lasts 1 s, but .* may last 0.9 s; divide .* --max-duration"
    with pytest.raises(UserError, match=message):
        checks.check_dev([path], sources.FEATURES, 0.9, tokenizer)
    with pytest.raises(UserError, match=message):
        checks.check_test_set(path, tokenizer, 80, longest=0.9)


def test_transcripts_of_dev_sets_are_read(tmp_path: Path, tokenizer: bpe.Tokenizer) -> None:
    path = make(tmp_path, *TEXTS, " ")
    with pytest.raises(UserError, match="the transcript of cut utt3 is empty; add its words or remove the cut"):
        checks.check_dev([path], sources.FEATURES, 1.0, tokenizer)


def test_the_first_features_are_looked_at(tmp_path: Path) -> None:
    checks.check_first_features([make(tmp_path, *TEXTS)], 80)
    with pytest.raises(UserError, match="cut utt0 has features of dimension 80, but the network takes 40"):
        checks.check_first_features([make(tmp_path, *TEXTS)], 40)
    checks.check_first_features([make(tmp_path, *["ONE"] * 101, num_features=40)], 80)  # the last is not checked


def test_manifests_of_one_run_have_features_alike(tmp_path: Path) -> None:
    """Half of the band, stretched over all bins, says nothing that the other part's features say."""
    (tmp_path / "dev").mkdir()
    train = make(tmp_path, *TEXTS)
    dev = make(tmp_path / "dev", "ONE", sampling_rate=8000)
    checks.check_first_features([dev], 80)
    with pytest.raises(UserError, match="dev/cuts.jsonl: cut utt0 has features of sampling rate 8000, but those of"):
        checks.check_first_features([train, dev], 80)


def test_features_are_like_those_of_training(tmp_path: Path, tokenizer: bpe.Tokenizer) -> None:
    path = make(tmp_path, *TEXTS)
    form = checks.form_of_features([path])
    assert form == {"sampling_rate": 16000, "frame_shift": 0.01}
    alike = checks.TrainedOn.of("exp/a", {"features": form})
    checks.check_first_features([path], 80, alike)
    checks.check_test_set(path, tokenizer, 80, trained=alike)
    message = "utt0 has features of frame shift 0.01, but those of the training of exp/a have 0.02; compute all"
    other = checks.TrainedOn.of("exp/a", {"features": {**form, "frame_shift": 0.02}})
    with pytest.raises(UserError, match=message):
        checks.check_first_features([path], 80, other)
    with pytest.raises(UserError, match=message):
        checks.check_test_set(path, tokenizer, 80, trained=other)
    assert checks.TrainedOn.of("exp/a", {"model": {}}) is None


def test_words_that_the_tokens_cannot_spell_are_told(
    tmp_path: Path, tokenizer: bpe.Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    path = make(tmp_path, "ONE", "ONE ｔＷＯ", "ONE QUITE ODD", "THREE")
    checks.check_test_set(path, tokenizer, 80)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.message == (
        f"2 of 4 transcripts in {path} contain words that the tokens cannot spell (first: utt1 'ｔＷＯ'); "
        "these count as errors"
    )


def test_transcripts_of_more_than_one_utterance_are_told(
    tmp_path: Path, tokenizer: bpe.Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """As a quote in a table without quotes joins lines: one reference is longer than the rest of the set."""
    path = make(tmp_path, "ONE", "TWO ONE\t" * 50, "THREE")
    checks.check_test_set(path, tokenizer, 80)
    (record,) = caplog.records
    assert record.message == (
        f"1 of 3 transcripts of {path} have more tokens than the network has frames (first: utt1, 400 in 1 s); all of "
        "these words cannot be recognised and count as errors"
    )


def test_accents_of_their_own_are_joined_and_characters_can_be_spelled(
    tmp_path: Path, tokenizer: bpe.Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    checks.check_test_set(make(tmp_path, "CAFE\u0301", "语音 ONE"), tokenizer, 80, SCORED["characters"])
    assert not caplog.records


def test_the_manifest_is_read_with_its_name(tmp_path: Path) -> None:
    path = make(tmp_path, *TEXTS)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="cuts.jsonl is not a manifest or is damaged"):
        checks.check_first_features([path], 80)
    assert manifests.count_lines(path) == 3
