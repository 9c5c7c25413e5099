"""Write cuts with the texts that an encoder-decoder is trained on: transcripts, or what a teacher recognised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning import provenance
from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.limits import COUNT, POSITIVE
from pruning.speech.decoding.config import OWN_DECODER, DecodingConfig
from pruning.speech.scoring.scored_words import NORMALISERS, scored_words, version_of
from pruning.speech.text.labels import EQUAL, LABELS, TRANSCRIPT, Labeller


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--cuts", nargs="+", type=Path, required=True, help="manifests of cuts with recordings")
    parser.add_argument("--output-dir", type=Path, required=True, help="directory for manifests of the same names")
    parser.add_argument(
        "--labels",
        choices=LABELS,
        default=EQUAL,
        help="transcript: as a sentence; equal: the teacher's text where its normalised words are those of the "
        "transcript, else the transcript; teacher: the teacher's text, without those that loop or are empty",
    )
    parser.add_argument("--teacher", type=Path, help="checkpoint or experiment directory of an encoder-decoder")
    parser.add_argument("--lang-dir", type=Path, help="lang dir of the teacher")
    parser.add_argument("--normalise", choices=NORMALISERS, default="english", help="how words are compared for equal")
    parser.add_argument(
        "--tokens-per-second",
        type=POSITIVE.parse,
        default=DecodingConfig.tokens_per_second,
        help="largest number of tokens per second of audio; a text that reaches it loops",
    )
    parser.add_argument("--max-duration", type=POSITIVE.parse, default=100.0, help="seconds of audio in a batch")
    parser.add_argument("--num-threads", type=COUNT.parse, default=1, help="number of threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args(argv)
    if options.labels != TRANSCRIPT and None in (options.teacher, options.lang_dir):
        raise UserError(f"--labels {options.labels} needs a teacher", "give --teacher and --lang-dir")
    names = [cuts.name for cuts in options.cuts]
    for cuts in options.cuts:
        if names.count(cuts.name) > 1:
            raise UserError(f"several files of --cuts are called {cuts.name}", "label them into different directories")
        if cuts.parent.resolve() == options.output_dir.resolve():
            raise UserError(f"--output-dir {options.output_dir} contains {cuts.name} itself", "give another directory")
    arguments.check_device(options.device)

    import torch

    from pruning.experiments.checkpoint import file_of
    from pruning.kinds.encoder_decoder import EncoderDecoderKind
    from pruning.kinds.heard import source_of
    from pruning.speech.data import checks, manifests
    from pruning.speech.data.sources import of_beginning
    from pruning.speech.decoding.labelling import Transcriber, label
    from pruning.speech.text.network_tokens import NetworkTokens

    torch.set_num_threads(options.num_threads)
    paths = manifests.check_exists(options.cuts)
    parameters, transcriber = {"labels": options.labels}, None
    tokens = None if options.lang_dir is None else NetworkTokens(options.lang_dir)
    if options.labels != TRANSCRIPT:
        assert tokens is not None
        network, _ = EncoderDecoderKind.load_network(options.teacher, tokens)
        source = source_of(network.encoder)
        checks.check_recordings([], paths, of_beginning(source), float("inf"))
        config = DecodingConfig(OWN_DECODER[0], tokens_per_second=options.tokens_per_second)
        transcriber = Transcriber(network.to(options.device).eval(), source, tokens, config, options.max_duration,
                                  options.device)  # fmt: skip
        parameters |= {"teacher": provenance.file_fingerprint(file_of(options.teacher)), "tokens": tokens.fingerprint,
                       "decoding": config.suffix(), "max_duration": options.max_duration}  # fmt: skip
    if options.labels == EQUAL:
        parameters["normalise"] = version_of(options.normalise)
        words_of = scored_words("words", options.normalise)
    else:
        words_of = str.split
    english = tokens is None or tokens.speech.get("language", "en") == "en"
    parameters |= {} if english else {"english": False}  # decides how a transcript is written as a sentence
    for cuts in paths:
        known = {**parameters, "cuts": provenance.file_fingerprint(cuts)}
        label(cuts, options.output_dir / cuts.name, Labeller(options.labels, words_of, english), transcriber, known)


if __name__ == "__main__":
    command.run(main)
