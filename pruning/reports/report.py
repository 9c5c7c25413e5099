"""The table of results: error rates, sizes, computation, speed and memory of each system, from measured facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from pruning.errors import UserError
from pruning.experiments import decoding_results
from pruning.experiments.measurement import Measurement, difference, sample
from pruning.files import PathLike
from pruning.models.chunk import FRAME_MS, WHOLE, Chunk
from pruning.models.facts import decoder_macs, read_facts
from pruning.reports import load
from pruning.reports.document import estimate, short_commit, tabulated
from pruning.speech.scoring.bootstrap import Estimate
from pruning.speech.scoring.word_errors import Transcript

_PARAMETERS = ("encoder_parameters", "parameters")


@dataclass(frozen=True)
class System:
    """A row of the table: one experiment decoded by one decoding method."""

    name: str
    exp_dir: Path
    network: dict[str, Any]
    """Size and computation of the network, see :mod:`pruning.models.facts`."""
    decodings: dict[str, Measurement]
    """Set name -> its decoding; only the sets that were decoded."""
    transcripts: Optional[list[Transcript]]
    """Transcripts of all sets; None if a set was not decoded, or if they were not read."""
    complete: bool = True
    """Whether all sets were decoded."""
    chunk: Chunk = WHOLE
    """Chunk and left context that the network saw."""

    @property
    def title(self) -> str:
        """Name of the row: that of the network, and what it saw of an utterance at a time."""
        return titled(self.name, self.chunk)

    def rate(self, *sets: str) -> Optional[Estimate]:
        """Word error rate of sets pooled, in percent, with its interval; None if one was not decoded."""
        if not all(name in self.decodings for name in sets):
            return None
        return sample(self.decodings[name] for name in sets).interval

    @property
    def real_time_factor(self) -> float:
        """Real-time factor over all decoded sets."""
        audio = sum(one.facts["audio_seconds"] for one in self.decodings.values())
        return sum(one.facts["decoding_seconds"] for one in self.decodings.values()) / audio

    @property
    def latency(self) -> str:
        """Milliseconds to be heard before a chunk's first word, and of computing a chunk; "-" for whole utterances."""
        facts = [one.facts for one in self.decodings.values() if "chunk_ms" in one.facts]
        computing = [one["computing_ms"] for one in facts if one["computing_ms"] is not None]
        spent = f"{max(computing):.0f}" if computing else "?"
        return f"{facts[0]['chunk_ms'] + facts[0].get('ahead_ms', 0)} + {spent}" if facts else "-"

    @property
    def features_included(self) -> bool:
        """Whether the real-time factor includes the computation of features."""
        return all(one.facts["features_included"] for one in self.decodings.values())

    @property
    def peak_memory_mib(self) -> float:
        """Largest peak memory of the decoded sets."""
        return max(one.provenance["peak_memory_mib"] for one in self.decodings.values())


def titled(name: str, chunk: Chunk) -> str:
    """Return the name of a row: that of the network, and what it saw of an utterance at a time."""
    if chunk == WHOLE:
        return name
    left = f"{chunk.left * FRAME_MS} ms before" if chunk.left else "all before"
    return f"{name}, chunks of {chunk.size * FRAME_MS} ms and {left}"


def collect(
    systems: Sequence[tuple[str, PathLike]],
    sets: Sequence[str],
    method: str,
    epoch: Optional[int] = None,
    avg: Optional[int] = None,
    texts: bool = True,
) -> list[System]:
    """Read the measurements of each system; leave out systems that were not decoded by ``method``.

    A causal network has a row for whole utterances and one for each chunk size and left context. The sets of a row were
    decoded with the same settings, such as the beam; see `pruning.experiments.decoding_results.of_one_setting`.

    Args:
        systems: name and experiment directory of each system.
        sets: names of the test sets.
        method: decoding method.
        epoch, avg: epoch and number of averaged checkpoints used in decoding; None: the best on dev, no average.
        texts: whether to read the transcripts, too, which committed results do not have.

    Raises:
        UserError: an experiment directory does not exist, its network's facts or transcripts are missing or broken, or
            two decodings of a set have different references.
    """
    rows = []
    for name, exp_dir in systems:
        if not Path(exp_dir).is_dir():
            raise UserError(f"experiment {exp_dir} of system {name} does not exist", "train it first, or leave it out")
        read = decoding_results.read_by_chunk(exp_dir, method, sets, epoch, avg)
        for chunk, of_chunk in read.items():
            decodings = {set_name: of_chunk[set_name] for set_name in sets if set_name in of_chunk}
            complete = len(decodings) == len(sets)
            read_from = decodings.values() if texts else ()
            found = [said for one in read_from for said in decoding_results.transcripts(exp_dir, one)]
            whole = found if complete and texts else None
            rows.append(System(name, Path(exp_dir), read_facts(exp_dir), decodings, whole, complete, chunk))
    _check_comparable(rows, sets)
    return rows


def _check_comparable(systems: Sequence[System], sets: Sequence[str]) -> None:
    """Check that all rows were decoded on the same test sets."""
    for set_name in sets:
        sizes = {s.name: s.decodings[set_name].total("words") for s in systems if set_name in s.decodings}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{words:g} in {name}" for name, words in sizes.items())
            raise UserError(f"decodings of {set_name} differ in their reference words ({listed})", "decode them again")


def _sparsities(network: dict[str, Any]) -> str:
    """Return the shares of the dense network's encoder, blocks and whole that were removed."""
    return " / ".join(_sparsity(network, key) for key in ("encoder_parameters", "blocks_parameters", "parameters"))


def _sparsity(network: dict[str, Any], key: str) -> str:
    """Return the share of the dense network's ``key`` that was removed."""
    dense = network["dense"][key]
    return f"{1.0 - network[key] / dense:.3f}" if dense else "-"


def _cells(system: System, sets: Sequence[str]) -> dict[str, str]:
    """Return a row as column title -> cell."""
    cells = {"system": system.title}
    columns = {
        **{f"{set_name} WER %": [set_name] for set_name in sets},
        **({"pooled WER %": sets} if len(sets) > 1 else {}),
    }
    for title, names in columns.items():
        rate = system.rate(*names)
        cells[title] = "-" if rate is None else estimate(rate.value, rate[1:])
    network = system.network
    encoder, total, macs_10s, macs_30s = (network[key] for key in (*_PARAMETERS, "macs_10s", "macs_30s"))
    cells["M parameters encoder / total"] = f"{encoder / 1e6:.3f} / {total / 1e6:.3f}"
    cells["sparsity encoder / blocks / model"] = _sparsities(network)
    cells["GMACs 10 s / 30 s"] = f"{macs_10s / 1e9:.3f} / {macs_30s / 1e9:.3f}"
    cells |= decoder_macs(network)
    excluded = "" if system.features_included else " (features excluded)"
    cells["RTF"] = f"{system.real_time_factor:.4f}{excluded}{load.mark(system.decodings.values())}"
    cells["memory MiB"] = f"{system.peak_memory_mib:.0f}"
    return cells


def table(systems: Sequence[System], sets: Sequence[str], style: str = "pipe") -> str:
    """Return the table as text.

    Args:
        systems: the rows.
        sets: names of the test sets, one column each, then a column for all of them pooled.
        style: tabulate format: ``pipe`` for a file, ``simple`` for a terminal.
    """
    rows = [_cells(system, sets) for system in systems]
    if any(system.chunk != WHOLE for system in systems):
        for cells, system in zip(rows, systems):
            cells["latency ms"] = system.latency
    return tabulated(rows, style)


def differences(systems: Sequence[System], style: str = "pipe") -> str:
    """Return a table of pooled WER of each row's system minus that of each column's; empty for fewer than two."""
    whole = [(system.title, list(system.decodings.values())) for system in systems if system.complete]
    if len(whole) < 2:
        return ""
    rows = []
    for name, decodings in whole[1:]:
        cells = {"WER % minus that of": name}
        for other, others in whole[:-1]:
            before = [n for n, _ in whole].index(other) < [n for n, _ in whole].index(name)
            value, *interval = difference(decodings, others).interval if before else (0.0, 0.0, 0.0)
            cells[other] = estimate(value, interval) if before else ""
        rows.append(cells)
    return tabulated(rows, style)


def _origin(system: System, words: str) -> list[str]:
    """Return what a row is and how each figure was made; decodings by the same command are listed once."""
    lines = [f"- **{system.title}** (`{system.exp_dir}`)" + (f": {words}" if words else "")]
    origins: dict[tuple[str, ...], list[str]] = {}
    for set_name, decoding in system.decodings.items():
        facts = decoding.provenance
        threads = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''} of {facts['processor']}"
        batches = f"batches of {decoding.parameters['max_duration']:g} s"
        where = f"{threads}, {batches}, torch {facts['torch']}"
        origins.setdefault((where, facts["command"], short_commit(facts["commit"]), facts["date"][:10]), []).append(
            set_name
        )
    for (where, command, commit, date), set_names in origins.items():
        lines += [f"  - {', '.join(set_names)}: {where}; commit {commit}, {date}", f"    `{command}`"]
    for set_name, decoding in system.decodings.items():
        if "normalise" in decoding.parameters:
            before, after, name = decoding.facts["words"], decoding.total("words"), decoding.parameters["normalise"]
            lines.append(f"  - {set_name}: references of {before} words, {after:g} after the normaliser ({name})")
    return lines


EXPLANATION = """\
WER with its 95 % interval by a bootstrap that draws speakers within each set, then their utterances; pooled: over all
utterances of all sets. A difference whose interval does not contain 0 is significant at the 5 % level; what other
training seeds would give is not in the intervals. Encoder: with its subsampling, without CTC head and joiner; blocks:
without the subsampling. Sparsity: the share of the dense network's parameters that is gone (a network from scratch is
dense itself). MACs: of the encoder. RTF: seconds of computing for a second of audio, features included unless stated.
Memory: the most that the decoding process held, libraries included. Latency, of causal networks that see chunks: the
milliseconds that must be heard first, a chunk and 130 ms ahead, and those that the encoder takes for one in PyTorch,
one stream."""


def load_note(systems: Sequence[System]) -> str:
    """Return under what load the decoding times of a table were measured."""
    return load.note(one for system in systems for one in system.decodings.values())


def document(
    methods: dict[str, list[System]],
    sets: Sequence[str],
    title: str = "Results",
    sections: Sequence[str] = (),
    legend: Optional[Mapping[str, str]] = None,
) -> str:
    """Return the whole file in Markdown: for each decoding method a table and the origin of its rows.

    Args:
        methods: decoding method -> rows; a decoding method without rows is left out.
        sets: names of the test sets.
        title: heading.
        sections: Markdown written by `write_section`, appended at the end.
        legend: name of a row -> what it is, in words.
    """
    parts = [f"# {title}", "Generated by `python -m pruning.bin.report`; do not edit.", EXPLANATION]
    for method, systems in methods.items():
        if systems:
            parts += [f"## {method}", table(systems, sets), load_note(systems)]
            compared = differences(systems)
            if compared:
                parts += [f"Differences over {' and '.join(sets)} pooled, by paired bootstrap:", compared]
            words = legend or {}
            parts.append("\n".join(line for one in systems for line in _origin(one, words.get(one.name, ""))))
    return "\n\n".join([*parts, *(section.strip() for section in sections)]) + "\n"
