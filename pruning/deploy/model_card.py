"""Model cards: what a network that was made from a pre-trained one is, for the directory of its export."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from tabulate import tabulate

from pruning import provenance
from pruning.experiments import checkpoint, decoding_results, directory
from pruning.experiments.history import history
from pruning.experiments.measurement import PERPLEXITY, Measurement
from pruning.files import PathLike, read_json, read_lines, read_text, write_text
from pruning.importers import hf_source

CARD = "README.md"
_UNKNOWN = "not stated by the directory that the network was imported from"
_LICENCE = re.compile(r"^(?:.*\b)?licen[cs]e:\s*([^\s,;.][^\n,;]*?)\.?\s*(?:[,;].*)?$", re.IGNORECASE | re.MULTILINE)
_CARD = re.compile(r"---\nlicense: .*\nbase_model: .*\n---\n# ")
"""How a card begins."""
_DEQUANTISED = re.compile(r"\bdequanti[sz]ed\b", re.IGNORECASE)


def write_card(
    directory: PathLike,
    exp_dir: PathLike,
    facts: Mapping[str, Any],
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
        facts: see `pruning.models.facts.network_facts`.
        header: header of the checkpoint.
        lang_dir: language directory, with what the import kept of the origin.
        made: files of the export whose SHA-256 to state.
        command: command of the export.
        notes: what users of the files must know.
    """
    place = Path(exp_dir) if Path(exp_dir).is_dir() else Path(exp_dir).parent
    name, licence = str(header[checkpoint.PRETRAINED]), licence_of(lang_dir)
    pruned = "structure" in header
    of_text = "macs_per_token" in facts
    sections = {
        "": [f"Made from **{name}**" + (" by structured pruning." if pruned else ", not pruned."), *notes],
        "Size": [_sizes(facts, header.get("dense") if pruned else None)],
        **({"Perplexity": _perplexities(place)} if of_text else {"Word error rates": _rates(place)}),
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


def _rates(exp_dir: Path) -> list[str]:
    """Return the table of the measured word error rates, the newest of each set and decoding method."""
    newest: dict[tuple[str, str], Measurement] = {}
    for one in sorted(decoding_results.all_of(exp_dir), key=lambda one: one.asked):
        newest[one.set, one.facts["method"]] = one
    rows = []
    for (name, method), one in sorted(newest.items()):
        errors, words = one.known_totals("errors", "words")
        rows.append([name, f"{100 * errors / words:.2f} %" if words else "-", int(words), method,
                     one.parameters.get("normalise", "none")])  # fmt: skip
    if not rows:
        return ["Not measured."]
    headers = ["test set", "word error rate", "words", "decoding method", "normaliser of both texts"]
    commands = sorted({str(one.provenance["command"]) for one in newest.values() if "command" in one.provenance})
    return [tabulate(rows, headers, tablefmt="github"), *(f"Measured with `{command}`" for command in commands)]


def _perplexities(exp_dir: Path) -> list[str]:
    """Return the table of the measured perplexities per word."""
    rows, commands = [], set()
    for path in sorted((exp_dir / PERPLEXITY).glob("*.json")):
        one = Measurement.read(path, "measure it again")
        nats, words = one.known_totals("word_nll", "words")
        rows.append([one.set, f"{math.exp(nats / words):.2f}" if words else "-", int(words)])
        commands.add(str(one.provenance["command"]))
    if not rows:
        return ["Not measured."]
    table = tabulate(rows, ["test set", "perplexity per word", "words"], tablefmt="github")
    return [table, *(f"Measured with `{command}`" for command in sorted(commands))]


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
