"""Import of a Whisper or a Moonshine as an experiment, which can be pruned and serves as the teacher."""

from __future__ import annotations

from typing import Optional

from pruning.files import PathLike
from pruning.importers import hf_source, hf_tokens
from pruning.importers.encoder_decoder import load_encoder_decoder
from pruning.importers.hf_directory import directory_of
from pruning.importers.hf_tokens import UNSAID, Speech
from pruning.importers.imported_experiment import write_experiment
from pruning.speech.text.network_tokens import TOKENIZER, check_exists


def import_experiment(
    source: PathLike,
    exp_dir: PathLike,
    lang_dir: PathLike,
    speech: Speech = UNSAID,
    tail: Optional[float] = None,
    tokens_per_second: Optional[float] = None,
) -> None:
    """Write a network as a finished experiment, with its tokens; an existing import of the same files is kept.

    Args:
        source: directory of a Hugging Face checkpoint, or a name on the hub.
        exp_dir: experiment directory, see `write_experiment`.
        lang_dir: directory for the network's tokens, and for the small files that an export needs.
        speech: what to ask a Whisper of several languages for.
        tail: seconds of silence after each recording in the features of a Whisper; None: up to the end of its window.
        tokens_per_second: tokens of a second of speech at which MACs of the decoder are counted; None: those of
            English.

    Raises:
        UserError: as for `load_encoder_decoder`, `EncoderDecoder.with_tail`, `hf_tokens.write_lang_dir` and
            `write_experiment`.
    """
    files = directory_of(source, {*hf_tokens.FILES, *hf_source.KEPT})
    check_exists(files / TOKENIZER)
    model = load_encoder_decoder(files)
    model = model if tail is None else model.with_tail(tail)
    model = model if tokens_per_second is None else model.with_tokens_per_second(tokens_per_second)
    tokens = hf_tokens.write_lang_dir(files, model.config, lang_dir, speech)
    wanted = {"tail": tail, "tokens_per_second": tokens_per_second}
    settings = {name: value for name, value in wanted.items() if value is not None}
    write_experiment(model, tokens, source, files, exp_dir, hf_tokens.FILES, settings)
