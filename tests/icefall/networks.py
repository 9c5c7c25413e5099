"""Checkpoints of icefall's transducers with random weights, from the stand-in or from a checkout."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.models import icefall_encoder
from pruning.models.icefall_encoder import RECIPES, IcefallModules

STAND_IN = Path(__file__).parent
VOCABULARY, JOINER, DECODER, HIDDEN = 30, 20, 24, 28
DIMENSIONS = {"num_features": 80, "d_model": 32, "nhead": 4, "dim_feedforward": 48, "num_encoder_layers": 3,
              "dropout": 0.1, "cnn_module_kernel": 7}  # fmt: skip
STATELESS, PRUNED, REWORKED = "transducer_stateless", "pruned_transducer_stateless", "pruned_transducer_stateless2"
LATER = tuple(f"pruned_transducer_stateless{number}" for number in (3, 4, 5))


def checkout() -> Path:
    """Return the checkout of icefall that ``ICEFALL_DIR`` names; skip the test if there is none."""
    directory = os.environ.get(icefall_encoder.DIRECTORY)
    if not directory:
        pytest.skip(f"no checkout of icefall: set {icefall_encoder.DIRECTORY}")
    return Path(directory)


PLACES = [pytest.param(lambda: STAND_IN, id="stand-in"), pytest.param(checkout, id="icefall")]


def having(directory: Path, recipe: str) -> Path:
    """Return the directory; skip the test if it has no such recipe."""
    if not (directory / RECIPES / recipe).is_dir():
        pytest.skip(f"the stand-in has no {recipe}")
    return directory


def modules(directory: Path, recipe: str) -> IcefallModules:
    """Return the location of the classes of a LibriSpeech recipe, with permission to execute them."""
    icefall_encoder.trust(directory)
    return IcefallModules(str(directory), f"{RECIPES}/{recipe}")


def encoder(directory: Path, recipe: str) -> Any:
    """Return the recipe's ``Conformer`` in evaluation mode, with weights far from the initial ones."""
    torch.manual_seed(3)
    others: dict[str, Any] = {"layer_dropout": 0.0}
    if recipe in (STATELESS, PRUNED):
        others = {"output_dim": VOCABULARY if recipe == PRUNED else JOINER}
    network = icefall_encoder.conformer_class(modules(directory, recipe))(**DIMENSIONS, **others)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    return network.eval()


def classes(directory: Path, recipe: str, *names: str) -> list[Any]:
    """Return more modules of a recipe, by the names of their files."""
    place = directory / RECIPES / recipe
    with icefall_encoder.importing_from(place, directory):
        return [importlib.import_module(name) for name in names]


def package(name: str, directory: Path) -> Any:
    """Return a module of a checkout's package ``icefall``; skip the test if it cannot be imported."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(directory))
        for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == "icefall"]:
            patched.delitem(sys.modules, loaded)
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"icefall cannot be imported: {error}")


def state(network: nn.Module, recipe: str) -> dict[str, Tensor]:
    """Return ``model`` of a checkpoint whose encoder is ``network``; decoder, joiner and heads are random tensors."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / 2

    def linear(name: str, outputs: int, inputs: int) -> dict[str, Tensor]:
        tensors = {f"{name}.weight": drawn(outputs, inputs), f"{name}.bias": drawn(outputs)}
        if recipe not in (STATELESS, PRUNED):
            tensors.update({f"{name}.weight_scale": drawn(), f"{name}.bias_scale": drawn()})
        return tensors

    decoder = JOINER if recipe == STATELESS else DECODER
    tensors = {f"encoder.{name}": tensor.clone() for name, tensor in network.state_dict().items()}
    tensors["decoder.embedding.weight"] = drawn(VOCABULARY, decoder)
    tensors["decoder.conv.weight"] = drawn(decoder, 1, 2)
    if recipe == STATELESS:
        tensors["decoder.embedding.weight"][0] = 0.0
        return {**tensors, **linear("joiner.output_linear", VOCABULARY, JOINER)}
    if recipe == PRUNED:
        return {**tensors, **linear("decoder.output_linear", VOCABULARY, DECODER),
                **linear("joiner.inner_linear", HIDDEN, VOCABULARY),
                **linear("joiner.output_linear", VOCABULARY, HIDDEN)}  # fmt: skip
    tensors.update({"decoder.embedding.scale": drawn(), "decoder.conv.weight_scale": drawn()})
    for name, outputs, inputs in (("joiner.encoder_proj", JOINER, 32), ("joiner.decoder_proj", JOINER, DECODER),
                                  ("joiner.output_linear", VOCABULARY, JOINER), ("simple_am_proj", VOCABULARY, 32),
                                  ("simple_lm_proj", VOCABULARY, DECODER)):  # fmt: skip
        tensors.update(linear(name, outputs, inputs))
    return tensors
