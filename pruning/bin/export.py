"""Export a network for deployment and compare the export with PyTorch.

A transducer becomes ONNX for sherpa-onnx, float32 and int8, and TorchScript:
sherpa-onnx-offline --tokens=DIR/tokens.txt --encoder=DIR/encoder.onnx --decoder=DIR/decoder.onnx \\
    --joiner=DIR/joiner.onnx RECORDING.wav
A language model becomes lm.onnx for whole sentences and lm_step.onnx for one token more, float32 and int8; an encoder
with a head for CTC or intents model.onnx.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor, nn

from pruning.bin import arguments, command
from pruning.deploy import exporting, lm_exporting, speech_exporting
from pruning.deploy.exported import FORMS, PARTS, ExportedPart, ExportedTransducer
from pruning.deploy.exported_lm import LM_FORMS, WHOLE, ExportedLM
from pruning.deploy.extract import EXACTNESS
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.kinds import encoder_head, language_model, transducer
from pruning.models import encoders
from pruning.models.facts import SAMPLES_PER_SECOND, frames_of, write_facts
from pruning.models.speech_model import SpeechModel
from pruning.speech.data import manifests
from pruning.speech.data.batches import Batch, DataConfig, evaluation_batches
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.sentences import Sentences, TextConfig, boundary_id

logger = logging.getLogger(__name__)


def noise(feature_dim: int, seconds: Sequence[float] = (2.0, 7.0, 3.3)) -> Batch:
    """Utterances of noise of several lengths, to compare networks where no speech is at hand."""
    lengths = torch.tensor([frames_of(value) for value in seconds])
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(seconds), int(lengths.max()), feature_dim, generator=generator)
    names = [f"noise-{index}" for index in range(len(seconds))]
    return Batch(features, lengths, [[] for _ in names], names, ["" for _ in names], sum(seconds))


def random_tokens(vocab_size: int, boundary: int, lengths: Sequence[int] = (20, 1, 9)) -> list[Tensor]:
    """Batches ``(4, U)`` of random tokens that begin as sentences do, to compare where no text is at hand."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randint(vocab_size, (4, length), generator=generator) for length in lengths]
    for tokens in batches:
        tokens[:, 0] = boundary
    return batches


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--exp-dir", required=True, help="experiment or checkpoint")
    parser.add_argument("--lang-dir", required=True, help="directory with bpe.model and tokens.txt")
    parser.add_argument("--output", type=Path, required=True, help="directory of the files, e.g. exp/finetuned/export")
    parser.add_argument("--torchscript", action="store_true",
                        help="of a transducer: write encoder.pt, decoder.pt and joiner.pt as well")
    parser.add_argument("--cuts", type=Path, help="compare on these utterances; default: on noise")
    parser.add_argument("--text", type=Path,
                        help="of a language model: compare on these sentences; default: on random tokens")
    parser.add_argument("--check", action="store_true", help="compare the files that are there; write none")
    parser.add_argument("--max-batches", type=int, default=20, help="of --cuts or --text")
    options = parser.parse_args(argv)
    header = checkpoint.read_header(checkpoint.file_of(options.exp_dir))
    kind = header.get("model", {}).get("type")
    export, of_others = {"transformer_lm": (_language_model, ("torchscript", "cuts")),
                         "speech_model": (_speech_model, ("torchscript", "text"))}.get(kind, (_transducer, ("text",)))
    for option in of_others:
        if getattr(options, option):
            raise UserError(f"--{option} is given, and {options.exp_dir} holds a {kind}", "leave it out")
    export(options)


def _transducer(options: argparse.Namespace) -> None:
    model, header = transducer.load_network(options.exp_dir, Tokenizer(options.lang_dir))
    model = model.plain()
    if not options.check:
        written = exporting.export_onnx(model, options.output, options.lang_dir)
        _tell(written + (exporting.export_torchscript(model, options.output) if options.torchscript else []))

    def compare(form: str) -> tuple[float, str]:
        batches: Iterable[Batch] = [noise(model.config.encoder.feature_dim)]
        if options.cuts is not None:
            (cuts,) = manifests.check_exists([options.cuts])
            data = DataConfig(max_duration=100.0, num_workers=0)
            batches = itertools.islice(evaluation_batches(data, [cuts]), options.max_batches)
        same = exporting.agreement(model, ExportedTransducer(options.output, form), batches)
        return same.difference, (f"outputs differ by {same.difference:.1e} relative; {len(same.differing)} of "
                                 f"{same.utterances} greedy hypotheses differ")  # fmt: skip

    _compare(options.output, {form: f"{PARTS[0]}{ending}" for form, ending in FORMS.items()}, compare, model, header)


def _speech_model(options: argparse.Namespace) -> None:
    model, header = encoder_head.load_network(options.exp_dir)
    table = encoder_head.table_of(model.config.task, options.lang_dir)
    table.check_matches(header["tokenizer"])
    source = encoder_head.source_of(model)
    if not options.check:
        _tell(speech_exporting.export_onnx(model, options.output, options.lang_dir))

    def compare(form: str) -> tuple[float, str]:
        batches: Iterable[Batch] = [_heard_noise(model)]
        if options.cuts is not None:
            (cuts,) = manifests.check_exists([options.cuts])
            data = DataConfig(max_duration=100.0, num_workers=0)
            batches = itertools.islice(evaluation_batches(data, [cuts], source=source), options.max_batches)
        exported = ExportedPart(options.output / speech_exporting.FORMS[form], 1)
        same = speech_exporting.agreement(model, exported, batches)
        return same.difference, (f"outputs differ by {same.difference:.1e} relative; the best outputs of "
                                 f"{len(same.differing)} of {same.utterances} utterances differ")  # fmt: skip

    _compare(options.output, speech_exporting.FORMS, compare, model, header)


def _heard_noise(model: SpeechModel) -> Batch:
    """What `noise` is for a transducer, as the network's encoder hears it."""
    encoder: Any = model.encoder
    if not encoders.hears_samples(encoder):
        return noise(encoder.config.feature_dim)
    one = noise(round(SAMPLES_PER_SECOND / frames_of(1.0)))
    return replace(one, features=one.features.flatten(1), lengths=one.lengths * one.features.shape[2])


def _language_model(options: argparse.Namespace) -> None:
    tokenizer = Tokenizer(options.lang_dir)
    model, header = language_model.load_network(options.exp_dir, tokenizer)
    boundary = boundary_id(tokenizer)
    if not options.check:
        _tell(lm_exporting.export_onnx(model, options.output, options.lang_dir, boundary))

    def compare(form: str) -> tuple[float, str]:
        batches: Iterable[Tensor] = random_tokens(tokenizer.vocab_size, boundary)
        if options.text is not None:
            sentences = Sentences([options.text], tokenizer, TextConfig(on_empty="skip"))
            found = itertools.islice(sentences.evaluation_batches(), options.max_batches)
            batches = (batch.inputs for batch in found)
        same = lm_exporting.agreement(model, ExportedLM(options.output, form), batches)
        return max(same.whole, same.steps), (
            f"log-probabilities differ by {same.whole:.1e} relative, step by step by {same.steps:.1e}; "
            f"{len(same.differing)} of {same.sentences} greedy continuations differ"
        )

    _compare(options.output, {form: f"{WHOLE}{ending}" for form, ending in LM_FORMS.items()}, compare, model, header)


def _tell(written: Sequence[Path]) -> None:
    for path in written:
        print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")


def _compare(
    output: Path,
    files: dict[str, str],
    compare: Callable[[str], tuple[float, str]],
    model: nn.Module,
    header: dict[str, Any],
) -> None:
    """Compare every form of ``files`` (form -> one of its files) that is there, and write what the network costs.

    Raises:
        UserError: there is no form, or one other than int8 differs by more than `EXACTNESS`.
    """
    found = {form for form, name in files.items() if (output / name).is_file()}
    if not found:
        raise UserError(f"{output} holds no export", "leave out --check to make it")
    for form in sorted(found):
        write_facts(output / form, model, header.get("dense"))
        difference, words = compare(form)
        print(f"{form}: {words}")
        if form != "int8" and not difference <= EXACTNESS:
            what = f"the {form} export differs by {difference:.1e}, more than {EXACTNESS:g}"
            raise UserError(what, "export it again; if it is of these weights, report it")


if __name__ == "__main__":
    command.run(main)
