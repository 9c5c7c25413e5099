"""Time language models: scoring of whole sentences, and reading one more token of many histories."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Union

import torch

from pruning import provenance
from pruning.core.cost import CostModel
from pruning.core.names import MACS
from pruning.deploy.export import export_onnx
from pruning.deploy.exported import read_parts
from pruning.errors import UserError
from pruning.files import PathLike
from pruning.kinds.forms import FORMS
from pruning.kinds.language_model import LanguageModelKind
from pruning.kinds.language_model_export import STEP, WHOLE, ExportedLM, by_steps
from pruning.measure import timing
from pruning.measure.names import PYTORCH, SCORING, STEPS
from pruning.measure.timing import Timing
from pruning.models.facts import network_facts
from pruning.models.transformer_lm import TransformerLM

_FORM_OF = {"onnx": "float32", "int8": "int8"}
_FILE_OF = {SCORING: WHOLE, STEPS: STEP}
_REPEATED = 8  # steps per call, each from the same histories: a single step is too short to time well
_FEW = 0.1  # networks have some zeros that were not pruned, such as initial biases


@dataclass(frozen=True)
class Setting:
    """Input of a language model.

    Attributes:
        threads: number of threads.
        work: `SCORING` (log-probabilities of whole sentences) or `STEPS` (one more token of each history).
        batch: number of sentences or histories.
        tokens: number of tokens in each.
    """

    threads: int
    work: str
    batch: int
    tokens: int

    @property
    def read(self) -> int:
        """Number of tokens that one call reads."""
        return self.batch * (self.tokens if self.work == SCORING else _REPEATED)

    @property
    def attended(self) -> int:
        """Number of positions that a token attends to, counted as in `TransformerLM.cost_terms`."""
        return self.tokens if self.work == SCORING else self.tokens + 1


def export(model: TransformerLM, directory: Path, backends: Sequence[str]) -> None:
    """Write the files that the backends need to ``directory``, unless they exist for the same weights."""
    forms = [_FORM_OF[backend] for backend in backends if backend != PYTORCH]
    if forms:
        names = [f"{name}{FORMS[form]}" for name in (WHOLE, STEP) for form in {*forms, "float32"}]
        timing.keep_export(model, directory, names, lambda: export_onnx(model, directory, int8="int8" in forms))


def bytes_on_disk(model: TransformerLM, directory: Path, backend: str, work: str) -> int:
    """Return the size of the file for this work; for PyTorch, of the network's parameters."""
    if backend == PYTORCH:
        return timing.tensor_bytes(model)
    return (directory / f"{_FILE_OF[work]}{FORMS[_FORM_OF[backend]]}").stat().st_size


def macs_per_token(model: TransformerLM, attended: int) -> int:
    """Return dense multiply-accumulates per token that attends to ``attended`` positions, with the output layer."""
    costs = CostModel(model.unit_groups(), model.cost_terms(attended))
    return int(costs.dense[MACS] / attended) + model.config.d_model * model.config.vocab_size


def on_random_tokens(network: Union[TransformerLM, ExportedLM], vocab_size: int, setting: Setting) -> Callable[[], Any]:
    """Return a function that reads fixed random tokens; both kinds of work return log-probabilities."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (setting.batch, setting.tokens), generator=generator)
    if setting.work == SCORING:
        return lambda: network.log_probs(tokens)
    _, state = by_steps(network, tokens)
    read: Callable[..., Any] = network.step
    return lambda: [read(tokens[:, 0], state) for _ in range(_REPEATED)]


def measure(
    systems: Mapping[str, tuple[TransformerLM, Path]],
    backends: Sequence[str],
    settings: Sequence[Setting],
    repeats: int,
    seed: int = 0,
) -> Iterator[Timing[Setting]]:
    """Time every system with every backend in every setting; see `timing.measure`.

    Args:
        systems: name -> network and directory of its export.
        backends: names from `pruning.measure.names.LM_BACKENDS`.
        settings, repeats, seed: see `timing.measure`.

    Raises:
        UserError: the systems have vocabularies of different sizes.
    """
    sizes = sorted({model.config.vocab_size for model, _ in systems.values()})
    if len(sizes) > 1:
        what = f"the systems have vocabularies of {' and '.join(map(str, sizes))} tokens"
        raise UserError(what, "compare networks with the same tokens")

    def call_of(system: str, backend: str, setting: Setting) -> Callable[[], Any]:
        model, directory = systems[system]
        network = _network(model.eval(), directory, backend, setting.threads)
        return on_random_tokens(network, sizes[0], setting)

    return timing.measure(systems, backends, settings, call_of, repeats, seed)


def _network(model: TransformerLM, directory: Path, backend: str, threads: int) -> Union[TransformerLM, ExportedLM]:
    return model if backend == PYTORCH else exported_lm(directory, _FORM_OF[backend], threads)


def exported_lm(directory: PathLike, form: str = "float32", threads: int = 1) -> ExportedLM:
    """Load a language model from the files of an export in one form."""
    return ExportedLM(read_parts(directory, (WHOLE, STEP), form, threads), directory)


def peak_memory(source: PathLike, directory: Path, backend: str, setting: Setting) -> float:
    """Return the peak MiB of a separate process that loads one language model and runs it once."""
    arguments = [str(source), str(directory), backend, json.dumps(asdict(setting))]
    return timing.peak_memory("pruning.measure.lm_benchmark", arguments)


def facts(
    sources: Mapping[str, PathLike],
    systems: Mapping[str, tuple[TransformerLM, Path]],
    timings: Sequence[Timing[Setting]],
    memory: Mapping[tuple[str, str, Setting], float],
) -> dict[str, Any]:
    """Return all measurements as JSON values; ``memory`` maps system, backend and setting to MiB if measured."""
    rows = []
    for one in timings:
        model, directory = systems[one.system]
        known = network_facts(model)
        rows.append({
            **timing.common(one, sources[one.system]),
            "tokens_per_second": one.setting.read / one.median,
            "bytes": bytes_on_disk(model, directory, one.backend, one.setting.work),
            "peak_memory_mib": memory.get((one.system, one.backend, one.setting)),
            "macs_per_token": macs_per_token(model, one.setting.attended),
            "parameters": known["parameters"], "nonzero_parameters": known["nonzero_parameters"],
        })  # fmt: skip
    return {"rows": rows}


def note(row: Mapping[str, Any]) -> str:
    """Return a note for a row whose network has many zeros: dense kernels compute with them."""
    zeros = 1 - row["nonzero_parameters"] / row["parameters"]
    return f"{zeros:.0%} zeros: no gain in dense kernels" if zeros > _FEW else ""


def table(rows: Sequence[Mapping[str, Any]], style: str = "pipe") -> str:
    """Return a row per system, backend and setting; speed-ups are relative to the first system in the same setting."""
    noted = any(note(row) for row in rows)
    lines = [
        {
            "system": row["system"], "backend": row["backend"], "work": row["work"], "threads": str(row["threads"]),
            "batch x tokens": f"{row['batch']} x {row['tokens']}", "tokens/s": f"{row['tokens_per_second']:.0f}",
            **timing.speed_cells(row, reference, "macs_per_token"), **timing.size_cells(row),
            **({"note": note(row)} if noted else {}),
        }
        for row, reference in zip(rows, timing.references(rows, ("backend", "threads", "work", "batch", "tokens")))
    ]  # fmt: skip
    return timing.as_text(lines, style, ("system", "backend", "work", "note"))


def _one(source: str, directory: str, backend: str, setting: Mapping[str, Any]) -> None:
    """Run in the process of `peak_memory`."""
    given = Setting(**setting)
    torch.set_num_threads(given.threads)
    network: Union[TransformerLM, ExportedLM]
    if backend == PYTORCH:
        network = LanguageModelKind.load_network(source)[0].eval()
        vocab_size = network.config.vocab_size
    else:
        network = exported_lm(Path(directory), _FORM_OF[backend], given.threads)
        vocab_size = network.vocab_size
    with torch.no_grad():
        on_random_tokens(network, vocab_size, given)()
    print(provenance.peak_memory_mib())


if __name__ == "__main__":
    _one(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
