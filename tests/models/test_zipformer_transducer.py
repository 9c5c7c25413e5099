"""Test Zipformers in transducers and with a head through the interfaces that every network has."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from pruning.core import low_rank
from pruning.core.constraint import ConstraintConfig
from pruning.core.cost import CostModel
from pruning.core.distillation import DistillationConfig
from pruning.core.extraction import extract
from pruning.core.gates import GateConfig
from pruning.core.repair import repair
from pruning.core.residual_width import ResidualWidth, kept_channels
from pruning.core.units import check_groups
from pruning.core.views import view_for
from pruning.deploy.extract import exactness
from pruning.errors import UserError
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from pruning.methods.l0 import Gating, L0Config
from pruning.models.facts import cost_model
from pruning.models.speech_model import SpeechModel, SpeechModelConfig
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.models.uniform import narrowed_config
from pruning.models.zipformer_units import MODULE_KINDS, UNIT_KINDS
from pruning.registry import build, describe
from pruning.speech.data.batches import Batch
from pruning.tasks.transducer import Guidance, TransducerTask
from pruning.training.task import StepInfo
from tests.counter import count_macs
from tests.models.test_transformer_lm import random_structure as settled_structure
from tests.models.test_zipformer_units import random_structure
from tests.models.zipformers import small
from tests.tasks.test_transducer import LOSS, batch

STEPS = 8
WITH_WIDTH = (*UNIT_KINDS, "width")


def network() -> Transducer:
    encoder = small(feature_dim=80)
    config = TransducerConfig(zipformer=encoder.config, vocab_size=9, decoder_dim=8, joiner_dim=8, decoder_group=4)
    model = Transducer(config)
    model.encoder.load_state_dict(encoder.state_dict())
    return model.eval()


def step(index: int, training: bool = True) -> StepInfo:
    return StepInfo(1, index, index, STEPS, training)


def train(method: CriterionPruning | Gating, guidance: Guidance | None = None) -> None:
    task = TransducerTask(method.network, LOSS, guidance=guidance, pruner=method).train()  # type: ignore[arg-type]
    groups = [{"params": group.parameters, "lr": 1e-3 if group.lr is None else group.lr, "maximize": group.maximize}
              for group in task.parameter_groups()]  # fmt: skip
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    for index in range(STEPS):
        torch.manual_seed(index)
        optimiser.zero_grad()
        task(batch(index), step(index))[0].backward()
        task.after_backward(step(index), {"weights": 1e-3})
        optimiser.step()
        task.after_step(step(index))


def test_a_transducer_and_a_head_read_the_width() -> None:
    head = SpeechModel(SpeechModelConfig({"type": "zipformer", "config": vars(small().config)}, outputs=5, mix=False))
    for model in (network(), head.eval()):
        view = ResidualWidth(model)
        check_groups(model, view.unit_groups())
        structure = random_structure(view.unit_groups(), 3, (*WITH_WIDTH, *MODULE_KINDS), 0.7)
        cut = extract(model, structure)
        assert exactness(model, structure, cut) < 1e-4
        again = build(describe(cut))
        again.load_state_dict(cut.state_dict(), strict=True)
        before, after = (one.encoder.residual_width for one in (model, cut))
        assert kept_channels(structure, after, before) is not None


def test_layers_end_at_stacks() -> None:
    model = network()
    encoded = model(batch().features, batch().lengths, return_layers=True)
    assert [tuple(layer.shape) for layer in encoded.layers] == [tuple(encoded.output.shape)] * 4
    assert not encoded.layers[0][..., 16:].any(), "channels that the front end does not have"
    assert model.existing_layers({}) == [True, True, True]
    gone = {f"encoder.layers.{index}": 0.0 for index in (1, 2)}
    assert model.existing_layers(gone) == [True, False, True]
    modules = ("ffn1", "ffn2", "ffn3", "nonlin", "attention1", "attention2", "convolution1", "convolution2")
    empty = {f"encoder.layers.0.{name}": 0.0 for name in modules}
    assert model.existing_layers({**gone, **empty}) == [False, False, True]


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "wanda", "activation"])
def test_criteria_reach_their_target(criterion: str) -> None:
    """With the channels of the residual stream, of which all groups together are one axis."""
    model = network()
    unseen = ("query_dims", "position_dims") if criterion == "activation" else ()
    kinds = tuple(kind for kind in WITH_WIDTH if kind not in unseen)
    constraint = ConstraintConfig(size=0.4, ramp="linear", ramp_share=0.5)
    method = CriterionPruning(model, criterion, CriterionConfig(interval=2, kinds=kinds), constraint, 1000,
                              view=view_for(model, kinds))  # fmt: skip
    train(method)
    assert method.on_target(step(STEPS, training=False))
    structure = method.structure()
    assert method.costs.structure_sparsity(structure)["size"] == pytest.approx(0.4, abs=0.01)
    cut = extract(method.network.eval(), structure)
    assert exactness(method.network, structure, cut) < 1e-4


def test_units_that_no_layer_reads_have_no_activation() -> None:
    method = CriterionPruning(network(), "activation", CriterionConfig(), ConstraintConfig(size=0.2), 1000)
    assert {group.kind for group in method.units.chosen} == {*UNIT_KINDS} - {"query_dims", "position_dims"}
    with pytest.raises(UserError, match="no scores for query_dims"):
        CriterionPruning(network(), "activation", CriterionConfig(kinds=("ffn", "query_dims")),
                         ConstraintConfig(size=0.2), 1000)  # fmt: skip


@pytest.mark.parametrize("cost", ["size", "macs"])
def test_gates_reach_their_target_with_distillation(cost: str) -> None:
    model = network()
    guidance = Guidance(copy.deepcopy(model), DistillationConfig(layers=(0, 2, 3), output_weight=0.5))
    constraint = ConstraintConfig(**{"size": 0.0, "macs": 0.0, "ramp_share": 0.5, cost: 0.4})
    config = L0Config(gate_lr=0.3, multiplier_lr=1.0, gates=GateConfig(kinds=(*WITH_WIDTH, *MODULE_KINDS)))
    method = Gating(model, config, constraint, 1000, view=view_for(model, ("width",)))
    train(method, guidance)
    structure = method.structure()
    assert method.costs.structure_sparsity(structure)[cost] == pytest.approx(0.4, abs=0.02)
    cut = extract(model.eval(), structure)
    assert exactness(model, structure, cut) < 1e-4


def test_factored_layers_are_exact_and_cost_what_is_counted() -> None:
    dense = network()
    model = low_rank.factorise(dense, low_rank.linear_names(dense))
    assert isinstance(model, Transducer)
    before, after = (CostModel(one.unit_groups(), one.cost_terms(80)).dense for one in (dense, model))
    assert after == pytest.approx(before)
    structure = settled_structure(model, 1, 0.4, "low_rank")  # type: ignore[arg-type]
    cut = extract(model, structure)
    assert isinstance(cut, Transducer)
    assert exactness(model, structure, cut) < 1e-4
    costs = CostModel(cut.unit_groups(), cut.cost_terms(80)).dense
    assert costs["size"] == pytest.approx(sum(parameter.numel() for parameter in cut.encoder.parameters()))
    assert costs["macs"] == pytest.approx(count_macs(lambda: cut(torch.randn(1, 80, 80), torch.tensor([80]))))


def test_repair_brings_outputs_nearer() -> None:
    model = network()
    structure = random_structure(model.unit_groups(), 2, UNIT_KINDS, 0.7).without_scale()
    cut = copy.deepcopy(model)

    def forward(one: torch.nn.Module, of: Batch) -> torch.Tensor:
        return one(of.features, of.lengths).output

    assert repair(model, cut, structure, [batch(seed) for seed in range(3)], forward) > 20
    with torch.no_grad():
        errors = [(forward(extract(one, structure), batch(9)) - forward(model, batch(9))).square().mean()
                  for one in (model, cut)]  # fmt: skip
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("cost", ["size", "macs"])
def test_a_zipformer_is_narrowed_in_all_widths(cost: str, share: float) -> None:
    model = network()
    budget = share * cost_model(model, 10.0).dense[cost]
    found = narrowed_config(model, "width", cost, budget).zipformer
    dense = model.config.zipformer
    assert found is not None and dense is not None
    reached = cost_model(Transducer(replace(model.config, zipformer=found)), 10.0).dense[cost]
    larger = cost_model(Transducer(replace(model.config, zipformer=found.wider(1))), 10.0).dense[cost]
    assert reached <= budget < larger, "the rest goes to the feed-forward modules"
    assert found.d_model < dense.d_model and found.stack_layers == dense.stack_layers
    assert found.num_heads == dense.num_heads and found.downsampling == dense.downsampling
    ratio = found.d_model / dense.d_model
    for name in ("widths", "conv1_channels", "nonlin_dim", "value1_dim"):
        for now, before in zip(getattr(found, name), getattr(dense, name)):
            assert now == (max(1, round(ratio * before)) if before else 0), name


def test_what_a_zipformer_cannot_do_is_said() -> None:
    model = network()
    size = CostModel(model.unit_groups(), model.cost_terms(100)).dense["size"]
    assert narrowed_config(model, "units", "size", 0.6 * size).zipformer is not None
    with pytest.raises(UserError, match="cannot be narrowed by depth"):
        narrowed_config(model, "depth", "size", 1e5)
    with pytest.raises(ValueError, match="exactly one of encoder"):
        TransducerConfig(vocab_size=9)
    with pytest.raises(ValueError, match="multiple of decoder_group"):
        replace(model.config, decoder_group=3)
