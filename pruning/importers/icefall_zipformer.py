"""Conversion of the networks of icefall's ``zipformer`` recipe: transducers, CTC, and transducers with a CTC head.

Nearly all dimensions follow from the shapes of tensors. Those of a head do not: options with icefall's names and
defaults give them, and the shapes must agree.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Union

from torch import Tensor

from pruning.errors import UserError
from pruning.importers.icefall_checkpoint import check_blank
from pruning.importers.icefall_transducer import feature_dim_of
from pruning.importers.zipformer_names import AROUND, UNUSED, layer_prefix, theirs
from pruning.limits import Count, check_fields
from pruning.models.prunable_zipformer import PrunableZipformer
from pruning.models.speech_model import CTC, SpeechModel, SpeechModelConfig
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.models.zipformer_config import ZipformerConfig

logger = logging.getLogger(__name__)

_REMEDY = "give a checkpoint of icefall's recipe zipformer"
_DIMENSIONS = "give --query-head-dim, --pos-head-dim and --value-head-dim as in training"
_OWN_SETTINGS = "give the checkpoint as icefall wrote it, or one without settings and icefall's options"
_ENCODER = "encoder."
_EARLIER = "encoder.encoder_embed.conv.0.weight"  # of Zipformers of pruned_transducer_stateless7 and 8


@dataclass(frozen=True)
class ZipformerOptions:
    """Options of icefall's ``train.py`` that describe a network, one value for all stacks or one per stack.

    Attributes:
        query_head_dim, pos_head_dim, value_head_dim: dimensions of a head. None: as the checkpoint says, or icefall's
            defaults 32, 4 and 12.
        num_heads: number of heads; None: what the shapes and the dimensions of a head give.
        downsampling_factor: factors of the stacks; None: what the shapes give.
        causal: whether the network is causal; None: what the shapes give.

    None of them may differ from what the checkpoint says.
    """

    query_head_dim: Optional[tuple[Count, ...]] = None
    pos_head_dim: Optional[tuple[Count, ...]] = None
    value_head_dim: Optional[tuple[Count, ...]] = None
    num_heads: Optional[tuple[Count, ...]] = None
    downsampling_factor: Optional[tuple[Count, ...]] = None
    causal: Optional[bool] = None

    def __post_init__(self) -> None:
        check_fields(self)


_DEFAULTS = {"query_head_dim": (32,), "pos_head_dim": (4,), "value_head_dim": (12,)}


class _Shapes:
    """Shapes of the tensors of a checkpoint."""

    def __init__(self, state: Mapping[str, Tensor], source: str) -> None:
        self._shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        self.source = source

    def has(self, name: str) -> bool:
        """Return whether there is a tensor ``name``."""
        return name in self._shapes

    def size(self, name: str, dim: int = 0) -> int:
        """Return a size of a tensor.

        Raises:
            UserError: there is no such tensor, or it has fewer dimensions.
        """
        if len(self._shapes.get(name, ())) <= dim:
            raise UserError(f"{self.source} has no tensor {name} as those of icefall's recipe zipformer", _REMEDY)
        return self._shapes[name][dim]

    def count(self, pattern: str) -> int:
        """Return how many numbers from 0 the group of a regular expression matches at the beginning of names."""
        numbers = {int(found.group(1)) for name in self._shapes for found in [re.match(pattern, name)] if found}
        return next(number for number in range(len(numbers) + 1) if number not in numbers)


def is_zipformer(state: Mapping[str, Tensor]) -> bool:
    """Return whether an icefall state dict is that of a Zipformer, of any version."""
    return any(name.startswith("encoder.encoders.") for name in state)


class _StackShape(NamedTuple):
    """What the shapes of a stack say: prefix of its first layer, its number of layers, and sizes in that layer."""

    prefix: str
    layers: int
    width: int
    downsampling: int
    rows: dict[str, int]
    """Rows of the tensors that hold all heads: ``in_proj``, ``pos``, ``value``."""
    kernel: int


def _stack_shape(shapes: _Shapes, number: int) -> _StackShape:
    stack = f"encoder.encoders.{number}."
    downsampled = shapes.has(f"{stack}downsample.bias")
    layers = f"{stack}encoder.layers." if downsampled else f"{stack}layers."
    prefix = f"{layers}0."
    causal = ".chunkwise_conv" if _causal(shapes) else ""
    rows = {"in_proj": shapes.size(f"{prefix}self_attn_weights.in_proj.weight"),
            "pos": shapes.size(f"{prefix}self_attn_weights.linear_pos.weight"),
            "value": shapes.size(f"{prefix}self_attn1.in_proj.weight")}  # fmt: skip
    return _StackShape(
        prefix,
        shapes.count(rf"{re.escape(layers)}(\d+)\."),
        shapes.size(f"{prefix}norm.bias"),
        shapes.size(f"{stack}downsample.bias") if downsampled else 1,
        rows,
        shapes.size(f"{prefix}conv_module1.depthwise_conv{causal}.weight", 2),
    )


def _causal(shapes: _Shapes) -> bool:
    """Return whether the convolutions are those of a causal network."""
    first = "encoder.encoders.0."
    layer = f"{first}encoder.layers.0." if shapes.has(f"{first}downsample.bias") else f"{first}layers.0."
    return shapes.has(f"{layer}conv_module1.depthwise_conv.causal_conv.weight")


def encoder_config(
    state: Mapping[str, Tensor], settings: Mapping[str, Any], options: ZipformerOptions, source: str
) -> ZipformerConfig:
    """Return the configuration of the encoder of a checkpoint.

    Args:
        state: state dict with icefall's names.
        settings: other values that icefall wrote into the checkpoint; may be empty.
        options: see `ZipformerOptions`.
        source: name of the checkpoint for messages.

    Raises:
        UserError: the network is another Zipformer, or options, ``settings`` and its shapes contradict each other.
    """
    shapes = _Shapes(state, source)
    if shapes.has(_EARLIER):
        raise UserError(f"{source} is a Zipformer of an earlier recipe (pruned_transducer_stateless7 or 8)", _REMEDY)
    stacks = [_stack_shape(shapes, number) for number in range(shapes.count(r"encoder\.encoders\.(\d+)\."))]
    causal = _causal(shapes)
    _check_causal(causal, settings, options, source)
    factors = tuple(stack.downsampling for stack in stacks)
    said = _per_stack("downsampling_factor", options, settings, len(stacks), source)
    if said not in (None, factors):
        where, remedy = _blamed("downsampling_factor", settings, _OWN_SETTINGS)
        raise UserError(f"{source} downsamples by {_list(factors)}, not by {_list(said or ())}{where}", remedy)
    dims = {name: _per_stack(name, options, settings, len(stacks), source) or () for name in _DEFAULTS}
    heads = tuple(_heads(stack, number, [dims[name][number] for name in _DEFAULTS], source)
                  for number, stack in enumerate(stacks))  # fmt: skip
    said = _per_stack("num_heads", options, settings, len(stacks), source)
    if said not in (None, heads):
        where, remedy = _blamed("num_heads", settings, _DIMENSIONS)
        of_heads = "; ".join(_list(values) for values in dims.values())
        raise UserError(f"{source} has {_list(heads)} heads, if those have the query, position and value dimensions "
                        f"{of_heads}, not {_list(said or ())}{where}", remedy)  # fmt: skip
    logger.info("%s: heads per stack %s", source, _list(heads))

    def sizes(tensor: str, dim: int = 0) -> tuple[int, ...]:
        return tuple(shapes.size(f"{stack.prefix}{tensor}.weight", dim) for stack in stacks)

    convs = ("encoder_embed.conv.0", "encoder_embed.conv.4", "encoder_embed.conv.7")
    channels = tuple(shapes.size(f"{name}.weight") for name in convs)
    bins = shapes.size("encoder_embed.out.weight", 1) // channels[-1]
    return ZipformerConfig(
        widths=tuple(stack.width for stack in stacks),
        stack_layers=tuple(stack.layers for stack in stacks),
        downsampling=factors,
        num_heads=heads,
        query_dim=dims["query_head_dim"],
        position_dim=dims["pos_head_dim"],
        value1_dim=dims["value_head_dim"],
        value2_dim=dims["value_head_dim"],
        ffn1_dim=sizes("feed_forward1.in_proj"),
        ffn2_dim=sizes("feed_forward2.in_proj"),
        ffn3_dim=sizes("feed_forward3.in_proj"),
        nonlin_dim=sizes("nonlin_attention.out_proj", 1),
        conv1_channels=sizes("conv_module1.out_proj", 1),
        conv2_channels=sizes("conv_module2.out_proj", 1),
        conv_kernel=tuple(stack.kernel for stack in stacks),
        encoding_dim=shapes.size(f"{stacks[0].prefix}self_attn_weights.linear_pos.weight", 1),
        feature_dim=feature_dim_of(settings.get("feature_dim"), bins, source),
        subsampling_channels=channels,
        convnext_dim=shapes.size("encoder_embed.convnext.pointwise_conv1.weight"),
        causal=causal,
    )


def _blamed(name: str, settings: Mapping[str, Any], remedy: str) -> tuple[str, str]:
    """Return where a wrong value of one of the `ZipformerOptions` comes from, in words, and what to do.

    Args:
        name: name of the option.
        settings: what the checkpoint says.
        remedy: what to do if the checkpoint says the value; if it does not, the option is to be left out.
    """
    if name in settings:
        return f" as its {name} says", remedy
    return "", f"leave out --{name.replace('_', '-')}"


def _per_stack(
    name: str, options: ZipformerOptions, settings: Mapping[str, Any], stacks: int, source: str
) -> Optional[tuple[int, ...]]:
    """Return a value for each stack: as the checkpoint says, else as given, else icefall's default, if any.

    Raises:
        UserError: the option differs from what the checkpoint says, or one of them is not for this number of stacks.
    """
    option = f"--{name.replace('_', '-')}"
    given, stored = getattr(options, name), _stored(name, settings, source)
    said = {place: _expanded(values, stacks, place, source)
            for place, values in ((name, stored), (option, given)) if values is not None}  # fmt: skip
    if len(set(said.values())) > 1:
        what = f"{source} was trained with {name} {_list(said[name])}, but {option} says {_list(said[option])}"
        raise UserError(what, f"leave out {option}")
    default = _DEFAULTS.get(name)
    return next(iter(said.values()), None if default is None else default * stacks)


def _stored(name: str, settings: Mapping[str, Any], source: str) -> Optional[tuple[int, ...]]:
    """Return the numbers that a checkpoint says for one of the `ZipformerOptions`; None if it says none."""
    if name not in settings:
        return None
    try:
        return tuple(int(value) for value in str(settings[name]).strip("()[] ").rstrip(",").split(","))
    except ValueError:
        what = f"{source} has {name} {settings[name]!r}, which is not a list of numbers"
        raise UserError(what, _OWN_SETTINGS) from None


def _expanded(values: tuple[int, ...], stacks: int, place: str, source: str) -> tuple[int, ...]:
    """Return one value per stack."""
    if len(values) not in (1, stacks):
        remedy = "give one, or one per stack" if place.startswith("--") else _OWN_SETTINGS
        raise UserError(f"{place} has {len(values)} values, but {source} has {stacks} stacks", remedy)
    return values * (stacks if len(values) == 1 else 1)


def _check_causal(causal: bool, settings: Mapping[str, Any], options: ZipformerOptions, source: str) -> None:
    """Refuse a checkpoint or an option that says something else than the shapes about whether a network is causal."""
    found = f"{source} is {'' if causal else 'not '}causal"
    stored = settings.get("causal")
    if stored is not None and (str(stored).lower() in ("true", "1")) != causal:
        raise UserError(f"{found} by its tensors, but its setting causal is {stored}", _OWN_SETTINGS)
    if options.causal not in (None, causal):
        raise UserError(found, f"give --causal {str(causal).lower()}")


def _heads(stack: _StackShape, number: int, dims: Sequence[int], source: str) -> int:
    """Return the number of heads of a stack, on which three shapes must agree, given the dimensions of a head."""
    query, position, value = dims
    each = {"in_proj": 2 * query + position, "pos": position, "value": value}
    heads = stack.rows["in_proj"] // each["in_proj"]
    if heads < 1 or any(heads * each[name] != rows for name, rows in stack.rows.items()):
        rows = ", ".join(str(count) for count in stack.rows.values())
        raise UserError(f"stack {number} of {source} does not have heads of query, position and value dimensions "
                        f"{query}, {position} and {value}: its tensors have {rows} rows", _DIMENSIONS)  # fmt: skip
    return heads


def _list(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


def load(
    state: Mapping[str, Tensor], settings: Mapping[str, Any], options: ZipformerOptions, source: str
) -> Union[Transducer, SpeechModel]:
    """Return the network of a checkpoint with its weights: a transducer if it has a joiner, else an encoder with CTC.

    Args:
        state, settings, options, source: see `encoder_config`.

    Raises:
        UserError: see `encoder_config`; or a tensor is missing, of another shape, or of no use.
    """
    check_blank(settings, source)
    encoder, shapes = encoder_config(state, settings, options, source), _Shapes(state, source)
    ctc = shapes.has("ctc_output.1.weight")
    model: Union[Transducer, SpeechModel]
    if shapes.has("joiner.output_linear.weight"):
        model = Transducer(_transducer_config(encoder, shapes, ctc))
    elif ctc:
        described = {"type": PrunableZipformer.form, "config": vars(encoder)}
        outputs = shapes.size("ctc_output.1.weight")
        model = SpeechModel(SpeechModelConfig(described, CTC, outputs, mix=False))
    else:
        raise UserError(f"{source} has neither a joiner nor a CTC head", _REMEDY)
    model.load_state_dict(_converted(state, encoder, model.state_dict(), source))
    return model.eval()


def _transducer_config(encoder: ZipformerConfig, shapes: _Shapes, ctc: bool) -> TransducerConfig:
    convolved = shapes.has("decoder.conv.weight")
    return TransducerConfig(
        zipformer=encoder,
        vocab_size=shapes.size("decoder.embedding.weight"),
        decoder_dim=shapes.size("decoder.embedding.weight", 1),
        context_size=shapes.size("decoder.conv.weight", 2) if convolved else 1,
        joiner_dim=shapes.size("joiner.encoder_proj.weight"),
        decoder_relu=convolved,
        blank_embedding=True,
        ctc=ctc,
        decoder_group=shapes.size("decoder.conv.weight", 1) if convolved else 1,
    )


def _converted(
    state: Mapping[str, Tensor], config: ZipformerConfig, network: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Return the tensors of our network, of which each must have its counterpart in icefall's, and the reverse."""
    left = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    result = {}
    for ours, tensor in network.items():
        module, _, parameter = ours.rpartition(".")
        if module in AROUND:
            name = f"{AROUND[module]}.{parameter}"
        elif ours.startswith(f"{_ENCODER}feature_"):
            result[ours] = tensor  # features are not normalised
            continue
        else:
            name = theirs(config, ours[len(_ENCODER) :])
        if name not in left:
            raise UserError(f"{source} has no tensor {name}", _REMEDY)
        if left[name].shape != tensor.shape:
            shapes = f"{tuple(left[name].shape)}, but its other tensors require {tuple(tensor.shape)}"
            raise UserError(f"{source} has {name} of shape {shapes}", _REMEDY)
        result[ours] = left.pop(name)
    unused = {f"{layer_prefix(config, layer)}{UNUSED}" for layer in range(config.num_layers)}
    additional = sorted(left.keys() - unused)
    if additional:
        raise UserError(f"{source} contains {additional[0]}, which the networks of icefall's recipe zipformer that are "
                        "supported do not have", "give a checkpoint with a joiner or a CTC head only")  # fmt: skip
    return result
