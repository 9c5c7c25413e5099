"""What further training buys: break-even multiples, and plots of errors against further steps and seconds."""

from __future__ import annotations

from pruning.files import PathLike
from pruning.reports.comparison_tables import bars, save
from pruning.reports.document import tabulated
from pruning.sweeps.break_even import LEAST_BUDGETS, break_even
from pruning.sweeps.comparison import Comparison, Line

EXPLANATION = """\
Break-even: how many times the further steps of a pruned network a network from scratch needs to err as little, at the
same target; between budgets, errors are taken to be linear in the logarithm of the steps. *>*: not with the largest
budget; *<*: with the smallest one already. All steps are batches of the same size. Minutes are of training on the
machine of the run, where other runs may have been beside it."""


def _curves(comparison: Comparison, target: str) -> dict[str, list[Line]]:
    """Return all curves at a target by name; most have a single point."""
    names = [comparison.curves.get(line.method, line.method) for line in comparison.lines if line.target == target]
    return {name: found for name in dict.fromkeys(names) if (found := comparison.curve(name, target))}


def _is_fresh(comparison: Comparison, lines: list[Line]) -> bool:
    return all(line.method in comparison.fresh for line in lines)


def break_even_table(comparison: Comparison, target: str, style: str = "github") -> str:
    """Return the break-even multiples at a target: a row per pruned line, a column per curve from scratch.

    Empty if no curve from scratch has at least three budgets.
    """
    curves = _curves(comparison, target)
    scratch = {name: lines for name, lines in curves.items()
               if _is_fresh(comparison, lines) and len({line.steps for line in lines}) >= LEAST_BUDGETS}  # fmt: skip
    if not scratch:
        return ""
    points = {
        name: list({line.steps or 0.0: (line.steps or 0.0, float(line.rates.mean())) for line in lines}.values())
        for name, lines in scratch.items()
    }
    measure, rows = comparison.measure, []
    for lines in curves.values():
        for line in lines:
            if line.method in comparison.fresh | comparison.dense or line.steps is None:
                continue
            rate = float(line.rates.mean())
            row = {
                "pruned": comparison.shown(line.method),
                "further steps": f"{line.steps:.0f}",
                measure.name: f"{measure.shown(rate):.2f}",
            }
            rows.append(row | {f"break-even with {comparison.shown(name)}": str(break_even(line.steps, rate, of))
                               for name, of in points.items()})  # fmt: skip
    return tabulated(rows, style)


def has_budgets(comparison: Comparison, target: str) -> bool:
    """Return whether a curve at a target has several budgets, so that a plot shows something."""
    return any(len(lines) > 1 for lines in _curves(comparison, target).values())


def plot(comparison: Comparison, target: str, path: PathLike) -> None:
    """Plot the measure against further steps and minutes as a PNG, a line per curve; from scratch dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    measure = comparison.measure
    figure, panels = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True)
    for index, (name, lines) in enumerate(_curves(comparison, target).items()):
        for panel, values in zip(panels, ([line.steps for line in lines], [line.seconds for line in lines])):
            known = [(value, line) for value, line in zip(values, lines) if value is not None]
            if not known:
                continue
            middle, errors = bars(comparison, [line for _, line in known])
            scale = 1.0 if panel is panels[0] else 1 / 60
            panel.errorbar([scale * value for value, _ in known], middle, errors,
                           marker="osD^v<>phX*"[index % 11], capsize=2, label=comparison.shown(name), linewidth=1,
                           linestyle="--" if _is_fresh(comparison, lines) else "-")  # fmt: skip
    for panel, label in zip(panels, ("further steps", "minutes of training")):
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
        panel.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panel.set_xlabel(label)
        panel.grid(alpha=0.3, which="both")
    save(figure, panels, f"{measure.name} at {target} (95 % interval)", path)
