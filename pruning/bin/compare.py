"""Tabulate and plot a sweep from its results directory alone: each method at each target against the reference."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command
from pruning.files import read_json
from pruning.kinds.measuring import MEASURES

SEEDS = (
    "The variation between seeds is in the intervals, by Student's t; its standard deviation, pooled over the lines "
    "with several seeds, is {deviation:.2f} {unit} ({freedom} degrees of freedom)."
)
ONE_SEED = "All lines have one seed: the intervals do not include the variation between seeds."
LIKELIHOOD = "NLL: nats per token of the transcripts, over the whole transducer lattice."

CLAIMS = """\
*holds*: better than each of the other lines at the 5 % level, with Holm's correction over them; *does not hold*: one of
the other lines is better at that level; *not resolvable here*: neither. "At most X more": the 95 % interval of each
difference lies below X (*holds*), or the interval of at least one lies above X (*does not hold*)."""


def _wrapped(text: str) -> str:
    from pruning.reports import document

    return textwrap.fill(text, document.WIDTH, break_on_hyphens=False)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--results", type=Path, required=True, help="results directory of python -m pruning.bin.sweep")
    parser.add_argument(
        "--output", type=Path, required=True, help="Markdown file to write, for --append of pruning.bin.report"
    )
    parser.add_argument(
        "--across", metavar="LINE", help="add a table of this line over all targets, which shows the effect of size"
    )
    parser.add_argument(
        "--speed", type=Path, help="JSON file of pruning.bin.benchmark or benchmark_lm, with systems named TARGET/LINE"
    )
    parser.add_argument("--backend", default="onnx", help="backend to take from --speed")
    parser.add_argument("--plot", type=Path, help="PNG file to write; plots of budgets are next to it, "
                        "named after their target")  # fmt: skip
    parser.add_argument("--plot-lines", nargs="+", metavar="LINE", help="lines of the sweep to plot; default: all")
    parser.add_argument("--title", default="Comparison of pruning methods", help="heading of the file")
    parser.add_argument("--note", help="text to put above the table")
    options = parser.parse_args(argv)

    from pruning.experiments.measurement import BLOCK
    from pruning.reports import budget_tables, comparison_tables, document
    from pruning.sweeps import comparison

    found = comparison.read(options.results)
    milliseconds, setting = None, ""
    if options.speed is not None:
        speed = read_json(options.speed, "measure with pruning.bin.benchmark or benchmark_lm first")
        milliseconds, setting = comparison_tables.times(speed, options.backend)
    seeds, deviation = ONE_SEED, found.seed_deviation
    if deviation is not None:
        seeds = SEEDS.format(deviation=deviation, unit=found.measure.unit, freedom=found.seed_freedom)
    parts = [options.note] if options.note else []
    parts.append(_wrapped(found.measure.explanation.format(seeds=seeds, block=BLOCK)))
    if found.measure in (MEASURES["wer"], MEASURES["cer"]) and found.lines[0].nll_per_token is not None:
        parts.append(LIKELIHOOD)
    not_run = comparison_tables.not_run(found)
    if not_run:
        parts.append(_wrapped(f"Not run yet, or made by other settings: {not_run}."))
    if found.claims:
        print(f"{comparison_tables.claims_table(found, 'simple')}\n")
        parts += ["### Claims", comparison_tables.claims_table(found), CLAIMS]
    if options.across is not None:
        print(f"{comparison_tables.across(found, options.across, 'simple')}\n")
        parts += [f"### {options.across} at every size", comparison_tables.across(found, options.across)]
    for target in found.targets:
        print(f"{target}\n{comparison_tables.table(found, target, 'simple', milliseconds)}\n")
        grid = comparison_tables.grid(found, target)
        parts += [f"### {target}", *([f"{found.measure.name}:", grid] if grid else []),
                  comparison_tables.table(found, target, milliseconds=milliseconds)]  # fmt: skip
        even = budget_tables.break_even_table(found, target)
        if even:
            print(f"{budget_tables.break_even_table(found, target, 'simple')}\n")
            parts += [even, budget_tables.EXPLANATION]
        if options.plot is not None and budget_tables.has_budgets(found, target):
            place = options.plot.with_name(f"{options.plot.stem}-{target}{options.plot.suffix}")
            budget_tables.plot(found, target, place)
            parts.append(f"![{found.measure.name} against further training at {target}]({place.name})")
    parts.append(comparison_tables.legend(found))
    if milliseconds is not None:
        what = f"ms: median time of the {found.measure.timed} ({options.backend}, {setting})"
        parts.append(f"{what}; see the table of {options.speed.name}.")
    parts.append(f"Measured at commit {', '.join(commit[:12] for commit in found.commits)}.")
    if options.plot is not None:
        comparison_tables.plot(found, options.plot, milliseconds, options.plot_lines)
        parts.append(f"![{found.measure.name} against size and computation]({options.plot.name})")
    document.write_section(options.output, options.title, "\n\n".join(parts), "pruning.bin.compare", argv)


if __name__ == "__main__":
    command.run(main)
