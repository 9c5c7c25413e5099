"""Export a transducer for deployment: ONNX for sherpa-onnx, float32 and int8, and TorchScript; and compare them.

sherpa-onnx-offline --tokens=DIR/tokens.txt --encoder=DIR/encoder.onnx --decoder=DIR/decoder.onnx \\
    --joiner=DIR/joiner.onnx RECORDING.wav
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Optional

import torch

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.speech import manifests
from pruning.speech.bpe import Tokenizer
from pruning.speech.data import Batch, DataConfig, evaluation_batches
from pruning.speech.exported import FORMS, ExportedTransducer
from pruning.training import transducer_runs
from pruning.training.exporting import agreement, export_onnx, export_torchscript
from pruning.training.extracting import EXACTNESS
from pruning.training.facts import frames_of, write_facts

logger = logging.getLogger(__name__)


def noise(feature_dim: int, seconds: Sequence[float] = (2.0, 7.0, 3.3)) -> Batch:
    """Utterances of noise of several lengths, to compare networks where no speech is at hand."""
    lengths = torch.tensor([frames_of(value) for value in seconds])
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(seconds), int(lengths.max()), feature_dim, generator=generator)
    names = [f"noise-{index}" for index in range(len(seconds))]
    return Batch(features, lengths, [[] for _ in names], names, ["" for _ in names], sum(seconds))


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--exp-dir", required=True, help="experiment or checkpoint")
    parser.add_argument("--lang-dir", required=True, help="directory with bpe.model and tokens.txt")
    parser.add_argument("--output", type=Path, required=True, help="directory of the files, e.g. exp/finetuned/export")
    parser.add_argument("--torchscript", action="store_true", help="write encoder.pt, decoder.pt and joiner.pt as well")
    parser.add_argument("--cuts", type=Path, help="compare on these utterances; default: on noise")
    parser.add_argument("--check", action="store_true", help="compare the files that are there; write none")
    parser.add_argument("--max-batches", type=int, default=20, help="of --cuts")
    options = parser.parse_args(argv)
    tokenizer = Tokenizer(options.lang_dir)
    model, header = transducer_runs.load_network(options.exp_dir, tokenizer)
    if not options.check:
        written = export_onnx(model, options.output, options.lang_dir)
        written += export_torchscript(model, options.output) if options.torchscript else []
        for path in written:
            print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")
    found = {form for form, ending in FORMS.items() if (options.output / f"encoder{ending}").is_file()}
    if not found:
        raise UserError(f"{options.output} holds no export", "leave out --check to make it")
    for form in sorted(found):
        write_facts(options.output / form, model, header.get("dense"))
        batches: Iterable[Batch] = [noise(model.config.encoder.feature_dim)]
        if options.cuts is not None:
            (cuts,) = manifests.check_exists([options.cuts])
            data = DataConfig(max_duration=100.0, num_workers=0)
            batches = itertools.islice(evaluation_batches(data, [cuts]), options.max_batches)
        same = agreement(model, ExportedTransducer(options.output, form), batches)
        print(f"{form}: outputs differ by {same.difference:.1e} relative; {len(same.differing)} of "
              f"{same.utterances} greedy hypotheses differ")  # fmt: skip
        if form != "int8" and not same.difference <= EXACTNESS:
            what = f"the {form} export differs by {same.difference:.1e}, more than {EXACTNESS:g}"
            raise UserError(what, "export it again; if it is of these weights, report it")


if __name__ == "__main__":
    command.run(main)
