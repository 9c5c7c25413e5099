"""Import a network of Hugging Face into an experiment directory, as a teacher for any recipe.

It may be a Whisper or a Moonshine, or a language model of the Llama family: Llama, SmolLM2 or Qwen2.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.limits import NON_NEGATIVE, POSITIVE
from pruning.models.names import FAMILY_NAMES, LLAMA_FAMILY


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--source", required=True, help="directory of the checkpoint, or its name on the hub")
    parser.add_argument("--exp-dir", required=True, type=Path, help="experiment directory to write")
    parser.add_argument(
        "--lang-dir", type=Path, help="directory to write the network's tokens to; default: lang in --exp-dir"
    )
    parser.add_argument("--language", help="for a Whisper of several languages: the language's code (default: "
                        "that of its generation_config.json, or else en)")  # fmt: skip
    parser.add_argument(
        "--task", choices=("transcribe", "translate"), help="for a Whisper of several languages (default transcribe)"
    )
    parser.add_argument(
        "--tail",
        type=NON_NEGATIVE.parse,
        help="for a Whisper: seconds of silence after each recording in its features; shorter features are encoded "
        "with the first positions only, which is faster and may cost accuracy (default: up to the end of its window)",
    )
    parser.add_argument(
        "--start-token",
        help="for a language model: the token before a text, its symbol or its number (default: <|endoftext|> if "
        "there is such a token, or else the tokenizer's bos_token)",
    )
    parser.add_argument(
        "--tokens-per-second",
        type=POSITIVE.parse,
        help="tokens of a second of speech in the network's language, at which all tables count the MACs of its "
        "decoder (default: 3.33, about that of read English)",
    )
    options = parser.parse_args(argv)

    from pruning.importers.hf_directory import CONFIG, directory_of, read_config

    directory = directory_of(options.source, weights=False)
    found, lang_dir = read_config(directory, options.source).get("model_type"), options.lang_dir
    if found not in (*FAMILY_NAMES, *LLAMA_FAMILY):
        raise UserError(f"{directory / CONFIG}: unsupported model_type {found!r}",
                        f"give a checkpoint of {' or '.join((*FAMILY_NAMES, *LLAMA_FAMILY))}")  # fmt: skip
    import_as = _language_model if found in LLAMA_FAMILY else _encoder_decoder
    import_as(options, options.exp_dir / "lang" if lang_dir is None else lang_dir)


def _language_model(options: argparse.Namespace, lang_dir: Path) -> None:
    from pruning.importers.language_model import import_language_model

    _refuse(options, ("language", "task", "tail", "tokens_per_second"), "a language model")
    import_language_model(options.source, options.exp_dir, lang_dir, options.start_token)


def _encoder_decoder(options: argparse.Namespace, lang_dir: Path) -> None:
    from pruning.importers.encoder_decoder_teacher import import_experiment
    from pruning.importers.hf_tokens import Speech

    _refuse(options, ("start_token",), "a recogniser")
    speech = Speech(options.language, options.task)
    import_experiment(options.source, options.exp_dir, lang_dir, speech, options.tail, options.tokens_per_second)


def _refuse(options: argparse.Namespace, names: Sequence[str], network: str) -> None:
    """Refuse options that do not concern a network."""
    for name in names:
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} does not concern {network}", f"leave out {option}")


if __name__ == "__main__":
    command.run(main)
