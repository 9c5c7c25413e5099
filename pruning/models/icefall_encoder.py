"""Reworked Conformers of an icefall checkout as networks that can be pruned, with unmodified modules."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core.units import Span, UnitGroup
from pruning.errors import UserError
from pruning.models.conformer import ConformerConfig, ConformerEncoder, EncoderOutput
from pruning.models.icefall_names import COMBINER, encoder_name, encoder_tensor
from pruning.models.prunable_conformer import DeclaredConformer, PrunableConformer
from pruning.models.subsampling import beyond

DIRECTORY = "ICEFALL_DIR"
"""Environment variable with the user's checkout, which replaces the one that a checkpoint names."""
RECIPES = "egs/librispeech/ASR"
"""Folder of a checkout that holds the transducer recipes of LibriSpeech."""
_NETWORK = "network."
_TRUSTED: set[Path] = set()


@dataclass(frozen=True)
class IcefallModules:
    """Location of the classes of a network.

    Attributes:
        directory: checkout of icefall.
        recipe: folder in the checkout that holds ``conformer.py``.
    """

    directory: str
    recipe: str


class IcefallEncoder(DeclaredConformer):
    """A reworked Conformer of icefall that declares its units; its extraction gives a `ConformerEncoder`.

    Layer dropout and random combinations of layers are not used in training: units that may be pruned are not also
    dropped at random, and distillation needs the last layer. Features beyond the end of an utterance are zeroed, so
    that batching does not change the outputs (in icefall, they reach the last frame through the first convolution).

    Args:
        modules: location of the classes.
        config: dimensions of the encoder, which are the same in all layers.

    Raises:
        UserError: see `conformer_class`; or the class takes other arguments or has other tensors than supported.
    """

    def __init__(self, modules: IcefallModules, config: ConformerConfig) -> None:
        super().__init__()
        self.config: ConformerConfig = config
        self.network: Any = build(modules, config, layer_dropout=0.0)
        theirs = {name: tuple(tensor.shape) for name, tensor in self.network.state_dict().items()
                  if not name.startswith(COMBINER)}  # fmt: skip
        plain = ConformerEncoder(config).state_dict()
        wanted = {encoder_name(ours, config.variant): tuple(tensor.shape) for ours, tensor in plain.items()
                  if not ours.startswith("feature_")}  # fmt: skip
        for name in [*wanted, *(name for name in theirs if not name.endswith("_scale"))]:
            if wanted.get(name) != theirs.get(name):
                what = f"Conformer in {modules.recipe} of the checkout has {name} of shape {theirs.get(name, 'none')}"
                raise UserError(f"{what}, expected {wanted.get(name, 'none')}", _remedy())

    def train(self, mode: bool = True) -> IcefallEncoder:
        """Set the training mode, but never combine layers at random."""
        super().train(mode)
        if hasattr(self.network.encoder, "combiner"):
            self.network.encoder.combiner.eval()
        return self

    def forward(self, features: Tensor, lengths: Tensor, return_layers: bool = False) -> EncoderOutput:
        """See `pruning.models.conformer.ConformerEncoder.forward`."""
        features = features[:, : int(lengths.max())]
        features = features.masked_fill(beyond(lengths, features.shape[1])[:, :, None], 0.0)
        layers: list[Tensor] = []
        handles = []
        if return_layers:
            first = self.network.encoder.layers[0]
            handles.append(first.register_forward_pre_hook(lambda _, inputs: layers.append(inputs[0].transpose(0, 1))))
            handles += [layer.register_forward_hook(lambda _, __, output: layers.append(output.transpose(0, 1)))
                        for layer in self.network.encoder.layers]  # fmt: skip
        try:
            output, lengths = self.network(features, lengths)
        finally:
            for handle in handles:
                handle.remove()
        return EncoderOutput(output, lengths, layers)

    def set_feature_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Not supported, because the encoder was trained on features without normalisation.

        Raises:
            ValueError: always.
        """
        raise ValueError("an encoder of icefall does not normalise features")

    def unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the groups of the `ConformerEncoder` with this encoder's tensor names; group names do not change."""

        def theirs(name: str) -> str:
            return f"{_NETWORK}{encoder_name(name, self.config.variant)}"

        def spans(of: tuple[Span, ...]) -> tuple[Span, ...]:
            return tuple(replace(span, tensor=theirs(span.tensor)) for span in of)

        def modules(of: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(theirs(f"{name}.")[:-1] for name in of)

        return [replace(group, masks=spans(group.masks), slices=spans(group.slices), readers=spans(group.readers),
                        removes=tuple(map(theirs, group.removes)), norms=modules(group.norms),
                        rms_norms=modules(group.rms_norms))
                for group in self.plain_unit_groups(width)]  # fmt: skip

    def plain_unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups with the tensor names of `plain_state`."""
        return super().unit_groups(width)

    def plain(self) -> PrunableConformer:
        """Return the `ConformerEncoder` that computes the same."""
        encoder = PrunableConformer(self.config)
        encoder.load_state_dict(self.plain_state())
        return encoder.train(self.training)

    def plain_state(self) -> dict[str, Tensor]:
        """Return the tensors of the `ConformerEncoder` that computes the same, with scales multiplied out."""
        state, config = self.network.state_dict(), self.config
        result = dict(ConformerEncoder(config).state_dict())
        for name in result:
            if not name.startswith("feature_"):
                result[name] = encoder_tensor(state, name, config).detach()
            else:
                result[name] = result[name].to(next(self.network.parameters()).device)
        return result


def build(modules: IcefallModules, config: ConformerConfig, **others: Any) -> nn.Module:
    """Build the ``Conformer`` of a checkout with initial weights.

    Args:
        modules: location of the class.
        config: dimensions, which are the same in all layers.
        others: further arguments of the class.

    Raises:
        UserError: see `conformer_class`; or the class takes other arguments than supported.
    """
    conformer = conformer_class(modules)
    try:
        return conformer(
            num_features=config.feature_dim, d_model=config.d_model, nhead=config.num_heads[0],
            dim_feedforward=config.ffn_dim[0], num_encoder_layers=config.num_layers, dropout=config.dropout,
            cnn_module_kernel=config.conv_kernel, **others,
        )  # fmt: skip
    except Exception as error:  # other versions may raise anything
        raise UserError(f"cannot build Conformer in {modules.recipe} of the checkout ({error})",
                        _remedy()) from None  # fmt: skip


def conformer_class(modules: IcefallModules) -> Any:
    """Import the class ``Conformer`` of a recipe of the checkout, which executes the user's own code.

    Raises:
        UserError: the user has not named the checkout, there is no such checkout or recipe, a package that it imports
            is not installed, or the import fails.
    """
    directory = _checkout(modules)
    recipe = directory / modules.recipe
    if Path(modules.recipe).is_absolute() or ".." in Path(modules.recipe).parts:
        raise UserError(f"{modules.recipe} is not a folder inside a checkout of icefall", _remedy())
    if not (directory / "icefall").is_dir():
        raise UserError(f"{directory} is not a checkout of icefall", f"give --icefall-dir, or set {DIRECTORY}")
    if not (recipe / "conformer.py").is_file():
        raise UserError(f"{directory} has no {modules.recipe}/conformer.py", _remedy())
    with importing_from(recipe, directory):
        try:
            found = getattr(importlib.import_module("conformer"), "Conformer", None)
        except (Exception, SystemExit) as error:
            lacking = isinstance(error, ImportError)
            remedy = f"install the packages in {directory}/requirements.txt" if lacking else _remedy()
            why = f"{type(error).__name__}: {error}"
            raise UserError(f"cannot import {recipe}/conformer.py ({why})", remedy) from None
    if found is None:
        raise UserError(f"{recipe}/conformer.py has no class Conformer", _remedy())
    return found


def trust(directory: os.PathLike[str] | str) -> None:
    """Trust a checkout as the user's own, so that its code may be executed, until this process ends."""
    _TRUSTED.add(Path(directory).resolve())


def _checkout(modules: IcefallModules) -> Path:
    """Return the checkout that ``modules`` names if the user trusts it, else the one that the user has named.

    A checkpoint may name untrusted code that came with it.

    Raises:
        UserError: the user has not named a checkout.
    """
    directory, users = Path(modules.directory), os.environ.get(DIRECTORY)
    if directory.is_dir() and directory.resolve() in _TRUSTED:
        return directory
    if not users:
        raise UserError(f"the network needs code in {directory}, which would be executed",
                        f"if you trust this checkout of icefall, export {DIRECTORY}={directory}")  # fmt: skip
    return Path(users)


@contextmanager
def importing_from(recipe: Path, directory: Path) -> Iterator[None]:
    """While open, imports find the files of a recipe; afterwards its modules are removed again.

    Recipes import their files by bare names (``scaling``), so modules of one recipe must not be left for the next.
    """
    before, names = list(sys.path), {path.stem for path in recipe.glob("*.py")}
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    package = getattr(sys.modules.get("icefall"), "__file__", None)
    if package is not None and Path(package).resolve().parents[1] != directory.resolve():  # of another checkout
        for name in [name for name in sys.modules if name.split(".")[0] == "icefall"]:
            del sys.modules[name]
    sys.path[:0] = [str(recipe), str(directory)]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(kept)


def _remedy() -> str:
    return "give the checkout and the --icefall-recipe with which the checkpoint was trained"


@torch.no_grad()
def difference(encoder: nn.Module, other: nn.Module, feature_dim: int) -> float:
    """Return the largest difference between the outputs of two encoders for noise, relative to the largest output.

    It is infinite if the shapes or lengths differ. Both encoders must be in evaluation mode.

    Args:
        encoder: an encoder called like `ConformerEncoder`; its outputs begin with ``(N, T', D)`` and ``(N,)`` lengths.
        other: the same for an encoder of a checkout.
        feature_dim: number of bins per frame.

    Raises:
        UserError: ``other`` fails or does not return tensors.
    """
    features = torch.randn(2, 200, feature_dim, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([200, 131])
    ours, left, *_ = encoder(features, lengths)
    try:
        theirs, right, *_ = other(features, lengths)
        if not (isinstance(theirs, Tensor) and isinstance(right, Tensor)):
            raise TypeError(f"its outputs begin with {type(theirs).__name__} and {type(right).__name__}")
    except Exception as error:  # other versions may raise anything
        raise UserError(f"the checkout's Conformer does not encode as expected "
                        f"({type(error).__name__}: {error})", _remedy()) from None  # fmt: skip
    if ours.shape != theirs.shape or not torch.equal(left, right):
        return float("inf")
    valid = ~beyond(left, ours.shape[1])
    return float((ours - theirs)[valid].abs().max() / theirs[valid].abs().max())
