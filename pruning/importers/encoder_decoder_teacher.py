"""Import of a Whisper or a Moonshine as an experiment, which can be pruned and serves as the teacher."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Optional

from pruning import registry
from pruning.errors import UserError
from pruning.experiments import checkpoint, directory
from pruning.files import PathLike, write_json
from pruning.importers import hf_source, hf_tokens
from pruning.importers.encoder_decoder import load_encoder_decoder
from pruning.importers.hf_directory import directory_of, weights_file
from pruning.importers.hf_tokens import Speech
from pruning.models.facts import describe, network_facts, write_facts
from pruning.provenance import file_fingerprint
from pruning.speech.text.network_tokens import TOKENIZER

logger = logging.getLogger(__name__)

ORIGIN = "hugging_face"
"""Header key of an imported checkpoint: the fingerprints of its source files."""


def import_experiment(
    source: PathLike,
    exp_dir: PathLike,
    lang_dir: PathLike,
    speech: Optional[Speech] = None,
    tail: Optional[float] = None,
    tokens_per_second: Optional[float] = None,
) -> None:
    """Write a network as a finished experiment, with its tokens; an existing import of the same files is kept.

    Args:
        source: directory of a Hugging Face checkpoint, or a name on the hub.
        exp_dir: experiment directory for ``best.safetensors``, ``model.json`` and ``.done``.
        lang_dir: directory for the network's tokens, and for the small files that an export needs.
        speech: what to ask a Whisper of several languages for; None: English transcripts.
        tail: seconds of silence after each recording in the features of a Whisper; None: up to the end of its window.
        tokens_per_second: tokens of a second of speech at which MACs of the decoder are counted; None: those of
            English.

    Raises:
        UserError: as for `load_encoder_decoder`, `EncoderDecoder.with_tail` and `hf_tokens.write_lang_dir`; ``exp_dir``
            contains another network.
    """
    files, place = directory_of(source, {*hf_tokens.FILES, *hf_source.KEPT}), Path(exp_dir)
    model = load_encoder_decoder(files)
    model = model if tail is None else model.with_tail(tail)
    model = model if tokens_per_second is None else model.with_tokens_per_second(tokens_per_second)
    tokens = hf_tokens.write_lang_dir(files, model.config, lang_dir, speech)
    names = [weights_file(files), *(files / name for name in hf_tokens.FILES if (files / name).is_file())]
    origin: dict[str, Any] = {path.name: file_fingerprint(path) for path in names}
    hf_source.keep(files, lang_dir, {"name": Path(source).name, "sha256": dict(origin)})
    origin |= {} if tail is None else {"tail": tail}
    origin |= {} if tokens_per_second is None else {"tokens_per_second": tokens_per_second}
    header = {"model": registry.describe(model), "tokenizer": tokens.describe(), ORIGIN: origin,
              checkpoint.PRETRAINED: Path(source).name}  # fmt: skip
    best = checkpoint.best_path(place)
    if best.exists():
        found = checkpoint.read_header(best)
        if any(found.get(key) != header[key] for key in (ORIGIN, "tokenizer")):
            raise UserError(f"{place} contains another network", "remove it, or give another directory")
    else:
        write_facts(place, model, None)
        checkpoint.save_model(best, model, header)
    write_json(place / directory.DONE, {**origin, TOKENIZER: tokens.fingerprint})
    logger.info("%s: %s", place, describe(network_facts(model)))
