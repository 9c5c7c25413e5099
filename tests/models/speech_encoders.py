"""Small encoders of the wav2vec2 family for tests, and checks of exactness."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core.extraction import extract
from pruning.core.masking import Masker
from pruning.core.prunable import Prunable
from pruning.core.residual_width import has_width, kept_channels
from pruning.core.structure import Structure
from pruning.core.views import view_of
from pruning.models.conformer import EncoderOutput
from pruning.models.speech_encoder import SpeechEncoder, WaveformEncoder
from pruning.models.speech_encoder_config import KINDS, SpeechEncoderConfig

SHAPES = [
    {"model_type": kind, "feat_extract_norm": norm, "do_stable_layer_norm": pre_norm, "conv_bias": norm == "layer"}
    for kind, norm, pre_norm in itertools.product(KINDS, ("group", "layer"), (False, True))
]


def shape_name(shape: Mapping[str, Any]) -> str:
    return f"{shape['model_type']}-{shape['feat_extract_norm']}-{'pre' if shape['do_stable_layer_norm'] else 'post'}"


def hf_values(shape: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the ``config.json`` of a small network of the given ``shape``, which may override dimensions."""
    values = {
        "conv_dim": [6, 8, 10], "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2],
        "num_feat_extract_layers": 3, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 20, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
        "num_buckets": 16, "max_bucket_distance": 20, "layerdrop": 0.1,
    }  # fmt: skip
    return {**values, **shape, **changes}


def config(shape: Mapping[str, Any], **changes: Any) -> SpeechEncoderConfig:
    """Return the configuration of the same network without using transformers."""
    defaults = {"hidden_act": "gelu", "feat_extract_activation": "gelu", "layer_norm_eps": 1e-5, "hidden_dropout": 0.1,
                "attention_dropout": 0.1, "activation_dropout": 0.1, "feat_proj_dropout": 0.1}  # fmt: skip
    return SpeechEncoderConfig.from_hf(hf_values(shape, **{**defaults, **changes}))


def stirred(model: WaveformEncoder) -> WaveformEncoder:
    """Add noise to all weights, including biases and norms, so that nothing cancels; return in evaluation mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def utterances(padding: bool = True) -> tuple[Tensor, Tensor]:
    audio = torch.randn(3, 1600, generator=torch.Generator().manual_seed(1))
    return (audio, torch.tensor([1600, 1200, 700])) if padding else (audio[:1], torch.tensor([1600]))


def random_structure(model: Prunable, seed: int, keep: float, soft: bool = True) -> Structure:
    generator, masks = torch.Generator().manual_seed(seed), {}
    for group in model.unit_groups():
        opened = torch.rand(group.size, generator=generator) < keep
        opened[: group.minimum] = True
        opened |= group.settled(int(opened.sum())) == group.size
        masks[group.name] = opened * (0.4 + torch.rand(group.size, generator=generator)) if soft else opened.float()
    return Structure.from_masks(model.unit_groups(), masks)


def closed(model: WaveformEncoder, *names: str) -> Structure:
    """Return the structure that keeps everything except the named groups, which keep their minimum."""
    masks = {g.name: (torch.arange(g.size) < g.minimum).float() for g in model.unit_groups() if g.name in names}
    assert len(masks) == len(names)
    return Structure.from_masks(model.unit_groups(), masks)


def largest_difference(ours: EncoderOutput, theirs: EncoderOutput) -> float:
    """Return the largest difference over all hidden states, padding included, relative to the largest value of each."""
    assert len(ours.layers) == len(theirs.layers) and torch.equal(ours.lengths, theirs.lengths)
    return max(relative(a, b) for a, b in zip(ours.layers, theirs.layers))


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def gradients(model: WaveformEncoder, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the gradients of a loss for every weight; fills freed memory with large numbers first."""
    audio, lengths = utterances()
    model.to(dtype).zero_grad()
    loss = model(audio.to(dtype), lengths).output.square().mean()
    large = [torch.full((size,), 1e30) for size in range(200, 20_000, 100)]
    del large
    loss.backward()
    return {name: p.grad.double().clone() for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(model: WaveformEncoder) -> None:
    """Check repeatedly that gradients in single precision equal those in double precision."""
    exact = gradients(model, torch.float64)
    for _ in range(3):
        for name, gradient in gradients(model, torch.float32).items():
            error = (gradient - exact[name]).abs().max() / exact[name].abs().max().clamp(min=1e-3)
            assert error < 1e-3, name


@torch.no_grad()
def check_exact(model: nn.Module, structure: Structure, single: bool = True) -> SpeechEncoder:
    """Check that masked and extracted outputs agree, alone and in a batch.

    The tolerance is 1e-4 in ``single`` precision and smaller in double precision.

    Single precision says little about a front end with layer norms and very few channels: norms of two nearly equal
    numbers lose most of their digits, in the extracted network as in the masked one.
    """
    assert isinstance(model, WaveformEncoder)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        small = extract(model.to(dtype), structure)
        assert isinstance(small, SpeechEncoder)
        for padding in (False, True) if single or dtype == torch.float64 else ():
            audio, lengths = utterances(padding)
            with Masker(model, view_of(model, structure).unit_groups()).applied(structure.masks()):
                masked = model(audio.to(dtype), lengths)
            if has_width(structure):
                kept = kept_channels(structure, small.width, model.width)
                gone = sorted(set(range(model.width)) - set(kept or ()))
                assert not any(layer[..., gone].any() for layer in masked.layers), "heads read zeros"
                masked = masked._replace(layers=[layer[..., kept] for layer in masked.layers])
            assert largest_difference(small(audio.to(dtype), lengths), masked) < tolerance
    return small
