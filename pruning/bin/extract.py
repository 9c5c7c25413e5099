"""Cut the closed units out of a pruned network, which gives an ordinary smaller network with the same outputs."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.files import write_json
from pruning.finished import paths_of
from pruning.limits import COUNT, NATURAL, POSITIVE, SEED
from pruning.provenance import file_fingerprint
from pruning.speech.data import manifests
from pruning.speech.text.text_files import check_texts

if TYPE_CHECKING:
    from torch import nn

    from pruning.experiments import checkpoint


def _origin(options: argparse.Namespace) -> dict[str, Any]:
    """Return what determines the extracted network, by option; files are identified by content, not by name."""
    from pruning.experiments import checkpoint

    pruned = checkpoint.file_of(options.pruned)
    checkpoint.read_header(pruned)  # raises a UserError if the file is not a checkpoint
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
    """Return the option that names the data, and its files."""
    if options.train_text:
        return "--train-text", check_texts(options.train_text)
    return "--train-cuts", manifests.check_exists(options.train_cuts) if options.train_cuts else []


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    options = _options(argv)
    record = arguments.record("extract", options, argv)
    if record.holds():
        print(f"{options.exp_dir} is already extracted")
        return
    _extract(options)
    record.write([*paths_of(options), Path(options.pruned).parent], [options.exp_dir])


def check(argv: Sequence[str]) -> None:
    """Raise what the command would raise for its options; read no network."""
    _options(argv)


def _options(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--pruned", required=True, help="experiment directory or checkpoint of a pruning run")
    parser.add_argument("--exp-dir", required=True, help="experiment directory of the extracted network")
    parser.add_argument("--structure", help="structure.json to use instead of the structure that the run found")
    parser.add_argument("--round-to", type=COUNT.parse, default=1, help="round kept counts to multiples of this number")
    parser.add_argument(
        "--reinitialise",
        type=SEED.parse,
        metavar="SEED",
        help="keep the structure but draw new random weights with this seed",
    )
    parser.add_argument(
        "--repair",
        type=NATURAL.parse,
        default=0,
        metavar="UTTERANCES",
        help="recompute the weights after each cut by least squares on this number of utterances or sentences",
    )
    parser.add_argument("--teacher", help="network whose outputs --repair reproduces; default: --pruned before the cut")
    parser.add_argument("--print", action="store_true", help="print the structure, one line per unit group")
    parser.add_argument("--train-cuts", nargs="+", help="cuts for re-estimating batch norms and for --repair")
    parser.add_argument("--train-text", nargs="+", help="for a language model: text for --repair")
    parser.add_argument("--lang-dir", help="lang dir with bpe.model, required with --train-cuts and --train-text")
    for name, (parse, default, what) in _OF_CUTS.items():
        parser.add_argument(f"--{name}", type=parse, help=f"with --train-cuts: {what} (default {default})")
    options = parser.parse_args(argv)
    _check(options)
    for name, (_, default, _) in _OF_CUTS.items():
        if getattr(options, name.replace("-", "_")) is None:
            setattr(options, name.replace("-", "_"), default)
    return options


_OF_CUTS = {
    "batch-norm-batches": (COUNT.parse, 50, "number of batches for re-estimating batch norms"),
    "max-duration": (POSITIVE.parse, 100.0, "seconds of audio in a batch"),
}
"""What is set only of batches of cuts: how it is parsed, its default and its meaning."""


def _check(options: argparse.Namespace) -> None:
    """Refuse options that have no effect."""
    if options.repair and options.reinitialise is not None:
        raise UserError("--repair has no effect with --reinitialise, which draws new weights", "give only one of them")
    if options.teacher is not None and not options.repair:
        raise UserError("--teacher has no effect without --repair", "give both, or leave it out")
    if options.train_cuts and options.train_text:
        raise UserError("--train-cuts has no effect with --train-text, which is for language models",
                        "give only one of them")  # fmt: skip
    for name in _OF_CUTS:
        if getattr(options, name.replace("-", "_")) is not None and not options.train_cuts:
            raise UserError(f"--{name} has no effect without --train-cuts", "give both, or leave it out")


def _extract(options: argparse.Namespace) -> None:
    """Extract unless the extraction exists already."""
    from pruning.core import low_rank, single_weights
    from pruning.core.prunable import plain
    from pruning.core.views import view_of
    from pruning.deploy.extract import before_after, check_origin, extract_experiment, repaired
    from pruning.experiments import checkpoint, directory
    from pruning.experiments.structure_files import read_structure
    from pruning.kinds import kind as kinds

    began = time.monotonic()
    structure = read_structure(options.structure or options.pruned)
    origin = _origin(options)
    if checkpoint.best_path(options.exp_dir).exists():
        check_origin(options.exp_dir, origin)
        print(f"{options.exp_dir} is already extracted")
        return
    model, header = checkpoint.load_model(options.pruned)
    groups = view_of(model, structure).unit_groups()
    structure.check_fits(groups, options.structure or options.pruned)
    if options.round_to != 1:
        structure = structure.rounded(options.round_to, groups)
        largest = max((group.size for group in groups), default=0)
        if largest < 2 * options.round_to:
            raise UserError(f"--round-to {options.round_to} has no effect: the largest unit group has {largest} units",
                            f"give at most {largest // 2}")  # fmt: skip
    if options.print:
        print("\n".join(structure.lines()))
    print(before_after(model, structure))
    units = {group.kind for group in structure.groups.values()}
    if options.repair and units & {single_weights.KIND, low_rank.KIND}:
        what = f"--repair works only where structured units are cut out, not for {' and '.join(sorted(units))}"
        raise UserError(what, "leave it out (low_rank with wanda is already the least-squares solution)")
    batches = _batches(options, model, header)
    if options.repair:
        if batches is None:
            raise UserError("--repair needs data", "give --train-cuts or --train-text, and --lang-dir")
        teacher, model = plain(checkpoint.load_model(options.teacher or options.pruned)[0]), plain(model)
        if not kinds.of(model).capabilities(model).repair:
            raise UserError(f"--repair is not available for {kinds.of(model).called}", "leave it out")
        structure = repaired(teacher, model, structure, batches(), options.repair, kinds.of(model).forward)
    normalising = None if batches is None else itertools.islice(batches(), options.batch_norm_batches)
    extract_experiment(model, header, structure, Path(options.exp_dir), normalising, origin, options.reinitialise)
    write_json(Path(options.exp_dir) / directory.EXTRACTION, {"seconds": round(time.monotonic() - began, 1)})


def _batches(
    options: argparse.Namespace, model: nn.Module, header: checkpoint.Header
) -> Optional[Callable[[], Iterator[Any]]]:
    """Return a function that iterates over the training batches from the start; None if no data are given.

    Raises:
        UserError: ``--lang-dir`` is missing or has other tokens, or the data are for another kind of network or
            of another form than it was trained on.
    """
    from pruning.experiments.directory import CONFIG
    from pruning.kinds import kind as kinds
    from pruning.speech.data.checks import TrainedOn

    name, files = _data(options)
    if not files:
        return None
    if not options.lang_dir:
        raise UserError(f"{name} needs --lang-dir", "give the lang dir of the network")
    kind = kinds.of(model)
    if f"--train-{kind.data_form}" != name:
        raise UserError(
            f"{name} is not for {options.pruned}, which contains {kind.called}", f"give --train-{kind.data_form}"
        )
    table = kind.table_of(model, options.lang_dir)
    table.check_matches(header["tokenizer"])
    kind.check_files(model, files, TrainedOn.of(options.pruned, header))
    run = next((place / CONFIG for place in (Path(options.pruned), *Path(options.pruned).parents[:2])
                if (place / CONFIG).is_file()), None)  # fmt: skip
    if run is None:
        return lambda: iter(kind.calibration(model, table, files, options.max_duration))
    config = kind.config_of(run)
    return lambda: iter(kind.calibration_of_run(config, model, table, files, options.max_duration))


if __name__ == "__main__":
    command.run(main)
