"""Imports go only to lower floors, and the core needs only torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pruning"
GROUND = {
    "clock",
    "errors",
    "files",
    "finished",
    "optional",
    "processor",
    "compat",
    "configuration",
    "limits",
    "old_forms",
    "provenance",
    "registry",
}
_MODELS = {"core"}
_EXPERIMENTS = {"models", "speech"} | _MODELS
_IMPORTERS = _TRAINING = {"experiments"} | _EXPERIMENTS
_METHODS = {"training"} | _TRAINING
_TASKS = {"methods"} | _METHODS
_KINDS = {"tasks", "importers"} | _TASKS
_DEPLOY = _SWEEPS = {"kinds"} | _KINDS
_MEASURE = {"deploy"} | _DEPLOY
_REPORTS = {"sweeps"} | _SWEEPS
BELOW: dict[str, set[str]] = {
    "core": set(), "speech": set(), "models": _MODELS, "experiments": _EXPERIMENTS, "importers": _IMPORTERS,
    "training": _TRAINING, "methods": _METHODS, "tasks": _TASKS, "kinds": _KINDS, "deploy": _DEPLOY,
    "measure": _MEASURE,
    "sweeps": _SWEEPS, "reports": _REPORTS, "bin": {"reports", "measure"} | _REPORTS | _MEASURE,
}  # fmt: skip
ALLOWED = {floor: {floor} | below | GROUND for floor, below in BELOW.items()}
NETWORKS = {"Transducer", "SpeechModel", "TransformerLM", "ConformerEncoder", "PrunableConformer", "WaveformEncoder",
            "SpeechEncoder", "HfEncoder", "IcefallEncoder", "ZipformerEncoder", "PrunableZipformer", "EncoderDecoder",
            "AudioEncoder", "TextDecoder", "EncoderNetwork"}  # fmt: skip
OPTIONAL = {"k2", "transformers", "icefall", "torchaudio", "onnx", "onnxruntime", "sherpa_onnx", "espeakng_loader",
            "kaldilm", "huggingface_hub", "tokenizers", "whisper_normalizer"}  # fmt: skip


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the modules that a file imports, and whether at its top."""
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


def test_every_folder_is_a_floor() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ALLOWED)
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == GROUND


def test_the_ground_stands_on_itself() -> None:
    for name in GROUND:
        for imported, _ in imports(PACKAGE / f"{name}.py"):
            parts = imported.split(".")
            assert parts[0] != "pruning" or len(parts) == 1 or parts[1] in GROUND, f"{name} imports {imported}"


def _module(name: str) -> str:
    """Return the module that an imported name is, or belongs to."""
    while name and not (PACKAGE.parent / f"{name.replace('.', '/')}.py").is_file():
        name = name.rpartition(".")[0]
    return name


def test_no_modules_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = [f"{node.module}.{alias.name}" for node in tree.body if isinstance(node, ast.ImportFrom)
                 for alias in node.names if (node.module or "").startswith("pruning")]  # fmt: skip
        graph[name] = {_module(each) for each in found} - {"", name}
    while graph:  # remove modules that import none of the remaining ones
        free = {name for name, needed in graph.items() if not needed & graph.keys()}
        assert free, f"these import each other: {sorted(graph)}"
        graph = {name: needed for name, needed in graph.items() if name not in free}


def test_nothing_asks_what_a_network_is() -> None:
    """Differences between networks belong in their kinds."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                assert not asked & NETWORKS, f"{path} line {node.lineno} tests for {asked & NETWORKS}"


def test_optional_packages_are_imported_where_used() -> None:
    for path in PACKAGE.rglob("*.py"):
        for name, at_top in imports(path):
            assert not (at_top and name.split(".")[0] in OPTIONAL), f"{path} imports {name} at its top"


def test_core_needs_torch_alone() -> None:
    """Import the core with every other installed package blocked."""
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
