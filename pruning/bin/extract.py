"""Cut the closed units out of a pruned network: an ordinary smaller one with the same outputs."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.finished import paths_of
from pruning.limits import COUNT, NATURAL, POSITIVE, SEED
from pruning.provenance import file_fingerprint
from pruning.speech.data import manifests
from pruning.speech.text.text_files import check_texts

if TYPE_CHECKING:
    from torch import nn

    from pruning.experiments import checkpoint


def _origin(options: argparse.Namespace) -> dict[str, Any]:
    """What the small network follows from, by option; files by their content, for names do not matter."""
    from pruning.experiments import checkpoint

    pruned = checkpoint.file_of(options.pruned)
    checkpoint.read_header(pruned)  # tells in one line if it is no checkpoint
    data = _data(options)
    return {
        "--pruned": file_fingerprint(pruned),
        "--structure": file_fingerprint(options.structure) if options.structure else None,
        "--round-to": options.round_to,
        "--reinitialise": options.reinitialise,
        "--repair": options.repair or None,
        "--teacher": file_fingerprint(checkpoint.file_of(options.teacher)) if options.teacher else None,
        data[0]: [file_fingerprint(path) for path in data[1]] or None,
        "--batch-norm-batches": options.batch_norm_batches if options.train_cuts else None,
        "--max-duration": options.max_duration if options.train_cuts else None,
    }


def _data(options: argparse.Namespace) -> tuple[str, list[Path]]:
    """The option that names data, and its files."""
    if options.train_text:
        return "--train-text", check_texts(options.train_text)
    return "--train-cuts", manifests.check_exists(options.train_cuts) if options.train_cuts else []


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--pruned", required=True, help="experiment directory or checkpoint of a pruning run")
    parser.add_argument("--exp-dir", required=True, help="experiment directory of the small network")
    parser.add_argument("--structure", help="keep this structure.json instead of the one that the run found")
    parser.add_argument("--round-to", type=COUNT.parse, default=1, help="round kept counts to multiples of this")
    parser.add_argument(
        "--reinitialise", type=SEED.parse, metavar="SEED", help="keep the structure, draw the weights anew"
    )
    parser.add_argument(
        "--repair",
        type=NATURAL.parse,
        default=0,
        metavar="UTTERANCES",
        help="solve the weights after a cut anew, by least squares on so many utterances or sentences",
    )
    parser.add_argument("--teacher", help="whose outputs repair aims at; default: the pruning run's dense weights")
    parser.add_argument("--print", action="store_true", help="print the structure, one line a unit group")
    parser.add_argument("--train-cuts", nargs="+", help="re-estimate batch norms on these cuts, and repair on them")
    parser.add_argument("--train-text", nargs="+", help="of a language model: repair on this text")
    parser.add_argument("--lang-dir", help="directory with bpe.model, needed with --train-cuts and --train-text")
    parser.add_argument("--batch-norm-batches", type=COUNT.parse, default=50, help="batches for the batch norms")
    parser.add_argument("--max-duration", type=POSITIVE.parse, default=100.0, help="seconds of audio in a batch")
    options = parser.parse_args(argv)
    if options.repair and options.reinitialise is not None:
        raise UserError("--repair solves weights that --reinitialise would draw anew", "give one of them")
    record = arguments.record("extract", options, argv)
    if record.holds():
        print(f"{options.exp_dir} is extracted already")
        return
    _extract(options)
    record.write([*paths_of(options), Path(options.pruned).parent], [options.exp_dir])


def _extract(options: argparse.Namespace) -> None:
    """Extract, if it is not done."""
    from pruning.core import low_rank, single_weights
    from pruning.core.prunable import plain
    from pruning.deploy.extract import before_after, check_origin, extract_experiment, repaired
    from pruning.experiments import checkpoint
    from pruning.experiments.structure_files import read_structure
    from pruning.kinds import kind as kinds

    structure = read_structure(options.structure or options.pruned)
    origin = _origin(options)
    if checkpoint.best_path(options.exp_dir).exists():
        check_origin(options.exp_dir, origin)
        print(f"{options.exp_dir} is extracted already")
        return
    model, header = checkpoint.load_model(options.pruned)
    groups = single_weights.view_of(model, structure).unit_groups()
    structure.check_fits(groups, options.structure or options.pruned)
    if options.round_to != 1:
        structure = structure.rounded(options.round_to, groups)
        largest = max((group.size for group in groups), default=0)
        if largest < 2 * options.round_to:
            raise UserError(f"--round-to {options.round_to} would round nothing: the largest group has {largest} units",
                            f"give at most {largest // 2}")  # fmt: skip
    if options.print:
        print("\n".join(structure.lines()))
    print(before_after(model, structure))
    units = {group.kind for group in structure.groups.values()}
    if options.repair and units & {single_weights.KIND, low_rank.KIND}:
        what = f"--repair solves what follows units that were cut; here {' and '.join(sorted(units))} were"
        raise UserError(what, "leave it out (low rank by wanda is the least-squares solution already)")
    batches = _batches(options, model, header)
    if options.repair:
        if batches is None:
            raise UserError("--repair is given without data", "give --train-cuts or --train-text, and --lang-dir")
        teacher, model = plain(checkpoint.load_model(options.teacher or options.pruned)[0]), plain(model)
        if not kinds.of(model).capabilities(model).repair:
            raise UserError(f"--repair is not possible with {kinds.of(model).called}", "leave it out")
        structure = repaired(teacher, model, structure, batches(), options.repair, kinds.of(model).forward)
    normalising = None if batches is None else itertools.islice(batches(), options.batch_norm_batches)
    extract_experiment(model, header, structure, Path(options.exp_dir), normalising, origin, options.reinitialise)


def _batches(
    options: argparse.Namespace, model: nn.Module, header: checkpoint.Header
) -> Optional[Callable[[], Iterator[Any]]]:
    """Gives the batches of the training data from the first on, if there are data.

    Raises:
        UserError: no ``--lang-dir``, another network's tokens, or data that are not of this kind of network.
    """
    from pruning.kinds import kind as kinds

    name, files = _data(options)
    if not files:
        return None
    if not options.lang_dir:
        raise UserError(f"{name} is given without --lang-dir", "give the language directory")
    kind = kinds.of(model)
    if f"--train-{kind.data_form}" != name:
        raise UserError(f"{options.pruned} holds a {kind.name}, and {name} is given", "give the data of its kind")
    table = kind.table_of(model, options.lang_dir)
    table.check_matches(header["tokenizer"])
    return lambda: iter(kind.calibration(model, table, files, options.max_duration))


if __name__ == "__main__":
    command.run(main)
