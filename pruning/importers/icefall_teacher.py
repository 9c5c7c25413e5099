"""Import of an icefall network as an experiment, which can be pruned and serves as the teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional, Union

from torch import Tensor, nn

from pruning import registry
from pruning.errors import UserError
from pruning.experiments import checkpoint, directory
from pruning.files import PathLike, write_json
from pruning.importers import icefall_checkpoint, icefall_zipformer
from pruning.importers.icefall_checkpoint import Choice, Found
from pruning.importers.icefall_transducer import converted, form_of
from pruning.importers.icefall_zipformer import ZipformerOptions
from pruning.models import icefall_encoder
from pruning.models.conformer import REWORKED
from pruning.models.facts import describe, network_facts, write_facts
from pruning.models.icefall_encoder import RECIPES, IcefallModules
from pruning.models.icefall_names import COMBINER
from pruning.models.speech_model import SpeechModel
from pruning.models.transducer import Transducer
from pruning.provenance import file_fingerprint
from pruning.speech.text.bpe import Tokenizer

logger = logging.getLogger(__name__)

ORIGIN = "icefall"
"""Header key of an imported checkpoint: its source files, and how they were averaged."""
EXACTNESS = 1e-4


@dataclass(frozen=True)
class Checkout:
    """The user's icefall checkout.

    Attributes:
        directory: directory of the checkout.
        recipe: folder in it that contains the encoder's ``conformer.py``; None: the LibriSpeech recipe named like a
            folder that contains the experiment, or else the one that matches the checkpoint's form.
    """

    directory: PathLike
    recipe: Optional[str] = None

    def modules(self, source: PathLike, kind: str) -> IcefallModules:
        """Return the modules for a checkpoint ``source`` of a form's ``kind``; from now on they may be executed."""
        icefall_encoder.trust(self.directory)
        places = (Path(source).absolute(), Path(source).resolve())  # the experiment may be a link
        names = [folder.name for place in places for folder in place.parents]
        named = [name for name in names if (Path(self.directory) / RECIPES / name / "conformer.py").is_file()]
        name = [*named, "pruned_transducer_stateless2" if kind == REWORKED else kind][0]
        return IcefallModules(str(Path(self.directory).resolve()), self.recipe or f"{RECIPES}/{name}")


AS_TRAINED = ZipformerOptions()


def load(
    source: PathLike, choice: Choice, checkout: Optional[Checkout] = None, options: ZipformerOptions = AS_TRAINED
) -> tuple[Union[Transducer, SpeechModel], Found]:
    """Load an icefall checkpoint, in evaluation mode on the CPU: a transducer, or a Zipformer with a CTC head.

    Args:
        source, choice: see `pruning.importers.icefall_checkpoint.load`.
        checkout: if given, a reworked Conformer is pruned with the modules of the checkout (scaled layers, balancers),
            and a standard one is checked against them. None: use only modules of this package, with scales folded into
            the weights. Zipformers never need it.
        options: dimensions of a Zipformer that do not follow from its tensors.

    Raises:
        UserError: the network of the checkpoint is not supported, or the outputs of the checkout's modules differ.
    """
    found = icefall_checkpoint.load(source, choice)
    if icefall_zipformer.is_zipformer(found.state):
        if checkout is not None:
            logger.info("%s: a Zipformer is imported without the checkout", source)
        return icefall_zipformer.load(found.state, found.settings, options, str(source)), found
    form = form_of(found.state, found.settings, str(source))
    if not found.settings:
        logger.warning("%s does not contain its training settings: assuming convolutions that are not causal", source)
    model = Transducer(form.config)
    model.load_state_dict(converted(found.state, form, model.state_dict(), str(source)))
    model.eval()
    if checkout is None:
        return model, found
    modules = checkout.modules(source, form.kind)
    foreign = _foreign(model, modules, found.state, str(source)) if form.kind == REWORKED else None
    if foreign is not None:
        difference = icefall_encoder.difference(model.encoder, foreign.encoder, form.encoder.feature_dim)
    else:
        theirs = icefall_encoder.build(modules, form.encoder, output_dim=form.config.joiner_dim).eval()
        checkpoint.load_weights(theirs, _encoders(found.state), source)
        difference = icefall_encoder.difference(_Projected(model), theirs, form.encoder.feature_dim)
    logger.info(
        "%s: relative difference between the outputs of the checkout's encoder and of ours %.1e", source, difference
    )
    if not difference <= EXACTNESS:
        raise UserError(f"the outputs of {modules.recipe} of the checkout differ from ours by {difference:.1e} "
                        "relative", "give a checkout of October 2022 or later (in earlier ones, padding affects "
                        "convolutions), or leave out --icefall-dir")  # fmt: skip
    return model if foreign is None else foreign, found


def _encoders(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len("encoder.") :]: tensor for name, tensor in state.items() if name.startswith("encoder.")}


def _foreign(model: Transducer, modules: IcefallModules, state: Mapping[str, Tensor], source: str) -> Transducer:
    """Return the same transducer with the checkout's encoder, whose weights are exactly those of the checkpoint."""
    foreign = Transducer(replace(model.config, icefall=modules))
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    weights.update({f"encoder.network.{name}": tensor for name, tensor in _encoders(state).items()
                    if not name.startswith(COMBINER) or f"encoder.network.{name}" in foreign.state_dict()})  # fmt: skip
    checkpoint.load_weights(foreign, weights, source)
    return foreign.eval()


class _Projected(nn.Module):
    """Our encoder followed by the joiner's projection, which in icefall is part of the encoder."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.encoder, self.projection = model.encoder, model.joiner.encoder_proj

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, T, C)``, ``(N,)`` -> ``(N, T', J)``, ``(N,)``."""
        encoded = self.encoder(features, lengths)
        return self.projection(encoded.output), encoded.lengths


def import_experiment(
    source: PathLike,
    choice: Choice,
    lang_dir: PathLike,
    exp_dir: PathLike,
    checkout: Optional[Checkout] = None,
    options: ZipformerOptions = AS_TRAINED,
) -> None:
    """Write an icefall checkpoint as a finished experiment; an existing import of the same files is kept.

    Args:
        source, choice, checkout, options: see `load`.
        lang_dir: lang dir (``data/lang_bpe_*``) that the network was trained with.
        exp_dir: experiment directory for ``best.safetensors``, ``model.json`` and ``.done``.

    Raises:
        UserError: as for `load`; the lang dir has another number of tokens; ``exp_dir`` contains another network.
    """
    tokenizer, place = Tokenizer(lang_dir), Path(exp_dir)
    model, found = load(source, choice, checkout, options)
    tokenizer.check_matches({"vocab_size": model.config.vocab_size}, str(source))
    origin: dict[str, Any] = {path.name: file_fingerprint(path) for path in found.files}
    described = registry.describe(model)
    modules = described["config"].get("icefall")
    origin.update(choice.described(), recipe=None if modules is None else modules["recipe"])
    if checkpoint.best_path(place).exists():
        existing, header = checkpoint.load_model(place)
        known = registry.describe(existing), header.get("tokenizer"), header.get(ORIGIN)
        if known != (described, tokenizer.describe(), origin):
            raise UserError(f"{place} contains another network", "remove it, or give another directory")
    else:
        write_facts(place, model, None)
        header = {"model": described, "tokenizer": tokenizer.describe(), ORIGIN: origin}
        checkpoint.save_model(checkpoint.best_path(place), model, header)
    write_json(place / directory.DONE, origin)
    logger.info("%s: %s", place, describe(network_facts(model)))
