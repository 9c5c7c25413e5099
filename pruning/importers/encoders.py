"""Loading of the encoder of any supported Hugging Face network."""

from __future__ import annotations

from collections.abc import Callable

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.importers.encoder_decoder import load_encoder_decoder
from pruning.importers.hf_directory import CONFIG, PREPROCESSOR, PROCESSOR, directory_of, read_config
from pruning.importers.hugging_face import load_hf
from pruning.models.encoder import Encoder
from pruning.models.encoder_decoder_config import FAMILY_NAMES
from pruning.models.speech_encoder_config import KINDS


def _speech_encoder(source: PathLike) -> Encoder:
    return load_hf(source).plain()  # can be saved and copied without transformers


def _audio_encoder(source: PathLike) -> Encoder:
    return load_encoder_decoder(source).encoder


_LOADERS: dict[object, Callable[[PathLike], Encoder]] = {
    **dict.fromkeys(KINDS, _speech_encoder),
    **dict.fromkeys(FAMILY_NAMES, _audio_encoder),
}
"""How an encoder is loaded, by the ``model_type`` of its network."""


def load_encoder(source: PathLike) -> Encoder:
    """Load the encoder of a checkpoint, made of this toolkit's modules, in evaluation mode on the CPU.

    Args:
        source: a directory that ``save_pretrained`` wrote, or a name on the hub, of a speech encoder or of an
            encoder-decoder.

    Raises:
        UserError: ``source`` is not a checkpoint, is of an unsupported network, or lacks tensors; a package that it
            needs is not installed; the hub cannot be reached.
    """
    directory = directory_of(source, (CONFIG, PREPROCESSOR, PROCESSOR))
    found = read_config(directory, source).get("model_type")
    if found not in _LOADERS:
        raise UserError(f"{directory / CONFIG}: unsupported model_type {found!r}",
                        f"give a checkpoint of {', '.join(map(str, _LOADERS))}")  # fmt: skip
    return _LOADERS[found](directory)
