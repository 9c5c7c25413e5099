"""Test distillation losses against plain loops, and the matching of layers."""

from __future__ import annotations

import pytest
import torch

from pruning.core.distillation import (
    FLOOR,
    LARGEST,
    LOSSES,
    DistillationConfig,
    LayerDistillation,
    dphubert_loss,
    frame_distillation,
    frame_mask,
    largest_share,
    match_layers,
)
from pruning.errors import UserError


def test_dphubert_loss_is_the_mean_over_valid_frames() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    lengths = torch.tensor([5, 3])
    values = []
    for n, length in enumerate([5, 3]):
        for t in range(length):
            s, h = student[n, t], teacher[n, t]
            values.append((s - h).abs().mean() - (s @ h) / (s.norm() * h.norm()))
    expected = torch.stack(values).mean()
    assert dphubert_loss(student, teacher, frame_mask(lengths, 5)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_projections_start_as_the_identity_so_equal_layers_cost_nothing_but_the_cosine() -> None:
    layers = [torch.randn(2, 4, 6) for _ in range(3)]
    for loss in ("standardised", "normed", "dphubert"):
        distil = LayerDistillation(DistillationConfig(layers=(1, 2), loss=loss), 6, 6)
        assert distil(layers, layers, torch.tensor([4, 2])).item() == pytest.approx(-1.0, abs=1e-5)
    cofi = LayerDistillation(DistillationConfig(layers=(1, 2), loss="cofi"), 6, 6)
    assert cofi(layers, layers, torch.tensor([4, 2])).item() == pytest.approx(0.0, abs=1e-10)


def test_padding_never_matters() -> None:
    torch.manual_seed(1)
    student, teacher = [torch.randn(2, 4, 6) for _ in range(3)], [torch.randn(2, 4, 6) for _ in range(3)]
    lengths = torch.tensor([4, 2])
    for loss in LOSSES:
        distil = LayerDistillation(DistillationConfig(layers=(0, 2), loss=loss), 6, 6)
        before = distil.distances(student, teacher, lengths)
        changed = [[layer.clone() for layer in layers] for layers in (student, teacher)]
        for layer in [*changed[0], *changed[1]]:
            layer[1, 2:] += 100
        for value, again in zip(before, distil.distances(*changed, lengths)):
            assert torch.equal(value, again)


def two_networks(layers: int, dim: int = 8) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return layers ``(2, 5, dim)`` of a teacher, whose channels have different means, and of a student near it."""
    torch.manual_seed(5)
    teacher = [torch.randn(2, 5, dim) * (0.5 + torch.rand(dim)) + torch.randn(dim) for _ in range(layers)]
    return [layer + 0.3 * torch.randn(2, 5, dim) for layer in teacher], teacher


def test_standardised_layers_are_compared_by_the_teachers_deviation_of_each_channel() -> None:
    """In plain loops, one channel of the teacher constant."""
    (student,), (teacher,) = two_networks(1)
    teacher[:, :, 3] = 2.0
    valid = [(n, t) for n, length in enumerate([5, 3]) for t in range(length)]
    ours, goal = torch.empty(len(valid), 8), torch.empty(len(valid), 8)
    for c in range(8):
        values = torch.stack([teacher[n, t, c] for n, t in valid])
        deviation = values.std(unbiased=False) if c != 3 else torch.tensor(FLOOR * 2.0)
        goal[:, c] = (values - values.mean()) / deviation
        ours[:, c] = (torch.stack([student[n, t, c] for n, t in valid]) - values.mean()) / deviation
    distances = (ours - goal).abs()
    expected = torch.stack([d.mean() - (s @ h) / (s.norm() * h.norm()) for d, s, h in zip(distances, ours, goal)])
    found = LayerDistillation(DistillationConfig(layers=(0,)), 8, 8).distances(
        [student], [teacher], torch.tensor([5, 3])
    )
    assert found.loss.item() == pytest.approx(expected.mean().item(), rel=1e-4)
    sums = distances.sum(dim=0).sort(descending=True).values
    assert found.largest.item() == pytest.approx((sums[:LARGEST].sum() / sums.sum()).item(), rel=1e-4)


@pytest.mark.parametrize("dead", [0.0, 1e-30])
@pytest.mark.parametrize("lengths", [[5, 3], [0, 0]])
def test_channels_that_the_teacher_lacks_do_not_count(dead: float, lengths: list[int]) -> None:
    """Neither do they in a batch without valid frames, where no channel has values."""
    (student,), (teacher,) = two_networks(1)
    teacher[:, :, 3] = dead
    distil, results = LayerDistillation(DistillationConfig(layers=(0,)), 8, 8), []
    for value in (student[:, :, 3], torch.zeros(2, 5)):
        ours = student.clone()
        ours[:, :, 3] = value
        distil.zero_grad()
        loss = distil([ours.requires_grad_()], [teacher], torch.tensor(lengths))
        loss.backward()
        assert ours.grad is not None and not ours.grad[:, :, 3].any()
        gradients = [tensor.grad for tensor in (ours, *distil.parameters()) if tensor.grad is not None]
        assert len(gradients) == 3 and all(gradient.abs().max() < 10 for gradient in gradients)  # so all are finite
        results.append(loss.item())
    assert results[0] == results[1] and abs(results[0]) < 10


@pytest.mark.parametrize("loss", LOSSES)
def test_scales_decide_only_in_the_published_forms(loss: str) -> None:
    """One layer of teacher and student is multiplied by a constant, or each of its channels by its own."""
    student, teacher = two_networks(2)
    lengths, distil = torch.tensor([5, 3]), LayerDistillation(DistillationConfig(layers=(0, 1), loss=loss), 8, 8)
    before = distil.distances(student, teacher, lengths)
    for scale, free in ((torch.tensor(22.6), ("standardised", "normed")), (10 ** torch.randn(8), ("standardised",))):
        after = distil.distances([scale * student[0], student[1]], [scale * teacher[0], teacher[1]], lengths)
        assert (after.loss.item() == pytest.approx(before.loss.item(), rel=1e-3)) == (loss in free)
        assert after.largest.item() == pytest.approx(before.largest.item(), rel=1e-3) or loss not in free


def test_massive_channels_decide_only_on_raw_values() -> None:
    """One channel of both has values ten thousand times as large."""
    (student,), (teacher,) = two_networks(1, dim=100)
    shares = {}
    for loss in LOSSES:
        for layer in (student, teacher):
            layer[:, :, 7] *= 1e4
        distil = LayerDistillation(DistillationConfig(layers=(0,), loss=loss), 100, 100)
        shares[loss] = distil.distances([student], [teacher], torch.tensor([5, 5])).largest.item()
        for layer in (student, teacher):
            layer[:, :, 7] /= 1e4
    assert shares["dphubert"] > 0.9 and shares["cofi"] > 0.9 and shares["standardised"] < 0.5


def test_the_share_of_fewer_channels_is_all_and_of_equal_layers_none() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert largest_share(torch.rand(1, 2, LARGEST - 1), mask).item() == pytest.approx(1.0)
    assert largest_share(torch.zeros(1, 2, 8), mask).item() == 0.0


def test_a_layers_weight_fades_between_two_shares_of_the_run() -> None:
    fading = DistillationConfig(layers=(1,), layer_weight=0.4, layer_fade=(0.5, 0.75))
    found = [fading.layer_weight_at(step, 100) for step in (0, 50, 60, 75, 99, 100)]
    assert found == pytest.approx([0.4, 0.4, 0.4 * 15 / 25, 0.0, 0.0, 0.0])
    at_once = DistillationConfig(layers=(1,), layer_fade=(0.5, 0.5))
    assert [at_once.layer_weight_at(step, 10) for step in (5, 6)] == [1.0, 0.0]
    assert DistillationConfig(layers=(1,)).layer_weight_at(100, 100) == 1.0
    assert DistillationConfig(layers=(1,)).layer_weight_at(7, None) == 1.0
    with pytest.raises(UserError, match=r"layer_fade needs the number of steps of the run; set trainer.max_steps"):
        fading.layer_weight_at(7, None)


def test_a_student_must_have_the_layers_that_are_compared() -> None:
    DistillationConfig(layers=(0, 2)).check_student(2)
    DistillationConfig(layers=(0, 9), loss="cofi").check_student(2)  # each goes to the nearest layer
    message = "compares layer 4 of the student with the teacher's, but it has only 2; set distillation.layers to layers"
    with pytest.raises(UserError, match=message):
        DistillationConfig(spread=3).of_depth(4).check_student(2)


@pytest.mark.parametrize(
    ("depth", "layers"), [(12, (0, 4, 8, 12)), (6, (0, 2, 4, 6)), (4, (0, 1, 3, 4)), (2, (0, 1, 2))]
)
def test_layers_may_be_spread_over_any_depth(depth: int, layers: tuple[int, ...]) -> None:
    config = DistillationConfig(spread=4)
    assert config.wanted and config.of_depth(depth).layers == layers
    assert DistillationConfig(layers=(1,)).of_depth(depth).layers == (1,)
    for wrong in ({"spread": 1}, {"spread": 2, "layers": (0,)}):
        with pytest.raises(ValueError, match="distillation.spread must be at least 2, without distillation.layers"):
            DistillationConfig(**wrong)  # type: ignore[arg-type]


def test_layers_match_the_nearest_that_exists() -> None:
    errors = torch.tensor([[3.0, 1.0, 2.0, 4.0], [1.0, 9.0, 9.0, 2.0]])
    assert match_layers(errors, [[True] * 4] * 2, ordered=False) == [1, 0]
    assert match_layers(errors, [[True] * 4] * 2, ordered=True) == [1, 3]
    assert match_layers(errors, [[True, False, True, True]] * 2, ordered=False) == [2, 0]


def test_the_blocks_input_stands_for_a_block_only_where_none_is_left() -> None:
    teacher = [torch.zeros(1, 3, 4)] * 3
    student = [torch.zeros(1, 3, 4), torch.full((1, 3, 4), 1.0), torch.full((1, 3, 4), 2.0)]
    lengths = torch.tensor([3])
    later = LayerDistillation(DistillationConfig(layers=(1, 2), loss="cofi"), 4, 4)
    assert later(student, teacher, lengths).item() == pytest.approx(1.0)
    assert later(student, teacher, lengths, [True, False, True]).item() == pytest.approx(4.0)
    assert later(student, teacher, lengths, [True, False, False]).item() == pytest.approx(0.0)
    both = LayerDistillation(DistillationConfig(layers=(0, 2), loss="cofi"), 4, 4)
    assert both(student, teacher, lengths).item() == pytest.approx(0.5), "the teacher's input matches the student's"


@pytest.mark.parametrize("loss", LOSSES)
def test_layers_are_compared_in_float32_under_autocast_and_in_float64_in_float64(loss: str) -> None:
    torch.manual_seed(3)
    student, teacher = [torch.randn(2, 4, 6) for _ in range(3)], [torch.randn(2, 4, 6) for _ in range(3)]
    lengths, distil = torch.tensor([4, 2]), LayerDistillation(DistillationConfig(layers=(1, 2), loss=loss), 6, 6)
    expected = distil(student, teacher, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = distil(student, teacher, lengths)
    assert torch.equal(value, expected)
    half = [[layer.bfloat16() for layer in layers] for layers in (student, teacher)]
    assert distil(*half, lengths).dtype == torch.float32
    double = [[layer.double() for layer in layers] for layers in (student, teacher)]
    assert distil.double()(*double, lengths).dtype == torch.float64


def test_cofi_gradient_reaches_only_matched_layers() -> None:
    student = [torch.full((1, 3, 4), float(i), requires_grad=True) for i in range(3)]
    teacher = [torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.full((1, 3, 4), 1.9)]
    distil = LayerDistillation(DistillationConfig(layers=(2,), loss="cofi"), 4, 4)
    distil(student, teacher, torch.tensor([3])).backward()
    reached = [layer.grad is not None and bool(layer.grad.abs().sum() > 0) for layer in student]
    assert reached == [False, False, True]


def test_cofi_keeps_only_matched_pairs_for_the_backward_pass() -> None:
    torch.manual_seed(4)
    layers = [torch.randn(2, 6, 8, requires_grad=True) for _ in range(9)]
    teacher = [torch.randn(2, 6, 8) for _ in range(9)]
    distil, kept = LayerDistillation(DistillationConfig(layers=(0, 4, 8), loss="cofi"), 8, 8), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        distil(layers, teacher, torch.tensor([6, 4]))
    activations = [size for size in kept if size >= 2 * 6 * 8]
    assert sum(activations) < 3 * 3 * 2 * 6 * 8, "activations are saved for the matched pairs, not for all 27"


def test_frame_distillation_is_a_tempered_divergence() -> None:
    torch.manual_seed(2)
    student, teacher = torch.randn(1, 3, 5), torch.randn(1, 3, 5)
    p, q = (teacher[0, :2] / 2).softmax(-1), (student[0, :2] / 2).softmax(-1)
    expected = 4 * (p * (p / q).log()).sum(-1).mean()
    value = frame_distillation(student, teacher, frame_mask(torch.tensor([2]), 3), temperature=2.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert frame_distillation(teacher, teacher, frame_mask(torch.tensor([3]), 3)).item() == pytest.approx(0, abs=1e-6)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="cofy"):
        DistillationConfig(loss="cofy")


@pytest.mark.parametrize(
    "values",
    [{"layer_weight": -1.0}, {"output_weight": float("nan")}, {"temperature": 0.0}, {"temperature": -2.0},
     {"layer_fade": (0.7, 0.5)}, {"layer_fade": (0.5, 1.5)}, {"layer_fade": (0.5,)}, {"output_temperature": 0.0},
     {"output_form": "whole"}, {"output_bounds": "both"}, {"output_per": "batch"},
     {"loss": "cofi", "layers": (4, 2)}],
)  # fmt: skip
def test_settings_without_meaning_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))} must (be|go) |layers"):
        DistillationConfig(**values)
