"""Stand-in for a reworked Conformer."""

from __future__ import annotations

from icefall.oracle import Attention, Convolution
from icefall.oracle import Conformer as Base
from icefall.oracle import Layer as BaseLayer
from scaling import BasicNorm, DoubleSwish, ScaledConv1d, ScaledConv2d, ScaledLinear
from torch import Tensor, nn


class Embed(nn.Module):
    def __init__(self, bins: int, d_model: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride, padding in ((1, 8, 1, 1), (8, 32, 2, 0), (32, 128, 2, 0)):
            layers += [ScaledConv2d(inputs, outputs, 3, stride=stride, padding=padding), nn.Identity(), DoubleSwish()]
        self.conv = nn.Sequential(*layers)
        self.out = ScaledLinear(128 * (((bins - 1) // 2 - 1) // 2), d_model)
        self.out_norm = BasicNorm(learned=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_norm(self.out(self.conv(x[None, None])[0].transpose(0, 1).flatten(1)))


class Layer(BaseLayer):
    def __init__(self, d: int, heads: int, hidden: int, kernel: int, dropout: float, layer_dropout: float) -> None:
        super().__init__()
        assert layer_dropout == 0.0
        self.self_attn = Attention(d, heads, ScaledLinear, scale_first=True)
        for name in ("feed_forward", "feed_forward_macaron"):
            first = ScaledLinear(d, hidden), nn.Identity(), DoubleSwish(), nn.Dropout(dropout)
            setattr(self, name, nn.Sequential(*first, ScaledLinear(hidden, d)))
        self.conv_module = Convolution(d, kernel, ScaledConv1d, None, DoubleSwish())
        self.norm_final = BasicNorm()

    def of_one(self, x: Tensor) -> Tensor:
        x = x + self.feed_forward_macaron(x)
        x = x + self.self_attn(x)
        x = x + self.conv_module(x)
        x = x + self.feed_forward(x)
        return self.norm_final(x)


class Conformer(Base):
    def __init__(
        self, num_features: int, d_model: int, nhead: int, dim_feedforward: int, num_encoder_layers: int,
        dropout: float, layer_dropout: float, cnn_module_kernel: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder_embed = Embed(num_features, d_model)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(
            Layer(d_model, nhead, dim_feedforward, cnn_module_kernel, dropout, layer_dropout)
            for _ in range(num_encoder_layers)
        )
