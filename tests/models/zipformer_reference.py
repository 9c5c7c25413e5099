"""A Zipformer for one utterance, written once more from its description: frame by frame, head by head, in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pruning.models.zipformer_config import ZipformerConfig

State = Mapping[str, Tensor]


def swoosh(x: Tensor, shift: float, constant: float) -> Tensor:
    return torch.logaddexp(torch.zeros_like(x), x - shift) - 0.08 * x - constant


def bias_norm(x: Tensor, state: State, name: str, counted: int) -> Tensor:
    rms = ((x - state[f"{name}.bias"]) ** 2).sum(dim=-1, keepdim=True) / counted
    return x / rms.sqrt() * state[f"{name}.log_scale"].exp()


def linear(x: Tensor, state: State, name: str) -> Tensor:
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def encoding(distance: int, dim: int) -> Tensor:
    """Of the distance from a query to a key."""
    near = math.sqrt(dim)
    compressed = math.copysign(near * (math.log(abs(distance) + near) - math.log(near)), distance)
    angle = math.atan(compressed * 2 * math.pi / dim)
    values = [f(angle * (i + 1)) for i in range(dim // 2) for f in (math.cos, math.sin)]
    return torch.tensor([*values[:-1], 1.0], dtype=torch.float64)


def attention_weights(x: Tensor, state: State, name: str, config: ZipformerConfig, layer: int) -> list[Tensor]:
    """Return the weights (T, T) of each head."""
    heads, q, p = config.num_heads[layer], config.query_dim[layer], config.position_dim[layer]
    inside = linear(x, state, f"{name}.in_proj")
    found = []
    for head in range(heads):
        query = inside[:, head * q : (head + 1) * q]
        key = inside[:, (heads + head) * q : (heads + head + 1) * q]
        wanted = inside[:, 2 * heads * q + head * p : 2 * heads * q + (head + 1) * p]
        pos = state[f"{name}.pos_proj.weight"][head * p : (head + 1) * p]
        scores = torch.zeros(len(x), len(x), dtype=x.dtype)
        for i in range(len(x)):
            for j in range(len(x)):
                scores[i, j] = query[i] @ key[j] + wanted[i] @ (pos @ encoding(j - i, config.encoding_dim))
        found.append(scores.softmax(dim=1))
    return found


def attend(x: Tensor, weights: list[Tensor], state: State, name: str, dim: int) -> Tensor:
    values = linear(x, state, f"{name}.in_proj")
    heads = [weight @ values[:, head * dim : (head + 1) * dim] for head, weight in enumerate(weights)]
    return linear(torch.cat(heads, dim=1), state, f"{name}.out_proj")


def nonlinear(x: Tensor, weight: Tensor, state: State, name: str) -> Tensor:
    s, value, factor = linear(x, state, f"{name}.in_proj").chunk(3, dim=1)
    return linear((weight @ (value * s.tanh())) * factor, state, f"{name}.out_proj")


def around(x: Tensor, state: State, name: str, first: int) -> Tensor:
    """Convolve each channel; the kernel begins ``first`` frames after a frame."""
    weight, bias = state[f"{name}.weight"][:, 0], state[f"{name}.bias"]
    result = []
    for t in range(len(x)):
        y = bias.clone()
        for k in range(weight.shape[1]):
            if 0 <= t + first + k < len(x):
                y = y + weight[:, k] * x[t + first + k]
        result.append(y)
    return torch.stack(result)


def convolve(x: Tensor, state: State, name: str, kernel: int, causal: bool, chunk: int) -> Tensor:
    value, gate = linear(x, state, f"{name}.in_proj").chunk(2, dim=1)
    x, half = value * gate.sigmoid(), kernel // 2
    if not causal:
        y = around(x, state, f"{name}.depthwise", -half)
    else:
        y = around(x, state, f"{name}.chunked.past", -half)
        edges = state[f"{name}.chunked.edges"]
        size = chunk if 0 < chunk <= len(x) else len(x)
        padded = torch.cat([x, x.new_zeros(-len(x) % size, x.shape[1])])
        for start in range(0, len(x), size):
            within = around(padded[start : start + size], state, f"{name}.chunked.within", -half)
            for t in range(min(size, len(x) - start)):
                factor = torch.ones(x.shape[1], dtype=x.dtype)
                if t < kernel:
                    factor = factor + edges[0, :, t]
                if 0 <= t - (size - kernel) < kernel:
                    factor = factor + edges[1, :, t - (size - kernel)]
                y[start + t] += within[t] * factor
    return linear(swoosh(y, 1.0, 0.313261687), state, f"{name}.out_proj")


def feed_forward(x: Tensor, state: State, name: str) -> Tensor:
    return linear(swoosh(linear(x, state, f"{name}.linear1"), 4.0, 0.035), state, f"{name}.linear2")


def run_layer(x: Tensor, state: State, config: ZipformerConfig, layer: int, counted: int, chunk: int) -> Tensor:
    name, kernel, original = f"layers.{layer}", config.conv_kernel[layer], x
    weights = attention_weights(x, state, f"{name}.attention_weights", config, layer)
    x = x + feed_forward(x, state, f"{name}.ffn1")
    x = x + nonlinear(x, weights[0], state, f"{name}.nonlin")
    x = x + attend(x, weights, state, f"{name}.attention1", config.value1_dim[layer])
    x = x + convolve(x, state, f"{name}.convolution1", kernel, config.causal, chunk)
    x = x + feed_forward(x, state, f"{name}.ffn2")
    x = original + (x - original) * state[f"{name}.bypass_mid.scale"]
    x = x + attend(x, weights, state, f"{name}.attention2", config.value2_dim[layer])
    x = x + convolve(x, state, f"{name}.convolution2", kernel, config.causal, chunk)
    x = x + feed_forward(x, state, f"{name}.ffn3")
    return original + (bias_norm(x, state, f"{name}.norm", counted) - original) * state[f"{name}.bypass.scale"]


def downsample(x: Tensor, bias: Tensor) -> Tensor:
    weights = bias.softmax(dim=0)
    frames = []
    for start in range(0, len(x), len(bias)):
        frames.append(sum(weight * x[min(start + k, len(x) - 1)] for k, weight in enumerate(weights)))
    return torch.stack(frames)


def front_end(features: Tensor, state: State, counted: int) -> Tensor:
    x, name = features[None, None], "subsampling"
    for index, (stride, padding) in enumerate([((1, 1), (0, 1)), ((2, 2), 0), ((1, 2), 0)]):
        weight, bias = state[f"{name}.convs.{index}.weight"], state[f"{name}.convs.{index}.bias"]
        x = swoosh(torch.nn.functional.conv2d(x, weight, bias, stride, padding), 1.0, 0.313261687)
    module = f"{name}.convnext"
    y = torch.nn.functional.conv2d(x, state[f"{module}.depthwise.weight"], state[f"{module}.depthwise.bias"],
                                   padding=3, groups=x.shape[1])  # fmt: skip
    y = torch.einsum("hc,nctf->nhtf", state[f"{module}.pointwise1.weight"][:, :, 0, 0], y)
    y = swoosh(y + state[f"{module}.pointwise1.bias"][:, None, None], 4.0, 0.035)
    y = torch.einsum("ch,nhtf->nctf", state[f"{module}.pointwise2.weight"][:, :, 0, 0], y)
    x = x + y + state[f"{module}.pointwise2.bias"][:, None, None]
    x = torch.stack([linear(x[0, :, t].flatten(), state, f"{name}.out") for t in range(x.shape[2])])
    return bias_norm(x, state, f"{name}.out_norm", counted)


def encode(features: Tensor, state: State, config: ZipformerConfig, chunk: int = 0) -> Tensor:
    """Return ``(T', D)`` for ``features (T, C)``; attention is not restricted to chunks, only convolutions are."""
    features = (features - state["feature_mean"]) * state["feature_scale"]
    x, outputs = front_end(features, state, config.stacks[0].counted), []
    for number, stack in enumerate(config.stacks):
        x = torch.cat([x, x.new_zeros(len(x), stack.width)], dim=1)[:, : stack.width]
        original, factor = x, stack.downsampling
        if factor > 1:
            x = downsample(x, state[f"resampling.{number}.downsample.bias"])
        for layer in stack.layers:
            x = run_layer(x, state, config, layer, stack.counted, chunk // factor)
        if factor > 1:
            x = torch.stack([x[t // factor] for t in range(len(original))])
            x = original + (x - original) * state[f"resampling.{number}.combiner.scale"]
        outputs.append(x)
    whole = []
    for channel in range(config.d_model):  # from the last stack that has it
        whole.append([output for output in outputs if output.shape[1] > channel][-1][:, channel])
    return downsample(torch.stack(whole, dim=1), state["downsample.bias"])
