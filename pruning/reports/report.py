"""The table of results: error rates, sizes, computation, speed and memory of each system, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from tabulate import tabulate

from pruning import provenance
from pruning.errors import UserError
from pruning.experiments import decoding_results
from pruning.files import PathLike, write_text
from pruning.models.facts import read_facts
from pruning.speech.scoring.word_errors import Score, Transcript, paired_difference, score

_PARAMETERS = ("encoder_parameters", "parameters")


@dataclass(frozen=True)
class System:
    """One row: an experiment decoded by one method."""

    name: str
    network: dict[str, Any]
    """What the network costs: see :mod:`pruning.models.facts`."""
    decodings: dict[str, dict[str, Any]]
    """Set name -> the facts of its decoding; only the sets that were decoded."""
    scores: dict[str, Score]
    """Set name -> word errors of the same."""
    transcripts: Optional[list[Transcript]]
    """Of all sets; None if one was not decoded."""
    pooled: Optional[Score]
    """Over all sets; None if one was not decoded."""

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


def collect(
    systems: Sequence[tuple[str, PathLike]],
    sets: Sequence[str],
    method: str,
    epoch: Optional[int] = None,
    avg: Optional[int] = None,
) -> list[System]:
    """Read what was measured of each system; one that was not decoded by ``method`` is left out.

    Args:
        systems: name and experiment directory of each.
        sets: names of the test sets.
        method: of decoding.
        epoch, avg: of the weights that were decoded with; None: the best on dev, no average.

    Raises:
        UserError: an experiment directory does not exist, its network's facts or transcripts are missing or broken, or
            two decodings of a set are of different references.
    """
    rows = []
    for name, exp_dir in systems:
        if not Path(exp_dir).is_dir():
            raise UserError(f"experiment {exp_dir} of system {name} does not exist", "train it first, or leave it out")
        read = {set_name: decoding_results.read_results(exp_dir, method, set_name, epoch, avg) for set_name in sets}
        decodings = {set_name: facts for set_name, facts in read.items() if facts is not None}
        if not decodings:
            continue
        found = {set_name: decoding_results.transcripts(exp_dir, facts) for set_name, facts in decodings.items()}
        scores = {set_name: score(of_set) for set_name, of_set in found.items()}
        whole = [one for of_set in found.values() for one in of_set] if len(found) == len(sets) else None
        pooled = None if whole is None else score(whole)
        rows.append(System(name, read_facts(exp_dir), decodings, scores, whole, pooled))
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


def _sparsities(network: dict[str, Any]) -> str:
    """The shares of the dense network's encoder, blocks and whole that are gone."""
    return " / ".join(_sparsity(network, key) for key in ("encoder_parameters", "blocks_parameters", "parameters"))


def _sparsity(network: dict[str, Any], key: str) -> str:
    """The share of the dense network's ``key`` that is gone."""
    dense = network["dense"][key]
    return f"{1.0 - network[key] / dense:.3f}" if dense else "-"


def _cells(system: System, sets: Sequence[str]) -> dict[str, str]:
    """A row by column title."""
    cells = {"system": system.name}
    for set_name in sets:
        one = system.scores.get(set_name)
        cells[f"{set_name} WER %"] = _percent(one.wer, one.interval) if one else "-"
    if len(sets) > 1:
        cells["pooled WER %"] = _percent(system.pooled.wer, system.pooled.interval) if system.pooled else "-"
    network = system.network
    encoder, total, macs_10s, macs_30s = (network[key] for key in (*_PARAMETERS, "macs_10s", "macs_30s"))
    cells["M parameters encoder / total"] = f"{encoder / 1e6:.3f} / {total / 1e6:.3f}"
    cells["sparsity encoder / blocks / model"] = _sparsities(network)
    cells["GMACs 10 s / 30 s"] = f"{macs_10s / 1e9:.3f} / {macs_30s / 1e9:.3f}"
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
    return _tabulate([_cells(system, sets) for system in systems], style)


def differences(systems: Sequence[System], style: str = "github") -> str:
    """Pooled word error rate of each row's system minus that of each column's, as text; empty for less than two."""
    whole = [(system.name, system.transcripts) for system in systems if system.transcripts is not None]
    if len(whole) < 2:
        return ""
    rows = []
    for name, transcripts in whole[1:]:
        cells = {"WER % minus that of": name}
        for other, others in whole[:-1]:
            before = [n for n, _ in whole].index(other) < [n for n, _ in whole].index(name)
            cells[other] = _percent(*paired_difference(transcripts, others)) if before else ""
        rows.append(cells)
    return _tabulate(rows, style)


def _tabulate(rows: list[dict[str, str]], style: str) -> str:
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
        origins.setdefault((where, facts["command"], _short(facts["commit"]), facts["date"][:10]), []).append(set_name)
    for (where, command, commit, date), set_names in origins.items():
        lines += [f"  - {', '.join(set_names)}: {where}; commit {commit}, {date}", f"    `{command}`"]
    return lines


def _short(commit: str) -> str:
    """The first 12 digits, and whether files were modified."""
    digits, *modified = commit.split("-")
    return "-".join([digits[:12], *modified])


EXPLANATION = """\
WER with its 95 % interval by a bootstrap that draws speakers, then their utterances. Encoder: with its subsampling,
without CTC head and joiner; blocks: without the subsampling. Sparsity: the share of the dense network's parameters that
is gone. MACs: of the encoder.
RTF: seconds of computing for a second of audio, features included unless stated. Memory: the most that the decoding
process held, libraries included."""


def write_section(
    path: PathLike,
    heading: str,
    body: str,
    module: str,
    argv: Optional[Sequence[str]],
    measured: Optional[Mapping[str, Any]] = None,
) -> None:
    """Write a part of a results file that another command than the report generated, with its origin.

    Args:
        path: the Markdown file, for the report's ``--append``.
        heading: of the section.
        body: Markdown.
        module: that is run, e.g. ``pruning.bin.plan``.
        argv: its arguments; None: those of this process.
        measured: of figures that were measured before: the ``commit``, ``date`` and ``command`` of that.
    """
    if measured is None:
        command = provenance.command_line(module, argv)
        measured = {"commit": provenance.git_commit(), "date": provenance.today(), "command": command}
    origin = f"Commit {_short(measured['commit'])}, {measured['date'][:10]}:"
    command = f"`{measured['command']}`"
    write_text(path, "\n\n".join([f"## {heading}", body, f"{origin}\n{command}"]) + "\n")


def document(
    methods: dict[str, list[System]], sets: Sequence[str], title: str = "Results", sections: Sequence[str] = ()
) -> str:
    """The whole file in Markdown: for each decoding method a table and the origin of its rows.

    Args:
        methods: decoding method -> rows; a method without rows is left out.
        sets: the test sets.
        title: the heading.
        sections: Markdown that `write_section` wrote, put at the end.
    """
    parts = [f"# {title}", "Generated by `python -m pruning.bin.report`; do not edit.", EXPLANATION]
    for method, systems in methods.items():
        if systems:
            parts += [f"## {method}", table(systems, sets)]
            compared = differences(systems)
            if compared:
                parts += [f"Differences over {' and '.join(sets)} pooled, by paired bootstrap:", compared]
            parts.append("\n".join(line for system in systems for line in _origin(system)))
    return "\n\n".join([*parts, *(section.strip() for section in sections)]) + "\n"
