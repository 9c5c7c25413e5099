"""Model cards: what a network that was made from a pre-trained one is, for the directory of its export."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from tabulate import tabulate
from torch import nn

from pruning import provenance
from pruning.experiments import checkpoint, decoding_results, directory
from pruning.experiments.history import dense_origin, history
from pruning.experiments.measurement import PERPLEXITY, Measurement, difference, percent_above
from pruning.files import PathLike, read_json, read_lines, read_text, write_text
from pruning.importers import hf_source
from pruning.kinds import kind
from pruning.models.facts import network_facts
from pruning.speech.scoring.bootstrap import Estimate

CARD = "README.md"
_UNKNOWN = "not stated by the directory that the network was imported from"
_LICENCE = re.compile(r"^(?:.*\b)?licen[cs]e:\s*([^\s,;.][^\n,;]*?)\.?\s*(?:[,;].*)?$", re.IGNORECASE | re.MULTILINE)
_CARD = re.compile(r"---\nlicense: .*\nbase_model: .*\n---\n# ")
"""How a card begins."""
_DEQUANTISED = re.compile(r"\bdequanti[sz]ed\b", re.IGNORECASE)


def write_card(
    directory: PathLike,
    exp_dir: PathLike,
    network: nn.Module,
    header: checkpoint.Header,
    lang_dir: PathLike,
    made: Sequence[Path],
    command: str,
    notes: Sequence[str] = (),
) -> Path:
    """Write ``README.md`` to the directory of an export.

    Args:
        directory: directory of the export.
        exp_dir: experiment directory, or a checkpoint in it.
        network: the network that was exported.
        header: header of its checkpoint.
        lang_dir: language directory, with what the import kept of the origin.
        made: files of the export whose SHA-256 to state.
        command: command of the export.
        notes: what users of the files must know.
    """
    place = Path(exp_dir) if Path(exp_dir).is_dir() else Path(exp_dir).parent
    name, licence = str(header[checkpoint.PRETRAINED]), licence_of(lang_dir)
    pruned = "structure" in header
    facts, weights = network_facts(network), provenance.weights_fingerprint(network)
    measure = _PERPLEXITY if "macs_per_token" in facts else _WER
    sections = {
        "": [f"Made from **{name}**" + (" by structured pruning." if pruned else ", not pruned."), *notes],
        "Size": [_sizes(facts, header.get("dense") if pruned else None)],
        measure.title: _measured(place, weights, measure, pruned),
        "Data": _data(place, name),
        "Commands": ["```bash\n" + "\n".join([*history(place).commands, command]) + "\n```",
                     f"Code: commit {provenance.git_commit()}, {provenance.today()}"],
        "Origin and licence": _origin(name, licence, lang_dir),
        "Files": [tabulate([[path.name, path.stat().st_size, provenance.file_fingerprint(path)] for path in made],
                           ["file", "bytes", "SHA-256"], tablefmt="github")],
    }  # fmt: skip
    lines = ["---", f"license: {(licence or 'other').lower()}", f"base_model: {name}",
             "---", f"# {name}: {place.resolve().name}"]  # fmt: skip
    for title, paragraphs in sections.items():
        lines += [f"\n## {title}"] if title else []
        lines += [f"\n{paragraph}" for paragraph in paragraphs]
    write_text(Path(directory) / CARD, "\n".join(lines) + "\n")
    return Path(directory) / CARD


def remove_card(directory: PathLike) -> None:
    """Remove the card of an earlier export from a directory; leave a text of somebody else alone."""
    path = Path(directory) / CARD
    if path.is_file() and _CARD.match(path.read_text(encoding="utf-8", errors="replace")):
        path.unlink()


def licence_of(lang_dir: PathLike) -> Optional[str]:
    """Return the licence that the directory of an imported network states; None if it states none."""
    kept = hf_source.kept(lang_dir)
    for name in hf_source.CARDS:
        found = _LICENCE.search(read_text(kept[name])) if name in kept else None
        if found:
            return found[1]
    return None


def _sizes(facts: Mapping[str, Any], dense: Optional[Mapping[str, Any]]) -> str:
    """Return the table of parameters and MACs, beside those of the network before pruning."""
    rows = [("parameters", "parameters", 1e6, "M"), ("parameters of the encoder", "encoder_parameters", 1e6, "M"),
            ("parameters of the decoder", "decoder_parameters", 1e6, "M"),
            ("MACs of the encoder at 10 s", "macs_10s", 1e9, "G"),
            ("MACs of the encoder at 30 s", "macs_30s", 1e9, "G"),
            ("MACs of the decoder at 10 s", "decoder_macs_10s", 1e9, "G"),
            ("MACs of the output layer at 10 s", "output_macs_10s", 1e9, "G"),
            ("parameters of the blocks", "blocks_parameters", 1e6, "M"),
            ("MACs per token, without the output layer", "macs_per_token", 1e6, "M")]  # fmt: skip
    columns = [facts, *([dense] if dense else [])]
    table = [[what, *(f"{of[key] / unit:.2f} {letter}" for of in columns)] for what, key, unit, letter in rows
             if all(key in of for of in columns)]  # fmt: skip
    return tabulate(table, ["", "this network", *(["before pruning"] if dense else [])], tablefmt="github",
                    colalign=("left", *["right"] * len(columns)))  # fmt: skip


class _Measure(NamedTuple):
    """A measure of networks, and how a card shows it.

    Attributes:
        title: heading of its section.
        rate: name of the rate.
        read: returns the measurements in an experiment directory.
        show: returns the rate of a measurement.
        compare: returns the rate of one network minus, or in percent above, that of another on the same utterances.
        compared: what `compare` returns, in words.
    """

    title: str
    rate: str
    read: Callable[[Path], Iterable[Measurement]]
    show: Callable[[Measurement], str]
    compare: Callable[[Measurement, Measurement], Estimate]
    compared: str


def _shown_wer(one: Measurement) -> str:
    errors, words = one.known_totals("errors", "words")
    return f"{100 * errors / words:.2f} %" if words else "-"


def _shown_perplexity(one: Measurement) -> str:
    nats, words = one.known_totals("word_nll", "words")
    return f"{math.exp(nats / words):.2f}" if words else "-"


_WER = _Measure("Word error rates", "word error rate", decoding_results.all_of, _shown_wer,
                lambda one, other: difference([one], [other]).interval, "in points")  # fmt: skip
_PERPLEXITY = _Measure(
    "Perplexity", "perplexity per word",
    lambda place: (Measurement.read(path, "measure it again") for path in sorted((place / PERPLEXITY).glob("*.json"))),
    _shown_perplexity, percent_above, "in percent",
)  # fmt: skip
_OTHERWISE = ("weights", "max_duration", "num_threads", "device")
"""Parameters of a measurement that two networks need not share: their weights, and what changes only the time."""


def _measured(exp_dir: Path, weights: str, measure: _Measure, pruned: bool) -> list[str]:
    """Return what was measured of these weights, the newest of each set and decoding method, beside the dense network.

    Args:
        exp_dir: experiment directory of the network.
        weights: fingerprint of its weights; what other weights in the directory gave is left out.
        measure: what was measured.
        pruned: whether there is a dense network to compare with.
    """
    found = _newest(measure.read(exp_dir), weights)
    if not found:
        return ["Not measured."]
    before = _of_dense(exp_dir, measure) if pruned else []
    pairs = [(one, _same(one, before)) for one in found]
    compared = any(other is not None for _, other in pairs)
    rows = [{
        "test set": one.set, measure.rate: measure.show(one), **(_beside(measure, one, other) if compared else {}),
        "words": f"{one.known_totals('words')[0]:.0f}",
        **({"decoding method": one.facts["method"]} if "method" in one.facts else {}),
        **({"normaliser of both texts": one.parameters.get("normalise", "none")} if measure is _WER else {}),
    } for one, other in pairs]  # fmt: skip
    commands = {str(one.provenance["command"]) for pair in pairs for one in pair
                if one is not None and "command" in one.provenance}  # fmt: skip
    told = []
    if compared:
        told = [f"Dense: the network before pruning. Difference to it: {measure.compared}, paired, with the 95 % "
                "interval of a bootstrap that draws speakers, or blocks of a text, and then utterances."]  # fmt: skip
    elif pruned:
        told = ["The dense network, before pruning, was not measured on these sets with these settings, as far as is "
                "known here."]  # fmt: skip
    table = tabulate(rows, "keys", tablefmt="github", disable_numparse=True)
    return [table, *told, *(f"Measured with `{command}`" for command in sorted(commands))]


def _newest(found: Iterable[Measurement], weights: str) -> list[Measurement]:
    """Return the newest measurement of each set and decoding method with these weights, in their order."""
    newest: dict[tuple[str, str], Measurement] = {}
    for one in sorted(found, key=lambda one: one.asked):
        if one.parameters.get("weights") == weights:
            newest[one.set, one.facts.get("method", "")] = one
    return [newest[key] for key in sorted(newest)]


def _of_dense(exp_dir: Path, measure: _Measure) -> list[Measurement]:
    """Return the measurements of the network that a pruned one was cut from; none if they are not here."""
    source = dense_origin(exp_dir)
    found = [] if source is None else list(measure.read(source if source.is_dir() else source.parent))
    if source is None or not found:
        return []
    weights = provenance.weights_fingerprint(kind.load_network(source))
    return [one for one in found if one.parameters.get("weights") == weights]


def _same(one: Measurement, found: Iterable[Measurement]) -> Optional[Measurement]:
    """Return the newest of the measurements of the same set with the same settings; None if there is none."""
    return decoding_results.newest(other for other in found if other.set == one.set
                                   and _settings(other) == _settings(one))  # fmt: skip


def _settings(one: Measurement) -> dict[str, Any]:
    return {name: value for name, value in one.parameters.items() if name not in _OTHERWISE}


def _beside(measure: _Measure, one: Measurement, other: Optional[Measurement]) -> dict[str, str]:
    """Return the columns of the dense network."""
    if other is None or not one.known_totals("words")[0]:
        return {"dense": "-", "difference": "-"}
    return {"dense": measure.show(other), "difference": measure.compare(one, other).words(sign=True)}


def _data(exp_dir: Path, name: str) -> list[str]:
    """Return what is known of the data of the last training."""
    known = [f"On which data {name} was trained: see its publisher's description."]
    path = exp_dir / directory.RUN
    inputs = read_json(path, "train it again").get("inputs", {}) if path.is_file() else {}
    names = {"train_cuts": "Trained further on", "dev_cuts": "Checkpoint selected on",
             "train_text": "Trained further on", "dev_text": "Checkpoint selected on"}  # fmt: skip
    used = [f"{what} (file, beginning of its SHA-256): {', '.join(inputs[key])}." for key, what in names.items()
            if key in inputs]  # fmt: skip
    return [*known, *(used or ["The weights of this experiment were not trained further."])]


def _origin(name: str, licence: Optional[str], lang_dir: PathLike) -> list[str]:
    """Return what the source directory says about the origin of its weights."""
    paragraphs = [f"Licence of {name}: {licence or _UNKNOWN}. The weights here are derived from it."]
    kept = hf_source.kept(lang_dir)
    for file in (file for file in hf_source.CARDS if file in kept):
        paragraphs += [f"{file} of {name} says: “{line.strip()}”" for line in read_lines(kept[file])
                       if _DEQUANTISED.search(line)]  # fmt: skip
    sums = hf_source.origin(lang_dir).get("sha256", {})
    if isinstance(sums, dict) and sums:
        paragraphs.append(tabulate(sorted(sums.items()), [f"file of {name}", "SHA-256"], tablefmt="github"))
    return paragraphs
