"""The table of results: error rates, sizes, computation, speed and memory of each system, from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from tabulate import tabulate

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.speech.scoring import Score, read_transcripts, score
from pruning.training.decoding_results import read_results
from pruning.training.facts import read_facts


@dataclass(frozen=True)
class System:
    """One row: an experiment decoded by one method."""

    name: str
    network: dict[str, Any]
    """What the network costs: see :mod:`pruning.training.facts`."""
    decodings: dict[str, dict[str, Any]]
    """Set name -> the facts of its decoding; only the sets that were decoded."""
    pooled: Optional[Score]
    """Over all sets; None unless there are several and all were decoded."""

    @property
    def real_time_factor(self) -> float:
        """Over all decoded sets."""
        audio = sum(facts["audio_seconds"] for facts in self.decodings.values())
        return sum(facts["decoding_seconds"] for facts in self.decodings.values()) / audio

    @property
    def features_included(self) -> bool:
        """Whether the real-time factor counts the computation of features."""
        return all(facts["features_included"] for facts in self.decodings.values())

    @property
    def peak_memory_mib(self) -> float:
        """The largest of the sets."""
        return max(facts["peak_memory_mib"] for facts in self.decodings.values())


def collect(systems: Sequence[tuple[str, PathLike]], sets: Sequence[str], method: str) -> list[System]:
    """Read what was measured of each system; one that was not decoded by ``method`` is left out.

    Args:
        systems: name and experiment directory of each.
        sets: names of the test sets.
        method: of decoding.

    Raises:
        UserError: an experiment directory does not exist, its network's facts or transcripts are missing or broken, or
            two decodings of a set are of different references.
    """
    rows = []
    for name, exp_dir in systems:
        if not Path(exp_dir).is_dir():
            raise UserError(f"experiment {exp_dir} of system {name} does not exist", "train it first, or leave it out")
        read = {set_name: read_results(exp_dir, method, set_name) for set_name in sets}
        decodings = {set_name: facts for set_name, facts in read.items() if facts is not None}
        if not decodings:
            continue
        pooled = None
        if len(decodings) == len(sets) > 1:
            recogs = (Path(exp_dir, method, facts["recogs"]) for facts in decodings.values())
            pooled = score([transcript for path in recogs for transcript in read_transcripts(path)])
        rows.append(System(name, read_facts(exp_dir), decodings, pooled))
    _check_comparable(rows, sets)
    return rows


def _check_comparable(systems: Sequence[System], sets: Sequence[str]) -> None:
    """Rows of a table must be of the same test sets."""
    for set_name in sets:
        sizes = {s.name: s.decodings[set_name]["words"] for s in systems if set_name in s.decodings}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{words} in {name}" for name, words in sizes.items())
            raise UserError(f"decodings of {set_name} differ in their reference words ({listed})", "decode them again")


def _percent(wer: float, interval: Sequence[float]) -> str:
    return f"{wer:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def _sparsity(network: dict[str, Any], key: str) -> str:
    """The share of the dense network's ``key`` that is gone."""
    dense = network["dense"][key]
    return f"{1.0 - network[key] / dense:.3f}" if dense else "-"


def _cells(system: System, sets: Sequence[str]) -> dict[str, str]:
    """A row by column title."""
    cells = {"system": system.name}
    for set_name in sets:
        facts = system.decodings.get(set_name)
        cells[f"{set_name} WER %"] = _percent(facts["wer"], facts["interval"]) if facts else "-"
    if len(sets) > 1:
        cells["pooled WER %"] = _percent(system.pooled.wer, system.pooled.interval) if system.pooled else "-"
    network = system.network
    cells["encoder M"] = f"{network['encoder_parameters'] / 1e6:.3f}"
    cells["total M"] = f"{network['parameters'] / 1e6:.3f}"
    cells["encoder sparsity"] = _sparsity(network, "encoder_parameters")
    cells["blocks sparsity"] = _sparsity(network, "blocks_parameters")
    cells["model sparsity"] = _sparsity(network, "parameters")
    cells["GMACs 10 s"] = f"{network['macs_10s'] / 1e9:.3f}"
    cells["GMACs 30 s"] = f"{network['macs_30s'] / 1e9:.3f}"
    cells["RTF"] = f"{system.real_time_factor:.4f}" + ("" if system.features_included else " (features excluded)")
    cells["memory MiB"] = f"{system.peak_memory_mib:.0f}"
    return cells


def table(systems: Sequence[System], sets: Sequence[str], style: str = "github") -> str:
    """The table as text.

    Args:
        systems: the rows.
        sets: the test sets, one column each, then one for all of them pooled.
        style: a format of tabulate: ``github`` for a file, ``simple`` for a terminal.
    """
    rows = [_cells(system, sets) for system in systems]
    alignment = ["left", *["right"] * (len(rows[0]) - 1)] if rows else None
    return tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=alignment)


def _origin(system: System) -> list[str]:
    """How each figure of a row was made, decodings by one command told once."""
    lines = [f"- **{system.name}**"]
    origins: dict[tuple[str, ...], list[str]] = {}
    for set_name, facts in system.decodings.items():
        threads = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''} of {facts['processor']}"
        batches = f"batches of {facts['parameters']['max_duration']:g} s"
        where = f"{threads}, {batches}, torch {facts['torch']}"
        origins.setdefault((where, facts["command"], facts["commit"], facts["date"][:10]), []).append(set_name)
    for (where, command, commit, date), set_names in origins.items():
        lines += [f"  - {', '.join(set_names)}: {where}; commit {commit}, {date}", f"    `{command}`"]
    return lines


EXPLANATION = """\
WER with its 95 % bootstrap interval by utterance. Encoder: with its subsampling, without CTC head and joiner; blocks:
without the subsampling. Sparsity: the share of the dense network's parameters that is gone. MACs: of the encoder.
RTF: seconds of computing for a second of audio, features included unless stated. Memory: the most that the decoding
process held, libraries included."""


def document(methods: dict[str, list[System]], sets: Sequence[str], title: str = "Results") -> str:
    """The whole file in Markdown: for each decoding method a table and the origin of its rows.

    Args:
        methods: decoding method -> rows; a method without rows is left out.
        sets: the test sets.
        title: the heading.
    """
    parts = [f"# {title}", "Generated by `python -m pruning.bin.report`; do not edit.", EXPLANATION]
    for method, systems in methods.items():
        if systems:
            parts += [f"## {method}", table(systems, sets), "\n".join(line for s in systems for line in _origin(s))]
    return "\n\n".join(parts) + "\n"
