"""Reading ``.pt`` files from others (such as icefall's ``epoch-N.pt``) without executing code in them.

A pickle can call any Python function or class. Here it can use only those of a list: containers, tensors, numbers,
arrays and paths, none of which runs code from the file. This module reads both formats of ``torch.save`` itself,
because ``torch.load`` of torch 1.13 silently ignores a restricted ``pickle_module``, and its ``weights_only`` refuses
floats (1.13) and paths (all versions).
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Optional

import numpy as np
import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.files import PathLike

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_SHOWN = 200
"""Number of characters shown of another library's message, which may quote the file."""
_POINTER = b"version https://git-lfs"
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip


class _Refused(Exception):
    """The file uses a class or function that is not on the list."""


@dataclass(frozen=True)
class _StorageType:
    """Stand-in for one of torch's storage classes."""

    dtype: torch.dtype


@dataclass(frozen=True)
class _Storage:
    """A storage, as bytes and as elements."""

    raw: Tensor
    dtype: torch.dtype

    @property
    def flat(self) -> Tensor:
        return self.raw.view(self.dtype)


def load(path: PathLike) -> Any:
    """Load a file written by ``torch.save``, in the zip or the older format, with tensors on the CPU.

    Raises:
        UserError: the file is missing or damaged, or uses a class or function that is not on the list (and is named).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist", "correct the path")
    check_not_pointer(path)
    try:
        return _load_zip(path) if zipfile.is_zipfile(path) else _load_legacy(path)
    except _Refused as refused:
        raise UserError(
            f"{path} contains {refused}, which is not loaded because it could run code",
            "save only the weights, as a plain dictionary of tensors",
        ) from None
    except (OSError, UserError):
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error).split("\n", 1)[0][:_SHOWN] or type(error).__name__
        raise UserError(f"{path} is not a readable torch checkpoint ({reason})", "copy it again") from None


def check_not_pointer(path: Path) -> None:
    """Check that a file is not a Git LFS pointer, as in a clone made without Git LFS.

    Raises:
        UserError: the file is a pointer.
    """
    if not path.is_file():
        return
    with open(path, "rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise UserError(f"{path} is a Git LFS pointer, not the file", "run git lfs pull in its repository")


def _load_zip(path: Path) -> Any:
    """Load the current format: a zip of ``NAME/data.pkl`` and the bytes of each storage, ``NAME/data/KEY``."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        pickled = next((name for name in sorted(names, key=len) if name.endswith("data.pkl")), None)
        if pickled is None:
            raise ValueError("a zip file without data.pkl")
        root = pickled[: -len("data.pkl")]
        if f"{root}constants.pkl" in names:
            raise UserError(f"{path} is a TorchScript file", "give the checkpoint that it was exported from")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder").decode() != sys.byteorder:
            raise ValueError("written on a machine of another byte order")
        storages: dict[str, _Storage] = {}

        def storage(kind: _StorageType, key: str, _count: int, _view: Optional[tuple]) -> _Storage:
            if key not in storages:
                raw = bytearray(archive.read(f"{root}data/{key}"))
                storages[key] = _Storage(_bytes(raw), kind.dtype)
            return storages[key]

        with archive.open(pickled) as stream:
            return _Unpickler(stream, storage).load()


def _load_legacy(path: Path) -> Any:
    """Load the format before torch 1.6: pickles one after the other, then each storage's element count and bytes."""
    storages: dict[str, _Storage] = {}

    def storage(kind: _StorageType, key: str, count: int, view: Optional[tuple]) -> _Storage:
        width = torch.empty(0, dtype=kind.dtype).element_size()
        if key not in storages:
            if count * width > path.stat().st_size:
                raise ValueError("a storage longer than the file")
            storages[key] = _Storage(torch.zeros(count * width, dtype=torch.uint8), kind.dtype)
        if view is None:
            return storages[key]
        _, offset, length = view
        return _Storage(storages[key].raw[offset * width : (offset + length) * width], kind.dtype)

    with open(path, "rb") as stream:
        if _Unpickler(stream).load() != _LEGACY_MAGIC or _Unpickler(stream).load() != _LEGACY_PROTOCOL:
            raise ValueError("not written by torch.save")
        if _Unpickler(stream).load().get("little_endian", True) != (sys.byteorder == "little"):
            raise ValueError("written on a machine of another byte order")
        result = _Unpickler(stream, storage).load()
        for key in _Unpickler(stream).load():
            _fill(storages[key], stream)
    return result


def _fill(storage: _Storage, stream: BinaryIO) -> None:
    (count,) = struct.unpack("=q", stream.read(8))
    content = bytearray(stream.read(storage.raw.numel()))
    if count != storage.flat.numel() or len(content) != storage.raw.numel():
        raise ValueError("a storage is cut short")
    storage.raw.copy_(_bytes(content))


def _bytes(content: bytearray) -> Tensor:
    return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """Replace ``torch._utils._rebuild_tensor`` and ``_rebuild_tensor_v2``; torch refuses out-of-bounds views."""
    return storage.flat.as_strided(size, stride, offset)


def _tensor_of_dtype(storage: _Storage, offset: int, size: tuple, stride: tuple, *rest: Any) -> Tensor:
    """Replace ``torch._utils._rebuild_tensor_v3``, for types without storage class (rest: flag, hooks, dtype)."""
    return storage.raw.view(rest[2]).as_strided(size, stride, offset)


def _parameter(data: Tensor, requires_grad: bool, _hooks: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(data, requires_grad)


def _numpy_scalar(dtype: np.dtype, raw: bytes) -> Any:
    """Replace numpy's constructor of pickled scalars, for plain numbers only (object types contain pointers)."""
    if dtype.hasobject or dtype.kind not in "biufc":
        raise _Refused(f"a numpy scalar of type {dtype}")
    return np.frombuffer(raw, dtype=dtype, count=1)[0]


def _latin1(text: str, encoding: str) -> bytes:
    """Replace ``codecs.encode``, with which older pickle protocols write bytes; only latin1 is needed."""
    if encoding != "latin1":
        raise _Refused(f"the codec {encoding}")
    return text.encode("latin1")


def _allowed() -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {
        ("_codecs", "encode"): _latin1,
        ("argparse", "Namespace"): argparse.Namespace,
        ("collections", "Counter"): collections.Counter,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): collections.defaultdict,
        ("collections", "deque"): collections.deque,
        ("icefall.utils", "AttributeDict"): dict,  # a dict with attribute access
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
        ("torch.torch_version", "TorchVersion"): str,  # type of torch.__version__
    }
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            found["torch", name] = value
    for name, dtype in _STORAGES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            found[module, name] = _StorageType(dtype)
    for kind in (set, frozenset, complex, bytearray, slice, range, dict, list, tuple, int, float, bool, str):
        for module in ("builtins", "__builtin__"):
            found[module, kind.__name__] = kind
    for module in ("pathlib", "pathlib._local"):
        found[module, "PosixPath"] = pathlib.Path
        found[module, "PurePosixPath"] = pathlib.PurePosixPath
        found[module, "WindowsPath"] = found[module, "PureWindowsPath"] = pathlib.PureWindowsPath
    rebuild_array = np.zeros(0).__reduce__()[0]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        found[module, "scalar"] = _numpy_scalar
        found[module, "_reconstruct"] = rebuild_array
    return found


_ALLOWED = _allowed()
# state dicts keep their versions in an attribute of the OrderedDict
_WITH_STATE = (collections.OrderedDict, argparse.Namespace, np.dtype, np.ndarray)


class _Unpickler(pickle._Unpickler):
    """Unpickler that finds only classes and functions on the list, and calls ``storage(type, key, count, view)``.

    It derives from the Python implementation of the standard library, because only there the operation BUILD can be
    kept from setting attributes of the classes and functions on the list.
    """

    def __init__(self, stream: Any, storage: Optional[Callable[..., _Storage]] = None) -> None:
        super().__init__(stream, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, identifier: Any) -> _Storage:
        kind, *rest = identifier
        if kind != "storage" or self._storage is None:
            raise _Refused(f"a persistent {kind}")
        storage_type, key, _device, count, *view = rest
        return self._storage(storage_type, key, count, view[0] if view else None)

    def load_build(self) -> None:
        owner = self.stack[-2]  # type: ignore[attr-defined]
        if not isinstance(owner, _WITH_STATE):
            raise _Refused(f"state for {owner!r}")
        super().load_build()  # type: ignore[misc]

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}  # type: ignore[dict-item]
