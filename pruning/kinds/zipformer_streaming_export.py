"""Export of causal Zipformers as streams, for the online recognisers of unmodified sherpa-onnx (``zipformer2``).

The encoder, or for CTC the whole network, takes ``x (N, T, C)``, the features of a chunk and of those ahead of it, and
all caches, and returns its output and all new caches. sherpa-onnx makes the caches by the metadata, which has one entry
per stack, for layers of one shape; it needs

- ``cached_key (L, N, query_head_dim num_heads)`` and ``cached_nonlin_attn (1, N, L, encoder_dim 3 / 4)``,
- ``cached_val1`` and ``cached_val2 (L, N, value_head_dim num_heads)``,
- ``cached_conv1`` and ``cached_conv2 (N, encoder_dim, kernel // 2)`` for each layer, in this order,
- ``embed_states (N, 128, 3, bins)`` and ``processed_lens (N,)``.

So that every layer can have its own shape, each is declared as a stack of its own, and ``encoder_dim`` and
``value_head_dim`` are the smallest that hold its caches. Where a cache has fewer channels, zeros fill it up at the
boundary of the graph; where a module does not exist, it is passed through.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.kinds.exports import AUTHOR, Agreement, Axes, Calls, Difference, ExportedCall, Exports, Part
from pruning.models.chunk import Chunk
from pruning.models.conformer import EncoderOutput
from pruning.models.speech_model import CTC, SpeechModel
from pruning.models.transducer import Transducer
from pruning.models.zipformer_config import CONVNEXT_KERNEL, ZipformerConfig
from pruning.models.zipformer_stream import StreamState, ZipformerStream
from pruning.speech.data.batches import Batch
from pruning.speech.decoding.ctc import ctc_greedy_search
from pruning.speech.decoding.greedy import greedy_search
from pruning.speech.interfaces import Decoder, Joiner, SearchedNetwork

FRONT_CHANNELS = 128
"""Channels of the front end's cache that sherpa-onnx allocates."""
STREAM = "decode_chunk_len"
"""Key of the metadata of a stream, and of no other file: feature frames from one chunk to the next."""
_CACHES = ("key", "nonlin_attn", "val1", "val2", "conv1", "conv2")
_MODULE_OF = dict(
    zip(_CACHES, ("attention_weights", "nonlin", "attention1", "attention2", "convolution1", "convolution2"))
)
Features = Callable[[Optional[Path], int], Iterable[Batch]]


class Declared(NamedTuple):
    """What the metadata say about a layer, from which sherpa-onnx makes its caches.

    Attributes:
        encoder_dim: channels of the convolutions' caches, of which nonlin_attn's has three quarters.
        query_head_dim, value_head_dim, num_heads: the products are the channels of the caches of keys and values.
        kernel: kernel size of the convolutions.
        left: frames of the left context at the frame rate of the layer.
    """

    encoder_dim: int
    query_head_dim: int
    value_head_dim: int
    num_heads: int
    kernel: int
    left: int

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each cache."""
        values = self.value_head_dim * self.num_heads
        return {"key": self.query_head_dim * self.num_heads, "nonlin_attn": self.encoder_dim * 3 // 4, "val1": values,
                "val2": values, "conv1": self.encoder_dim, "conv2": self.encoder_dim}  # fmt: skip

    def shape(self, cache: str, streams: int) -> tuple[int, ...]:
        """Return the shape of a cache for a number of streams."""
        channels = self.channels[cache]
        if cache == "nonlin_attn":
            return (1, streams, self.left, channels)
        return (streams, channels, self.kernel // 2) if cache.startswith("conv") else (self.left, streams, channels)


def declared(config: ZipformerConfig, chunk: Chunk) -> dict[int, Declared]:
    """Return what is declared about each layer that exists, by its number."""
    found = {}
    for stack in config.stacks:
        for index in filter(config.present.__getitem__, stack.layers):
            widest = max(config.conv1_channels[index], config.conv2_channels[index], 1)
            found[index] = Declared(
                4 * math.ceil(max(widest, config.nonlin_dim[index] * 4 / 3) / 4),
                config.query_dim[index],
                max(config.value1_dim[index], config.value2_dim[index], 1),
                max(config.num_heads[index], 1),
                config.conv_kernel[index],
                chunk.left // stack.downsampling,
            )
    return found


def _ours(cache: str, theirs: Tensor, channels: int) -> Tensor:
    """Return a cache of sherpa-onnx as one of ours ``(N, L, channels)``."""
    if cache == "nonlin_attn":
        return theirs[0].narrow(2, 0, channels)
    if cache.startswith("conv"):
        return theirs.narrow(1, 0, channels).transpose(1, 2)
    return theirs.narrow(2, 0, channels).transpose(0, 1)


def _theirs(cache: str, ours: Tensor, channels: int) -> Tensor:
    """Return a cache ``(N, L, C)`` of ours as one of sherpa-onnx, filled up with zeros to ``channels``."""
    filled = nn.functional.pad(ours, (0, channels - ours.shape[2]))
    if cache == "nonlin_attn":
        return filled[None]
    return filled.transpose(1, 2) if cache.startswith("conv") else filled.transpose(0, 1)


class ExportedStream(nn.Module):
    """A step of a stream with the caches of sherpa-onnx.

    Args:
        stream: encoder in evaluation mode, chunk size and left context.
        head: maps the encoder's output ``(N, T', D)`` to what the file returns.

    Raises:
        UserError: the encoder has no layers, or its front end has more channels than sherpa-onnx allows.
    """

    def __init__(self, stream: ZipformerStream, head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stream, self.encoder, self.head = stream, stream.encoder, head
        self.declared = declared(self.encoder.config, stream.chunk)
        self.empty = stream.start(1)
        if not self.declared:
            raise UserError("the network has no layers, so sherpa-onnx cannot stream it", "prune it less")
        channels = self.encoder.config.subsampling_channels[-1]
        if channels > FRONT_CHANNELS:
            raise UserError(f"the front end has {channels} channels, but sherpa-onnx streams at most {FRONT_CHANNELS}",
                            "prune them, or export without --chunk-size")  # fmt: skip

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """``x (N, T, C)`` and the caches in the order of `states` -> the output and the new caches."""
        *caches, front, processed = states
        named = self._by_layer(caches)
        layers: list[dict[str, Tensor]] = []
        for index, empty in enumerate(self.empty.layers):
            has = {cache: empty[module].shape[2] for cache, module in _MODULE_OF.items() if module in empty}
            layers.append({_MODULE_OF[cache]: _ours(cache, named[index][cache], size) for cache, size in has.items()})
        before = StreamState(processed, front.narrow(1, 0, self.empty.front.shape[1]), layers)
        output, after = self.stream.step(x, before)
        new = []
        for index, one in self.declared.items():
            for cache in _CACHES:
                state = after.layers[index].get(_MODULE_OF[cache])
                old = named[index][cache]
                new.append(old + 0 if state is None else _theirs(cache, state, one.channels[cache]))
        lacking = FRONT_CHANNELS - after.front.shape[1]
        filled = nn.functional.pad(after.front, (0, 0, 0, 0, 0, lacking))
        return (self.head(output), *new, filled, after.processed)

    def _by_layer(self, caches: Iterable[Tensor]) -> dict[int, dict[str, Tensor]]:
        remaining = iter(caches)
        return {index: {cache: next(remaining) for cache in _CACHES} for index in self.declared}

    def states(self, streams: int) -> dict[str, Tensor]:
        """Return the caches at the beginning of streams, by name, in the order of the file."""
        found = {
            f"cached_{cache}_{number}": torch.zeros(one.shape(cache, streams))
            for number, one in enumerate(self.declared.values())
            for cache in _CACHES
        }
        bins = self.encoder.config.bins
        found["embed_states"] = torch.zeros(streams, FRONT_CHANNELS, CONVNEXT_KERNEL // 2, bins)
        return {**found, "processed_lens": torch.zeros(streams, dtype=torch.int64)}

    def part(self, output: str, about: Mapping[str, str]) -> Part:
        """Describe the file; ``output`` is the name of its first output, ``about`` further metadata."""
        taken, ahead = self.stream.feature_frames
        states = self.states(2)
        x = torch.randn(2, taken, self.encoder.config.feature_dim, generator=torch.Generator().manual_seed(0))
        axes: dict[str, Mapping[int, str]] = {name: {_streams_at(name): "N"} for name in states}
        gives: Axes = {output: {0: "N"}, **{f"new_{name}": axis for name, axis in axes.items()}}
        layers = self.declared.values()
        vectors = {
            "num_encoder_layers": [1 for _ in layers],
            "encoder_dims": [one.encoder_dim for one in layers],
            "query_head_dims": [one.query_head_dim for one in layers],
            "value_head_dims": [one.value_head_dim for one in layers],
            "num_heads": [one.num_heads for one in layers],
            "cnn_module_kernels": [one.kernel for one in layers],
            "left_context_len": [one.left for one in layers],
        }
        facts = {"model_type": "zipformer2", **AUTHOR, "T": str(taken), STREAM: str(ahead),
                 "feature_dim": str(self.encoder.config.feature_dim),
                 **{name: ",".join(map(str, values)) for name, values in vectors.items()}, **about}  # fmt: skip
        return Part(self, (x, *states.values()), {"x": {0: "N"}, **axes}, gives, facts, per_channel=True)


def _streams_at(name: str) -> int:
    """Return the dimension of a cache that counts streams."""
    return 1 if any(name.startswith(f"cached_{cache}_") for cache in ("key", "nonlin_attn", "val1", "val2")) else 0


def streamed(step: Callable[..., Iterable[Tensor]], stream: ExportedStream, features: Tensor) -> Tensor:
    """Return the outputs ``(N, T', D)`` of streams of features ``(N, T, C)``, filled up to whole chunks with zeros.

    Args:
        step: takes features and caches and returns the output and the new caches.
        stream: what is exported.
        features: ``(N, T, C)``.
    """
    taken, ahead = stream.stream.feature_frames
    count = max(1, math.ceil((features.shape[1] - taken) / ahead) + 1)
    features = nn.functional.pad(features, (0, 0, 0, (count - 1) * ahead + taken - features.shape[1]))
    states, outputs = list(stream.states(len(features)).values()), []
    for index in range(count):
        output, *states = step(features[:, index * ahead : index * ahead + taken].contiguous(), *states)
        outputs.append(output)
    return torch.cat(outputs, dim=1)


@torch.no_grad()
def _compared(
    stream: ExportedStream, call: ExportedCall, batches: Iterable[Batch],
    searches: tuple[Callable[[Tensor, Tensor], list[list[int]]], Callable[[Tensor, Tensor], list[list[int]]]],
) -> Agreement:  # fmt: skip
    """Compare an exported stream with PyTorch's, and the hypotheses of the search with either."""
    difference, differing, count = Difference(), 0, 0
    for batch in batches:
        wanted, got = streamed(stream, stream, batch.features), streamed(call, stream, batch.features)
        if got.shape != wanted.shape:
            return Agreement(math.inf, "outputs have another shape")
        difference.add(got, wanted)
        lengths = torch.full((len(wanted),), wanted.shape[1])
        ours, theirs = (search(output, lengths) for search, output in zip(searches, (wanted, got)))
        differing += sum(one != other for one, other in zip(ours, theirs))
        count += len(wanted)
    return Agreement(difference.relative, f"largest relative difference of outputs {difference.relative:.1e}; "
                                          f"{differing} of {count} greedy hypotheses differ")  # fmt: skip


def streaming_transducer(
    model: Transducer, chunk: Chunk, around: Mapping[str, Part], batches_of: Features,
    of_export: Callable[[Calls], SearchedNetwork],
) -> Exports:  # fmt: skip
    """Describe the export of a transducer with a causal Zipformer as a stream.

    Args:
        model: network to export.
        chunk: chunk size and left context.
        around: decoder and joiner.
        batches_of: returns batches to compare on, for cuts (or None) and a largest number of batches.
        of_export: returns the network that searches use, from exported files.

    Raises:
        UserError: the network cannot be exported as a stream.
    """
    stream = ExportedStream(model.eval().encoder.stream(chunk), model.joiner.encoder_proj)
    joiner = copy.deepcopy(model.joiner)
    joiner.encoder_proj = nn.Identity()  # part of the encoder
    ours = Searched(model.decoder, joiner)

    def agree(calls: Calls, cuts: Optional[Path], max_batches: int) -> Agreement:
        searches = partial(greedy_search, ours), partial(greedy_search, of_export(calls))
        return _compared(stream, calls["encoder"], batches_of(cuts, max_batches), searches)

    encoder = stream.part("encoder_out", {"comment": "pruned streaming Zipformer transducer"})
    return Exports({"encoder": encoder, **around}, "", ("tokens.txt",), agree)


class Searched(NamedTuple):
    """A decoder, and a joiner that takes projected outputs of the encoder."""

    decoder: Decoder
    joiner: Joiner


def streaming_ctc(model: SpeechModel, chunk: Chunk, batches_of: Features) -> Exports:
    """Describe the export of a causal Zipformer with a CTC head as a stream.

    Args:
        model: network to export.
        chunk: chunk size and left context.
        batches_of: returns batches to compare on, for cuts (or None) and a largest number of batches.

    Raises:
        UserError: the network cannot be exported as a stream.
    """
    if model.config.task != CTC or model.config.mix:
        raise UserError("only networks for ctc whose head reads the last layer can be exported as streams",
                        "train one with model.mix=false")  # fmt: skip

    def head(output: Tensor) -> Tensor:
        lengths = torch.full((1,), output.shape[1])
        return model.head(EncoderOutput(output, lengths, [])).log_softmax(dim=2)

    stream = ExportedStream(model.eval().encoder.stream(chunk), head)
    stream.model = model  # its weights are part of the file

    def agree(calls: Calls, cuts: Optional[Path], max_batches: int) -> Agreement:
        return _compared(stream, calls["model"], batches_of(cuts, max_batches), (ctc_greedy_search, ctc_greedy_search))

    about = {"comment": "pruned streaming Zipformer with CTC"}
    return Exports({"model": stream.part("log_probs", about)}, "", ("tokens.txt",), agree)
