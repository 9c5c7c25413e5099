"""The transducer's task: terms, teacher, gates; masked and extracted networks compute the same."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from pruning.core.constraint import ConstraintConfig
from pruning.core.distillation import DistillationConfig
from pruning.core.extraction import extract
from pruning.deploy.extract import exactness, reestimate_batch_norm
from pruning.errors import UserError
from pruning.methods.l0 import Gating, L0Config
from pruning.models.transducer import Transducer
from pruning.speech.data.augment import SpecAugment, SpecAugmentConfig
from pruning.speech.data.batches import Batch
from pruning.speech.losses.combined import LossConfig
from pruning.speech.losses.pruned_range import decoder_output, pad_tokens, pruned_range_loss
from pruning.tasks.transducer import Guidance, TransducerTask
from pruning.training.task import StepInfo
from tests.methods.test_l0 import network

LOSS = LossConfig(backend="torch", ctc_weight=0.3)
NARROW = replace(LOSS, prune_range=2)
EVERYTHING = DistillationConfig(layers=(0, 1, 3), layer_weight=1.0, output_weight=0.5, ctc_weight=0.5)


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([80, 61, 47])
    tokens = [[3, 4, 5, 1], [2, 2], [8]]
    return Batch(torch.randn(3, 80, 80, generator=generator), lengths, tokens, ["a", "b", "c"], ["A", "B", "C"], 1.88)


def step(training: bool = True, index: int = 50) -> StepInfo:
    return StepInfo(1, index, index, 100, training)


def test_a_teacher_equal_to_the_student_distils_nothing() -> None:
    model = network().eval()
    task = TransducerTask(model, LOSS, guidance=Guidance(copy.deepcopy(model), EVERYTHING)).eval()
    _, terms = task(batch(), step(training=False))
    assert terms["distil_layers"].item() == pytest.approx(-1.0, abs=1e-5)
    assert terms["distil_output"].item() == pytest.approx(0.0, abs=1e-6)
    assert terms["distil_ctc"].item() == pytest.approx(0.0, abs=1e-6)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    torch.manual_seed(1)
    model, other = network(), network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    gating = Gating(model, L0Config(), ConstraintConfig(), 1000)
    with torch.no_grad():
        gating.lagrangian.linear.fill_(0.7)
    task = TransducerTask(model, LOSS, guidance=Guidance(other, EVERYTHING), pruner=gating).train()
    loss, terms = task(batch(), step())
    expected = terms["task"] + terms["distil_layers"] + 0.5 * (terms["distil_output"] + terms["distil_ctc"])
    assert loss.item() == pytest.approx((expected + terms["penalty"]).item(), rel=1e-5)
    assert terms["penalty"].item() != 0


def disturbed(model: Transducer, seed: int, by: float = 0.3) -> Transducer:
    """Return a copy with other weights."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator))
    return other


def divergence_over_nodes(model: Transducer, teacher: Transducer, config: DistillationConfig) -> float:
    """Return the sum over the nodes of the lattice, with the joiners called node by node."""
    data, total = batch(), 0.0
    chosen = teacher if config.output_bounds == "teacher" else model
    ours, theirs = (network.encoder(data.features, data.lengths) for network in (model, teacher))
    encoded = theirs if chosen is teacher else ours
    targets, target_lengths = pad_tokens(data.tokens, "cpu")
    ranges = pruned_range_loss(
        chosen, encoded.output, encoded.lengths, targets, target_lengths, NARROW.prune_range, NARROW.am_scale,
        NARROW.lm_scale, "torch",
    ).ranges  # fmt: skip
    for n, tokens in enumerate(data.tokens):
        prefixes = [decoder_output(network, targets)[n] for network in (model, teacher)]
        for t in range(int(ours.lengths[n])):
            for u in (int(u) for u in ranges[n, t] if u <= len(tokens)):
                q, p = (
                    network.joiner(of.output[n, t], prefix[u]).div(config.output_temperature).softmax(dim=0)
                    for network, of, prefix in zip((model, teacher), (ours, theirs), prefixes)
                )
                if config.output_form == "collapsed":
                    classes = [0, *tokens[u : u + 1]]
                    q, p = (torch.stack([*(x[k] for k in classes), 1 - sum(x[k] for k in classes)]) for x in (q, p))
                total += config.output_temperature**2 * float((p * (p / q).log()).sum())
    return total


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("form", ["collapsed", "full"])
@pytest.mark.parametrize("bounds", ["student", "teacher"])
def test_outputs_are_compared_on_the_bounds_and_in_the_form_that_are_set(
    bounds: str, form: str, temperature: float
) -> None:
    torch.manual_seed(3)
    model = network().eval()
    teacher = disturbed(model, 1, 3.0).eval()
    for per in ("frame", "node"):
        config = DistillationConfig(output_weight=1.0, output_per=per, output_bounds=bounds, output_form=form,
                                    output_temperature=temperature)  # fmt: skip
        with torch.no_grad():
            _, terms = TransducerTask(model, NARROW, guidance=Guidance(teacher, config)).eval()(batch(), step(False))
            expected = divergence_over_nodes(model, teacher, config)
        nodes = terms["weight"] * (1 if per == "frame" else NARROW.prune_range)
        assert terms["distil_output"].item() == pytest.approx(expected / nodes.item(), rel=1e-3)
        assert expected > 0


def test_the_teachers_bounds_are_not_the_students() -> None:
    torch.manual_seed(3)
    model, found = network(), []
    teacher = disturbed(model, 1, 3.0)
    for bounds in ("student", "teacher"):
        config = DistillationConfig(output_weight=1.0, output_bounds=bounds)
        task = TransducerTask(model, NARROW, guidance=Guidance(teacher, config)).train()
        torch.manual_seed(4)
        weighted = task.terms(batch(), step()).weighted
        weighted["distil_output"].backward()
        assert all(parameter.grad is not None for parameter in model.joiner.parameters())
        found.append(weighted["distil_output"].item())
    assert found[0] != found[1]


def test_an_utterance_that_is_not_counted_is_not_distilled() -> None:
    """It has more tokens than frames."""
    model = network().eval()
    long = batch()
    long = Batch(long.features, long.lengths, [*long.tokens[:2], [8] * 60], long.ids, long.texts, long.seconds)
    config = DistillationConfig(output_weight=1.0, output_per="frame")
    task = TransducerTask(model, LOSS, guidance=Guidance(disturbed(model, 1), config)).eval()
    _, terms = task(long, step(training=False))
    first = Batch(long.features[:2], long.lengths[:2], long.tokens[:2], ["a", "b"], ["A", "B"], 1.41)
    _, alone = task(first, step(training=False))
    assert terms["distil_output"].item() == pytest.approx(alone["distil_output"].item(), rel=1e-4)


def test_a_faded_layer_term_leaves_the_loss() -> None:
    model = network().eval()
    config = DistillationConfig(layers=(1, 3), layer_weight=0.5, layer_fade=(0.2, 0.6))
    task = TransducerTask(model, LOSS, guidance=Guidance(disturbed(model, 1), config)).eval()
    for index, weight in ((20, 0.5), (50, 0.125), (60, 0.0)):
        loss, terms = task(batch(), step(index=index))
        assert (loss - terms["task"]).item() == pytest.approx(weight * terms["distil_layers"].item(), abs=1e-5)
        assert 0 < terms["distil_largest"].item() < 1


def test_layers_that_the_student_lacks_are_refused() -> None:
    guidance = Guidance(network(), DistillationConfig(layers=(0, 9)))
    with pytest.raises(UserError, match="compares layer 9 of the student with the teacher's, but it has only"):
        TransducerTask(network(), LOSS, guidance=guidance)


def test_gradients_reach_everything_that_is_trained_and_nothing_of_the_teacher() -> None:
    model, teacher = network(), network()
    gating = Gating(model, L0Config(), ConstraintConfig(), 1000)
    task = TransducerTask(model, LOSS, guidance=Guidance(teacher, EVERYTHING), pruner=gating).train()
    assert not teacher.training
    loss, _ = task(batch(), step(index=10))
    loss.backward()
    trained = {id(parameter) for group in task.parameter_groups() for parameter in group.parameters}
    for name, parameter in task.named_parameters():
        if name.startswith("teacher."):
            assert parameter.grad is None
            assert id(parameter) not in trained
        else:
            assert parameter.grad is not None, name
            assert id(parameter) in trained, name
    names = {group.name: group for group in task.parameter_groups()}
    assert names["multipliers"].maximize
    assert not names["gates"].clip
    assert names["gates"].weight_decay == names["multipliers"].weight_decay == 0.0


def test_validation_of_a_masked_network_is_that_of_the_extracted_one() -> None:
    model = network()
    gating = Gating(model, L0Config(), ConstraintConfig(), 1000)
    with torch.no_grad():
        gating.gates.log_alpha.normal_(0.5, 2.0)
    task = TransducerTask(model, LOSS, pruner=gating).eval()
    end = step(training=False, index=100)
    _, masked = task(batch(), end)
    structure = gating.structure()
    small = extract(model, structure)
    assert isinstance(small, Transducer)
    _, cut = TransducerTask(small.eval(), LOSS).eval()(batch(), end)
    for name in ("task", "transducer", "ctc"):
        assert cut[name].item() == pytest.approx(masked[name].item(), rel=1e-4)
    assert exactness(model, structure, small) < 1e-4


def test_all_terms_and_gradients_under_bf16_autocast() -> None:
    torch.manual_seed(1)
    model, teacher = network(), network()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    gating = Gating(model, L0Config(), ConstraintConfig(), 1000)
    task = TransducerTask(model, LOSS, guidance=Guidance(teacher, EVERYTHING), pruner=gating).train()
    terms = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss, of_batch = task(batch(), step(index=10))
        terms.append(of_batch)
    loss.backward()
    for name, value in terms[0].items():
        assert terms[1][name].item() == pytest.approx(value.item(), rel=0.05, abs=0.02), name
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_augmentation_is_for_training_alone() -> None:
    torch.manual_seed(0)
    task = TransducerTask(network().eval(), LOSS, SpecAugment(SpecAugmentConfig(probability=1.0, time_warp_factor=0)))
    _, first = task(batch(), step(training=False))
    _, second = task(batch(), step(training=False))
    _, augmented = task(batch(), step())
    assert first["task"] == second["task"] != augmented["task"]


@pytest.mark.parametrize("index", [0, 50, 99, 100, 500])
def test_validation_weighs_losses_as_after_the_warm_up(index: int) -> None:
    """Validation losses are comparable over the run; training follows the warm-up."""
    config = LossConfig(backend="torch", simple_loss_scale=0.3, warmup_steps=100, ctc_weight=0.2)
    task = TransducerTask(network().eval(), config)
    for training in (False, True):
        _, terms = task(batch(), step(training, index))
        done = min(index / 100, 1.0) if training else 1.0
        simple, pruned = 1.0 + done * (0.3 - 1.0), 0.1 + done * (1.0 - 0.1)
        expected = simple * terms["simple"] + pruned * terms["transducer"] + 0.2 * terms["ctc"]
        assert terms["task"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_reestimated_batch_norms_are_the_mean_over_batches() -> None:
    model = network()
    batches = [batch(seed) for seed in range(3)]
    inputs: list[torch.Tensor] = []
    norm = model.encoder.layers[0].convolution.norm
    hook = norm.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    before = norm.momentum
    assert reestimate_batch_norm(model, batches) == 3
    hook.remove()
    means = torch.stack([value.mean(dim=0) for value in inputs])  # (frames of all utterances, C)
    assert torch.allclose(norm.running_mean, means.mean(dim=0), atol=1e-5)
    assert norm.momentum == before
    assert not model.training


def test_moments_of_the_ramp_are_never_averaged() -> None:
    model = network()
    task = TransducerTask(model, LOSS, pruner=Gating(model, L0Config(), ConstraintConfig(), 1000))
    assert task.averaging_key(step(index=5)) is None
    assert task.averaging_key(step(index=60)) == TransducerTask(network(), LOSS).averaging_key(step(index=5)) == ""
