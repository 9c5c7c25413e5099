"""Standard Conformers, which return the outputs of a linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from icefall.oracle import Attention, Convolution
from icefall.oracle import Conformer as Base
from icefall.oracle import Layer as BaseLayer


class Embed(nn.Module):
    def __init__(self, bins: int, d_model: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, d_model, 3, 2), nn.ReLU(), nn.Conv2d(d_model, d_model, 3, 2), nn.ReLU())
        self.out = nn.Linear(d_model * (((bins - 1) // 2 - 1) // 2), d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x[None, None])[0].transpose(0, 1).flatten(1))


class Layer(BaseLayer):
    def __init__(self, d: int, heads: int, hidden: int, kernel: int, dropout: float, norm: type[nn.Module]) -> None:
        super().__init__()
        self.self_attn = Attention(d, heads, nn.Linear, scale_first=False)
        for name in ("feed_forward", "feed_forward_macaron"):
            layers = nn.Linear(d, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, d)
            setattr(self, name, nn.Sequential(*layers))
        self.conv_module = Convolution(d, kernel, nn.Conv1d, norm(d), nn.SiLU())
        for name in ("ff_macaron", "mha", "conv", "ff", "final"):
            setattr(self, f"norm_{name}", nn.LayerNorm(d))

    def of_one(self, x: Tensor) -> Tensor:
        x = x + self.feed_forward_macaron(self.norm_ff_macaron(x)) / 2
        x = x + self.self_attn(self.norm_mha(x))
        x = x + self.conv_module(self.norm_conv(x))
        x = x + self.feed_forward(self.norm_ff(x)) / 2
        return self.norm_final(x)


class Conformer(Base):
    norm: type[nn.Module] = nn.LayerNorm  # of the convolution modules

    def __init__(
        self, num_features: int, output_dim: int, d_model: int, nhead: int, dim_feedforward: int,
        num_encoder_layers: int, dropout: float, cnn_module_kernel: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale = d_model**0.5
        self.encoder_embed = Embed(num_features, d_model)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(
            Layer(d_model, nhead, dim_feedforward, cnn_module_kernel, dropout, self.norm)
            for _ in range(num_encoder_layers)
        )
        self.after_norm = nn.LayerNorm(d_model)
        self.encoder_output_layer = nn.Sequential(nn.Dropout(dropout), nn.Linear(d_model, output_dim))

    def output(self, y: Tensor) -> Tensor:
        return self.encoder_output_layer(self.after_norm(y))
