"""Exported encoders with a head compute what PyTorch does, for any length and batch, also with irregular layers."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.bin import export
from pruning.core.extraction import extract
from pruning.core.structure import Structure
from pruning.deploy.export import export_onnx
from pruning.deploy.exported import ExportedPart
from pruning.errors import UserError
from pruning.kinds.encoder_head_export import agreement
from pruning.models.speech_encoder import SpeechEncoder
from pruning.models.speech_model import SpeechModel, SpeechModelConfig
from pruning.speech.data.batches import Batch
from pruning.speech.text.intents import Intent, write_table
from tests.kinds.test_encoder_head import dense, kinds_and_tasks, work
from tests.models.speech_encoders import SHAPES, config, random_structure, shape_name, stirred
from tests.models.test_speech_model import description

__all__ = ["work"]
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnx", reason="the extra 'export' is not installed")


@pytest.fixture
def lang(tmp_path: Path) -> Path:
    (tmp_path / "lang").mkdir()
    (tmp_path / "lang" / "tokens.txt").write_text("<blk> 0\n")
    write_table([Intent("alarm", "set"), Intent("play", "music")], tmp_path / "lang")
    return tmp_path / "lang"


def irregular(shape: dict[str, Any], task: str = "ctc", **changes: Any) -> SpeechModel:
    """Return a network without the attention of its first layer and the feed-forward module of its last layer."""
    of_encoder = {"type": "speech_encoder", "config": asdict(replace(config(shape), **changes))}
    model = stirred(SpeechModel(SpeechModelConfig(of_encoder, task=task, outputs=7)))
    generator = torch.Generator().manual_seed(1)
    gone = ("encoder.encoder.layers.0.attention", "encoder.encoder.layers.2.feed_forward")
    masks = {name: torch.zeros(1) for name in gone}
    for group in model.unit_groups():  # type: ignore[operator]
        if group.size > 1:
            masks[group.name] = (torch.rand(group.size, generator=generator) < 0.7).float()
            masks[group.name][:2] = 1
    small = extract(model, Structure.from_masks(model.unit_groups(), masks))  # type: ignore[operator]
    assert isinstance(small, SpeechModel) and isinstance(small.encoder, SpeechEncoder)
    assert [bool(heads) for heads in small.encoder.config.heads] == [False, True, True]
    return small


def noise(*lengths: int) -> Batch:
    audio = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(len(lengths)))
    names = [str(index) for index in range(len(lengths))]
    return Batch(audio, torch.tensor(lengths), [[] for _ in names], names, ["" for _ in names], 1.0)


@pytest.mark.parametrize(
    ("shape", "task"), [*((shape, "ctc") for shape in SHAPES), (SHAPES[0], "intent")],
    ids=lambda value: value if isinstance(value, str) else shape_name(value),
)  # fmt: skip
def test_outputs_agree(tmp_path: Path, lang: Path, shape: dict[str, Any], task: str) -> None:
    model = irregular(shape, task)
    whole, small = export_onnx(model, tmp_path, lang)
    shortest = model.encoder.shortest
    lengths = ((900,), (3000, 2000, 500), (12000, 11000), (shortest,), (20, 7))
    exported = ExportedPart(whole, 1)
    same = agreement(model, exported, [noise(*each) for each in lengths])
    assert same.difference < 1e-4 and same.differing == [] and same.utterances == 9
    assert 0 < agreement(model, ExportedPart(small, 1), [noise(3000, 2000)]).difference < 0.2
    assert (exported.metadata["task"], exported.metadata["hears"]) == (task, "audio")
    assert exported.metadata["shortest"] == str(shortest) == "30"
    assert (tmp_path / ("tokens.txt" if task == "ctc" else "intents.txt")).is_file()


@pytest.mark.parametrize("kind", ["whisper", "moonshine"])
@pytest.mark.parametrize("task", ["ctc", "intent"])
def test_audio_encoders_agree(tmp_path: Path, lang: Path, kind: str, task: str) -> None:
    """After a cut, for any length, with padding; the shortest audio gives one frame, less audio none."""
    model = stirred(SpeechModel(SpeechModelConfig(description(kind), task=task, outputs=7)))
    small = extract(model, random_structure(model, 1, 0.6, soft=False))
    assert isinstance(small, SpeechModel)
    (path,) = export_onnx(small, tmp_path, lang, int8=False)
    exported, encoder = ExportedPart(path, 1), small.encoder
    whole = 60 if encoder.bins else 20000
    lengths = [(whole,), (whole, whole * 3 // 4, whole // 4), (encoder.shortest,), (whole // 2, 1)]
    batches = [noise(*each) for each in lengths]
    if encoder.bins:
        shaped = (torch.randn(len(one.lengths), int(one.lengths.max()), encoder.bins) for one in batches)
        batches = [replace(one, features=features) for one, features in zip(batches, shaped)]
    same = agreement(small, exported, batches)
    assert same.difference < 1e-4 and same.differing == []
    assert exported.metadata["model_type"] == "audio_encoder"
    window = {name: exported.metadata.get(name) for name in ("features", "window", "tail")}
    of_whisper = {"features": "whisper", "window": "60", "tail": ""}
    assert window == (of_whisper if kind == "whisper" else dict.fromkeys(window))


def test_normalisation_goes_with_it(tmp_path: Path, lang: Path) -> None:
    model = irregular(SHAPES[2], normalise_audio=True)
    (path,) = export_onnx(model, tmp_path, lang, int8=False)
    batch = noise(3000, 2000)
    assert agreement(model, ExportedPart(path, 1), [replace(batch, features=3 * batch.features + 1)]).difference < 1e-4


def test_disagreement_is_told(tmp_path: Path, lang: Path) -> None:
    model = irregular(SHAPES[0], "intent")
    (path,) = export_onnx(model, tmp_path, lang, int8=False)
    with torch.no_grad():
        model.head.output.weight.mul_(-1.5)
    same = agreement(model, ExportedPart(path, 1), [noise(900)])
    assert same.difference > 1e-2 and same.differing == ["0"]


def test_modules_of_hugging_face_go_as_ours(tmp_path: Path, lang: Path) -> None:
    pytest.importorskip("transformers", reason="its encoder is exported")
    model = stirred(SpeechModel(SpeechModelConfig(description("hugging_face"), outputs=7)))
    assert isinstance(model, SpeechModel) and not model.encoder.bins
    (path,) = export_onnx(model, tmp_path, lang, int8=False)
    batch = noise(3000, 2000)
    wanted = model.eval()(batch.features, batch.lengths)
    found, lengths = ExportedPart(path, 1)(batch.features, batch.lengths)
    assert torch.equal(lengths, wanted.encoded.lengths)
    torch.testing.assert_close(found[0], wanted.logits.log_softmax(dim=2)[0].detach(), atol=1e-4, rtol=1e-3)


@kinds_and_tasks(
    in_ci=["whisper ctc", "speech_encoder ctc", "conformer intent"],
    other=["conformer ctc", "speech_encoder intent", "whisper intent"],
)
def test_the_command(work: Path, tmp_path: Path, kind: str, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = dense(work, tmp_path, kind, task)
    options = ["--exp-dir", str(place), "--lang-dir", str(work / "lang"), "--output", str(tmp_path / "export")]
    export.main([*options, "--cuts", str(work / "slurp_cuts_dev.jsonl.gz")])
    export.main([*options, "--check"])
    printed = capsys.readouterr().out
    assert printed.count("float32: largest relative difference") == 2 and "differ for 0 of 6 utterances" in printed
    with pytest.raises(UserError, match=r"--text is not for .*, which contains an encoder with a head"):
        export.main([*options, "--text", "x"])
