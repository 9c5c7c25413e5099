#!/usr/bin/env python3
"""Measure the effect of MKL_DEBUG_CPU_TYPE=5 and of the number of threads on matrix products and training steps.

Each measurement runs in its own process, in an order that is reversed in every other round. Nothing else should be
running. Run it in the recipe's folder, after `run.sh --mini true --stop-stage 6`: paths in the cuts are relative to it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from pruning import processor
from pruning.bin import command
from pruning.errors import UserError
from pruning.files import write_json, write_text
from pruning.limits import COUNT, POSITIVE

PRODUCTS = {"1000x512 times 512x2048": (1000, 512, 2048), "1000x96 times 96x192": (1000, 96, 192)}
STAGES = ("teacher", "prune", "finetune")
SECONDS_PER_PRODUCT = 0.3
UNCOUNTED_STEPS = 3  # memory is allocated in the first ones
Condition = tuple[str, int, int]  # the variable's value, threads, parallel jobs
REFERENCE: Condition = ("", 2, 1)


class Enough(Exception):
    """Ends a run after the measured steps."""


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Measure and write ``OUTPUT`` (JSON) and a table with the suffix .md, or do one measurement in this process."""
    options = parse(argv)
    if options.worker:
        print(json.dumps({"gflops": products(options.worker), "steps": training(options, options.worker)}))
        return
    from pruning import provenance

    if not processor.reads_variable(provenance.version_of("torch")):
        raise UserError("the MKL of this torch does not read the variable", "measure with a torch older than 2")
    began, load = time.monotonic(), round(os.getloadavg()[0], 2)
    conditions: list[Condition] = [(value, threads, 1) for value in ("", processor.AVX2) for threads in (1, 2)]
    conditions.append((processor.AVX2, 1, 2))
    rows: list[dict[str, Any]] = []
    longest = 0.0
    for number in range(1, options.rounds + 1):
        round_began = time.monotonic()
        if round_began - began + longest > options.limit_seconds:
            print(f"no time for round {number}", file=sys.stderr)
            break
        for condition in conditions if number % 2 else conditions[::-1]:
            measured = measure(options, condition, began + options.limit_seconds)
            rows.append({"round": number, "value": condition[0], "threads": condition[1], "jobs": condition[2],
                         **measured})  # fmt: skip
            print(f"round {number}, {name_of(condition)}: {measured}", file=sys.stderr)
        longest = max(longest, time.monotonic() - round_began)
    facts = provenance.of_script("local/measure_processor.py", argv) | {"load_average": load}
    for varied in ("threads", processor.KEY):
        del facts[varied]
    write_json(options.output, {"rows": rows, "steps": options.steps, **facts})
    write_text(options.output.with_suffix(".md"), document(rows, conditions, facts))


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """Parse and return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data/mini"), help="directory with features and word pieces"
    )
    parser.add_argument("--exp-dir", type=Path, default=Path("exp/mini"), help="directory with teacher/ and extracted/")
    parser.add_argument("--conf", type=Path, default=Path(__file__).resolve().parents[1] / "conf" / "mini")
    parser.add_argument("--vocab-size", type=COUNT.parse, default=60)
    parser.add_argument("--steps", type=COUNT.parse, default=12, help="number of timed training steps of each stage")
    parser.add_argument("--rounds", type=COUNT.parse, default=3)
    parser.add_argument(
        "--limit-seconds", type=POSITIVE.parse, default=330, help="do not start a round that would end after this time"
    )
    parser.add_argument("--output", type=Path, default=Path("exp/processor/speed.json"))
    parser.add_argument("--worker", type=COUNT.parse, metavar="THREADS", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measure(options: argparse.Namespace, condition: Condition, until: float) -> dict[str, Any]:
    """Return means over parallel jobs; with several jobs, seconds are per step of any of them.

    Raises:
        UserError: the measurement fails, or has not ended at the time ``until``.
    """
    value, threads, jobs = condition
    words = [sys.executable, __file__, "--worker", str(threads), "--data-dir", str(options.data_dir), "--exp-dir",
             str(options.exp_dir), "--conf", str(options.conf), "--vocab-size", str(options.vocab_size), "--steps",
             str(options.steps)]  # fmt: skip
    environment = {name: text for name, text in os.environ.items() if name not in (processor.OWN, "OMP_NUM_THREADS")}
    environment |= {processor.VARIABLE: value, "PYTHONWARNINGS": "ignore"}
    started = [
        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(jobs)
    ]
    try:
        ended = [(process, *process.communicate(timeout=max(0.0, until - time.monotonic()))) for process in started]
    except subprocess.TimeoutExpired:
        raise UserError(
            f"the limit of {options.limit_seconds:g} s was reached in {name_of(condition)}",
            "end other programs on this machine, or give a higher --limit-seconds",
        ) from None
    finally:
        for process in started:
            process.kill()  # no effect if it has ended
    for process, _, errors in ended:
        if process.returncode != 0:
            raise UserError(f"a measurement failed: {errors.strip()[-1000:]}", "see above")
    found = [json.loads(output.splitlines()[-1]) for _, output, _ in ended]
    return {
        "gflops": {key: jobs * statistics.mean(one["gflops"][key] for one in found) for key in PRODUCTS},
        "steps": {key: statistics.mean(one["steps"][key] for one in found) / jobs for key in STAGES},
    }


def products(threads: int) -> dict[str, float]:
    """Return the GFLOP/s of float32 products."""
    import torch

    torch.set_num_threads(threads)
    rates = {}
    for name, (rows, inner, columns) in PRODUCTS.items():
        left, right = torch.randn(rows, inner), torch.randn(inner, columns)
        left @ right
        times, began = [], time.perf_counter()
        while time.perf_counter() - began < SECONDS_PER_PRODUCT:
            at = time.perf_counter()
            left @ right
            times.append(time.perf_counter() - at)
        rates[name] = 2 * rows * inner * columns / statistics.median(times) / 1e9
    return rates


def training(options: argparse.Namespace, threads: int) -> dict[str, float]:
    """Return seconds per step of the first steps of each stage, data loading included; batches are always the same."""
    from pruning.bin import finetune, prune, train
    from pruning.training.progress import Reporter

    at: list[float] = []

    def advance(self: Reporter) -> None:
        at.append(time.perf_counter())
        if len(at) > UNCOUNTED_STEPS + options.steps:
            raise Enough

    Reporter.advance = advance  # type: ignore[method-assign]
    cuts = options.data_dir / "fbank"
    data = ["--lang-dir", str(options.data_dir / f"lang_bpe_{options.vocab_size}"),
            "--train-cuts", str(cuts / "librispeech_cuts_train-clean-mini.jsonl.gz"),
            "--dev-cuts", str(cuts / "librispeech_cuts_dev-clean-mini.jsonl.gz")]  # fmt: skip
    settings = [f"trainer.num_threads={threads}", "trainer.device=cpu", "trainer.tensorboard=false"]
    teacher = ["--teacher", str(options.exp_dir / "teacher")]
    commands = {
        "teacher": (train.main, []),
        "prune": (prune.main, teacher),
        "finetune": (finetune.main, [*teacher, "--init", str(options.exp_dir / "extracted")]),
    }
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for stage in STAGES:
            run, more = commands[stage]
            at.clear()
            try:
                run(["--config", str(options.conf / f"{stage}.yaml"), "--exp-dir", f"{temporary}/{stage}", *data, *more,
                     *settings])  # fmt: skip
            except Enough:
                found[stage] = (at[-1] - at[UNCOUNTED_STEPS]) / options.steps
            else:
                raise UserError(f"{stage} ended before {options.steps} steps were timed", "give fewer --steps")
    return found


def name_of(condition: Condition) -> str:
    """Return the name of a condition as in the table."""
    value, threads, jobs = condition
    flag = f"{processor.VARIABLE}={value}" if value else "without"
    return f"{flag}, {'two jobs of ' if jobs > 1 else ''}{threads} thread{'s' if threads > 1 else ''}"


def document(rows: Sequence[Mapping[str, Any]], conditions: Sequence[Condition], facts: Mapping[str, Any]) -> str:
    """Return Markdown: medians over the rounds, and the speed relative to the reference of the same round."""
    head = ["", *(name_of(condition) for condition in conditions)]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(conditions)]
    quantities = [("gflops", key, f"{key}, GFLOP/s") for key in PRODUCTS]
    quantities += [("steps", key, f"{key}, s / step") for key in STAGES]
    for kind, key, label in quantities:
        values: dict[Condition, dict[int, float]] = {condition: {} for condition in conditions}
        for row in rows:
            values[row["value"], row["threads"], row["jobs"]][row["round"]] = row[kind][key]
        cells = [label]
        for condition in conditions:
            mine, theirs = values[condition], values[REFERENCE]
            ratios = [mine[n] / theirs[n] if kind == "gflops" else theirs[n] / mine[n] for n in mine]
            middle = statistics.median(mine.values())
            shown = f"{middle:.0f}" if kind == "gflops" else f"{middle:.3f}"
            cells.append(f"{shown}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    rounds = max(row["round"] for row in rows)
    return "\n".join([
        "# MKL_DEBUG_CPU_TYPE and threads", "",
        f"Median over {rounds} rounds: how many times as fast as {name_of(REFERENCE)} in that round (least to most).",
        "Of two jobs side by side, what both do together counts. Steps are the first of the mini configurations.", "",
        *lines, "",
        f"{facts['processor']}, {facts['processors']} processors, load {facts['load_average']} before; torch "
        f"{facts['torch']}; commit {facts['commit']}, {facts['date']}; `{facts['command']}`.", "",
    ])  # fmt: skip


if __name__ == "__main__":
    command.run(main)
