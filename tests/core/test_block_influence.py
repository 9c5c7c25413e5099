"""The criterion depth: influence of layers, and the order in which it drops them."""

from __future__ import annotations

import pytest
import torch

from pruning.core.block_influence import influence, layer_of, layers_of, observed_layers
from pruning.core.constraint import ConstraintConfig
from pruning.core.criteria import UnitScores
from pruning.core.selection import Selection
from pruning.core.units import UnitGroup
from pruning.errors import UserError
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from pruning.training.task import StepInfo
from tests.models.llamas import network, sentences


def test_layers_are_told_by_the_names_of_groups() -> None:
    def group(name: str, layer: int | None) -> UnitGroup:
        return UnitGroup(name, "ffn", 2, (), layer=layer)

    groups = [group("decoder.layers.3.ffn.hidden", 5), group("layers.12.attention", 12), group("width", None)]
    assert [layer_of(each) for each in groups] == ["decoder.layers.3", "layers.12", ""]
    assert layers_of(groups) == ["decoder.layers.3", "layers.12"]


def test_influence_is_that_of_the_streams() -> None:
    """1 - the mean cosine of inputs and outputs, over all positions of all batches."""
    x, y = torch.randn(2, 4, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(x.flatten(0, 1), y.flatten(0, 1))]
    assert float(influence(x, y)) == pytest.approx(1 - sum(cosines) / len(cosines), abs=1e-6)
    assert float(influence(x, 3 * x)) == pytest.approx(0, abs=1e-6)
    model, tokens = network(), sentences()
    selection, totals = Selection(model.unit_groups()), dict[str, torch.Tensor]()
    scores = UnitScores("depth", selection)
    with observed_layers(model, selection, totals), torch.no_grad():
        model(tokens)
        model(tokens[:1])
    scores.observe(model, totals)
    parts = selection.split(scores.values(model))
    streams: list[torch.Tensor] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, x, y: streams.extend([x[0], y]))
    with torch.no_grad():
        model(tokens)
        model(tokens[:1])
    for index in range(3):
        found = [float(influence(streams[at], streams[at + 1])) for at in (2 * index, 6 + 2 * index)]
        for name, part in parts.items():
            if name.startswith(f"layers.{index}."):
                assert part.tolist() == pytest.approx([sum(found) / 2] * len(part), abs=1e-6)
    with pytest.raises(UserError, match="the criterion depth observed no call of layers.1; use another criterion"):
        scores.observe(model, {"layers.0": totals["layers.0"]})


def test_layers_of_least_influence_go_first() -> None:
    """Whole ones, and units of the next by their weights, until the target is met."""
    model = network()
    constraint = ConstraintConfig(size=0.5, ramp="one_shot", ramp_share=0.5)
    method = CriterionPruning(model, "depth", CriterionConfig(interval=1), constraint, 20)
    for step in range(4):
        info = StepInfo(1, step, step, 4)
        with method.applied(info), torch.no_grad():
            model(sentences())
        method.after_backward(info, {})
        method.after_step(info)
    scores = method.units.split(method.scored())
    order = sorted(range(3), key=lambda layer: float(scores[f"layers.{layer}.ffn.hidden"][0]))
    structure = method.structure()
    kept = [
        sum(structure.count(group.name) for group in method.units.chosen if group.layer == layer) for layer in order
    ]
    sizes = [sum(group.size for group in method.units.chosen if group.layer == layer) for layer in order]
    assert kept[0] == 0 and 0 < kept[1] < sizes[1] and kept[2] == sizes[2]
    assert method.costs.structure_sparsity(structure)["size"] == pytest.approx(0.5, abs=0.02)


def test_what_has_no_layers_is_refused() -> None:
    model = network()
    constraint = ConstraintConfig(size=0.5)
    with pytest.raises(UserError, match="criterion.ranking is group, but depth ranks layers; leave out"):
        CriterionPruning(model, "depth", CriterionConfig(ranking="group"), constraint, 20)
