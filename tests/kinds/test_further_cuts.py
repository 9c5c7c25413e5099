"""A network that was cut before is cut further; a fresh network takes over what is around the teacher's encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pruning import configuration
from pruning.bin import extract
from pruning.core.constraint import ConstraintConfig
from pruning.core.single_weights import SingleWeights
from pruning.core.structure import Structure
from pruning.deploy.extract import SIZES, extract_snapshots
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import read_json
from pruning.kinds import train_and_prune, transducer
from pruning.kinds.transducer import TransducerKind
from pruning.methods.criterion import CriterionConfig
from pruning.models import facts
from pruning.models.uniform import narrowed_config
from tests.kinds.test_transducer import inputs, work  # noqa: F401


def test_targets_after_a_cut_refer_to_the_dense_network() -> None:
    config = ConstraintConfig(size=0.75, macs=0.6)
    rest = config.after_cut({"size": 0.5, "macs": 0.8})
    assert rest.size == pytest.approx(0.5) and rest.macs == pytest.approx(0.5)
    with pytest.raises(UserError, match=r"already has a sparsity of 0.7500 in size; set constraint.size above it"):
        config.after_cut({"size": 0.25, "macs": 0.8})
    with pytest.raises(UserError, match="targets of size and MACs only"):
        replace(config, parts={"size:ffn": 0.5}).after_cut({"size": 0.5, "macs": 0.8})


def test_two_cuts_reach_the_target_of_the_dense_network(work: Path, data_dir: Path, tmp_path: Path) -> None:  # noqa: F811
    shared = ["method=magnitude", "constraint.ramp=one_shot", "constraint.ramp_share=0.5", "trainer.max_steps=3",
              "criterion.kinds=[subsampling,heads,ffn,conv,width]", "criterion.ranking=group"]  # fmt: skip
    init = None
    for target in (0.4, 0.7):
        config = configuration.load(transducer.PruneConfig, work / "prune.yaml", [*shared, f"constraint.size={target}"])
        pruned, small = tmp_path / f"pruned{target}", tmp_path / f"small{target}"
        train_and_prune.prune(TransducerKind(config, inputs(data_dir)), pruned, work / "teacher", init)
        extract.main(["--pruned", str(pruned), "--exp-dir", str(small)])
        known = facts.read_facts(small)
        sparsity = 1 - known["encoder_parameters"] / known["dense"]["encoder_parameters"]
        assert sparsity == pytest.approx(target, abs=0.02)
        assert known["dense"]["by_kind"] == facts.read_facts(work / "teacher")["by_kind"]
        init = small
    first, both = (Structure.from_dict(read_json(tmp_path / f"small{target}/structure.json")) for target in (0.4, 0.7))
    small, _ = checkpoint.load_model(tmp_path / "small0.7")
    assert isinstance(small, transducer.Transducer)
    for name, group in both.groups.items():
        assert group.size == first.groups[name].size and set(group.kept) <= set(first.groups[name].kept), name
    (width,) = (group for group in both.groups.values() if group.kind == "width")
    assert len(width.kept) == small.config.encoder.d_model < width.size
    with pytest.raises(UserError, match="already has a sparsity of 0.7"):
        train_and_prune.prune(TransducerKind(config, inputs(data_dir)), tmp_path / "again", work / "teacher", init)


def test_snapshots_after_a_cut_are_sizes_of_the_dense_network(work: Path, data_dir: Path, tmp_path: Path) -> None:  # noqa: F811
    config = configuration.load(transducer.PruneConfig, work / "prune.yaml",
                                ["method=magnitude", "constraint.ramp=one_shot", "constraint.ramp_share=0.5",
                                 "trainer.max_steps=2", "constraint.size=0.3"])  # fmt: skip
    train_and_prune.prune(TransducerKind(config, inputs(data_dir)), tmp_path / "first", work / "teacher")
    extract.main(["--pruned", str(tmp_path / "first"), "--exp-dir", str(tmp_path / "small")])

    def again(exp_dir: Path, *snapshots: float) -> None:
        further = replace(config, snapshots=snapshots, criterion=CriterionConfig(interval=1),
                          constraint=replace(config.constraint, size=0.6, ramp="linear"),
                          trainer=replace(config.trainer, max_steps=8))  # fmt: skip
        train_and_prune.prune(TransducerKind(further, inputs(data_dir)), exp_dir, work / "teacher", tmp_path / "small")

    with pytest.raises(UserError, match=r"already has a sparsity of 0.3\d* in size; set all snapshots above it"):
        again(tmp_path / "wrong", 0.2, 0.5)
    again(tmp_path / "second", 0.45)
    extract_snapshots(tmp_path / "second")
    (size,) = (tmp_path / "second" / SIZES).iterdir()
    known = facts.read_facts(size)
    assert size.name == "size-55"
    assert known["encoder_parameters"] / known["dense"]["encoder_parameters"] == pytest.approx(0.55, abs=0.01)


@pytest.mark.parametrize("place", ["init", "teacher"])
def test_pruned_single_weights_are_not_trained_again(work: Path, data_dir: Path, tmp_path: Path, place: str) -> None:  # noqa: F811
    config = configuration.load(transducer.PruneConfig, work / "prune.yaml", ["method=magnitude"])
    model, header = checkpoint.load_model(work / "teacher")
    structure = Structure.dense(SingleWeights(model).unit_groups())
    sparse = tmp_path / "sparse.safetensors"
    checkpoint.save_model(sparse, model, {**header, "structure": structure.to_dict()})
    networks = (sparse, None) if place == "teacher" else (work / "teacher", sparse)
    with pytest.raises(UserError, match=r"sparse.safetensors has pruned single weights, which would not stay 0; prune"):
        train_and_prune.prune(TransducerKind(config, inputs(data_dir)), tmp_path / "exp", *networks)


def test_a_fresh_network_inherits_what_is_around_the_encoder(
    work: Path,  # noqa: F811
    data_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    teacher = checkpoint.load_model(work / "teacher")[0]
    assert isinstance(teacher, transducer.Transducer)
    budget = 0.5 * facts.cost_model(teacher, 10.0).dense["size"]
    run = configuration.load(transducer.RunConfig, work / "train.yaml")
    run = replace(run, model=narrowed_config(teacher, "width", "size", budget))
    kind = TransducerKind(run, inputs(data_dir))
    network = train_and_prune.fresh(kind)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with caplog.at_level("INFO"):
        train_and_prune.inherit(kind, network, work / "teacher")
    assert "fresh: the encoder, " in caplog.text and "joiner.encoder_proj.weight" in caplog.text
    dense = teacher.state_dict()
    for name, tensor in network.state_dict().items():
        inside = name.startswith("encoder.")
        inherited = not inside and dense[name].shape == tensor.shape
        assert torch.equal(tensor, dense[name] if inherited else before[name]), name
    assert torch.equal(network.decoder.embedding.weight, dense["decoder.embedding.weight"])
    with pytest.raises(UserError, match="--inherit is for fresh weights, and --init gives a network"):
        train_and_prune.train(kind, tmp_path / "both", work / "teacher", None, work / "teacher")
