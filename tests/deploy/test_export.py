"""Exports into a directory that has one: what is there is the old export or the new one, never a part of each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from pruning.deploy import export, model_card
from pruning.deploy.exported import read_parts
from pruning.errors import UserError
from pruning.files import write_text
from pruning.kinds.exports import AUTHOR, Agreement, Exports, Part

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")


def exports(*names: str, bias: float = 0.0, metadata: dict[str, str] = AUTHOR) -> Exports:
    """Return an export of parts that add ``bias`` to three numbers."""
    module = nn.Linear(3, 3)
    with torch.no_grad():
        module.weight.copy_(torch.eye(3))
        module.bias.fill_(bias)
    part = Part(module, (torch.zeros(1, 3),), {"x": {0: "N"}}, {"y": {0: "N"}}, metadata)
    return Exports(dict.fromkeys(names, part), "", (), lambda *_: Agreement(0.0, ""), {"tokens.txt": f"{bias}\n"})


def names_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_an_export_replaces_the_one_before(tmp_path: Path) -> None:
    """Also one of another kind of network, in more forms; files of others are left alone."""
    export.write(exports("encoder", "model"), tmp_path, ["float32", "int8", "torchscript"])
    write_text(tmp_path / "int8" / "model.json", "{}")
    others = {"README.md", "vad.pt", "broken.onnx", "theirs.onnx"}
    for name in others:
        write_text(tmp_path / name, "of somebody else")
    export.write(exports("theirs", metadata={}), tmp_path / "else", ["float32"])
    os.replace(tmp_path / "else" / "theirs.onnx", tmp_path / "theirs.onnx")
    written = export.write(exports("encoder", "decoder"), tmp_path, ["float32", "int8"])
    assert written == [tmp_path / f"{name}{ending}" for name in ("encoder", "decoder")
                       for ending in (".onnx", ".int8.onnx")]  # fmt: skip
    assert names_in(tmp_path) == others | {path.name for path in written} | {"tokens.txt", "else/tokens.txt"}
    model_card.remove_card(tmp_path)
    assert (tmp_path / "README.md").is_file()


def test_a_failed_export_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = ["float32", "torchscript"]
    export.write(exports("encoder", "decoder"), tmp_path, forms)
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}

    def full(*_: object) -> list[Path]:
        raise OSError("no space left")

    monkeypatch.setattr(export, "write_torchscript", full)
    with pytest.raises(OSError, match="no space left"):
        export.write(exports("encoder", "decoder", bias=1.0), tmp_path, forms)
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_killed_export_is_no_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int) -> None:
    """Files that are missing are reported; an encoder is never beside the decoder of another network."""
    export.write(exports("encoder", "decoder"), tmp_path, ["float32"])
    left, replace = [moved], os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).parent == tmp_path:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        export.write(exports("encoder", "decoder", bias=1.0), tmp_path, ["float32"])
    if moved < 2:
        with pytest.raises(UserError, match="does not exist; export it"):
            read_parts(tmp_path, ("encoder", "decoder"), "float32")
    else:
        parts = read_parts(tmp_path, ("encoder", "decoder"), "float32")
        assert all(part(torch.zeros(1, 3))[0].tolist() == [[1.0, 1.0, 1.0]] for part in parts.values())


def test_inputs_of_other_shapes_are_an_error(tmp_path: Path) -> None:
    export.write(exports("encoder"), tmp_path, ["float32"])
    (part,) = read_parts(tmp_path, ("encoder",), "float32").values()
    for inputs in ((torch.zeros(1, 4),), ()):
        with pytest.raises(UserError, match="encoder.onnx cannot compute what it is given .*; give the network and"):
            part(*inputs)
