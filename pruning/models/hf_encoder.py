"""Hugging Face's wav2vec2, HuBERT and WavLM as networks that can be pruned, with unmodified modules."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Optional, cast

from torch import Tensor, nn

from pruning.compat import with_contiguous_gradient
from pruning.core.extraction import extract
from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
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
"""Names of the length and the direction of the positional convolution's weight, in torch 1.13 and in torch 2."""


class HfEncoder(WaveformEncoder):
    """A Hugging Face encoder that declares its units and costs; its extraction gives a `SpeechEncoder`.

    It holds the modules of the encoder under their own names. SpecAugment and layer drop are not used: masking frames
    is the job of the task, and units that may be pruned are not also dropped at random (``layerdrop`` of the given
    network is set to 0). Gradient checkpointing, which a configuration may request, is switched off: it computes layers
    a second time during the backward pass, when masks are no longer applied.

    WavLM's attention reads the weights of its linear layers instead of calling them. So methods that observe the inputs
    of layers (activation, Wanda, one-shot repair) do not work on its heads here; they work on the same network made of
    this toolkit's modules (`plain`).

    Args:
        network: a ``Wav2Vec2Model``, ``HubertModel`` or ``WavLMModel``.
        preprocessor: see `SpeechEncoderConfig.from_hf`.
        source: name of the source in error messages; empty: the class of the network.

    Raises:
        UserError: the network has parts or norms that are not supported.
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
        """Build the encoder of a Hugging Face configuration, with initial weights.

        Args:
            values: content of ``config.json``; absent keys have the defaults of the model type.
            preprocessor: see `SpeechEncoderConfig.from_hf`.
            source: name of the source in error messages.

        Raises:
            UserError: transformers is not installed, or the configuration is not that of a supported network.
        """
        check_hf(values, source)
        transformers = package("transformers", "a Hugging Face encoder", "hf")
        name = _CLASSES[values["model_type"]]
        try:
            config = getattr(transformers, f"{name}Config").from_dict(dict(values))
            network = getattr(transformers, f"{name}Model")(config)
        except Exception as error:  # for dimensions that do not fit, its versions raise different types
            reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
            raise UserError(
                f"{source} does not describe a valid {values['model_type']} network ({reason})",
                "give a checkpoint of a standard architecture",
            ) from None
        return cls(network, preprocessor, source)

    def described(self) -> dict[str, Any]:
        """Return the configuration that `from_hf` builds it from, as plain values: ``network``, ``preprocessor``."""
        return copy.deepcopy(self._described)

    def plain(self) -> SpeechEncoder:
        """Return a `SpeechEncoder` that computes the same without transformers and shares no memory with this one."""
        return cast(SpeechEncoder, extract(self, Structure.dense(self.unit_groups())))

    def projected(self, features: Tensor) -> Tensor:
        """See `WaveformEncoder.projected`."""
        x = self.feature_projection(features)
        return x[0] if isinstance(x, tuple) else x

    def transformed(self, x: Tensor, valid: Optional[Tensor]) -> list[Tensor]:
        """See `WaveformEncoder.transformed`.

        States are taken from the inputs of layers, because versions of transformers differ in the last hidden state.
        """
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

    def unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups; that of the residual width without a weight that weight norm has in another form."""
        lacking = {f"{_POSITIONAL}weight"} - self.state_dict().keys()
        return [replace(group, slices=tuple(span for span in group.slices if span.tensor not in lacking))
                for group in super().unit_groups(width)]  # fmt: skip

    def plain_unit_groups(self, width: bool = False) -> list[UnitGroup]:
        """Return the unit groups with all tensors of the dense `SpeechEncoder`."""
        return super().unit_groups(width)

    def plain_state(self) -> dict[str, Tensor]:
        """Return the tensors of the dense `SpeechEncoder`.

        Weight norm is multiplied out (arXiv 1602.07868, equation 2), and WavLM's table of relative positions belongs to
        the encoder instead of its first layer.
        """
        state = dict(self.state_dict())
        for length, direction in WEIGHT_NORMS:
            if length in state:
                g, v = state.pop(length), state.pop(direction)
                state[f"{_POSITIONAL}weight"] = v * (g / v.norm(dim=(0, 1), keepdim=True))
        if _RELATIVE[0] in state:
            state[_RELATIVE[1]] = state.pop(_RELATIVE[0])
        return state
