"""What the cuts of a part were made from, recorded beside them: cuts of other settings or manifests are refused."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning import files
from pruning.errors import UserError
from pruning.speech.data import manifests


@dataclass(frozen=True)
class Origin:
    """What cuts are made from.

    Attributes:
        settings: settings of the program, as JSON values.
        sources: manifests (gzipped) by what is taken from them, e.g. ``utterances``.
    """

    settings: Mapping[str, Any]
    sources: Mapping[str, Path]

    def made(self, cuts: Path, record: Path, leftover: Path) -> bool:
        """Whether ``cuts`` exist.

        Args:
            cuts: manifest of cuts.
            record: file of `write`; without it the cuts, of icefall or an older version, are accepted as they are.
            leftover: what a user removes together with ``cuts`` to have them made again.

        Raises:
            UserError: they were made with other settings, or from manifests with another content than now.
        """
        if not cuts.is_file():
            return False
        if record.is_file():
            known = files.read_json(record)
            were = {what: known.pop(what, None) for what in self.sources}
            remedy = f"give other options or another output directory, or remove {cuts} and {leftover}"
            if known != self.settings:
                what = f"{cuts} was made with {json.dumps(known)}, not with {json.dumps(self.settings)}"
                raise UserError(what, remedy)
            for what, path in self.sources.items():
                if were[what] is not None and path.is_file() and were[what] != _content(path):
                    raise UserError(f"{cuts} was made from other {what} than {path} has now", remedy)
        return True

    def write(self, record: Path) -> None:
        """Write settings and hashes of the manifests to ``record``, before the cuts are in place.

        Raises:
            UserError: a manifest is missing or damaged.
        """
        files.write_json(record, {**self.settings, **{what: _content(path) for what, path in self.sources.items()}})


def _content(path: Path) -> str:
    """Hash a manifest to 8 characters, uncompressed: the archive contains its date."""
    with manifests.naming(path), gzip.open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()[:8]
