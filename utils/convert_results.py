"""Convert measured results to the form of today; run once after it changes, again it changes nothing.

Of sweeps: the settings that sweep.json names, the list of utterances, and the results of the runs. Elsewhere:
measurements.

python utils/convert_results.py egs/*/results
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from pruning import old_forms
from pruning.experiments.measurement import Measurement
from pruning.files import read_json, write_json
from pruning.sweeps.comparison import LEGEND, UTTERANCES

MEASURED = ("**/likelihood/likelihood-*.json", "**/perplexity/perplexity-*.json", "**/intents/intents-*.json",
           "**/decode-*.json")  # fmt: skip


def settings(value: Any) -> Any:
    """Return a JSON value with the keys of today in every setting; settings in a legend are separated by commas."""
    if isinstance(value, dict):
        return {key: settings(item) for key, item in value.items()}
    if isinstance(value, list):
        return [settings(item) for item in value]
    return ", ".join(map(old_forms.setting, value.split(", "))) if isinstance(value, str) else value


def converted(path: Path, convert: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Convert a file if its form has no number; return its content."""
    before = read_json(path)
    after = before if "schema" in before else convert(before)
    if after != before:
        write_json(path, after)
        print(path)
    return after


def convert_sweep(directory: Path) -> None:
    """Convert the files of a sweep, the legend last, because it names the measure of the others."""
    legend = old_forms.legend(read_json(directory / LEGEND))
    if (directory / UTTERANCES).is_file():
        converted(directory / UTTERANCES, old_forms.sweep_utterances)
    for path in sorted(directory.rglob("*.json")):
        if path.name not in (UTTERANCES, LEGEND):
            converted(path, lambda value: old_forms.sweep_result(value, legend["measure"]))
    after = {key: settings(item) if key in ("methods", "targets") else item for key, item in legend.items()}
    if after != read_json(directory / LEGEND):
        write_json(directory / LEGEND, after)
        print(directory / LEGEND)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Convert all results below the given directories."""
    for root in map(Path, sys.argv[1:] if argv is None else argv):
        for legend in sorted(root.rglob(LEGEND)):
            convert_sweep(legend.parent)
        for path in sorted(path for pattern in MEASURED for path in root.glob(pattern)):
            if "schema" not in read_json(path):
                Measurement.read(path).write(path)
                print(path)


if __name__ == "__main__":
    main()
