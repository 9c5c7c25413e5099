"""Test pruning by a criterion: when units are cut, that they stay cut, and that every criterion reaches the target."""

from __future__ import annotations

from typing import Any, Optional

import pytest
import torch

from pruning.core.constraint import ConstraintConfig
from pruning.core.names import CRITERIA
from pruning.core.ranking import NORMALISATIONS
from pruning.core.structure import Structure
from pruning.deploy.extract import exactness
from pruning.errors import UserError
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from pruning.tasks.transducer import TransducerTask
from pruning.training.task import StepInfo
from tests.methods.test_l0 import network
from tests.tasks.test_transducer import LOSS, batch

STEPS = 12


def pruner(criterion: str, ramp: str = "linear", **options: Any) -> CriterionPruning:
    constraint = ConstraintConfig(size=0.5, ramp=ramp, ramp_share=0.5)
    settings = {"interval": 2, **options}
    return CriterionPruning(network(), criterion, CriterionConfig(**settings), constraint, 1000)


def train(method: CriterionPruning, steps: range = range(STEPS)) -> list[torch.Tensor]:
    """Run steps like the trainer; return the kept units after each step."""
    task = TransducerTask(method.network, LOSS, pruner=method).train()  # type: ignore[arg-type]
    groups = [{"params": group.parameters, "lr": 1e-3 if group.lr is None else group.lr}
              for group in task.parameter_groups()]  # fmt: skip
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    kept = []
    for index in steps:
        step = StepInfo(1, index, index, STEPS)
        torch.manual_seed(index)  # as the trainer does before each batch
        optimiser.zero_grad()
        loss, _ = task(batch(index), step)
        loss.backward()
        task.after_backward(step, {"weights": 1e-3})
        optimiser.step()
        task.after_step(step)
        kept.append(method.keep.clone())
    return kept


@pytest.mark.parametrize("ramp", ["linear", "cubic", "one_shot"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_reaches_the_target_and_extracts_exactly(criterion: str, ramp: str) -> None:
    method = pruner(criterion, ramp)
    train(method)
    end = StepInfo(1, STEPS, STEPS, STEPS, training=False)
    assert method.on_target(end)
    structure = method.structure()
    assert method.costs.structure_sparsity(structure)["size"] == pytest.approx(0.5, abs=0.01)
    model = method.network.eval()
    small = _extracted(model, structure)
    assert exactness(model, structure, small) < 1e-4  # type: ignore[arg-type]
    with torch.no_grad(), method.applied(end):
        masked = model(batch().features, batch().lengths).output
    torch.testing.assert_close(small(batch().features, batch().lengths).output, masked, rtol=1e-3, atol=1e-4)
    assert method.log_values(end)["sparsity/size/hard"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("ramp", ["linear", "one_shot"])
@pytest.mark.parametrize(("criterion", "ranking"), [("magnitude", "layers"), ("depth", None)])
def test_whole_layers_pass_the_target_by_less_than_a_layer(
    criterion: str, ranking: Optional[str], ramp: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    constraint = ConstraintConfig(size=0.4, ramp=ramp, ramp_share=0.5)
    kinds = ("heads", "ffn", "conv")
    config = CriterionConfig(kinds=kinds, interval=2, ranking=ranking, whole_layers=True)
    method = CriterionPruning(network(), criterion, config, constraint, 1000)
    train(method)
    structure = method.structure()
    shares: dict[Optional[int], set[float]] = {}
    for group in method.units.chosen:
        shares.setdefault(group.layer, set()).add(structure.count(group.name) / group.size)
    assert all(share in ({0.0}, {1.0}) for share in shares.values())
    reached = method.costs.structure_sparsity(structure)["size"]
    assert 0.41 < reached < 0.7 and f"sparsity without whole layers: {reached:.4f} in size for 0.4000" in caplog.text
    assert method.on_target(StepInfo(1, STEPS, STEPS, STEPS, training=False))


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ({}, {}, "whole_layers is for a ranking of layers; set criterion.ranking=layers, or use --method depth"),
        ({"ranking": "layers"}, {"snapshots": (0.2,)}, "does not meet a target exactly, which snapshots and counts_fr"),
        ({"ranking": "layers", "kinds": ("subsampling", "ffn")}, {}, "a sparsity of 0.5 in size is beyond reach: at m"),
    ],
)
def test_whole_layers_are_refused(options: dict[str, Any], more: dict[str, Any], message: str) -> None:
    config = CriterionConfig(whole_layers=True, **options)
    with pytest.raises(UserError, match=message):
        CriterionPruning(network(), "magnitude", config, ConstraintConfig(size=0.5), 1000, **more)


@pytest.mark.parametrize("ranking", ["layers", "group"])
@pytest.mark.parametrize(("criterion", "reopen"), [("taylor", False), ("random", False), ("movement", True)])
def test_what_validation_sees_is_what_extraction_gives(criterion: str, reopen: bool, ranking: str) -> None:
    """Includes empty modules, whose biases are not 0."""
    method = pruner(criterion, ranking=ranking, reopen=reopen)
    with torch.no_grad():
        for name, parameter in method.network.named_parameters():
            if name.endswith(("linear2.bias", "out_proj.bias", "pointwise2.bias")):
                parameter.normal_(std=0.5)
    train(method)
    model, structure = method.network.eval(), method.structure()
    if ranking == "layers":
        assert any(len(units.kept) == 0 and units.size == 1 for units in structure.groups.values())
    small = _extracted(model, structure)
    for training in (False, True):
        with torch.no_grad(), method.applied(StepInfo(1, STEPS, STEPS, STEPS, training=training)):
            masked = model(batch().features, batch().lengths).output
        torch.testing.assert_close(small(batch().features, batch().lengths).output, masked, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalisation", ["none", "group", "cost"])
def test_every_normalisation_cuts(normalisation: str) -> None:
    method = pruner("magnitude", "one_shot", normalisation=normalisation)
    train(method)
    assert method.on_target(StepInfo(1, STEPS, STEPS, STEPS))


@pytest.mark.parametrize("ranking", ["global", "layers"])
def test_random_gives_every_unit_the_same_chance(ranking: str) -> None:
    """The units with the lowest draws are removed, whatever their cost and the normalisation."""
    found = []
    for normalisation in NORMALISATIONS:
        method = pruner("random", "one_shot", normalisation=normalisation, ranking=ranking)
        method.after_step(StepInfo(1, STEPS, STEPS, STEPS))
        found.append(method.kept())
    assert all(torch.equal(found[0], other) for other in found[1:])
    if ranking == "global":
        draws, kept = method.scored(), found[0]
        fewest = draws.sort().values[int((~kept).sum())]
        wrong = (kept & (draws < fewest)) | (~kept & (draws > fewest))
        assert wrong.sum() <= 0.03 * len(kept), "except for some that fill the gap left by a coarser unit"


def test_a_skipped_step_leaves_nothing_behind() -> None:
    method = pruner("activation")
    method._observed["encoder.layers.0.ffn.hidden"] = torch.full((65,), float("nan"), dtype=torch.float64)
    method.after_step(StepInfo(1, 0, 0, STEPS))
    train(method)
    assert method.scores.values(method.network).isfinite().all()


def test_scores_that_are_not_finite_cut_nothing() -> None:
    method = pruner("movement")
    method.scores.total[-1] = float("nan")
    with pytest.raises(UserError, match=r"cannot rank units: scores in \S+ are not finite; lower the learning rate"):
        train(method)
    assert method.kept().all()


def _extracted(model: Any, structure: Structure) -> Any:
    from pruning.core.extraction import extract

    return extract(model, structure).eval()


def test_one_shot_cuts_once_and_a_ramp_at_every_interval() -> None:
    shares = [kept.double().mean().item() for kept in train(pruner("taylor", "one_shot"))]
    assert shares[:5] == [1.0] * 5 and len(set(shares[5:])) == 1 and shares[5] < 1, "after half of the steps"
    shares = [kept.double().mean().item() for kept in train(pruner("taylor"))]
    assert shares[0] == 1 and shares[1] == shares[2] > shares[3] == shares[4] > shares[5]
    assert len(set(shares[5:])) == 1


def test_closed_units_stay_closed_unless_they_may_reopen() -> None:
    for criterion, options in (("random", {}), ("taylor", {"interval": 1}), ("taylor", {"ranking": "group"})):
        history = [kept.bool() for kept in train(pruner(criterion, **options))]
        assert all(not (later & ~earlier).any() for earlier, later in zip(history, history[1:]))
    method = pruner("movement", reopen=True)
    first = train(method, range(4))[-1]
    closed = int((first == 0).nonzero()[0])
    with torch.no_grad():
        method.scores.total[closed] = 1e6
    assert train(method, range(4, 6))[-1][closed], "its score is now the best"


def test_a_resumed_run_scores_and_cuts_as_an_uninterrupted_one() -> None:
    """The weights are constant here, so that only the state of the method matters."""
    methods = [pruner("taylor") for _ in range(2)]
    for method in methods:
        method.network.requires_grad_(False)
    whole, first = methods
    train(whole)
    train(first, range(3))
    second = pruner("taylor")
    second.network.requires_grad_(False)
    second.load_state_dict(first.state_dict())
    assert 0 < second.cut_at < 1, "half way"
    train(second, range(3, STEPS))
    assert torch.equal(second.keep, whole.keep) and second.cut_at == whole.cut_at == 1
    torch.testing.assert_close(second.scores.total, whole.scores.total)


def test_the_probe_never_moves() -> None:
    method = pruner("fisher")
    train(method)
    assert method.probe is not None and not method.probe.detach().any()
    assert method.masks(StepInfo(1, 0, 0, STEPS, training=False)).keys() <= {g.name for g in method.units.chosen}


def test_whole_modules_go_only_when_asked_for() -> None:
    assert {group.kind for group in pruner("taylor").units.chosen} == {"subsampling", "ffn", "heads", "conv"}
    with pytest.raises(UserError, match="no units of kind 'head'.*correct criterion.kinds"):
        pruner("taylor", kinds=("head",))


def test_counts_of_another_run_are_taken() -> None:
    other = pruner("taylor")
    train(other)
    found = other.structure()
    constraint = ConstraintConfig(size=0.5, ramp="one_shot", ramp_share=0.5)
    method = CriterionPruning(network(), "random", CriterionConfig(), constraint, 1000, seed=5, counts=found)
    train(method)
    drawn = method.structure()
    assert all(drawn.count(name) == found.count(name) for name in found.groups)
    assert any(drawn.groups[name].kept != units.kept for name, units in found.groups.items())
    assert method.on_target(StepInfo(1, STEPS, STEPS, STEPS))
    by_and_by = ConstraintConfig(size=0.5, ramp="linear", ramp_share=0.5)
    method = CriterionPruning(network(), "random", CriterionConfig(interval=2), by_and_by, 1000, counts=found)
    history = [kept.bool() for kept in train(method)]
    assert all(not (later & ~earlier).any() for earlier, later in zip(history, history[1:]))
    assert all(method.structure().count(name) == found.count(name) for name in found.groups)
    with pytest.raises(UserError, match="counts_from has a sparsity of 0.50. in size, but the target is 0.3"):
        CriterionPruning(network(), "random", CriterionConfig(), ConstraintConfig(size=0.3), 1000, counts=found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": 3}, "norm must be one of 1, 2, got 3"),
        ({"ranking": "local"}, "ranking must be one of .*, got 'local'"),
        ({"normalisation": "l2"}, "normalisation must be one of .*, got 'l2'"),
        ({"interval": 0}, "interval must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CriterionConfig(**options)


def test_activation_has_no_score_of_whole_modules() -> None:
    with pytest.raises(UserError, match="has no scores for conv_module.*leave them out"):
        pruner("activation", kinds=("ffn", "conv_module"))


def test_frozen_weights_are_scored_all_the_same() -> None:
    method = pruner("taylor")
    method.network.requires_grad_(False)
    task = TransducerTask(method.network, LOSS, pruner=method).train()  # type: ignore[arg-type]
    loss, _ = task(batch(0), StepInfo(1, 0, 0, STEPS))
    loss.backward()
    task.after_backward(StepInfo(1, 0, 0, STEPS), {"probe": 0.0})
    assert (method.scored() > 0).any()


def test_targets_beyond_reach_are_refused() -> None:
    with pytest.raises(UserError, match="0.95 in size is beyond reach: at most"):
        CriterionPruning(network(), "taylor", CriterionConfig(kinds=("heads",)), ConstraintConfig(size=0.95), 1000)


def test_what_is_logged_needs_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    method = pruner("magnitude")
    train(method)
    end = StepInfo(1, STEPS, STEPS, STEPS, training=False)
    assert torch.equal(method.kept_counts(), method.costs.counts(method.structure()))
    monkeypatch.setattr(method.scores, "values", None)
    assert method.on_target(end) and method.log_values(end)["sparsity/size/hard"] == pytest.approx(0.5, abs=0.01)


def test_a_step_without_a_cut_does_not_ask_again_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, each query would wait for all computations before it."""
    method, asked = pruner("magnitude"), []
    to_host = torch.Tensor.cpu
    method.masks(StepInfo(1, 0, 0, STEPS))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: asked.append(1) or to_host(tensor))
    assert method.masks(StepInfo(1, 1, 1, STEPS)) == {} and not asked
    method.keep[3] = 0
    assert not method.kept()[3] and method.kept()[4] and asked
    method.load_state_dict({**method.state_dict(), "keep": torch.ones_like(method.keep)})
    assert method.kept().all()
    method.kept()[5] = False
    assert method.kept().all(), "the result is a copy"
