"""Uniform networks reach the requested cost, by units or by width."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning import registry
from pruning.bin import uniform
from pruning.core.names import MACS, SIZE
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import read_json
from pruning.models.facts import cost_model
from pruning.models.transducer import Transducer, TransducerConfig
from tests.methods.test_l0 import network


@pytest.fixture
def dense(tmp_path: Path) -> tuple[Transducer, list[str]]:
    model = network()
    path = tmp_path / "dense.safetensors"
    checkpoint.save_model(path, model, {"model": registry.describe(model)})
    return model, ["--dense", str(path), "--output", str(tmp_path / "dimensions.json")]


@pytest.mark.parametrize("cost", [SIZE, MACS])
@pytest.mark.parametrize("narrow", ["units", "width", "depth"])
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_it_costs_what_was_asked(
    dense: tuple[Transducer, list[str]], tmp_path: Path, narrow: str, cost: str, share: float
) -> None:
    model, arguments = dense
    uniform.main([*arguments, "--share", str(share), "--cost", cost, "--narrow", narrow])
    config = TransducerConfig.from_dict(read_json(tmp_path / "dimensions.json"))
    reached = cost_model(Transducer(config), 10.0).dense[cost] / cost_model(model, 10.0).dense[cost]
    assert share - 0.07 < reached <= share
    assert (config.encoder.num_layers < model.config.encoder.num_layers) == (narrow == "depth")
    if narrow == "width":
        assert config.encoder.d_model < model.config.encoder.d_model and config.encoder.d_model % 2 == 0
        assert config.encoder.num_heads == model.config.encoder.num_heads
    else:
        assert config.encoder.d_model == model.config.encoder.d_model


def test_all_of_it_is_the_dense_network(dense: tuple[Transducer, list[str]], tmp_path: Path) -> None:
    for narrow in ("units", "width", "depth"):
        uniform.main([*dense[1], "--share", "1", "--narrow", narrow])
        assert TransducerConfig.from_dict(read_json(tmp_path / "dimensions.json")) == dense[0].config


def test_what_cannot_be_is_told(dense: tuple[Transducer, list[str]]) -> None:
    for narrow in ("width", "depth"):
        with pytest.raises(
            UserError, match="even the smallest uniform network costs more than .* use a lower sparsity"
        ):
            uniform.main([*dense[1], "--share", "0.0001", "--narrow", narrow])
    with pytest.raises(SystemExit):
        uniform.main([*dense[1], "--share", "1.5"])
