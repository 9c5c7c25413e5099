"""Write an imported network of Hugging Face as a finished experiment."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pruning import registry
from pruning.errors import UserError
from pruning.experiments import checkpoint, directory
from pruning.files import PathLike, write_json
from pruning.importers import hf_source
from pruning.importers.hf_weights import files_of
from pruning.models.facts import describe, network_facts, write_facts
from pruning.provenance import file_fingerprint
from pruning.speech.text.network_tokens import TOKENIZER, NetworkTokens

logger = logging.getLogger(__name__)

ORIGIN = "hugging_face"
"""Header key of an imported checkpoint: the fingerprints of its source files."""


def write_experiment(
    model: nn.Module,
    tokens: NetworkTokens,
    source: PathLike,
    files: Path,
    exp_dir: PathLike,
    names: Iterable[str],
    settings: Mapping[str, Any],
) -> None:
    """Write a network as a finished experiment; an existing import of the same files is kept.

    The small files of the source that an export needs are kept with the tokens.

    Args:
        model: the network.
        tokens: its tokens, from its lang dir.
        source: what the user gave: a directory, or a name on the hub.
        files: directory of the checkpoint.
        exp_dir: experiment directory for ``best.safetensors``, ``model.json`` and ``.done``.
        names: files of the checkpoint, in addition to its weights, that the network or its tokens depend on.
        settings: settings of the import that the network depends on.

    Raises:
        UserError: ``exp_dir`` contains another network, or the lang dir the files of one.
    """
    place = Path(exp_dir)
    read = [*files_of(files), *(files / name for name in names if (files / name).is_file())]
    sums = {path.name: file_fingerprint(path) for path in read}
    origin: dict[str, Any] = {**sums, **settings}
    header = {"model": registry.describe(model), "tokenizer": tokens.describe(), ORIGIN: origin,
              checkpoint.PRETRAINED: Path(source).name}  # fmt: skip
    best = checkpoint.best_path(place)
    if best.exists():
        found = checkpoint.read_header(best)
        if any(found.get(key) != header[key] for key in (ORIGIN, "tokenizer")):
            raise UserError(f"{place} contains another network", "remove it, or give another directory")
    hf_source.keep(files, tokens.lang_dir, {"name": Path(source).name, "sha256": sums})
    if not best.exists():
        write_facts(place, model, None)
        checkpoint.save_model(best, model, header)
    write_json(place / directory.DONE, {**origin, TOKENIZER: tokens.fingerprint})
    logger.info("%s: %s", place, describe(network_facts(model)))
