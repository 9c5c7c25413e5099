"""Export of a Whisper to the two files that sherpa-onnx's offline Whisper loads.

`encoder.onnx` takes ``mel (N, bins, T)`` and returns the keys and values of cross-attention, ``n_layer_cross_k`` and
``n_layer_cross_v (L, N, T', C)``; its metadata tell sherpa-onnx the size of the caches and the special tokens.
`decoder.onnx` takes ``tokens (N, U)``, the caches ``in_n_layer_self_k_cache`` and ``in_n_layer_self_v_cache
(L, N, P, S)`` for all P positions, the outputs of the encoder and ``offset (1,)``, the number of tokens read before. It
returns ``logits (N, U, V)`` and the new caches. sherpa-onnx has one width for all layers: S and C are those of the
widest layer, and narrower layers use the first columns. `tokens.txt` has the pieces in base64.

The interface is that of ``scripts/whisper/export-onnx.py`` of k2-fsa/sherpa-onnx.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Optional, cast

import torch
from torch import Tensor, nn

from pruning.kinds.exports import AUTHOR, Calls, Part, length_of
from pruning.models.encoder_decoder import EncoderDecoder
from pruning.models.multi_head_attention import MultiHeadAttention
from pruning.models.text_decoder import DecoderLayer, Memory
from pruning.speech.text.network_tokens import NetworkTokens
from pruning.speech.text.transcript_form import TranscriptForm

ENCODER, DECODER = PARTS = ("encoder", "decoder")
"""Names of the files."""
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
_SYMBOLS = {"translate": ("<|translate|>",), "transcribe": ("<|transcribe|>",),
            "no_speech": ("<|nospeech|>", "<|nocaptions|>")}  # fmt: skip
"""Special tokens whose numbers sherpa-onnx asks for, by the key of the metadata."""
_TRACED_FRAMES, _TRACED_TOKENS = 300, 3


def _padded(x: Tensor, width: int) -> Tensor:
    """``(..., C) -> (..., width)``."""
    return nn.functional.pad(x, (0, width - x.shape[-1]))


class ExportedEncoder(nn.Module):
    """The encoder, with the keys and values that the decoder reads of its output."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model, self.width = model, cross_width(model)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, bins, T)`` -> twice ``(L, N, T', C)``; frames beyond the window are left out."""
        encoder = self.model.encoder
        assert encoder.window is not None
        x = mel.transpose(1, 2)[:, : encoder.window.frames]
        lengths = torch.ones_like(x[:, :, 0], dtype=torch.int64).sum(dim=1)
        x = encoder(x, lengths).output
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        for layer in self.model.decoder.layers:
            attention = cast(DecoderLayer, layer).cross_attention
            for part, name in zip(parts, ("k_proj", "v_proj")):
                made = x[..., :0] if attention is None else getattr(attention, name)(x)
                part.append(_padded(made, self.width))
        return torch.stack(parts[0]), torch.stack(parts[1])


class ExportedDecoder(nn.Module):
    """The decoder for one or more tokens behind those that the caches remember."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.decoder, self.width = model.decoder, self_width(model)

    def forward(
        self, tokens: Tensor, keys: Tensor, values: Tensor, cross_keys: Tensor, cross_values: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``(N, U)``, twice ``(L, N, P, S)``, twice ``(L, N, T, C)``, ``(1,)`` -> ``(N, U, V)`` and the new caches."""
        start, end = offset[0], offset[0] + length_of(tokens)
        positions = torch.arange(self.decoder.config.positions)
        places = positions[start:end]
        future = positions[:end][None, :] > places[:, None]
        bias = torch.zeros_like(future, dtype=keys.dtype).masked_fill(future, torch.finfo(keys.dtype).min)
        x = self.decoder.embedded(tokens, places)
        none = keys.new_zeros(1, 1, 1, 1)
        added: tuple[list[Tensor], list[Tensor]] = ([], [])
        for index, module in enumerate(self.decoder.layers):
            layer = cast(DecoderLayer, module)
            new = (x[..., :0], x[..., :0])
            if layer.attention is not None and layer.attention_norm is not None:
                normed = layer.attention_norm(x)
                new = layer.attention.k_proj(normed), layer.attention.v_proj(normed)
                read = (_continued(layer.attention, past[index, :, :start], rows)
                        for past, rows in zip((keys, values), new))  # fmt: skip
                x = x + layer.attention(normed, *read, bias)
            for part, rows in zip(added, new):
                part.append(_padded(rows, self.width))
            x = layer.feed(layer.read(x, _memory(layer.cross_attention, cross_keys, cross_values, none, index), index))
        caches = [torch.cat([past[:, :, :start], torch.stack(part), past[:, :, end:]], dim=2)
                  for past, part in zip((keys, values), added)]  # fmt: skip
        return self.decoder.logits(self.decoder.norm(x)), caches[0], caches[1]


def _continued(attention: MultiHeadAttention, past: Tensor, rows: Tensor) -> Tensor:
    """Return earlier rows ``(N, P, S)`` and new ones ``(N, U, H D)`` by head, ``(N, H, P + U, D)``."""
    return attention.by_head(torch.cat([past[..., : rows.shape[-1]], rows], dim=1))


def _memory(attention: Optional[MultiHeadAttention], keys: Tensor, values: Tensor, bias: Tensor, index: int) -> Memory:
    """Return what layer ``index`` reads of the encoder's output."""
    if attention is None:
        return Memory({}, {}, bias)
    width = attention.num_heads * attention.head_dim
    by_head = [attention.by_head(part[index][..., :width]) for part in (keys, values)]
    return Memory({index: by_head[0]}, {index: by_head[1]}, bias)


def self_width(model: EncoderDecoder) -> int:
    """Return S, the width of the caches: that of the widest layer."""
    return max(1, *model.config.decoder.heads) * model.config.decoder.head_dim


def cross_width(model: EncoderDecoder) -> int:
    """Return C, the width of the keys and values of cross-attention: that of the widest layer."""
    return max(1, *model.config.decoder.cross_heads) * model.config.decoder.head_dim


def whisper_parts(model: EncoderDecoder, form: TranscriptForm, numbers: Mapping[str, int]) -> dict[str, Part]:
    """Describe both files.

    Args:
        model: dense or extracted network.
        form: how transcripts begin; the last token of the start stands for no time stamps.
        numbers: special tokens by their symbols.
    """
    config, generator = model.config.decoder, torch.Generator().manual_seed(0)
    encoder, decoder = ExportedEncoder(model), ExportedDecoder(model)
    frames = min(_TRACED_FRAMES, 2 * model.config.encoder.positions)
    mel = torch.randn(1, model.encoder.bins, frames, generator=generator)
    with torch.no_grad():
        cross = encoder(mel)
    cache = torch.zeros(config.num_layers, 1, config.positions, self_width(model))
    tokens = torch.full((1, _TRACED_TOKENS), config.start)
    cached, remembered, u = {1: "N"}, {1: "N", 2: "T"}, {0: "N", 1: "U"}
    crosses = dict.fromkeys(("n_layer_cross_k", "n_layer_cross_v"), remembered)
    caches = [{f"{way}_n_layer_self_{part}_cache": cached for part in "kv"} for way in ("in", "out")]
    facts = _facts(model, form, numbers)
    return {
        ENCODER: Part(encoder, (mel,), {"mel": {0: "N", 2: "T"}}, crosses, facts, per_channel=True),
        DECODER: Part(decoder, (tokens, cache, cache, *cross, torch.ones(1, dtype=torch.int64)),
                      {"tokens": u, **caches[0], **crosses, "offset": {}}, {"logits": u, **caches[1]}, facts,
                      per_channel=True),
    }  # fmt: skip


def _facts(model: EncoderDecoder, form: TranscriptForm, numbers: Mapping[str, int]) -> dict[str, str]:
    """Return the metadata, with the keys that sherpa-onnx reads."""
    config, several = model.config.decoder, is_multilingual(form)
    languages = {found[1]: number for symbol, number in numbers.items() if (found := _LANGUAGE.fullmatch(symbol))}
    special = {key: next((numbers[symbol] for symbol in symbols if symbol in numbers), form.end)
               for key, symbols in _SYMBOLS.items()}  # fmt: skip
    facts: dict[str, object] = {
        **AUTHOR, "comment": "pruned Whisper", "model_type": "whisper", "n_mels": model.encoder.bins,
        "n_audio_ctx": model.config.encoder.positions, "n_audio_state": model.config.encoder.d_model,
        "n_audio_layer": model.config.encoder.num_layers, "n_vocab": config.vocab_size,
        "n_text_ctx": config.positions, "n_text_state": self_width(model), "n_text_layer": config.num_layers,
        "sot": form.start[0], "eot": form.end, "sot_index": 0, "blank_id": form.end, **special,
        "sot_sequence": ",".join(map(str, form.start[:-1])), "no_timestamps": form.start[-1],
        "is_multilingual": int(several),
        "all_language_tokens": ",".join(map(str, languages.values())), "all_language_codes": ",".join(languages),
    }  # fmt: skip
    return {key: str(value) for key, value in facts.items()}


def is_multilingual(form: TranscriptForm) -> bool:
    """Return whether transcripts begin with a language and a task."""
    return len(form.start) == 4


def asked_for(facts: Mapping[str, str]) -> dict[str, str]:
    """Return the language and the task of the transcripts, as sherpa-onnx is told them, from the metadata."""
    if facts["is_multilingual"] == "0":
        return {}
    _, language, task = facts["sot_sequence"].split(",")
    codes = dict(zip(facts["all_language_tokens"].split(","), facts["all_language_codes"].split(",")))
    return {"language": codes[language], "task": "translate" if task == facts["translate"] else "transcribe"}


def symbol_table(tokens: NetworkTokens) -> str:
    """Return ``tokens.txt``: the bytes of each piece in base64, and its number; special tokens are left out."""
    rows = (f"{base64.b64encode(piece).decode()} {number}\n" for number, piece in sorted(tokens.pieces().items()))
    return "".join(rows)


class ExportedWhisper:
    """Exported files, run as sherpa-onnx does.

    Args:
        calls: exported files, by name.
    """

    def __init__(self, calls: Calls) -> None:
        self._encoder, self._decoder = calls[ENCODER], calls[DECODER]
        facts = self._encoder.metadata
        self._shape = [int(facts[key]) for key in ("n_text_layer", "n_text_ctx", "n_text_state")]

    def logits(self, inputs: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits ``(1, U, V)`` behind each of ``tokens (1, U)``, the first two at once, then one by one.

        Args:
            inputs: ``(1, T, bins)`` features.
            lengths: ``(1,)``, T.
            tokens: at least two.
        """
        cross = self._encoder(inputs.transpose(1, 2).contiguous())
        layers, positions, width = self._shape
        caches = [torch.zeros(layers, 1, positions, width) for _ in range(2)]
        found, read = [], 0
        while read < tokens.shape[1]:
            some = tokens[:, read : read + 1 if read else 2].contiguous()
            logits, *caches = self._decoder(some, *caches, *cross, torch.tensor([read]))
            read += some.shape[1]
            found.append(logits)
        return torch.cat(found, dim=1)
