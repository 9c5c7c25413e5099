"""Import a Whisper or a Moonshine of Hugging Face into an experiment directory, as a teacher for any recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command
from pruning.limits import NON_NEGATIVE, POSITIVE


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--source", required=True, help="directory of the checkpoint, or its name on the hub")
    parser.add_argument("--exp-dir", required=True, type=Path, help="experiment directory to write")
    parser.add_argument(
        "--lang-dir", type=Path, help="directory to write the network's tokens to; default: lang in --exp-dir"
    )
    parser.add_argument("--language", help="for a Whisper of several languages: the language's code (default en)")
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
        "--tokens-per-second",
        type=POSITIVE.parse,
        help="tokens of a second of speech in the network's language, at which all tables count the MACs of its "
        "decoder (default: 3.33, about that of read English)",
    )
    options = parser.parse_args(argv)

    from pruning.importers.encoder_decoder_teacher import import_experiment
    from pruning.importers.hf_tokens import Speech

    speech = None
    if options.language is not None or options.task is not None:
        speech = Speech(options.language or Speech.language, options.task or Speech.task)
    lang_dir = options.lang_dir or options.exp_dir / "lang"
    import_experiment(options.source, options.exp_dir, lang_dir, speech, options.tail, options.tokens_per_second)


if __name__ == "__main__":
    command.run(main)
