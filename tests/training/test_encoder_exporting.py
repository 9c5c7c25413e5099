"""Exported speech encoders compute what PyTorch's do, for any length and batch, irregular layers and all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.core.extraction import extract
from pruning.core.structure import Structure
from pruning.models.speech_encoder import SpeechEncoder
from pruning.speech.exported import ExportedPart
from pruning.training.encoder_exporting import agreement, export_onnx
from tests.models.speech_encoders import SHAPES, config, shape_name, stirred

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnx", reason="the extra 'export' is not installed")


def irregular(shape: dict[str, Any], **changes: Any) -> SpeechEncoder:
    """Without the attention of its first layer and the feed-forward module of its last; in evaluation mode."""
    model = stirred(SpeechEncoder(replace(config(shape), **changes)))
    generator, gone = torch.Generator().manual_seed(1), ("encoder.layers.0.attention", "encoder.layers.2.feed_forward")
    masks = {name: torch.zeros(1) for name in gone}
    for group in model.unit_groups():
        if group.size > 1:
            masks[group.name] = (torch.rand(group.size, generator=generator) < 0.7).float()
            masks[group.name][:2] = 1
    small = extract(model, Structure.from_masks(model.unit_groups(), masks))
    assert isinstance(small, SpeechEncoder)
    assert [bool(heads) for heads in small.config.heads] == [False, True, True]
    return small


def noise(*lengths: int) -> tuple[Tensor, Tensor]:
    audio = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(len(lengths)))
    return audio, torch.tensor(lengths)


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_outputs_agree(tmp_path: Path, shape: dict[str, Any]) -> None:
    model = irregular(shape)
    whole, small = export_onnx(model, tmp_path)
    lengths = ((900,), (3000, 2000, 500), (12000, 11000), (model.config.receptive_field,), (20, 7))
    exported = ExportedPart(whole, 1)
    assert agreement(model, exported, [noise(*each) for each in lengths]) < 1e-4
    assert 0 < agreement(model, ExportedPart(small, 1), [noise(3000, 2000)]) < 0.2
    assert exported.metadata["model_type"] == shape["model_type"]
    assert (exported.metadata["frame_shift"], exported.metadata["receptive_field"]) == ("20", "30")


def test_normalisation_goes_with_it(tmp_path: Path) -> None:
    model = irregular(SHAPES[2], normalise_audio=True)
    (path,) = export_onnx(model, tmp_path, int8=False)
    audio, lengths = noise(3000, 2000)
    assert agreement(model, ExportedPart(path, 1), [(3 * audio + 1, lengths)]) < 1e-4


def test_disagreement_is_told(tmp_path: Path) -> None:
    model = irregular(SHAPES[0])
    (path,) = export_onnx(model, tmp_path, int8=False)
    with torch.no_grad():
        model.encoder.layer_norm.weight.mul_(1.5)
    assert agreement(model, ExportedPart(path, 1), [noise(900)]) > 1e-2
