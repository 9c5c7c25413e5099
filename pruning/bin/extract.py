"""Cut the closed units out of a pruned network: an ordinary smaller one with the same outputs."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.models.transducer import Transducer
from pruning.speech import manifests
from pruning.speech.bpe import Tokenizer
from pruning.speech.data import Batch, DataConfig, training_batches
from pruning.training import checkpoint, runs
from pruning.training.extracting import before_after, check_origin, extract_experiment, repaired
from pruning.training.provenance import file_fingerprint


def _origin(options: argparse.Namespace) -> dict[str, Any]:
    """What the small network follows from, by option; files by their content, for names do not matter."""
    pruned = checkpoint.file_of(options.pruned)
    checkpoint.read_header(pruned)  # tells in one line if it is no checkpoint
    cuts = manifests.check_exists(options.train_cuts) if options.train_cuts else []
    return {
        "--pruned": file_fingerprint(pruned),
        "--structure": file_fingerprint(options.structure) if options.structure else None,
        "--round-to": options.round_to,
        "--reinitialise": options.reinitialise,
        "--repair": options.repair or None,
        "--teacher": file_fingerprint(checkpoint.file_of(options.teacher)) if options.teacher else None,
        "--train-cuts": [file_fingerprint(path) for path in cuts] or None,
        "--batch-norm-batches": options.batch_norm_batches if options.train_cuts else None,
        "--max-duration": options.max_duration if options.train_cuts else None,
    }


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--pruned", required=True, help="experiment directory or checkpoint of a pruning run")
    parser.add_argument("--exp-dir", required=True, help="experiment directory of the small network")
    parser.add_argument("--structure", help="keep this structure.json instead of the one that the run found")
    parser.add_argument("--round-to", type=int, default=1, help="round kept counts to multiples of this")
    parser.add_argument("--reinitialise", type=int, metavar="SEED", help="keep the structure, draw the weights anew")
    parser.add_argument("--repair", type=int, default=0, metavar="UTTERANCES",
                        help="solve the weights after a cut anew, by least squares on so many training utterances")
    parser.add_argument("--teacher", help="whose outputs repair aims at; default: the pruning run's dense weights")
    parser.add_argument("--print", action="store_true", help="print the structure, one line a unit group")
    parser.add_argument("--train-cuts", nargs="+", help="re-estimate batch norms on these cuts")
    parser.add_argument("--lang-dir", help="directory with bpe.model, needed with --train-cuts")
    parser.add_argument("--batch-norm-batches", type=int, default=50, help="batches for the batch norms")
    parser.add_argument("--max-duration", type=float, default=100.0, help="seconds of audio in a batch")
    options = parser.parse_args(argv)
    if options.repair and options.reinitialise is not None:
        raise UserError("--repair solves weights that --reinitialise would draw anew", "give one of them")
    structure = runs.read_structure(options.structure or options.pruned)
    origin = _origin(options)
    if checkpoint.best_path(options.exp_dir).exists():
        check_origin(options.exp_dir, origin)
        print(f"{options.exp_dir} is extracted already")
        return
    model, header = checkpoint.load_model(options.pruned)
    if not isinstance(model, Transducer):
        raise UserError(f"{options.pruned} holds a {header['model']['type']}", "give a pruned transducer")
    structure.check_fits(model.unit_groups(), options.structure or options.pruned)
    if options.round_to != 1:
        structure = structure.rounded(options.round_to, model.unit_groups())
    if options.print:
        print("\n".join(structure.lines()))
    print(before_after(model, structure))
    batches = _batches(options, header)
    if options.repair:
        if batches is None:
            raise UserError("--repair is given without --train-cuts", "give cuts, and --lang-dir")
        teacher = checkpoint.load_model(options.teacher or options.pruned)[0]
        structure = repaired(teacher, model, structure, batches(), options.repair)
    normalising = None if batches is None else itertools.islice(batches(), options.batch_norm_batches)
    extract_experiment(model, header, structure, Path(options.exp_dir), normalising, origin, options.reinitialise)


def _batches(options: argparse.Namespace, header: checkpoint.Header) -> Optional[Callable[[], Iterator[Batch]]]:
    """Gives the batches of the training cuts from the first on, if there are cuts."""
    if not options.train_cuts:
        return None
    if not options.lang_dir:
        raise UserError("--train-cuts is given without --lang-dir", "give the language directory")
    tokenizer = Tokenizer(options.lang_dir)
    tokenizer.check_matches(header["tokenizer"])
    config = DataConfig(max_duration=options.max_duration)
    return partial(training_batches, config, options.train_cuts, tokenizer, seed=0, epoch=1)


if __name__ == "__main__":
    command.run(main)
