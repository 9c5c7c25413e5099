"""Small networks of Whisper and Moonshine for tests, as Hugging Face describes them, and checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pruning.importers.encoder_decoder import configuration, their_name
from pruning.models.encoder_decoder import EncoderDecoder

_WHISPER = {
    "model_type": "whisper", "vocab_size": 53, "num_mel_bins": 8, "d_model": 24, "encoder_layers": 3,
    "encoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_layers": 3, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 40, "max_source_positions": 30, "max_target_positions": 20, "decoder_start_token_id": 50,
    "eos_token_id": 49, "pad_token_id": 49, "bos_token_id": 49,
}  # fmt: skip
_MOONSHINE = {
    "model_type": "moonshine", "vocab_size": 41, "hidden_size": 24, "intermediate_size": 40,
    "encoder_num_hidden_layers": 3, "encoder_num_attention_heads": 2, "decoder_num_hidden_layers": 3,
    "decoder_num_attention_heads": 2, "decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "whisper": _WHISPER,
    "whisper-large-v3": {**_WHISPER, "num_mel_bins": 16, "d_model": 32, "encoder_layers": 4, "decoder_layers": 4},
    "whisper-turbo": {**_WHISPER, "num_mel_bins": 16, "encoder_layers": 5, "decoder_layers": 2},
    "moonshine-tiny": _MOONSHINE,
    "moonshine-base": {**_MOONSHINE, "hidden_size": 52, "encoder_num_hidden_layers": 4,
                       "decoder_num_hidden_layers": 2, "partial_rotary_factor": 0.62},
}  # fmt: skip
"""Tiny networks with the shapes of the published ones: layers and bins, in proportion, and shares of rotary entries."""
WHISPER, MOONSHINE = SHAPES["whisper"], SHAPES["moonshine-tiny"]
BOTH = [WHISPER, MOONSHINE]


def shape_name(shape: dict[str, Any]) -> str:
    return str(shape["model_type"])


@torch.no_grad()
def stirred(model: nn.Module) -> nn.Module:
    """Add noise to all weights, including biases and norms, so that nothing cancels; return in evaluation mode."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def network(shape: dict[str, Any], **changes: Any) -> EncoderDecoder:
    torch.manual_seed(1)
    model = stirred(EncoderDecoder(configuration({**shape, **changes})))
    assert isinstance(model, EncoderDecoder)
    return model


def utterances(model: EncoderDecoder, padding: bool = True) -> tuple[Tensor, Tensor]:
    """Return inputs and lengths: three utterances of which the last two end early, or one."""
    bins, generator = model.encoder.bins, torch.Generator().manual_seed(1)
    inputs = torch.randn(3, 60, bins, generator=generator) if bins else torch.randn(3, 8000, generator=generator)
    lengths = torch.tensor([60, 47, 20] if bins else [8000, 5400, 1500])
    return (inputs, lengths) if padding else (inputs[:1], lengths[:1])


def transcripts(model: EncoderDecoder, count: int = 3, length: int = 9) -> Tensor:
    tokens = torch.randint(model.config.decoder.vocab_size, (count, length), generator=torch.Generator().manual_seed(2))
    tokens[:, 0] = model.config.decoder.start
    return tokens


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@torch.no_grad()
def greedy(model: EncoderDecoder, inputs: Tensor, lengths: Tensor, prompt: list[int], steps: int) -> Tensor:
    """Return the most probable tokens after the prompt, step by step, ``(N, steps)``; nothing ends them."""
    state = model.decoder.start(model.decoder.memory(model.encoder(inputs, lengths)))
    count = len(lengths)
    for token in prompt:
        scores, state = model.decoder.step(torch.full((count,), token), state)
    found = []
    for _ in range(steps):
        found.append(scores.argmax(dim=1))
        scores, state = model.decoder.step(found[-1], state)
    return torch.stack(found, dim=1)


def save_hf(directory: Path, shape: dict[str, Any], **changes: Any) -> EncoderDecoder:
    """Write a network as Hugging Face does, without transformers; return it."""
    values = {**shape, **changes}
    model = network(values)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(values))
    state = {f"model.{their_name(name, shape['model_type'])}": tensor for name, tensor in model.state_dict().items()}
    save_file(state, directory / "model.safetensors")
    return model
