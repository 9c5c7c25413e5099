"""Convert the settings that the results of sweeps name (sweep.json) to the keys of today; run once after they change.

python utils/convert_results.py egs/*/results
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from pruning import old_forms
from pruning.files import read_json, write_json


def converted(value: Any) -> Any:
    """Return a JSON value with the keys of today in every setting; settings in a legend are separated by commas."""
    if isinstance(value, dict):
        return {key: converted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [converted(item) for item in value]
    return ", ".join(map(old_forms.setting, value.split(", "))) if isinstance(value, str) else value


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Convert every legend below the given directories."""
    for root in sys.argv[1:] if argv is None else argv:
        for path in sorted(Path(root).rglob("sweep.json")):
            before = read_json(path)
            after = {key: converted(item) if key in ("methods", "targets") else item for key, item in before.items()}
            if after != before:
                write_json(path, after)
                print(path)


if __name__ == "__main__":
    main()
