"""Unit groups of every network in the words of the field."""

from __future__ import annotations

import pytest

from pruning.reports.unit_names import cost_kind, place


@pytest.mark.parametrize(
    ("group", "row", "column"),
    [
        ("encoder.subsampling.convs.0.channels", "subsampling convolution 1", "channels"),
        ("encoder.layers.0.macaron.hidden", "encoder layer 1", "macaron FFN hidden units"),
        ("encoder.layers.11.attention.heads", "encoder layer 12", "self-attention heads"),
        ("encoder.width", "encoder", "residual stream"),
        ("feature_extractor.conv_layers.6.channels", "front end convolution 7", "channels"),
        ("encoder.front_end.convolutions.1.channels", "front end convolution 2", "channels"),
        ("decoder.layers.2.cross_attention.heads", "decoder layer 3", "cross-attention heads"),
        ("layers.1.ffn.linear1.components", "layer 2", "FFN first matrix components"),
        ("encoder.layers.3", "encoder layer 4", "whole"),
        ("encoder.subsampling.convnext.hidden", "subsampling convnext", "hidden units"),
        ("width", "network", "residual stream"),
    ],
)
def test_places(group: str, row: str, column: str) -> None:
    assert place(group)[:2] == (row, column)


def test_kinds_of_costs() -> None:
    assert cost_kind("encoder_ffn") == "encoder FFN" and cost_kind("frontend") == "front end"
    assert cost_kind("decoder_cross_attention") == "decoder cross attention"
