"""Write a self-contained HTML page about a pruned network, and a PNG of its structure next to it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.files import atomic_path, read_json, read_text, write_text
from pruning.limits import COUNT
from pruning.speech.decoding.config import SETTINGS


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument(
        "--systems",
        nargs="+",
        type=arguments.system,
        action=arguments.Named,
        default=[],
        metavar="NAME=EXP_DIR",
        help="experiment directories: the teacher, the pruned network, others",
    )
    help_text = "Markdown files of a report to show; default: the table of --systems on --sets"
    parser.add_argument("--results", type=Path, nargs="+", default=[], help=help_text)
    help_text = "test sets that --systems decoded, e.g. test-clean test-other: the worst utterances are shown"
    parser.add_argument("--sets", nargs="+", default=[], help=help_text)
    parser.add_argument("--method", choices=list(SETTINGS), default="greedy_search", help="decoding method")
    parser.add_argument("--epoch", type=COUNT.parse, help="decodings of this epoch, as for pruning.bin.report")
    parser.add_argument("--avg", type=COUNT.parse, help="decodings of this average, as for pruning.bin.report")
    help_text = "experiment directory of the extracted network, whose structure is drawn, also as PAGE-structure.png"
    parser.add_argument("--structure", type=Path, help=help_text)
    parser.add_argument(
        "--runs",
        nargs="*",
        type=arguments.system,
        action=arguments.Named,
        default=argparse.SUPPRESS,
        metavar="NAME=EXP_DIR",
        help="training runs whose curves are drawn; default: those of --systems that were trained here, without "
        "those of --further",
    )
    help_text = "runs that follow the teacher, drawn one after the other: pruning=exp/pruned fine-tuning=exp/finetuned"
    parser.add_argument(
        "--further",
        nargs="*",
        type=arguments.system,
        action=arguments.Named,
        default=[],
        metavar="NAME=EXP_DIR",
        help=help_text,
    )
    parser.add_argument("--plot", type=Path, help="PNG of pruning.bin.compare to include")
    parser.add_argument("--output", type=Path, required=True, help="HTML file to write")
    parser.add_argument("--title", default="A pruned network", help="title of the page")
    options = parser.parse_args(argv)
    if not options.results and not options.sets:
        raise UserError("no results given", "give --results, or --sets that --systems decoded")

    from pruning.core.structure import Structure
    from pruning.experiments.structure_files import STRUCTURE
    from pruning.reports import pictures, report, worst_utterances
    from pruning.reports.loss_curves import Training
    from pruning.reports.page import page

    weights = {"epoch": options.epoch, "avg": options.avg}
    rows = report.collect(options.systems, options.sets, options.method, **weights) if options.sets else []
    if options.sets:
        worst_utterances.compared(rows)
    texts = [read_text(path) for path in options.results] or [
        report.document({options.method: rows}, options.sets, options.title)
    ]
    later = [place.resolve() for _, place in options.further]
    trained = [(name, place) for name, place in options.systems
               if (place / pictures.METRICS).is_file() and place.resolve() not in later]  # fmt: skip
    training = Training(dict(getattr(options, "runs", trained)), dict(options.further))
    write_text(options.output, page("\n".join(texts), options.structure, training, rows, options.plot, options.title))
    if options.structure is not None:
        structure = Structure.from_dict(read_json(options.structure / STRUCTURE))
        with atomic_path(options.output.with_name(f"{options.output.stem}-structure.png")) as temporary:
            temporary.write_bytes(pictures.structure_picture(structure, options.title))
    print(f"wrote {options.output}")


if __name__ == "__main__":
    command.run(main)
