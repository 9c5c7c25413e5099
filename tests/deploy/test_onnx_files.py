"""What is refused before ONNX files are written; the files of each kind of network are tested with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pruning.deploy import onnx_files
from pruning.errors import UserError
from pruning.kinds.exports import Part


def test_a_part_that_does_not_fit_a_file_is_refused(tmp_path: Path) -> None:
    """Before the first file is written. Weights on the device `meta` take no memory."""
    small = Part(nn.Linear(3, 3), (torch.zeros(1, 3),), {"x": {}}, {"y": {}}, {})
    large = Part(nn.Linear(30000, 20000, device="meta"), (torch.zeros(1, 30000),), {"x": {}}, {"y": {}}, {})
    with pytest.raises(UserError, match="encoder has 2.2 GiB of float32 weights, and an ONNX file holds less than 2"):
        onnx_files.write({"preprocess": small, "encoder": large}, tmp_path)
    assert not list(tmp_path.iterdir())
    embedding = nn.Embedding(20000, 15000, device="meta")
    twice = Part(embedding, (torch.zeros(1, 1, dtype=torch.long),), {"x": {}}, {"y": {}}, {})
    with pytest.raises(UserError, match="decoder has 2.2 GiB"):
        onnx_files.write({"decoder": twice}, tmp_path)
