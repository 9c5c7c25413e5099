"""A causal Zipformer that encodes a stream chunk by chunk, with all that it keeps of the past in one state."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.models.chunk import Chunk
from pruning.models.zipformer import Resampling, ZipformerEncoder, resized
from pruning.models.zipformer_attention import compact_positions
from pruning.models.zipformer_config import CONVNEXT_KERNEL, Stack

AHEAD = 13
"""Feature frames after a chunk that its front end sees."""


class StreamState(NamedTuple):
    """What a stream keeps of the past.

    Attributes:
        processed: frames of the front end that were encoded, ``(N,)``.
        front: last frames before the front end's ConvNeXt module, ``(N, C, 3, F)``.
        layers: of each layer, name of the module -> its past frames ``(N, L, C)``.
    """

    processed: Tensor
    front: Tensor
    layers: list[dict[str, Tensor]]


class ZipformerStream:
    """Encode streams with a network, by chunks as in `ZipformerEncoder.forward`.

    Args:
        encoder: a causal network, in evaluation mode.
        chunk: number of frames of a chunk and of the left context, both at least 1.

    Raises:
        UserError: the network cannot compute such chunks.
    """

    def __init__(self, encoder: ZipformerEncoder, chunk: Chunk) -> None:
        encoder.check_chunk(chunk)
        factor = max(stack.downsampling for stack in encoder.config.stacks)
        if chunk.size < 1 or chunk.left < 1:
            raise UserError(f"a stream cannot have chunks of {chunk.size} and a left context of {chunk.left} frames",
                            f"give multiples of {factor} above 0")  # fmt: skip
        self.encoder, self.chunk = encoder, chunk

    @property
    def feature_frames(self) -> tuple[int, int]:
        """Number of feature frames that a step takes, and by how many they advance from step to step."""
        return 2 * self.chunk.size + AHEAD, 2 * self.chunk.size

    def start(self, streams: int) -> StreamState:
        """Return the state at the beginning of ``streams`` streams."""
        config, parameter = self.encoder.config, next(self.encoder.parameters())

        def zeros(*shape: int) -> Tensor:
            return parameter.new_zeros(streams, *shape)

        layers: list[dict[str, Tensor]] = []
        for stack in config.stacks:
            left = self.chunk.left // stack.downsampling
            for index in stack.layers:
                heads, reach = config.num_heads[index], config.conv_kernel[index] // 2
                sizes = {"attention_weights": (left, heads * config.query_dim[index]),
                         "nonlin": (left, config.nonlin_dim[index]),
                         "attention1": (left, heads * config.value1_dim[index]),
                         "attention2": (left, heads * config.value2_dim[index]),
                         "convolution1": (reach, config.conv1_channels[index]),
                         "convolution2": (reach, config.conv2_channels[index])}  # fmt: skip
                there = {name: size for name, size in sizes.items() if size[1] and config.present[index]}
                layers.append({name: zeros(*size) for name, size in there.items()})
        front = zeros(config.subsampling_channels[-1], CONVNEXT_KERNEL // 2, config.bins)
        return StreamState(torch.zeros(streams, dtype=torch.int64, device=parameter.device), front, layers)

    def step(self, features: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Encode the next chunk of each stream.

        Args:
            features: ``(N, 2 size + 13, feature_dim)``; the last 13 frames are also the first of the next chunk.
            state: state of the streams.

        Returns:
            ``(N, size / 2, D)`` and the state after the chunk.
        """
        encoder = self.encoder
        x = (features - encoder.feature_mean) * encoder.feature_scale
        x, front = encoder.subsampling.step(x, state.front)
        outputs, layers = [x], list(state.layers)
        for stack, resampling in zip(encoder.config.stacks, encoder.resampling):
            original = x = resized(x, stack.width)
            if isinstance(resampling, Resampling):
                x = resampling.downsample(x, None)
            left, frames = self.chunk.left // stack.downsampling, self.chunk.size // stack.downsampling
            positions = compact_positions(frames, encoder.config.encoding_dim, x.device, x.dtype, earlier=left)
            closed = self._closed(state.processed, stack, frames)
            for index in stack.layers:
                if encoder.config.present[index]:
                    x, layers[index] = encoder.layers[index].step(x, positions, closed, layers[index])
            x = resampling.left(original, x) if isinstance(resampling, Resampling) else x
            outputs.append(x)
        return encoder.joined(outputs, None), StreamState(state.processed + self.chunk.size, front, layers)

    def _closed(self, processed: Tensor, stack: Stack, frames: int) -> Tensor:
        """Return which of the keys of a stack are not attended to, those before the streams, ``(N, 1, 1, L + T)``."""
        left = self.chunk.left // stack.downsampling
        places = torch.arange(left + frames, device=processed.device) - left  # 0: the first new frame
        return (places[None, :] * stack.downsampling < -processed[:, None])[:, None, None, :]
