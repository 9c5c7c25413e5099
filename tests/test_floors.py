"""Imports go down only, and the ground floor needs torch alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pruning"
GROUND = {"errors", "files", "optional", "processor", "compat"}
ALLOWED = {
    "core": {"core"} | GROUND,
    "speech": {"speech"} | GROUND,
    "models": {"models", "core"} | GROUND,
    "training": {"training", "models", "core", "speech"} | GROUND,
    "bin": {"bin", "training", "models", "core", "speech"} | GROUND,
}
OPTIONAL = {"k2", "transformers", "icefall", "torchaudio", "onnx", "onnxruntime", "sherpa_onnx", "espeakng_loader",
            "kaldilm", "huggingface_hub"}  # fmt: skip


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, and whether at its top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module] if node.module != "pruning" else [f"pruning.{alias.name}" for alias in node.names]
        for name in names:
            yield name, node in tree.body


@pytest.mark.parametrize("floor", sorted(ALLOWED))
def test_imports_go_down(floor: str) -> None:
    files = list((PACKAGE / floor).rglob("*.py"))
    assert files
    for path in files:
        for name, _ in imports(path):
            parts = name.split(".")
            if parts[0] == "pruning" and len(parts) > 1:
                assert parts[1] in ALLOWED[floor], f"{path.name} of {floor} imports {name}"


def test_optional_packages_are_imported_where_used() -> None:
    for path in PACKAGE.rglob("*.py"):
        for name, at_top in imports(path):
            assert not (at_top and name.split(".")[0] in OPTIONAL), f"{path} imports {name} at its top"


def test_core_needs_torch_alone() -> None:
    """Import it with every other installed package out of reach."""
    program = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in ALLOWED or top in sys.stdlib_module_names:
            return None
        raise ModuleNotFoundError(f"{name} is not installed")
ALLOWED = {"torch", "pruning", "typing_extensions", "numpy", "torchgen", "functorch", "sympy", "mpmath", "networkx",
           "jinja2", "markupsafe", "fsspec", "filelock", "nvidia", "triton", "optree", "opt_einsum"}
sys.meta_path.insert(0, Nothing())
import pkgutil, importlib
import pruning.core
for module in pkgutil.iter_modules(pruning.core.__path__):
    importlib.import_module(f"pruning.core.{module.name}")
print("fine")
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=PACKAGE.parent
    )
    assert run.stdout.strip() == "fine", run.stderr
