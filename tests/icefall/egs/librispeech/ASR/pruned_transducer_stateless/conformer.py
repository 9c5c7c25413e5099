"""Stand-in for a standard Conformer with batch norm in its convolution modules, as in December 2021."""

from icefall.standard import Conformer as WithLayerNorm
from torch import nn


class Conformer(WithLayerNorm):
    norm = nn.BatchNorm1d
