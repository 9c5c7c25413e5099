"""Zipformer (arXiv 2310.11230), with the dimensions of every layer set on their own.

It computes what icefall's second Zipformer computes (recipe ``zipformer``), without the modules that only shape
gradients (balancers and whitening) and without dropping layers at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.models.bias_norm import BiasNorm
from pruning.models.chunk import WHOLE, Chunk
from pruning.models.conformer import EncoderOutput
from pruning.models.feature_statistics import NormalisedFeatures
from pruning.models.layers import FeedForward
from pruning.models.limited import limited
from pruning.models.subsampling import beyond
from pruning.models.swoosh import swoosh_l
from pruning.models.zipformer_attention import AttentionWeights, NonlinearAttention, SelfAttention, compact_positions
from pruning.models.zipformer_config import SHORTEST, Stack, ZipformerConfig
from pruning.models.zipformer_convolution import ConvolutionModule
from pruning.models.zipformer_front_end import FrontEnd, TimeSharedDropout

_POSITION_DROPOUT = 0.15
_LOWEST_BYPASS = 0.2  # what icefall's limit falls to within 20,000 batches
_OUTPUT_DOWNSAMPLING = 2


_ATTENTIONS = ("attention1", "attention2")
_FIRST_HALF = ("attention1", "convolution1", "ffn2")
_SECOND_HALF = ("attention2", "convolution2", "ffn3")


@dataclass(frozen=True)
class Surroundings:
    """What the layers of a stack share for a batch.

    Attributes:
        positions: ``(2T - 1, encoding_dim)``.
        closed: keys that are not attended to, bool, broadcast against ``(N, H, T, T)``.
        lengths: ``(N,)`` valid frames.
        chunk: frames of a chunk, 0: the whole utterance.
    """

    positions: Tensor
    closed: Tensor
    lengths: Tensor
    chunk: int


class Bypass(nn.Module):
    """``original + scale (x - original)`` with a learned scale per channel, kept from 0.2 to 1 in training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, original: Tensor, x: Tensor) -> Tensor:
        """``(N, T, width)``, ``(N, T, width)`` -> ``(N, T, width)``."""
        return original + (x - original) * limited(self, "scale", _LOWEST_BYPASS, 1.0)


class Downsampling(nn.Module):
    """Weighted means of ``factor`` frames; the last frame is repeated to fill the last mean."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor, lengths: Optional[Tensor]) -> Tensor:
        """Downsample ``(N, T, C)``.

        Args:
            x: ``(N, T, C)``.
            lengths: ``(N,)`` valid frames, the last of which is repeated; None: the last frame of the batch is.

        Returns:
            ``(N, ceil(T / factor), C)``.
        """
        factor = len(self.bias)
        if lengths is not None:
            place = (lengths.clamp(min=1) - 1)[:, None, None].expand(-1, 1, x.shape[2])
            x = torch.where(beyond(lengths, x.shape[1])[:, :, None], x.gather(1, place), x)
        lacking = -x.shape[1] % factor
        if lacking or torch.jit.is_tracing():  # a trace is for any number of frames
            x = torch.cat([x, x[:, -1:].expand(-1, lacking, -1)], dim=1)
        return (x.reshape(x.shape[0], -1, factor, x.shape[2]) * self.bias.softmax(dim=0)[:, None]).sum(dim=2)


class ZipformerLayer(nn.Module):
    """Two halves of modules, with a bypass after the first, and a norm and a bypass around all after the second.

    Each half has a self-attention, a convolution and a feed-forward module, in this order; before the first there are
    one more feed-forward module and the nonlinear attention. A module whose dimension is 0 does not exist.
    """

    def __init__(self, config: ZipformerConfig, index: int, stack: Stack) -> None:
        super().__init__()
        width, heads, kernel = stack.width, config.num_heads[index], config.conv_kernel[index]
        self.isolated = config.isolated

        def ffn(hidden: int) -> Optional[FeedForward]:
            return feed_forward(width, hidden, config.dropout) if hidden else None

        def attention(value_dim: int) -> Optional[SelfAttention]:
            return SelfAttention(width, heads, value_dim) if value_dim else None

        def convolution(channels: int) -> Optional[ConvolutionModule]:
            return ConvolutionModule(width, channels, kernel, config.causal) if channels else None

        self.attention_weights = None
        if heads:
            dims = config.query_dim[index], config.position_dim[index], config.encoding_dim
            self.attention_weights = AttentionWeights(width, heads, *dims)
        nonlin = config.nonlin_dim[index]
        self.ffn1 = ffn(config.ffn1_dim[index])
        self.nonlin = NonlinearAttention(width, nonlin) if nonlin else None
        self.attention1 = attention(config.value1_dim[index])
        self.convolution1 = convolution(config.conv1_channels[index])
        self.ffn2 = ffn(config.ffn2_dim[index])
        self.bypass_mid = Bypass(width)
        self.attention2 = attention(config.value2_dim[index])
        self.convolution2 = convolution(config.conv2_channels[index])
        self.ffn3 = ffn(config.ffn3_dim[index])
        self.norm = BiasNorm(width, stack.counted)
        self.bypass = Bypass(width)

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        """``(N, T, width) -> (N, T, width)``."""
        original = x
        weights = None
        if self.attention_weights is not None:
            weights = self.attention_weights(x, around.positions, around.closed)
        if self.ffn1 is not None:
            x = x + self.ffn1(x)
        if self.nonlin is not None:
            assert weights is not None
            x = x + self.nonlin(x, weights[:, 0])
        x = self._mixed(x, weights, around, self.attention1, self.convolution1, self.ffn2)
        x = self.bypass_mid(original, x)
        x = self._mixed(x, weights, around, self.attention2, self.convolution2, self.ffn3)
        return self.bypass(original, self.norm(x))

    def step(
        self, x: Tensor, positions: Tensor, closed: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute a chunk of a causal network.

        Args:
            x: ``(N, T, width)``.
            positions, closed: see `AttentionWeights.step`.
            state: what each module keeps of the past, by the name of the module.

        Returns:
            ``(N, T, width)``, and the state after the chunk.
        """
        original, after, weights = x, dict(state), x.new_zeros(0)
        if self.attention_weights is not None:
            name = "attention_weights"
            weights, after[name] = self.attention_weights.step(x, positions, closed, state[name])
        for name in ("ffn1", "nonlin", *_FIRST_HALF, "bypass_mid", *_SECOND_HALF):
            module = getattr(self, name)
            if name == "bypass_mid":
                x = module(original, x)
            elif name not in state:  # it does not exist, or has no past
                x = x if module is None else x + module(x)
            else:
                seen = [weights[:, 0]] if name == "nonlin" else [weights] if name in _ATTENTIONS else []
                y, after[name] = module.step(x, *seen, state[name])
                x = x + y
        return self.bypass(original, self.norm(x)), after

    def _mixed(
        self, x: Tensor, weights: Optional[Tensor], around: Surroundings, attention: Optional[nn.Module],
        convolution: Optional[nn.Module], ffn: Optional[nn.Module],
    ) -> Tensor:  # fmt: skip
        """Add the modules of one half of the layer, those that exist, to ``x (N, T, width)``."""
        if attention is not None:
            x = x + attention(x, weights)
        if convolution is not None:
            x = x + convolution(x, around.lengths, around.chunk, self.isolated)
        return x if ffn is None else x + ffn(x)


def feed_forward(width: int, hidden: int, dropout: float) -> FeedForward:
    """Return a feed-forward module with SwooshL, and dropout that is shared over time."""
    module = FeedForward(width, hidden, 0.0, swoosh_l)
    module.dropout = TimeSharedDropout(dropout)
    with torch.no_grad():
        module.linear2.weight.mul_(0.1)
    nn.init.uniform_(module.linear2.bias, -0.01, 0.01)
    return module


class Resampling(nn.Module):
    """How a stack of a lower frame rate is entered and left: ``downsample``, and a bypass around the whole stack."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.downsample = Downsampling(factor)
        self.combiner = Bypass(width)

    def left(self, original: Tensor, x: Tensor) -> Tensor:
        """Return ``x (N, T', width)`` with frames repeated, combined with the stack's input ``(N, T, width)``."""
        repeated = x[:, :, None].expand(-1, -1, len(self.downsample.bias), -1).flatten(1, 2)[:, : original.shape[1]]
        return self.combiner(original, repeated)


class ZipformerEncoder(NormalisedFeatures):
    """Front end, stacks of layers at several frame rates, and downsampling to 25 frames a second.

    A recipe sets the statistics of the features (`NormalisedFeatures`).

    Attributes:
        chunk: context of forward passes that do not say theirs; only of a causal network.
    """

    chunk: Chunk = WHOLE

    def __init__(self, config: ZipformerConfig) -> None:
        super().__init__(config.feature_dim)
        self.config = config
        self.subsampling = FrontEnd(config)
        self.position_dropout = nn.Dropout(_POSITION_DROPOUT if config.dropout else 0.0)
        self.layers = nn.ModuleList(
            ZipformerLayer(config, index, stack) if config.present[index] else nn.Identity()
            for stack in config.stacks
            for index in stack.layers
        )
        self.resampling = nn.ModuleList(
            Resampling(stack.width, stack.downsampling) if stack.downsampling > 1 else nn.Identity()
            for stack in config.stacks
        )
        self.downsample = Downsampling(_OUTPUT_DOWNSAMPLING)

    def forward(
        self, features: Tensor, lengths: Tensor, return_layers: bool = False, chunk: Optional[Chunk] = None
    ) -> EncoderOutput:
        """Encode features.

        Under autocast, modules compute in its precision, but the residual stream keeps the precision of the features.

        Args:
            features: ``(N, T, feature_dim)``.
            lengths: ``(N,)`` valid frames.
            return_layers: whether to fill ``layers`` of the result: the outputs ``(N, T', D)`` that the network would
                have if it ended before the first stack, and after each stack.
            chunk: context of a causal network; None: its ``chunk``.

        Raises:
            UserError: the network cannot compute such chunks.
        """
        chunk = self.chunk if chunk is None else chunk
        self.check_chunk(chunk)
        features = nn.functional.pad(features, (0, 0, 0, max(0, SHORTEST - features.shape[1])))
        x = (features - self.feature_mean) * self.feature_scale
        x, lengths = self.subsampling(x, lengths)
        x = x.to(features.dtype)
        positions = compact_positions(x.shape[1], self.config.encoding_dim, x.device, x.dtype)
        outputs = [x]
        for stack, resampling in zip(self.config.stacks, self.resampling):
            x = resized(x, stack.width)
            outputs.append(self._stack(x, stack, resampling, positions, lengths, chunk))
            x = outputs[-1]
        ends, counts = self._ends(lengths), range(len(outputs) if return_layers else 0)
        layers = [self.joined(outputs[: count + 1], ends) for count in counts]
        output = layers[-1] if return_layers else self.joined(outputs, ends)
        return EncoderOutput(output, torch.div(lengths + 1, _OUTPUT_DOWNSAMPLING, rounding_mode="floor"), layers)

    def _stack(
        self, x: Tensor, stack: Stack, resampling: nn.Module, positions: Tensor, lengths: Tensor, chunk: Chunk
    ) -> Tensor:
        """Apply a stack to ``x (N, T, width)`` at the frame rate of the front end."""
        original, factor = x, stack.downsampling
        if isinstance(resampling, Resampling):
            x = resampling.downsample(x, self._ends(lengths))
        around = self._surroundings(x.shape[1], factor, positions, lengths, chunk)
        for index in stack.layers:
            if self.config.present[index]:
                x = self.layers[index](x, around)
        return resampling.left(original, x) if isinstance(resampling, Resampling) else x

    def _surroundings(self, frames: int, factor: int, positions: Tensor, lengths: Tensor, chunk: Chunk) -> Surroundings:
        """Return what layers share in a stack of ``frames`` frames; ``positions (2T - 1, P)`` may be for more."""
        lengths = torch.div(lengths + factor - 1, factor, rounding_mode="floor")
        middle = positions.shape[0] // 2
        near = self.position_dropout(positions[middle - frames + 1 : middle + frames])
        closed = beyond(lengths, frames)[:, None, None, :]
        if chunk.size:
            place = torch.arange(frames, device=lengths.device) * factor // chunk.size
            distance = place[:, None] - place[None, :]  # in chunks
            seen = chunk.left // chunk.size if chunk.left else frames
            closed = closed | (distance < 0) | (distance > seen)
        return Surroundings(near, closed, lengths, chunk.size // factor)

    def joined(self, outputs: Sequence[Tensor], lengths: Optional[Tensor]) -> Tensor:
        """Return the output ``(N, T', D)``: each channel from the last of ``outputs`` that has it, 0 if none has.

        ``lengths`` as for `Downsampling`.
        """
        parts, width = [outputs[-1]], outputs[-1].shape[2]
        for output in reversed(outputs[:-1]):
            if output.shape[2] > width:
                parts.append(output[:, :, width:])
                width = output.shape[2]
        whole = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
        return self.downsample(resized(whole, self.config.d_model), lengths)

    def _ends(self, lengths: Tensor) -> Optional[Tensor]:
        """Return where downsampling repeats the last frame of each utterance, None: where the batch ends."""
        return lengths if self.config.isolated else None

    def check_chunk(self, chunk: Chunk) -> None:
        """Refuse chunks that the network cannot compute.

        Raises:
            UserError: the network is not causal, sizes do not fit its frame rates or its convolutions, or the left
                context is not a multiple of the chunk: a stream could keep it, one forward pass could not.
        """
        if not chunk.size:
            return
        config, size = self.config, chunk.size
        if not config.causal:
            raise UserError("the network is not causal, so it cannot compute chunk by chunk", "give no chunk size")
        if any(size % stack.downsampling for stack in config.stacks):
            factor = max(stack.downsampling for stack in config.stacks)
            raise UserError(f"a chunk of {size} frames is not a multiple of the downsampling factors, the largest of "
                            f"which is {factor}", f"give a multiple of {factor}")  # fmt: skip
        whole = chunk.in_whole_chunks().left
        if chunk.left != whole:
            raise UserError(f"a left context of {chunk.left} frames is not a multiple of the chunk of {size} frames",
                            f"give {whole} or {whole + size}")  # fmt: skip
        reach = max((config.conv_kernel[index] // 2 * stack.downsampling
                     for stack in config.stacks for index in stack.layers), default=0)  # fmt: skip
        if chunk.left and chunk.left < reach:
            raise UserError(f"a left context of {chunk.left} frames is shorter than the {reach} frames that "
                            "convolutions see", f"give at least {reach} frames, or 0 for all")  # fmt: skip


def resized(x: Tensor, width: int) -> Tensor:
    """Return ``(N, T, width)``: the first channels of ``x (N, T, C)``, or all of them followed by zeros."""
    return x[:, :, :width] if width <= x.shape[2] else nn.functional.pad(x, (0, width - x.shape[2]))
