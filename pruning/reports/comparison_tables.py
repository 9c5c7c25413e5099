"""Tables and plots of a sweep: a table per target, one method over all sizes, verdicts on claims, and the plot."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.methods.names import TECHNIQUES
from pruning.models.facts import decoder_macs
from pruning.reports.document import estimate, tabulated
from pruning.speech.scoring.bootstrap import Estimate
from pruning.sweeps.comparison import Comparison, Line
from pruning.sweeps.lines import TEACHER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_COMMA = re.compile(r", (?![^\[{]*[\]}])")  # not within a list or a mapping


def _shown(value: Estimate, show: Callable[[float], float], sign: bool = False) -> str:
    low, high = sorted((show(value.low), show(value.high)))  # accuracy decreases as errors increase
    return estimate(show(value.value), (low, high), sign)


def _seeds(comparison: Comparison, line: Line) -> str:
    wanted = len(comparison.planned.get((line.target, line.method), ()))
    return f"{len(line.seeds)} of {wanted}" if len(line.seeds) < wanted else str(len(line.seeds))


def _likelihood(line: Line) -> dict[str, str]:
    return {} if line.nll_per_token is None else {"NLL / token": f"{line.nll_per_token:.4f}"}


_OF_SETTINGS = ("threads", "work", "batch", "seconds", "tokens")


def times(speed: Mapping[str, Any], backend: str) -> tuple[dict[str, float], str]:
    """Return median milliseconds of networks from a benchmark whose systems are named like runs: teacher, quarter/l0.

    Args:
        speed: content of the JSON file of ``pruning.bin.benchmark`` or ``benchmark_lm``.
        backend: name of the backend; its first setting is used.

    Returns:
        The times by system, and the setting in words.

    Raises:
        UserError: the benchmark has no such backend.
    """
    rows = [row for row in speed["rows"] if row["backend"] == backend]
    if not rows:
        raise UserError(f"the benchmark did not measure backend {backend}", "choose a backend that it measured")
    first = {key: rows[0][key] for key in _OF_SETTINGS if key in rows[0]}
    found = {row["system"]: 1000 * row["median_seconds"] for row in rows if first.items() <= row.items()}
    return found, ", ".join(f"{key} {value}" for key, value in first.items())


def _zeros(line: Line) -> int:
    """Return the number of weights that an unstructured method set to zero; 0 if less than 5 % are zero."""
    parameters = int(line.network["parameters"])
    zeros = parameters - int(line.network.get("nonzero_parameters", parameters))
    return zeros if zeros > 0.05 * parameters else 0


def _minutes(seconds: float) -> str:
    """Return whole minutes, or tenths below ten."""
    return f"{seconds / 60:.{0 if seconds >= 600 else 1}f}"


def table(
    comparison: Comparison, target: str, style: str = "pipe", milliseconds: Optional[Mapping[str, float]] = None
) -> str:
    """Return a table of the lines at one target, teacher first; ``milliseconds`` (see `times`) adds a column."""
    differences = comparison.differences(target, comparison.reference, list(comparison.legend))
    names = list(dict.fromkeys(comparison.lines[0].sets.tolist()))
    measure, rows = comparison.measure, []
    any_zeros = any(_zeros(line) for line in comparison.lines)
    any_steps = any(line.steps is not None for line in comparison.lines)
    any_dev = any(line.dev is not None for line in comparison.lines)
    for line in comparison.lines:
        if line.target not in ("", target):
            continue
        measured = np.array([measure.shown(rate) for rate in line.rates])
        spread = f"{measured.std(ddof=1):.2f}" if len(line.seeds) > 1 else "-"
        row = {"method": comparison.shown(line.method), "seeds": _seeds(comparison, line)}
        row |= {f"{measure.name} pooled": _shown(comparison.sample(line).interval, measure.shown)}
        row["sd over seeds"] = spread
        if len(names) > 1:
            row |= {f"{measure.name} {name}": f"{measure.shown(line.set_rate(name)):.2f}" for name in names}
        row |= _likelihood(line)
        if any_steps:
            row["further steps"] = "-" if line.steps is None else f"{line.steps:.0f}"
            row["minutes"] = "-" if line.seconds is None else _minutes(line.seconds)
        if any_dev:
            row["dev loss"] = "-" if line.dev is None else f"{line.dev:.4f}"
        for key, unit, scale in (measure.size, measure.computation):
            row[unit] = f"{line.network[key] / scale:.3f}"
        row |= decoder_macs(line.network)
        if any_zeros:
            row["of them zero"] = f"{_zeros(line) / 1e6:.3f}" if _zeros(line) else "-"
        if milliseconds is not None:
            row["ms"] = f"{milliseconds[line.name]:.1f}" if line.name in milliseconds else "-"
        difference = differences.get(line.method) if line.target else None
        shown = _shown(difference[0], measure.shown_difference, sign=True) if difference else ""
        row[f"{measure.difference} {comparison.shown(comparison.reference)}"] = shown
        row["p (Holm)"] = f"{difference[1]:.4f}" if difference else ""
        rows.append(row)
    return tabulated(rows, style)


def across(comparison: Comparison, method: str, style: str = "pipe") -> str:
    """Return a table of the teacher and one method at all its targets, with the loss relative to the teacher.

    Raises:
        UserError: the method was run at no target.
    """
    lines = [line for line in comparison.lines if line.method in (TEACHER, method)]
    if len(lines) < 2:
        raise UserError(f"no results for method {method!r}", f"choose from {', '.join(comparison.legend)}")
    measure, rows = comparison.measure, []
    for line in lines:
        sample = comparison.sample(line)
        loss = (sample - comparison.sample(lines[0])).interval
        share = line.network[measure.size[0]] / lines[0].network[measure.size[0]]
        rows.append({"network": line.target or TEACHER, "share": f"{share:.3f}", "seeds": str(len(line.seeds)),
                     f"{measure.name} pooled": _shown(sample.interval, measure.shown),
                     **_likelihood(line),
                     f"{measure.difference} {TEACHER}":
                         _shown(loss, measure.shown_difference, sign=True) if line.target else ""})  # fmt: skip
    return tabulated(rows, style)


def not_run(comparison: Comparison) -> str:
    """Return which runs of the sweep have no result, or were made by other settings, in words; empty: none."""
    lacking = {f"{comparison.shown(method)} at {target}": comparison.missing(method, target)
               for target, method in comparison.planned}  # fmt: skip
    return ", ".join(f"{line} ({_seed_list(seeds)})" for line, seeds in lacking.items() if seeds)


def legend(comparison: Comparison) -> str:
    """Return what each line is, as a list; one that has all that an earlier line has names that line instead."""
    parts = {name: _COMMA.split(words) for name, words in comparison.legend.items()}
    lines = []
    for index, (name, own) in enumerate(parts.items()):
        shown = comparison.shown(name)
        earlier = [other for other in list(parts)[:index] if len(parts[other]) > 1 and set(parts[other]) <= set(own)]
        if earlier:
            like = max(earlier, key=lambda other: len(parts[other]))
            own = [f"as {comparison.shown(like)}", *(part for part in own if part not in parts[like])]
        lines.append(f"- **{shown}**{f' (line `{name}`)' if shown != name else ''}: {', '.join(own)}")
    return "\n".join(lines)


def grid(comparison: Comparison, target: str, style: str = "pipe") -> str:
    """Return the lines of a sweep's grid (METHOD-TECHNIQUE-SETTING) as a table with a row per criterion.

    A dash marks a combination that is not defined. The result is empty if the sweep has no such lines.
    """
    split = (name.rsplit("-", 2) for name in comparison.legend)
    names = [parts for parts in split if len(parts) == 3 and parts[1] in TECHNIQUES]
    if not names:
        return ""
    columns = list(dict.fromkeys((technique, setting) for _, technique, setting in names))
    rows = []
    for method in dict.fromkeys(method for method, _, _ in names):
        row = {"criterion": method}
        for technique, setting in columns:
            name = f"{method}-{technique}-{setting}"
            line, planned = comparison.line(name, target), (target, name) in comparison.planned
            value = None if line is None else comparison.measure.shown(float(line.rates.mean()))
            row[f"{technique}, {setting}"] = "-" if not planned else "not run" if value is None else f"{value:.2f}"
        if any(value not in ("-", method) for value in row.values()):
            rows.append(row)
    return tabulated(rows, style)


def verdict(differences: Mapping[str, tuple[Estimate, float]], margin: float = 0.0) -> str:
    """Return the verdict on the claim that a method is better than others, from `Comparison.differences` to it.

    *holds*: it is better than each of them, by Holm's p < 0.05; *does not hold*: one of them is better by the same
    test; otherwise the data cannot tell. With a ``margin`` (of the rate), intervals of 95 % decide: the claim holds if
    its excess over each of them is below the margin, and does not hold if its excess over one of them is above it.

    Raises:
        ValueError: there is no difference.
    """
    if not differences:
        raise ValueError("a verdict needs a difference")
    if margin > 0:
        if any(value.high < -margin for value, _ in differences.values()):
            return "does not hold"
        held = all(value.low > -margin for value, _ in differences.values())
        return "holds" if held else "not resolvable here"
    if any(p < 0.05 and value.value < 0 for value, p in differences.values()):
        return "does not hold"
    if all(p < 0.05 and value.value > 0 for value, p in differences.values()):
        return "holds"
    return "not resolvable here"


def _seed_list(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def claims_table(comparison: Comparison, style: str = "pipe") -> str:
    """Return a table of every claim at every target that its methods are planned for, with its verdict."""
    rows = []
    for claim, parts in comparison.claims.items():
        for target in comparison.targets:
            methods = [name for name in (parts["better"], *parts["than"])
                       if name == TEACHER or (target, name) in comparison.planned]  # fmt: skip
            if len(methods) < 2 or parts["better"] not in methods:
                continue
            lacking = {name: comparison.missing(name, target) for name in methods}
            missing = [f"{comparison.shown(name)} ({_seed_list(seeds)})" for name, seeds in lacking.items() if seeds]
            differences = comparison.differences(target, parts["better"], methods[1:])
            show = comparison.measure.shown_difference
            shown = (
                f"{comparison.shown(name)} {_shown(value, show, sign=True)}" for name, (value, _) in differences.items()
            )
            margin = parts.get("margin", 0.0)  # absent in results of earlier versions
            outcome = f"incomplete: {', '.join(missing)}" if missing else verdict(differences, margin)
            if comparison.seed_deviation is None and not missing:
                outcome += " (one seed: what another would give is not known)"
            better = f"that of {comparison.shown(parts['better'])}"
            heading = f"{comparison.measure.name} {comparison.measure.difference}"
            said = claim + (f" (at most {margin:g} more)" if margin else "")
            rows.append({"claim": said, "target": target, heading: better, "is": "; ".join(shown),
                         "verdict": outcome})  # fmt: skip
    return tabulated(rows, style)


def bars(comparison: Comparison, lines: Sequence[Line]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rates of lines as they are shown, ``(L,)``, and their intervals below and above them, ``(2, L)``."""
    show = comparison.measure.shown
    rates = [comparison.sample(line).interval for line in lines]
    shown = np.array([[show(rate.value), show(rate.low), show(rate.high)] for rate in rates])
    middle = shown[:, 0]
    return middle, np.stack([middle - shown.min(axis=1), shown.max(axis=1) - middle])


def save(figure: Figure, panels: Sequence[Axes], label: str, path: PathLike) -> None:
    """Label the common vertical axis of ``panels``, put the legend beside the last one, and write the PNG."""
    from matplotlib import pyplot

    from pruning.files import atomic_path

    panels[0].set_ylabel(label)
    panels[-1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)


def plot(
    comparison: Comparison,
    path: PathLike,
    milliseconds: Optional[Mapping[str, float]] = None,
    names: Optional[Sequence[str]] = None,
) -> None:
    """Plot the measure against parameters, MACs and time as a PNG, a line per method (of ``names``), with intervals.

    Raises:
        UserError: a name is not that of a line.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    unknown = [name for name in names or () if name not in comparison.legend]
    if unknown:
        raise UserError(f"no line {unknown[0]!r} to plot", f"choose from {', '.join(comparison.legend)}")
    measure = comparison.measure
    (size, size_unit, size_scale), (work, work_unit, work_scale) = measure.size, measure.computation
    left_out = ", zeros left out" if any(_zeros(line) for line in comparison.lines) else ""
    axes: dict[str, Callable[[Line], float]] = {
        f"{measure.part}: {size_unit}{left_out}": lambda line: (line.network[size] - _zeros(line)) / size_scale,
        f"{measure.part}: {work_unit}": lambda line: line.network[work] / work_scale,
    }
    if milliseconds is not None:
        axes["ms of the network, measured"] = lambda line: milliseconds.get(line.name, math.nan)
    figure, panels = pyplot.subplots(1, len(axes), figsize=(2 + 5 * len(axes), 5), sharey=True)
    methods = [name for name in dict.fromkeys(line.method for line in comparison.lines)
               if names is None or name in (TEACHER, *names)]  # fmt: skip
    for panel, (label, place) in zip(panels, axes.items()):
        for index, method in enumerate(methods):
            lines = sorted((ln for ln in comparison.lines if ln.method == method), key=place)
            middle, errors = bars(comparison, lines)
            panel.errorbar([place(line) for line in lines], middle, errors,
                           marker="osD^v<>phX*"[index % 11], capsize=2, linewidth=1,
                           label=comparison.shown(method))  # fmt: skip
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    if measure.logarithmic:
        panels[0].set_yscale("log")
        panels[0].yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 3, 4, 6)))
        for set_formatter in (panels[0].yaxis.set_major_formatter, panels[0].yaxis.set_minor_formatter):
            set_formatter(ticker.StrMethodFormatter("{x:g}"))
    save(figure, panels, f"{measure.name} (95 % interval)", path)
