"""Conversion of icefall's Conformer transducers: the configuration of a checkpoint, and its tensors under our names.

Three forms are supported; they are told apart only by their tensors:

- ``transducer_stateless`` (and ``transducer_stateless2``): the joiner adds the encoder's output layer and the decoder.
- ``pruned_transducer_stateless``: encoder and decoder return scores of symbols, which the simple loss uses directly
  and the joiner through two more layers.
- ``pruned_transducer_stateless2`` to ``5``, called reworked: projections, joiner and simple heads are like ours; the
  weights of layers are stored as ``weight exp(weight_scale)``. ``3`` may contain a second decoder, joiner and simple
  heads for another corpus; ``5`` from before August 2022 contains linear layers that only training used. These tensors
  are left out.

The convolution modules of the first two forms have batch norm, layer norm or none, depending on the version of the
recipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.importers.icefall_checkpoint import check_blank
from pruning.models.conformer import REWORKED, STANDARD, ConformerConfig
from pruning.models.icefall_names import COMBINER, encoder_name, encoder_tensor, folded, scale_name
from pruning.models.transducer import TransducerConfig

_STATELESS, _PRUNED = "transducer_stateless", "pruned_transducer_stateless"
_KNOWN = "transducer_stateless and pruned_transducer_stateless to 5"
_REMEDY = f"give a checkpoint of a Conformer of {_KNOWN}"

_AROUND = {  # modules outside the encoder: ours -> theirs; several of ours may start from the same of theirs
    _STATELESS: {"joiner.encoder_proj": "encoder.encoder_output_layer.1", "joiner.output": "joiner.output_linear"},
    _PRUNED: {
        "joiner.encoder_proj": "encoder.encoder_output_layer.1",
        "simple_am": "encoder.encoder_output_layer.1",
        "joiner.decoder_proj": "decoder.output_linear",
        "simple_lm": "decoder.output_linear",
        "joiner.hidden": "joiner.inner_linear",
        "joiner.output": "joiner.output_linear",
    },
    REWORKED: {
        "joiner.encoder_proj": "joiner.encoder_proj",
        "joiner.decoder_proj": "joiner.decoder_proj",
        "joiner.output": "joiner.output_linear",
        "simple_am": "simple_am_proj",
        "simple_lm": "simple_lm_proj",
    },
}


class Form(NamedTuple):
    """Form of a checkpoint.

    Attributes:
        kind: ``transducer_stateless``, ``pruned_transducer_stateless`` or ``reworked``, see the module's docstring.
        config: configuration of our transducer that computes the same outputs.
        encoder: configuration of its encoder.
    """

    kind: str
    config: TransducerConfig
    encoder: ConformerConfig


def form_of(state: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> Form:
    """Find the form of an icefall state dict.

    Args:
        state: state dict with icefall's names, without DistributedDataParallel's ``module.``.
        settings: other values that icefall wrote into the checkpoint; may be empty.
        source: name of the checkpoint for messages.

    Raises:
        UserError: the network is not supported.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def size(name: str, dim: int = 0) -> int:
        if len(shapes.get(name, ())) <= dim:
            what = f"a tensor {name} with {len(shapes[name])} dimensions" if name in shapes else f"no tensor {name}"
            raise UserError(f"{source} has {what}, unlike all Conformers of {_KNOWN}", _REMEDY)
        return shapes[name][dim]

    for setting in ("causal_convolution", "dynamic_chunk_training"):
        if settings.get(setting):
            raise UserError(
                f"{source} was trained with {setting}",
                "give a checkpoint without it: streaming Conformers are not supported",
            )
    check_blank(settings, source)
    layer = "encoder.encoder.layers.0."
    heads, embedded = size(f"{layer}self_attn.pos_bias_u"), size("decoder.embedding.weight", 1)
    context = size("decoder.conv.weight", 2) if "decoder.conv.weight" in shapes else 1
    reworked = f"{layer}self_attn.in_proj.weight_scale" in shapes
    kind = REWORKED if reworked else _PRUNED if "joiner.inner_linear.weight" in shapes else _STATELESS
    convolutions = sorted(_numbers(shapes, r"encoder\.encoder_embed\.conv\.(\d+)\.weight"))
    if len(convolutions) != (3 if reworked else 2):
        raise UserError(f"{source} has {len(convolutions)} convolutions before its layers, unlike those of {_KNOWN}",
                        "give a checkpoint without a VGG front end")  # fmt: skip
    if not reworked and "encoder.after_norm.weight" not in shapes:
        raise UserError(f"{source} has no tensor encoder.after_norm.weight: its layer norms are after the modules "
                        "(normalize_before false)", _REMEDY)  # fmt: skip
    norm = "none"
    if f"{layer}conv_module.norm.weight" in shapes:
        norm = "batch" if f"{layer}conv_module.norm.running_mean" in shapes else "layer"
    d_model, channels = size(f"{layer}self_attn.out_proj.weight"), size("encoder.encoder_embed.out.weight", 1)
    kept = tuple(size(f"encoder.encoder_embed.conv.{number}.weight") for number in convolutions)
    encoder = ConformerConfig(
        d_model=d_model,
        num_layers=len(_numbers(shapes, r"encoder\.encoder\.layers\.(\d+)\.")),
        head_dim=size(f"{layer}self_attn.pos_bias_u", 1),
        num_heads=(heads,),
        macaron_dim=(size(f"{layer}feed_forward_macaron.0.weight"),),
        ffn_dim=(size(f"{layer}feed_forward.0.weight"),),
        conv_channels=(size(f"{layer}conv_module.pointwise_conv2.weight", 1),),
        conv_kernel=_odd(size(f"{layer}conv_module.depthwise_conv.weight", 2), source),
        feature_dim=feature_dim_of(settings.get("feature_dim"), channels // max(kept[-1], 1), source),
        subsampling_channels=kept,
        subsampling_strides=(1, 2, 2) if reworked else (2, 2),
        variant=REWORKED if reworked else STANDARD,
        conv_norm=norm,
        after_norm=not reworked,
    )
    meeting = "joiner.encoder_proj.weight" if reworked else "encoder.encoder_output_layer.1.weight"
    if kind == _STATELESS and size(meeting) != embedded:
        raise UserError(f"{source} has {meeting} with {size(meeting)} outputs, but its decoder has {embedded}",
                        _REMEDY)  # fmt: skip
    config = TransducerConfig(
        encoder=encoder,
        vocab_size=size("decoder.embedding.weight"),
        decoder_dim=embedded,
        context_size=context,
        joiner_dim=size(meeting),
        joiner_hidden=size("joiner.inner_linear.weight") if kind == _PRUNED else 0,
        decoder_proj=kind != _STATELESS,
        decoder_relu=kind != _STATELESS,
        blank_embedding=True,  # in the first form it is 0 because it was never trained
        ctc=False,
    )
    return Form(kind, config, encoder)


def _numbers(names: Iterable[str], pattern: str) -> set[int]:
    return {int(found.group(1)) for name in names for found in [re.match(pattern, name)] if found}


def _odd(kernel: int, source: str) -> int:
    if kernel % 2 == 0:
        raise UserError(f"{source} has convolutions with the even kernel size {kernel}", _REMEDY)
    return kernel


def feature_dim_of(said: Any, bins: int, source: str) -> int:
    """Return the bins of a frame from the bins after two convolutions of stride 2 (of 79 to 82, 19 are left).

    The result is ``said`` if given, or else the multiple of 4, which is usual.
    """
    fits = range(4 * bins + 3, 4 * bins + 7)
    if bins < 1 or (said is not None and said not in fits):
        raise UserError(f"{source} has a subsampling output that does not fit its convolutions"
                        + (f" and a feature_dim of {said}" if said is not None else ""), _REMEDY)  # fmt: skip
    return 4 * bins + 4 if said is None else int(said)


def converted(state: Mapping[str, Tensor], form: Form, network: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Convert icefall's state dict to ours, strictly: every tensor of each must have a counterpart in the other.

    The simple heads, which ``transducer_stateless`` was trained without, start as the joiner without its ``tanh``.

    Args:
        state: icefall's state dict, in any precision.
        form: form of the state dict.
        network: state dict of our network.
        source: name of the checkpoint for messages.

    Raises:
        UserError: a tensor is missing, has a shape that does not fit the others, or has no counterpart.
    """
    around, result, used = _AROUND[form.kind], dict[str, Tensor](), set()
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}

    def take(ours: str, theirs: str) -> None:
        scaled = form.kind == REWORKED and not theirs.endswith("eps")
        for needed in (theirs, scale_name(theirs))[: 1 + scaled]:
            if needed not in state:
                raise UserError(f"{source} has no tensor {needed}, so its recipe differs from the known ones", _REMEDY)
            used.add(needed)
        if state[theirs].shape != network[ours].shape:
            shapes = f"{tuple(state[theirs].shape)}, but its other tensors require {tuple(network[ours].shape)}"
            raise UserError(f"{source} has {theirs} of shape {shapes}", _REMEDY)
        if scaled and state[scale_name(theirs)].numel() != 1:
            raise UserError(f"{source} has several values in {scale_name(theirs)}, not one", _REMEDY)
        result[ours] = folded(state, theirs)

    for name in network:
        module, _, tensor = name.rpartition(".")
        if name in ("encoder.feature_mean", "encoder.feature_scale"):
            result[name] = torch.zeros(form.encoder.feature_dim) + float(name.endswith("scale"))
        elif name.startswith("encoder."):
            ours = name[len("encoder.") :]
            take(name, f"encoder.{encoder_name(ours, form.encoder.variant)}")
            result[name] = encoder_tensor(state, ours, form.encoder, "encoder.")
        elif module in around:
            take(name, f"{around[module]}.{tensor}")
        elif not (form.kind == _STATELESS and module in ("simple_am", "simple_lm")):
            take(name, name)
    if form.kind == _STATELESS:
        result.update(_simple_heads(result))
    left = sorted(name for name in state if name not in used and not _of_training(name))
    if left:
        raise UserError(f"{source} contains {left[0]}, which a {form.kind} Conformer transducer does not have", _REMEDY)
    return result


def _of_training(name: str) -> bool:
    """Return whether only training uses a tensor: for another corpus, or to combine layers at random."""
    return "_giga" in name or name.startswith(f"encoder.{COMBINER}")


def _simple_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return heads for the pruned-range loss whose sum is the joiner's output if ``tanh x`` is nearly ``x``."""
    output, projection = state["joiner.output.weight"], state["joiner.encoder_proj.weight"]
    return {
        "simple_am.weight": output @ projection,
        "simple_am.bias": output @ state["joiner.encoder_proj.bias"] + state["joiner.output.bias"],
        "simple_lm.weight": output.clone(),
        "simple_lm.bias": torch.zeros_like(state["joiner.output.bias"]),
    }
