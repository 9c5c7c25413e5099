"""Unit groups and costs of a speech encoder of the wav2vec2 family.

Unit kinds: ``frontend`` (channels of each convolution over samples), ``heads``, ``ffn``; for whole modules:
``attention_module``, ``ffn_module``. Tensors have Hugging Face's names, so that one declaration works for its networks
and for ours.
"""

from __future__ import annotations

from dataclasses import replace

from pruning.core.cost import CostTerm
from pruning.core.low_rank import LinearLayer
from pruning.core.structure import Structure
from pruning.core.units import Span, UnitGroup
from pruning.errors import UserError
from pruning.models.module_units import ffn_groups, module_group
from pruning.models.speech_encoder_config import LAYER_NORM, SpeechEncoderConfig

FRONTEND = "frontend"
_PROJECTION = "feature_projection"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_LINEARS = ("intermediate_dense", "output_dense")
GATE_OUTPUTS = 8
"""Number of outputs of the linear layer of WavLM's gates: two gates, each the sum of four outputs."""


def _convolution(index: int) -> str:
    return f"feature_extractor.conv_layers.{index}"


def _layer(index: int) -> str:
    return f"encoder.layers.{index}."


def has_norm(config: SpeechEncoderConfig, index: int) -> bool:
    """Return whether a norm follows the front-end convolution ``index``."""
    return index == 0 or config.frontend_norm == LAYER_NORM


def unit_groups(config: SpeechEncoderConfig) -> list[UnitGroup]:
    """Return the unit groups of an encoder, for the modules that exist."""
    groups = _frontend_groups(config)
    for index in range(config.num_layers):
        groups += [replace(group, layer=index) for group in _layer_groups(config, index)]
    return groups


def _frontend_groups(config: SpeechEncoderConfig) -> list[UnitGroup]:
    groups = []
    for index, channels in enumerate(config.conv_channels):
        name, last = _convolution(index), index + 1 == len(config.conv_channels)
        following = Span(f"{_PROJECTION}.projection.weight" if last else f"{_convolution(index + 1)}.conv.weight", 1)
        own, norms = [f"{name}.conv.weight"], []
        if config.conv_bias:
            own.append(f"{name}.conv.bias")
        if has_norm(config, index):
            own += [f"{name}.layer_norm.weight", f"{name}.layer_norm.bias"]
        if config.frontend_norm == LAYER_NORM:  # the group norm normalises each channel separately
            norms.append(f"{name}.layer_norm")
        if last and config.projection_norm:
            own += [f"{_PROJECTION}.layer_norm.weight", f"{_PROJECTION}.layer_norm.bias"]
            norms.append(f"{_PROJECTION}.layer_norm")
        slices = (*(Span(tensor, 0) for tensor in own), following)
        least = min(2, channels) if norms else 1  # a norm over a single channel makes it constant
        groups.append(UnitGroup(f"{name}.channels", FRONTEND, channels, (following,), slices, minimum=least,
                                norms=tuple(norms)))  # fmt: skip
    return groups


def _layer_groups(config: SpeechEncoderConfig, index: int) -> list[UnitGroup]:
    """Return the groups of a layer; norms before a module are removed with it, norms after a residual stay."""
    layer, groups = _layer(index), []
    norms = {"attention": ["layer_norm"], "feed_forward": ["final_layer_norm"]} if config.pre_norm else {}
    if config.heads[index]:
        d, width = config.d_model, config.head_dim
        parent = module_group(layer, "attention", "attention_module", "out_proj", d, norms.get("attention", []))
        name = parent.name
        following = Span(f"{name}.out_proj.weight", 1, width)
        own = [Span(f"{name}.{part}.{tensor}", 0, width) for part in _PROJECTIONS for tensor in ("weight", "bias")]
        if config.relative_positions:
            own.append(Span(f"{name}.gru_rel_pos_const", 1))
        heads = UnitGroup(f"{name}.heads", "heads", len(config.heads[index]), (following,), (*own, following), name)
        groups += [parent, heads]
    if config.ffn_dim[index]:
        groups += ffn_groups(layer, "feed_forward", config.ffn_dim[index], config.d_model, _LINEARS,
                             norms.get("feed_forward", []))  # fmt: skip
    return groups


def cost_terms(config: SpeechEncoderConfig, samples: int) -> list[CostTerm]:
    """Return the cost terms for an utterance of ``samples`` samples.

    Kinds: ``frontend``, ``projection``, ``positional``, ``attention``, ``ffn``, ``norm``. MACs count convolutions,
    linear layers and the matrix products of attention, but not norms and activations.
    """
    frames, d = config.frames(samples), config.d_model
    terms: list[CostTerm] = []
    previous: tuple[str, ...] = ()
    for index, kernel in enumerate(config.conv_kernels):
        group = f"{_convolution(index)}.channels"
        terms.append(CostTerm(FRONTEND, (*previous, group), kernel, kernel * frames[index]))
        own = int(config.conv_bias) + 2 * int(has_norm(config, index))
        terms.append(CostTerm(FRONTEND, (group,), own, 0))
        previous = (group,)
    t = frames[-1]
    terms.append(CostTerm("projection", previous, d + 2 * int(config.projection_norm), t * d))
    terms.append(CostTerm("projection", (), d, 0))
    positional = d * (d // config.pos_groups) * config.pos_kernel
    relative = config.buckets * config.original_heads if config.relative_positions else 0
    terms.append(CostTerm("positional", (), positional + d + relative, t * positional))
    terms.append(CostTerm("norm", (), 2 * d, 0))
    for index in range(config.num_layers):
        terms += _layer_terms(config, index, t)
    return terms


def _layer_terms(config: SpeechEncoderConfig, index: int, t: int) -> list[CostTerm]:
    """Return the terms of a layer, by the cost formulas of HJ-Pruning; WavLM heads also have a factor and gates."""
    terms, d, h = [], config.d_model, config.head_dim
    norm = 2 * d if config.pre_norm else 0
    if config.heads[index]:
        module = f"{_layer(index)}attention"
        gate = GATE_OUTPUTS * h if config.relative_positions else 0
        per_head = 4 * d * h + 3 * h + int(config.relative_positions)
        terms.append(CostTerm("attention", (module, f"{module}.heads"), per_head,
                              4 * t * d * h + 2 * t * t * h + t * gate))  # fmt: skip
        shared = gate + GATE_OUTPUTS if config.relative_positions else 0
        terms.append(CostTerm("attention", (module,), d + norm + shared, 0))  # output bias, norm, gate
    if config.ffn_dim[index]:
        module = f"{_layer(index)}feed_forward"
        terms.append(CostTerm("ffn", (module, f"{module}.hidden"), 2 * d + 1, 2 * t * d))
        terms.append(CostTerm("ffn", (module,), d + norm, 0))
    if not config.pre_norm:
        terms.append(CostTerm("norm", (), 4 * d, 0))
    return terms


def linear_layers(config: SpeechEncoderConfig, samples: int) -> list[LinearLayer]:
    """Return the linear layers of the Transformer."""
    t, layers = config.frames(samples)[-1], []
    for index in range(config.num_layers):
        if config.heads[index]:
            names = [f"{_layer(index)}attention.{name}" for name in (*_PROJECTIONS, "out_proj")]
            layers += [LinearLayer(name, "attention", t) for name in names]
        if config.ffn_dim[index]:
            layers += [LinearLayer(f"{_layer(index)}feed_forward.{name}", "ffn", t) for name in _LINEARS]
    return layers


def shrink(config: SpeechEncoderConfig, structure: Structure) -> SpeechEncoderConfig:
    """Return the configuration of the encoder that ``structure`` leaves."""

    def kept_heads(index: int, heads: tuple[int, ...]) -> tuple[int, ...]:
        units = structure.groups[f"{_layer(index)}attention.heads"].kept if heads else ()
        return tuple(heads[unit] for unit in units)

    channels = range(len(config.conv_channels))
    return replace(
        config,
        conv_channels=tuple(structure.count(f"{_convolution(index)}.channels") for index in channels),
        heads=tuple(kept_heads(index, heads) for index, heads in enumerate(config.heads)),
        ffn_dim=tuple(
            structure.count(f"{_layer(index)}feed_forward.hidden") if size else 0
            for index, size in enumerate(config.ffn_dim)
        ),
    )


def refuse_width(width: bool) -> None:
    """Refuse to declare the residual width, which post-norm layers and the positional convolution do not let go.

    Raises:
        UserError: ``width`` is True.
    """
    if width:
        raise UserError("the residual width of a speech encoder cannot be pruned", "leave width out of the unit kinds")
