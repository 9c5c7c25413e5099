"""Pruning without learning: no weight changes but by repair, which helps, and the target is met."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning.bin import one_shot
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.kinds.encoder_head import EncoderHeadKind, table_of
from pruning.models.facts import read_facts
from tests.kinds.test_encoder_head import options, settings
from tests.kinds.test_encoder_head import work as speech
from tests.kinds.test_pretrained_encoder import started
from tests.models.encoder_decoders import MOONSHINE, WHISPER

__all__ = ["speech"]


def pruned(work: Path, place: Path, teacher: Path, name: str, *more: str) -> Path:
    config = settings(work, place / "prune.yaml", "ctc", constraint={"size": 0.0, "macs": 0.3},
                      data={"sample_augment": {"enabled": False}, "spec_augment": {"enabled": False}})  # fmt: skip
    one_shot.main([*options(work, place / name, config), "--teacher", str(teacher), "--batches", "3", *more])
    return place / name


@torch.no_grad()
def distance(work: Path, place: Path, teacher: Path) -> float:
    """Return the mean difference of logits on the training data."""
    (small, _), (whole, _) = (EncoderHeadKind.load_network(one) for one in (place, teacher))
    batches = EncoderHeadKind.calibration(whole, table_of("ctc", work / "lang"),
                                          [work / "slurp_cuts_train.jsonl.gz"], 100.0)  # fmt: skip
    gaps = [(small.eval()(one.features, one.lengths).logits - whole.eval()(one.features, one.lengths).logits).abs()
            for one in batches]  # fmt: skip
    return float(torch.cat([gap.flatten() for gap in gaps]).mean())


def test_units_and_components_go_at_once(speech: Path, tmp_path: Path) -> None:
    teacher = started(speech, tmp_path, MOONSHINE)
    before = checkpoint.load_model(teacher)[0].state_dict()
    rough = pruned(speech, tmp_path, teacher, "rough", "--method", "activation", "--repair", "0")
    mended = pruned(speech, tmp_path, teacher, "mended", "--method", "activation")
    low_rank = ("--technique", "low_rank", "constraint.macs=0", "constraint.size=0.2")
    factored = pruned(speech, tmp_path, teacher, "factored", "--method", "wanda", *low_rank)
    after = checkpoint.load_model(rough / "pruned")[0].state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    for place, cost, target in ((rough, "macs_10s", 0.3), (mended, "macs_10s", 0.3),
                                (factored, "encoder_parameters", 0.2)):  # fmt: skip
        assert 1 - read_facts(place)[cost] / read_facts(teacher)[cost] == pytest.approx(target, abs=0.05)
    assert distance(speech, mended, teacher) < distance(speech, rough, teacher)
    assert EncoderHeadKind.load_network(factored)[0].encoder.described()["ranks"]
    pruned(speech, tmp_path, teacher, "rough", "--method", "activation", "--repair", "0")  # does nothing
    with pytest.raises(UserError, match="--repair works only for units; leave it out"):
        pruned(speech, tmp_path, teacher, "x", "--method", "wanda", "--repair", "9", *low_rank)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["taylor", "magnitude"])
def test_scores_of_whisper(speech: Path, tmp_path: Path, method: str) -> None:
    teacher = started(speech, tmp_path, WHISPER)
    place = pruned(speech, tmp_path, teacher, "small", "--method", method, "--round-to", "2")
    assert 1 - read_facts(place)["macs_10s"] / read_facts(teacher)["macs_10s"] == pytest.approx(0.3, abs=0.1)
