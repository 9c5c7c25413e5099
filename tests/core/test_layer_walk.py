"""Test that repair by walking through layers gives the weights that whole passes give, in fewer passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.core.layer_walk import LayerWalk
from pruning.core.prunable import prunable
from pruning.core.repair import repair
from pruning.core.residual_width import ResidualWidth
from pruning.core.structure import Structure
from pruning.core.units import WIDTH
from tests.methods import test_l0
from tests.models import encoder_decoders, test_transformer_lm, test_zipformer_transducer
from tests.models.encoder_decoders import transcripts, utterances
from tests.models.test_transformer_lm import sentences
from tests.tasks.test_transducer import batch


def of_transducer() -> tuple[nn.Module, list[Any]]:
    generator = torch.Generator().manual_seed(0)
    return test_l0.network().eval(), [(torch.randn(2, 80, 80, generator=generator), torch.tensor([80, 61]))
                                      for _ in range(3)]  # fmt: skip


def of_zipformer() -> tuple[nn.Module, list[Any]]:
    return test_zipformer_transducer.network().eval(), [(one.features, one.lengths) for one in map(batch, range(2))]


def of_language_model() -> tuple[nn.Module, list[Any]]:
    return test_transformer_lm.network(), [(sentences(4, length),) for length in (7, 9, 8)]


def of_encoder_decoder(shape: dict[str, Any]) -> tuple[nn.Module, list[Any]]:
    model = encoder_decoders.network(shape)
    return model, [(*utterances(model), transcripts(model))]


CASES: dict[str, Callable[[], tuple[nn.Module, list[Any]]]] = {
    "transducer": of_transducer,
    "zipformer": of_zipformer,
    "language model": of_language_model,
    **{encoder_decoders.shape_name(shape): partial(of_encoder_decoder, shape)
       for shape in encoder_decoders.BOTH},
}  # fmt: skip


def structure_of(model: nn.Module, width: bool) -> Structure:
    """Two thirds of the units of every group at random; of the residual width only if asked for."""
    groups = (ResidualWidth(model) if width else prunable(model)).unit_groups()
    generator = torch.Generator().manual_seed(1)
    masks = {group.name: (torch.randperm(group.size, generator=generator) < 2 * group.size / 3).float()
             for group in groups if group.size > 2 and (width or group.kind != WIDTH)}  # fmt: skip
    return Structure.from_masks(groups, masks).resolved(groups)


def forward(model: nn.Module, given: tuple[Tensor, ...]) -> object:
    return model(*given)


@pytest.mark.parametrize("width", [False, True], ids=["units", "width"])
@pytest.mark.parametrize("case", CASES)
def test_walking_gives_what_whole_passes_give(case: str, width: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = CASES[case]()
    structure, walked, passed = structure_of(model, width), copy.deepcopy(model), copy.deepcopy(model)
    runs, found = LayerWalk.runs, []
    monkeypatch.setattr(LayerWalk, "runs", lambda walk: found.append(1) or runs(walk))
    count = repair(model, walked, structure, data, forward)
    assert found, "no layer was walked"
    monkeypatch.setattr(LayerWalk, "reach", lambda walk, module: False)
    assert repair(model, passed, structure, data, forward) == count > 3
    for (name, ours), (_, theirs) in zip(walked.state_dict().items(), passed.state_dict().items()):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6), name


def test_a_walk_enters_a_stack_once() -> None:
    model, data = of_language_model()
    seen: list[int] = []
    model.embedding.register_forward_hook(lambda *_: seen.append(1))
    assert repair(model, copy.deepcopy(model), structure_of(model, False), data, forward) == 4
    assert len(seen) == 2 * (len(data) + 1), "one pass over the data and one batch to try it, for both networks"


class Branched(nn.Module):
    """A stack whose last layer reads both layers before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        return self.layers[2](x + self.layers[1](x))


class Several(nn.Module):
    """A stack of a layer that returns two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.LSTM(4, 4, batch_first=True)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x)[0]


def test_layers_that_are_no_chain_are_not_walked() -> None:
    def call(network: nn.Module, x: Tensor) -> object:
        return network(x)

    networks, x = [Branched(), Branched()], torch.randn(2, 5, 4)
    walk = LayerWalk(networks, [x], call)
    assert not walk.reach("layers.0") and not walk.reach("other")
    assert walk.reach("layers.2")
    assert [len(runs) for runs in walk.runs()] == [2]
    assert all("forward" not in vars(layer) for one in networks for layer in one.layers)
    assert not LayerWalk([Several()], [x], call).reach("layers.0")
