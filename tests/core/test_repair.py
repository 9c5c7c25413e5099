"""Test one-shot repair against direct least squares, and that outputs come nearer to those of the dense network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruning.core.extraction import extract
from pruning.core.linear_inputs import flattened_inputs, flattened_outputs, flattened_parts
from pruning.core.masking import Masker
from pruning.core.repair import repair
from pruning.core.structure import Structure
from pruning.models.transducer import Transducer
from tests.methods.test_l0 import network

Batch = tuple[Tensor, Tensor]


def forward(model: nn.Module, batch: Batch) -> Tensor:
    return model(*batch).output


def batches(count: int, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(4, 120, 80, generator=generator), torch.full((4,), 120)) for _ in range(count)]


def structure_of(model: Transducer, share: float = 0.5, seed: int = 0, kinds: tuple[str, ...] = ()) -> Structure:
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for group in model.unit_groups():
        if group.size > 1 and (not kinds or group.kind in kinds):
            order = torch.randperm(group.size, generator=generator)
            mask = torch.zeros(group.size)
            mask[order[: max(1, round(share * group.size))]] = 1.0
            masks[group.name] = mask
    return Structure.from_masks(model.unit_groups(), masks)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(5, 3), (2, 7, 5)),
        (nn.Conv1d(4, 3, 3, stride=2, padding=1, dilation=2), (2, 4, 19)),
        (nn.Conv2d(4, 3, (3, 5), stride=(2, 1), padding=(1, 0)), (2, 4, 11, 9)),
    ],
)
def test_flattened_inputs_times_the_weight_are_the_outputs(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape)
    expected = flattened_outputs(module, module(x))
    product = flattened_inputs(module, x) @ module.weight.flatten(1).T + module.bias
    torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_repaired_is_told() -> None:
    with pytest.raises(TypeError, match="a Conv1d is neither a linear layer"):
        flattened_inputs(nn.Conv1d(4, 4, 3, groups=4), torch.randn(1, 4, 9))


def test_the_solution_is_that_of_least_squares() -> None:
    model = network().eval()
    structure = structure_of(model, 0.4, kinds=("ffn",))
    only = Structure({name: units if name == "encoder.layers.0.macaron.hidden" else units.with_kept(range(units.size))
                      for name, units in structure.groups.items()})  # fmt: skip
    kept = torch.tensor(only.groups["encoder.layers.0.macaron.hidden"].kept)
    cut, data = copy.deepcopy(model), batches(3)
    assert repair(model, cut, only, data, forward, ridge=0.0) == 1
    seen: list[tuple[Tensor, Tensor]] = []
    linear = model.encoder.layers[0].macaron.linear2
    handle = linear.register_forward_hook(lambda _, given, y: seen.append((given[0].flatten(0, 1), y.flatten(0, 1))))
    with torch.no_grad():
        for batch in data:
            forward(model, batch)
    handle.remove()
    x = torch.cat([pair[0] for pair in seen])[:, kept].double()
    y = torch.cat([pair[1] for pair in seen]).double()
    solution = torch.linalg.lstsq(torch.cat([x, x.new_ones(len(x), 1)], dim=1), y).solution
    repaired = cut.encoder.layers[0].macaron.linear2
    torch.testing.assert_close(repaired.weight[:, kept].T.double(), solution[:-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(repaired.bias.double(), solution[-1], rtol=1e-3, atol=1e-4)


def test_units_that_say_the_same_are_not_missed() -> None:
    """Every hidden unit has a twin; if one of each pair is removed, repair restores the dense outputs."""
    model = network().eval()
    ffn = model.encoder.layers[1].ffn
    with torch.no_grad():
        ffn.linear1.weight[32:] = ffn.linear1.weight[:32]
        ffn.linear1.bias[32:] = ffn.linear1.bias[:32]
    masks = {"encoder.layers.1.ffn.hidden": torch.cat([torch.ones(32), torch.zeros(32)])}
    structure, data = Structure.from_masks(model.unit_groups(), masks), batches(4)
    cut = copy.deepcopy(model)
    repair(model, cut, structure, data, forward, ridge=1e-9)
    with torch.no_grad():
        new = batches(1, seed=9)[0]
        torch.testing.assert_close(forward(extract(cut, structure).eval(), new), forward(model, new), rtol=0, atol=1e-3)


def test_repair_brings_outputs_nearer_on_other_data() -> None:
    model = network().eval()
    structure = structure_of(model, 0.7)
    cut = copy.deepcopy(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    repaired = repair(model, cut, structure, batches(6), forward)
    assert repaired == 3 * 4 + 2, "two FFNs, attention and convolution of three layers; two of the subsampling"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()), "dense unchanged"
    held_out = batches(2, seed=5)
    with torch.no_grad():
        errors = []
        for candidate in (model, cut):
            small = extract(candidate, structure).eval()
            errors.append(sum((forward(small, b) - forward(model, b)).pow(2).mean().item() for b in held_out))
            with Masker(candidate, candidate.unit_groups()).applied(structure.masks()):
                torch.testing.assert_close(
                    forward(candidate, held_out[0]), forward(small, held_out[0]), rtol=1e-4, atol=1e-5
                )
    assert errors[1] < 0.7 * errors[0]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in [*model.modules(), *cut.modules()])


def test_soft_scales_are_left_out() -> None:
    model = network().eval()
    hard = structure_of(model, 0.6)
    soft = Structure.from_masks(model.unit_groups(), {name: 0.5 * mask for name, mask in hard.masks().items()})
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    repair(model, first, hard, batches(1), forward)
    repair(model, second, soft, batches(1), forward)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_convolutions_are_unfolded_one_utterance_at_a_time() -> None:
    """For wav2vec2's second convolution, a batch of 200 s took 7 GB."""
    convolution, linear = nn.Conv1d(4, 3, 3, stride=2), nn.Linear(4, 3)
    parts = list(flattened_parts(convolution, torch.randn(5, 4, 19)))
    assert [part.shape for part in parts] == [(9, 12)] * 5
    assert [part.shape for part in flattened_parts(linear, torch.randn(5, 19, 4))] == [(95, 4)]
    x = torch.randn(5, 4, 19)
    assert torch.equal(torch.cat(list(flattened_parts(convolution, x))), flattened_inputs(convolution, x))


SITE = "encoder.layers.0.macaron.hidden"


def of_one_site(model: Transducer) -> Structure:
    masks = structure_of(model, 0.4, kinds=("ffn",)).masks()
    return Structure.from_masks(model.unit_groups(), {SITE: masks[SITE]})


def seen(model: Transducer, data: list[Batch], kept: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs of the kept columns of the repaired layer with a 1 for its bias, and the dense outputs."""
    pairs: list[Batch] = []
    layer = model.encoder.layers[0].macaron.linear2
    handle = layer.register_forward_hook(lambda _, x, y: pairs.append((x[0].flatten(0, 1), y.flatten(0, 1))))
    with torch.no_grad():
        for batch in data:
            forward(model, batch)
    handle.remove()
    x, y = (torch.cat(parts).double().numpy() for parts in zip(*pairs))
    return np.hstack([x[:, kept], np.ones((len(x), 1))]), y


def solution(model: Transducer, kept: torch.Tensor) -> np.ndarray:
    layer = model.encoder.layers[0].macaron.linear2
    return torch.cat([layer.weight[:, kept].T, layer.bias[None]]).detach().double().numpy()


def test_the_ridge_is_relative_to_the_mean_square_of_the_inputs() -> None:
    """Compare with least squares that has one extra row per unknown, which demands no change."""
    model, ridge = network().eval(), 0.05
    structure, data = of_one_site(model), batches(3)
    kept, cut = torch.tensor(structure.groups[SITE].kept), copy.deepcopy(model)
    repair(model, cut, structure, data, forward, ridge)
    x, y = seen(model, data, kept)
    old = solution(model, kept)
    rows = np.sqrt(ridge * (x**2).mean() * len(x)) * np.eye(x.shape[1])
    change = np.linalg.lstsq(np.vstack([x, rows]), np.vstack([y - x @ old, np.zeros_like(old)]), rcond=None)[0]
    assert np.abs(change).max() > 0.01
    np.testing.assert_allclose(solution(cut, kept), old + change, rtol=0, atol=1e-4 * np.abs(change).max())


def test_the_ridge_costs_little_and_keeps_weights_small_where_inputs_say_the_same() -> None:
    """Holds with the default ridge."""
    model = network().eval()
    structure, data = of_one_site(model), batches(3)
    kept = torch.tensor(structure.groups[SITE].kept)
    cut = copy.deepcopy(model)
    repair(model, cut, structure, data, forward)
    x, y = seen(model, data, kept)
    best = ((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).sum()
    before, after = (((y - x @ solution(of, kept)) ** 2).sum() for of in (model, cut))
    assert after - best < 0.01 * (before - best)
    with torch.no_grad():  # two kept units that differ only by rounding, and a third that is never active
        first = model.encoder.layers[0].macaron.linear1
        first.weight[kept[1]], first.bias[kept[1]] = first.weight[kept[0]] * (1 + 1e-6), first.bias[kept[0]]
        first.weight[kept[2]], first.bias[kept[2]] = 0.0, 0.0
    cut = copy.deepcopy(model)
    repair(model, cut, structure, data, forward)
    old, new = solution(model, kept), solution(cut, kept)
    assert np.abs(new - old).max() < 10 * np.abs(old).max()
    np.testing.assert_allclose((new - old)[0], (new - old)[1], rtol=0, atol=0.01 * np.abs(new - old)[0].max())
    np.testing.assert_allclose(new[2], old[2], rtol=0, atol=1e-6)
