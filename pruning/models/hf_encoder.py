"""Hugging Face's wav2vec2, HuBERT and WavLM as networks that can be pruned; their modules stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Optional, cast

from torch import Tensor, nn

from pruning.compat import with_contiguous_gradient
from pruning.core.extraction import extract
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.models.speech_encoder import SpeechEncoder, WaveformEncoder
from pruning.models.speech_encoder_config import HUBERT, WAV2VEC2, WAVLM, SpeechEncoderConfig, check_hf
from pruning.optional import package

_CLASSES = {WAV2VEC2: "Wav2Vec2", HUBERT: "Hubert", WAVLM: "WavLM"}
_POSITIONAL = "encoder.pos_conv_embed.conv."
_RELATIVE = ("encoder.layers.0.attention.rel_attn_embed.weight", "encoder.rel_attn_embed.weight")
WEIGHT_NORMS = (
    (f"{_POSITIONAL}weight_g", f"{_POSITIONAL}weight_v"),
    (f"{_POSITIONAL}parametrizations.weight.original0", f"{_POSITIONAL}parametrizations.weight.original1"),
)
"""Names of length and direction of the positional convolution's weight, of torch 1.13 and of torch 2."""


class HfEncoder(WaveformEncoder):
    """A Hugging Face encoder that declares its units and costs; what is extracted from it is a `SpeechEncoder`.

    It holds the encoder's own modules, under their names. SpecAugment and layer drop are left out: masked frames are
    the task's affair, and units that may go are not also dropped at random (``layerdrop`` of the given network is set
    to 0). Gradient checkpointing, which configurations may ask for, is switched off: it computes layers a second time
    during the backward pass, when masks are no longer applied.

    WavLM's attention reads the weights of its linear layers instead of calling them, so nothing that watches what
    enters a layer (activations, Wanda, one-shot repair) sees its heads here, but in the same network of ours (`plain`).

    Args:
        network: a ``Wav2Vec2Model``, ``HubertModel`` or ``WavLMModel``.
        preprocessor: see `SpeechEncoderConfig.from_hf`.
        source: to name in errors; empty: the network's class.

    Raises:
        UserError: the network has parts or norms that are not known here.
    """

    form = "hugging_face"
    feature_projection: nn.Module
    encoder: nn.Module

    def __init__(self, network: nn.Module, preprocessor: Optional[Mapping[str, Any]] = None, source: str = "") -> None:
        theirs: Any = network.config
        super().__init__(SpeechEncoderConfig.from_hf(theirs.to_dict(), preprocessor, source or type(network).__name__))
        self._described = {"network": theirs.to_dict(), "preprocessor": dict(preprocessor or {})}
        theirs.layerdrop = 0.0
        cast(Any, network).gradient_checkpointing_disable()
        self.feature_extractor = network.feature_extractor  # type: ignore[assignment]
        self.feature_projection = network.feature_projection  # type: ignore[assignment]
        self.encoder = network.encoder  # type: ignore[assignment]

    @classmethod
    def from_hf(
        cls, values: Mapping[str, Any], preprocessor: Optional[Mapping[str, Any]] = None, source: str = "config.json"
    ) -> HfEncoder:
        """The encoder of a Hugging Face configuration, with initial weights.

        Args:
            values: ``config.json``; what is absent has the defaults of its model type.
            preprocessor: see `SpeechEncoderConfig.from_hf`.
            source: to name in errors.

        Raises:
            UserError: transformers is not installed, or the configuration is of no network that is known here.
        """
        check_hf(values, source)
        transformers = package("transformers", "a Hugging Face encoder", "hf")
        name = _CLASSES[values["model_type"]]
        try:
            config = getattr(transformers, f"{name}Config").from_dict(dict(values))
            network = getattr(transformers, f"{name}Model")(config)
        except Exception as error:  # its versions have different types for dimensions that do not fit
            reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
            raise UserError(
                f"{source} describes no {values['model_type']} network ({reason})",
                "give a checkpoint of a standard architecture",
            ) from None
        return cls(network, preprocessor, source)

    def described(self) -> dict[str, Any]:
        """What `from_hf` builds it from: ``network`` and ``preprocessor``, plain values."""
        return copy.deepcopy(self._described)

    def plain(self) -> SpeechEncoder:
        """An encoder of ours that computes the same, in no need of transformers; shares no memory with this one."""
        return cast(SpeechEncoder, extract(self, Structure.dense(self.unit_groups())))

    def projected(self, features: Tensor) -> Tensor:
        """See `WaveformEncoder.projected`."""
        x = self.feature_projection(features)
        return x[0] if isinstance(x, tuple) else x

    def transformed(self, x: Tensor, valid: Optional[Tensor]) -> list[Tensor]:
        """See `WaveformEncoder.transformed`; seen on the way in, since versions of transformers differ in the last."""
        states: list[Tensor] = []
        encoder: Any = self.encoder
        handles = [layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
                   for layer in encoder.layers]  # fmt: skip
        handles.append(encoder.pos_conv_embed.activation.register_forward_hook(
            lambda _, __, y: with_contiguous_gradient(y)))  # fmt: skip
        try:
            output = encoder(x, attention_mask=valid).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        return [*states, output]

    def plain_state(self) -> dict[str, Tensor]:
        """The tensors of the dense `SpeechEncoder`: weight norm multiplied out (arXiv 1602.07868, equation 2), WavLM's
        table of relative positions in the encoder's own name."""
        state = dict(self.state_dict())
        for length, direction in WEIGHT_NORMS:
            if length in state:
                g, v = state.pop(length), state.pop(direction)
                state[f"{_POSITIONAL}weight"] = v * (g / v.norm(dim=(0, 1), keepdim=True))
        if _RELATIVE[0] in state:
            state[_RELATIVE[1]] = state.pop(_RELATIVE[0])
        return state
