"""Export a network for deployment and compare the export with PyTorch.

A transducer is exported to ONNX for sherpa-onnx (float32 and int8) and to TorchScript:
sherpa-onnx-offline --tokens=DIR/tokens.txt --encoder=DIR/encoder.onnx --decoder=DIR/decoder.onnx \\
    --joiner=DIR/joiner.onnx RECORDING.wav
A Whisper is exported to encoder.onnx and decoder.onnx, a Moonshine to preprocess.onnx, encode.onnx,
uncached_decode.onnx and cached_decode.onnx, for the same program:
sherpa-onnx-offline --tokens=DIR/tokens.txt --whisper-encoder=DIR/encoder.onnx --whisper-decoder=DIR/decoder.onnx \\
    RECORDING.wav
A language model is exported to lm.onnx (scores whole sentences) and lm_step.onnx (takes one more token), both in
float32 and int8; an encoder with a CTC or intent head is exported to model.onnx. With --hugging-face, a Whisper or a
Moonshine becomes a directory that transformers loads, if its configuration has the shapes. Exports of networks that
were made from a pre-trained one contain a model card.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.kinds.forms import FORMS
from pruning.limits import COUNT
from pruning.models.chunk import Chunk
from pruning.registry import CUTS, TEXT

if TYPE_CHECKING:
    from torch import nn

    from pruning.kinds import kind as kinds
    from pruning.kinds.exports import Exports

_LEFT_CONTEXT = 128
"""Left context of a stream by default, in frames of 20 ms."""


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--exp-dir", required=True, help="experiment directory or checkpoint")
    parser.add_argument("--lang-dir", required=True, help="directory with bpe.model and tokens.txt")
    parser.add_argument(
        "--output", type=Path, required=True, help="directory for the exported files, e.g. exp/finetuned/export"
    )
    parser.add_argument(
        "--torchscript", action="store_true", help="for a transducer: also write encoder.pt, decoder.pt and joiner.pt"
    )
    parser.add_argument(
        "--hugging-face",
        action="store_true",
        help="for a Whisper or a Moonshine: write a Hugging Face directory instead of ONNX files",
    )
    parser.add_argument("--cuts", type=Path, help="compare on these utterances; default: on noise")
    parser.add_argument(
        "--text", type=Path, help="for a language model: compare on these sentences; default: on random tokens"
    )
    parser.add_argument("--chunk-size", type=COUNT.parse, metavar="FRAMES",
                        help="for a causal Zipformer: write a stream; frames of a chunk, of 20 ms")  # fmt: skip
    parser.add_argument("--left-context-frames", type=COUNT.parse, metavar="FRAMES",
                        help=f"with --chunk-size: earlier frames attended to (default {_LEFT_CONTEXT})")  # fmt: skip
    parser.add_argument("--check", action="store_true", help="only compare existing exported files; export nothing")
    parser.add_argument(
        "--max-batches",
        type=COUNT.parse,
        default=20,
        help="largest number of batches of --cuts or --text to compare on",
    )
    options = parser.parse_args(argv)

    from pruning.deploy.export import write
    from pruning.deploy.model_card import remove_card
    from pruning.kinds import kind as kinds
    from pruning.models.facts import write_facts
    from pruning.speech.data.checks import TrainedOn

    kind, model, header = kinds.load(options.exp_dir)
    kind.table_of(model, options.lang_dir).check_matches(header["tokenizer"])
    _check_options(options, kind)
    if options.left_context_frames and not options.chunk_size:
        raise UserError("--left-context-frames has no effect without chunks", "give --chunk-size")
    if options.hugging_face:
        _write_hugging_face(options, model, header, argv)
        return
    possible = kind.capabilities(model).exports
    if not possible:
        raise UserError(f"the encoder of {options.exp_dir} cannot be exported", "export another network")
    if options.chunk_size is None:
        exports = kind.exports(model, options.lang_dir)
    else:
        exports = kind.streams(model, Chunk(options.chunk_size, options.left_context_frames or _LEFT_CONTEXT))
        possible = tuple(form for form in possible if form != "torchscript")
    if options.torchscript and "torchscript" not in possible:
        place = "streams" if options.chunk_size else f"{options.exp_dir}, which contains {kind.called}"
        raise UserError(f"--torchscript is not available for {place}", "leave it out")
    data = getattr(options, kind.data_form)
    if data is not None:
        kind.check_files(model, [data], TrainedOn.of(options.exp_dir, header))
    if options.check:
        _compare(options, exports, _existing(options.output, exports, possible), data)
        return
    forms = [form for form in possible if form != "torchscript" or options.torchscript]
    written = write(exports, options.output, forms, options.lang_dir)
    remove_card(options.output)
    _tell(written)
    _compare(options, exports, forms, data)
    for form in forms:
        write_facts(options.output / form, model, header.get("dense"))
    _tell(_card(options, model, header, written, argv))


def _check_options(options: argparse.Namespace, kind: type[kinds.Kind[Any]]) -> None:
    """Refuse data for another kind of network."""
    for form in (CUTS, TEXT):
        if form != kind.data_form and getattr(options, form) is not None:
            raise UserError(f"--{form} is not for {options.exp_dir}, which contains {kind.called}", "leave it out")


def _write_hugging_face(
    options: argparse.Namespace, model: nn.Module, header: dict[str, Any], argv: Optional[Sequence[str]]
) -> None:
    """Write a Hugging Face directory with its card; the writer compares it with the network."""
    from pruning.deploy.hf_export import write_hugging_face

    unused = {"torchscript": options.torchscript, "cuts": options.cuts, "text": options.text, "check": options.check,
              "chunk-size": options.chunk_size}  # fmt: skip
    given = [f"--{name}" for name, value in unused.items() if value]
    if given:
        raise UserError(f"{given[0]} has no effect with --hugging-face", "leave one of them out")
    written = write_hugging_face(model, options.output, options.lang_dir)
    _tell([*written[:1], *_card(options, model, header, written, argv)])


def _card(
    options: argparse.Namespace,
    model: nn.Module,
    header: dict[str, Any],
    written: Sequence[Path],
    argv: Optional[Sequence[str]],
) -> list[Path]:
    """Write the card of a network that was made from a pre-trained one."""
    from pruning import provenance
    from pruning.deploy.model_card import write_card
    from pruning.experiments.checkpoint import PRETRAINED
    from pruning.kinds import kind as kinds

    if PRETRAINED not in header:
        return []
    command_line = provenance.command_line("pruning.bin.export", argv)
    return [write_card(options.output, options.exp_dir, model, header, options.lang_dir, written,
                       command_line, kinds.of(model).export_notes(model))]  # fmt: skip


def _tell(written: Sequence[Path]) -> None:
    for path in written:
        print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")


def _existing(directory: Path, exports: Exports, possible: Sequence[str]) -> list[str]:
    """Return the forms of the export in a directory.

    Raises:
        UserError: there is no export.
    """
    first = next(iter(exports.parts))
    found = [form for form in possible if (directory / f"{first}{FORMS[form]}").is_file()]
    if not found:
        raise UserError(f"{directory} contains no export of this kind of network", "leave out --check to write one")
    return found


def _compare(options: argparse.Namespace, exports: Exports, forms: Sequence[str], data: Optional[Path]) -> None:
    """Compare exported forms with PyTorch.

    Raises:
        UserError: the files are of another network, or a form other than int8 differs by more than `EXACTNESS`.
    """
    from pruning.deploy.exported import check_described, read_parts
    from pruning.deploy.extract import EXACTNESS

    for form in sorted(forms):
        calls = read_parts(options.output, list(exports.parts), form)
        check_described(calls, exports.parts)
        same = exports.agreement(calls, data, options.max_batches)
        print(f"{form}: {same.words}")
        if form != "int8" and not same.difference <= EXACTNESS:
            what = f"the outputs of the {form} export differ by {same.difference:.1e}, more than {EXACTNESS:g}"
            raise UserError(what, "export again; if the files were exported from these weights, report a bug")


if __name__ == "__main__":
    command.run(main)
