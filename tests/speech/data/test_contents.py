"""Descriptions of cut manifests, compared with lhotse's own count."""

from __future__ import annotations

from pathlib import Path

import pytest
from lhotse import CutSet, load_manifest

from pruning.errors import UserError
from pruning.speech.data import contents
from pruning.speech.text.bpe import Tokenizer
from tests.speech.data.test_manifests import cuts_path


def test_facts_agree_with_lhotse(data_dir: Path) -> None:
    cuts = load_manifest(cuts_path(data_dir))
    found = contents.describe(cuts_path(data_dir))
    assert found.cuts == found.utterances == len(cuts)
    assert found.seconds == pytest.approx(sum(cut.duration for cut in cuts))
    assert contents.total_hours([found, found]) == pytest.approx(2 * found.seconds / 3600)
    assert found.longest == max(cut.duration for cut in cuts)
    texts = [cut.supervisions[0].text.split() for cut in cuts]
    assert found.words == sum(map(len, texts)) and found.word_types == len(set(sum(texts, [])))
    assert found.speakers == len({cut.supervisions[0].speaker for cut in cuts})
    assert found.features == cuts[0].num_features and found.tokens is None


def test_copies_at_other_speeds_add_audio_only(data_dir: Path, tmp_path: Path) -> None:
    cuts = load_manifest(cuts_path(data_dir))
    plain = contents.describe(cuts_path(data_dir))
    both = CutSet.from_cuts([*cuts, *(cut.drop_features().perturb_speed(0.9) for cut in cuts)])
    both.to_file(tmp_path / "both.jsonl.gz")
    found = contents.describe(tmp_path / "both.jsonl.gz")
    assert (found.cuts, found.utterances, found.words) == (2 * plain.cuts, plain.utterances, plain.words)
    assert found.speakers == plain.speakers
    assert found.seconds == pytest.approx(plain.seconds * (1 + 1 / 0.9), rel=1e-3)
    assert found.features == 0, "some cuts have no features"


def test_mixed_cuts_count_like_plain_ones(data_dir: Path, tmp_path: Path) -> None:
    cuts = load_manifest(cuts_path(data_dir)).to_eager()
    mixed = CutSet.from_cuts(cut.pad(duration=cut.duration + 1.0, preserve_id=True) for cut in cuts)
    mixed.to_file(tmp_path / "mixed.jsonl.gz")
    plain, found = contents.describe(cuts_path(data_dir)), contents.describe(tmp_path / "mixed.jsonl.gz")
    assert (found.words, found.speakers, found.features) == (plain.words, plain.speakers, plain.features)
    assert found.seconds == pytest.approx(plain.seconds + len(cuts))


def test_tokens_and_unknown_ones_are_counted(data_dir: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(data_dir / "lang_bpe_30")
    cuts = list(load_manifest(cuts_path(data_dir)))
    known = contents.describe(cuts_path(data_dir), tokenizer)
    assert known.tokens == sum(len(tokenizer.encode(cut.supervisions[0].text)) for cut in cuts)
    assert known.unknown == 0
    cuts[0].supervisions[0].text += " \u4f60"
    CutSet.from_cuts(cuts).to_file(tmp_path / "other.jsonl.gz")
    assert contents.describe(tmp_path / "other.jsonl.gz", tokenizer).unknown == 1
    for index, text in enumerate(("CAFÉ", "CAFE\u0301", "CA\x01FÉ", "CAFÉ\u200e")):
        cuts[index].supervisions[0].text = text
    CutSet.from_cuts(cuts[:4]).to_file(tmp_path / "forms.jsonl.gz")
    assert contents.describe(tmp_path / "forms.jsonl.gz").word_types == 1, "one word in four forms"


def test_the_table_names_its_parts(data_dir: Path) -> None:
    text = contents.table([contents.describe(cuts_path(data_dir))])
    assert cuts_path(data_dir).name.split(".")[0] in text and "hours" in text


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.jsonl.gz does not exist"):
        contents.describe(tmp_path / "none.jsonl.gz")
