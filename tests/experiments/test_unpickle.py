"""Checkpoints of others are read without executing code in them."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.errors import UserError
from pruning.experiments import unpickle


def icefall_like() -> dict[str, Any]:
    """Contents like those of icefall's save_checkpoint: tensors, optimiser state, paths, numpy numbers, None."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    shared = torch.randn(5)
    return {
        "model": model.state_dict(),
        "model_avg": collections.OrderedDict(weight=torch.randn(2, 3, dtype=torch.float64)),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "complex": torch.randn(3, dtype=torch.complex64),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "tied": [shared, shared[1:]],
        "parameter": torch.nn.Parameter(torch.arange(3.0)),
        "view": torch.arange(6).view(2, 3).t(),
        "optimizer": optimizer.state_dict(),
        "grad_scaler": {"scale": 65536.0, "growth_interval": 2000},
        "sampler": None,
        "exp_dir": Path("exp/zipformer"),
        "best_train_loss": np.float64(0.25),
        "batch_idx_train": np.int64(7),
        "indices": np.arange(4),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "shape": torch.Size([2, 3]),
        "options": argparse.Namespace(world_size=1),
        "blob": b"\x00\xff",
        "seen": {1, 2},
        "milestones": collections.Counter([3, 3]),
        "recent": collections.deque([1]),
    }


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype and np.array_equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right):
            assert_same(one, other)
    else:
        assert type(left) is type(right) and left == right


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_icefall_writes(tmp_path: Path, zipped: bool) -> None:
    written = icefall_like()
    torch.save(written, tmp_path / "epoch-1.pt", _use_new_zipfile_serialization=zipped)
    assert_same(written, unpickle.load(tmp_path / "epoch-1.pt"))


def test_views_of_one_storage_share_it(tmp_path: Path) -> None:
    base = torch.zeros(4)
    torch.save([base, base[2:]], tmp_path / "shared.pt")
    first, second = unpickle.load(tmp_path / "shared.pt")
    first[3] = 7.0
    assert second[1] == 7.0


class Evil:
    """Executes a function when an ordinary unpickler loads it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_refuses_functions_by_name_and_runs_none(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "ran"
    torch.save({"model": {}, "x": Evil(os.mkdir, str(mark))}, tmp_path / "e.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"e\.pt contains (posix|nt|os)\.mkdir"):
        unpickle.load(tmp_path / "e.pt")
    assert not mark.exists()
    with pytest.raises(UserError, match="contains builtins.eval|contains __builtin__.eval"):
        torch.save(Evil(eval, "1"), tmp_path / "eval.pt", _use_new_zipfile_serialization=zipped)
        unpickle.load(tmp_path / "eval.pt")


def test_refuses_attributes_of_allowed_classes(tmp_path: Path) -> None:
    """Protocol 4 allows dotted names; only exact names are on the list."""
    payload = pickle.PROTO + b"\x04" + b"cpathlib\nPosixPath.cwd\n)R."
    (tmp_path / "dotted.pt").write_bytes(payload)
    with pytest.raises(UserError):
        unpickle.load(tmp_path / "dotted.pt")
    with (tmp_path / "dotted.pt").open("rb") as stream, pytest.raises(unpickle._Refused, match="PosixPath.cwd"):
        unpickle._Unpickler(stream).load()


@pytest.mark.parametrize("owner", [b"cpathlib\nPosixPath\n", b"cargparse\nNamespace\n", b"c_codecs\nencode\n"])
def test_refuses_new_attributes_for_classes_and_functions(tmp_path: Path, owner: bytes) -> None:
    state = b"(N}X\x06\x00\x00\x00harmed" + b"I1\nst"  # (None, {"harmed": 1})
    (tmp_path / "build.pkl").write_bytes(b"\x80\x02" + owner + state + b"b.")
    with (tmp_path / "build.pkl").open("rb") as stream, pytest.raises(unpickle._Refused, match="state for"):
        unpickle._Unpickler(stream).load()
    assert not hasattr(Path, "harmed") and not hasattr(argparse.Namespace, "harmed")


def test_refuses_views_beyond_the_storage(tmp_path: Path) -> None:
    rebuild, (storage, *_) = torch.zeros(4).__reduce_ex__(2)
    torch.save(Evil(rebuild, storage, 0, (1000,), (1,), False, {}), tmp_path / "beyond.pt")
    with pytest.raises(UserError, match="beyond.pt is not a readable"):
        unpickle.load(tmp_path / "beyond.pt")


def test_refuses_numpy_object_scalars(tmp_path: Path) -> None:
    scalar = np.float64(1).__reduce__()[0]
    torch.save(Evil(scalar, np.dtype("O"), b"\x00" * 8), tmp_path / "pointer.pt")
    with pytest.raises(UserError, match="numpy scalar of type object"):
        unpickle.load(tmp_path / "pointer.pt")


def test_refuses_torchscript(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "cpu_jit.pt"))
    with pytest.raises(UserError, match="TorchScript"):
        unpickle.load(tmp_path / "cpu_jit.pt")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 not a zip", b"\x80\x02}q\x00", pickle.dumps({})])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(UserError, match="bad.pt"):
        unpickle.load(tmp_path / "bad.pt")


def test_the_version_of_torch_is_text(tmp_path: Path) -> None:
    """In older icefall checkpoints it is an object of torch's own class."""
    torch.save({"env_info": {"torch-version": torch.__version__}}, tmp_path / "epoch-1.pt")
    found = unpickle.load(tmp_path / "epoch-1.pt")["env_info"]["torch-version"]
    assert type(found) is str and found == str(torch.__version__)


def test_a_pointer_of_git_lfs_is_told(tmp_path: Path) -> None:
    (tmp_path / "pretrained.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="pretrained.pt is a Git LFS pointer.*git lfs pull"):
        unpickle.load(tmp_path / "pretrained.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_truncated_file_is_named(tmp_path: Path, zipped: bool, kept: float) -> None:
    torch.save(icefall_like(), tmp_path / "cut.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match="cut.pt"):
        unpickle.load(tmp_path / "cut.pt")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.pt does not exist"):
        unpickle.load(tmp_path / "nowhere.pt")
