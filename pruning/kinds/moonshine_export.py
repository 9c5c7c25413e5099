"""Export of a Moonshine to the four files that sherpa-onnx's offline Moonshine loads.

`preprocess.onnx` maps ``audio (N, S)`` to the front end's output ``features (N, T, D)``, `encode.onnx` these and
``lengths (N,)`` int32 to ``encoder_out (N, T, D)``. `uncached_decode.onnx` takes the first token, ``tokens (N, 1)``
int32, ``encoder_out`` and ``seq_len (1,)`` int32, the number of tokens with this one. It returns ``logits (N, 1, V)``
and the states: for each layer keys and values of self-attention and of cross-attention, each ``(N, H, U or T, D)``.
`cached_decode.onnx` takes them after its other inputs and returns the new ones. sherpa-onnx passes states on as they
are, so that every layer has its own width. `tokens.txt` has the pieces.

The interface is that of the files of ``UsefulSensors/moonshine`` (``onnx/tiny``), as sherpa-onnx calls them.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, cast

import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.kinds.exports import AUTHOR, Calls, Part, padded
from pruning.models.attention_stack import rotation_of
from pruning.models.encoder_decoder import EncoderDecoder
from pruning.models.encoder_decoder_config import TextDecoderConfig
from pruning.models.text_decoder import DecoderLayer, Memory, TextDecoder
from pruning.speech.decoding.sherpa_rules import MOONSHINE_END, MOONSHINE_START
from pruning.speech.text.network_tokens import NetworkTokens
from pruning.speech.text.transcript_form import TranscriptForm

PREPROCESS, ENCODE, UNCACHED, CACHED = PARTS = ("preprocess", "encode", "uncached_decode", "cached_decode")
"""Names of the files."""
_TRACED_SAMPLES = 24000
_SPACE, _BLANKS = "▁", " \t\n\r\f\v"


class ExportedFrontEnd(nn.Module):
    """The convolutions over samples."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, audio: Tensor) -> Tensor:
        """``(N, S) -> (N, T, D)``; audio that is too short for a frame gives one."""
        audio = padded(audio, self.encoder.shortest)
        return self.encoder.convolved(audio, torch.ones_like(audio, dtype=torch.int64).sum(dim=1))


class ExportedLayers(nn.Module):
    """The layers of the encoder."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """``(N, T, D)``, ``(N,) -> (N, T, D)``."""
        return self.encoder.transformed(features, lengths.long()).output


class States(NamedTuple):
    """Keys and values ``(N, H, U, D)`` by layer, those of self-attention and those of the encoder's output."""

    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    memory: Memory

    def flat(self, config: TextDecoderConfig) -> list[Tensor]:
        """Return the tensors in the order of the exported files."""
        parts = {"keys": self.keys, "values": self.values, "cross_keys": self.memory.keys,
                 "cross_values": self.memory.values}  # fmt: skip
        return [parts[part][index] for part, index in state_order(config)]


def state_order(config: TextDecoderConfig) -> list[tuple[str, int]]:
    """Return the states that exist: kind and layer."""
    kinds = {"keys": config.heads, "values": config.heads, "cross_keys": config.cross_heads,
             "cross_values": config.cross_heads}  # fmt: skip
    return [(kind, index) for index in range(config.num_layers) for kind, heads in kinds.items() if heads[index]]


def _step(decoder: TextDecoder, tokens: Tensor, seq_len: Tensor, past: States) -> tuple[Tensor, States]:
    """Append ``tokens (N, 1)`` at position ``seq_len - 1``; return logits ``(N, 1, V)`` and the new states."""
    turned = rotation_of(decoder.config, seq_len.long() - 1)  # (2, 1, R)
    x, keys, values = decoder.embedding(tokens.long()), {}, {}
    for index, module in enumerate(decoder.layers):
        layer = cast(DecoderLayer, module)
        if layer.attention is not None and layer.attention_norm is not None:
            normed = layer.attention_norm(x)
            key, value = layer.attention.keys_values(normed, turned)
            keys[index] = _appended(past.keys.get(index), key)
            values[index] = _appended(past.values.get(index), value)
            x = x + layer.attention(normed, keys[index], values[index], None, turned)
        x = layer.feed(layer.read(x, past.memory, index))
    return decoder.logits(decoder.norm(x)), States(keys, values, past.memory)


def _appended(past: Optional[Tensor], new: Tensor) -> Tensor:
    return new if past is None else torch.cat([past, new], dim=2)


class ExportedFirst(nn.Module):
    """The decoder for the first token, which computes what cross-attention reads."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, tokens: Tensor, encoder_out: Tensor, seq_len: Tensor) -> tuple[Tensor, ...]:
        """``(N, 1)``, ``(N, T, D)``, ``(1,)`` -> ``(N, 1, V)`` and the states."""
        keys, values = {}, {}
        for index, module in enumerate(self.decoder.layers):
            attention = cast(DecoderLayer, module).cross_attention
            if attention is not None:
                keys[index], values[index] = attention.keys_values(encoder_out)
        memory = Memory(keys, values, encoder_out.new_zeros(1, 1, 1, 1))
        logits, states = _step(self.decoder, tokens, seq_len, States({}, {}, memory))
        return (logits, *states.flat(self.decoder.config))


class ExportedNext(nn.Module):
    """The decoder for one more token."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, tokens: Tensor, encoder_out: Tensor, seq_len: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """``(N, 1)``, ``(N, T, D)``, ``(1,)`` and the states -> ``(N, 1, V)`` and the new states."""
        parts: dict[str, dict[int, Tensor]] = {"keys": {}, "values": {}, "cross_keys": {}, "cross_values": {}}
        for (kind, index), state in zip(state_order(self.decoder.config), states):
            parts[kind][index] = state
        memory = Memory(parts["cross_keys"], parts["cross_values"], encoder_out.new_zeros(1, 1, 1, 1))
        logits, found = _step(self.decoder, tokens, seq_len, States(parts["keys"], parts["values"], memory))
        return (logits, *found.flat(self.decoder.config))


def moonshine_parts(model: EncoderDecoder, form: TranscriptForm) -> dict[str, Part]:
    """Describe the four files.

    Raises:
        UserError: transcripts begin and end with other tokens than sherpa-onnx's, which are fixed.
    """
    if (form.start, form.end) != ((MOONSHINE_START,), MOONSHINE_END):
        raise UserError(f"transcripts of the network begin with {form.start} and end with {form.end}, but sherpa-onnx "
                        f"has {MOONSHINE_START} and {MOONSHINE_END} for every Moonshine",
                        "write a Hugging Face directory: --hugging-face")  # fmt: skip
    config, encoder = model.config.decoder, model.encoder
    facts = {**AUTHOR, "comment": "pruned Moonshine", "model_type": "moonshine", "vocab_size": str(config.vocab_size),
             "layers": str(config.num_layers)}  # fmt: skip
    modules = (ExportedFrontEnd(model), ExportedLayers(model), ExportedFirst(model), ExportedNext(model))
    audio = torch.randn(1, max(_TRACED_SAMPLES, encoder.shortest), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = modules[0](audio)
        lengths = torch.tensor([features.shape[1]], dtype=torch.int32)
        encoded = modules[1](features, lengths)
        first = (torch.full((1, 1), form.start[0], dtype=torch.int32), encoded, torch.ones(1, dtype=torch.int32))
        _, *states = modules[2](*first)
    frames, n, one = {0: "N", 1: "T"}, {0: "N"}, {0: "N"}
    names = [f"{kind}_{index}" for kind, index in state_order(config)]
    lasting = {name: {0: "N", 2: "T"} if name.startswith("cross") else {0: "N", 2: "U"} for name in names}
    takes = {"tokens": n, "encoder_out": frames, "seq_len": {}}
    return {
        PREPROCESS: Part(modules[0], (audio,), {"audio": {0: "N", 1: "S"}}, {"features": frames}, facts),
        ENCODE: Part(modules[1], (features, lengths), {"features": frames, "lengths": n}, {"encoder_out": frames},
                     facts, per_channel=True),
        UNCACHED: Part(modules[2], first, takes, {"logits": one, **_renamed(lasting, "new")}, facts, per_channel=True),
        CACHED: Part(modules[3], (first[0], encoded, first[2] + 1, *states), {**takes, **lasting},
                     {"logits": one, **_renamed(lasting, "new")}, facts, per_channel=True),
    }  # fmt: skip


def _renamed(axes: dict[str, dict[int, str]], prefix: str) -> dict[str, dict[int, str]]:
    return {f"{prefix}_{name}": {at: f"{prefix} {axis}" if axis == "U" else axis for at, axis in found.items()}
            for name, found in axes.items()}  # fmt: skip


def symbol_table(tokens: NetworkTokens) -> str:
    """Return ``tokens.txt``: each piece, with ``▁`` for a space at its beginning, and its number.

    Special tokens are left out, and blanks elsewhere in a piece, which separate the columns.
    """
    rows = []
    for number, piece in sorted(tokens.symbols().items()):
        text = f"{_SPACE}{piece[1:]}" if piece.startswith(" ") else piece
        rows.append(f"{text.translate(dict.fromkeys(map(ord, _BLANKS)))}\t{number}\n")
    return "".join(rows)


class ExportedMoonshine:
    """Exported files, run as sherpa-onnx does.

    Args:
        calls: exported files, by name.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def logits(self, inputs: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits ``(1, U, V)`` behind each of ``tokens (1, U)``.

        Args:
            inputs: ``(1, S)`` samples.
            lengths: ``(1,)``, S.
            tokens: at least one.
        """
        (features,) = self._calls[PREPROCESS](inputs)
        frames = torch.tensor([features.shape[1]], dtype=torch.int32)
        (encoded,) = self._calls[ENCODE](features, frames)
        states: list[Tensor] = []
        found = []
        for count in range(tokens.shape[1]):
            one = tokens[:, count : count + 1].int().contiguous()
            call = self._calls[CACHED if count else UNCACHED]
            logits, *states = call(one, encoded, torch.tensor([count + 1], dtype=torch.int32), *states)
            found.append(logits)
        return torch.cat(found, dim=1)
