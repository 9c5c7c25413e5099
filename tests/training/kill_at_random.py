"""Program that checks that a training command killed at random times, and started again, ends as if undisturbed.

    python -m tests.training.kill_at_random --directory DIR --kills 20 -- python -m pruning.bin.prune ARGUMENT...

runs the command twice, with ``--exp-dir DIR/whole`` and ``--exp-dir DIR/killed``, the second time with this number of
SIGKILLs and SIGTERMs, and compares all weights, structures and metrics. Use a ``trainer.state_interval`` of few steps,
because steps after the last state are repeated. Some signals come before training begins, and some while a state or a
checkpoint is written. With torchrun, all processes get a SIGKILL, but only the launcher gets a SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pruning.files import read_json
from pruning.training.interruption import REQUEUE_STATUS
from tests.training.test_trainer import assert_equal_experiments

SHARE_BEFORE_TRAINING = 0.2
EXPECTED = {
    signal.SIGKILL: {-signal.SIGKILL},
    # before training there is nothing to save
    signal.SIGTERM: {REQUEUE_STATUS, -signal.SIGTERM, 128 + signal.SIGTERM},
}


@dataclass(frozen=True)
class Durations:
    """Seconds from the start of the command to its first step, and from there to its end."""

    start: float
    training: float


class Run:
    """One start of the command."""

    def __init__(self, command: Sequence[str], exp_dir: Path) -> None:
        self.output = ""
        # a new session, so that a launcher's processes can be killed with it
        self.process = subprocess.Popen([*command, "--exp-dir", str(exp_dir)], stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip

    def wait_for_training(self) -> None:
        """Wait until the command logs that it starts or resumes, or has ended."""
        for line in self.process.stdout or []:
            self.output += line
            if " starting " in line or " resuming " in line:
                return

    def send(self, number: signal.Signals) -> None:
        """Send SIGKILL to all processes, or another signal to the first."""
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the end; return the status."""
        self.output += self.process.communicate()[0]
        return self.process.returncode


def undisturbed(command: Sequence[str], exp_dir: Path) -> Durations:
    """Run to the end."""
    began = time.monotonic()
    run = Run(command, exp_dir)
    run.wait_for_training()
    training = time.monotonic()
    assert run.end() == 0, run.output
    return Durations(training - began, time.monotonic() - training)


def disturbed(command: Sequence[str], exp_dir: Path, kills: int, seed: int, durations: Durations) -> list[str]:
    """Run with ``kills`` signals; return what each did (fewer if the command ended before)."""
    moments = random.Random(seed)
    told = []
    for index in range(kills):
        number = moments.choice([signal.SIGKILL, signal.SIGTERM])
        run = Run(command, exp_dir)
        early = moments.random() < SHARE_BEFORE_TRAINING
        if not early:
            run.wait_for_training()
        seconds = moments.uniform(0, durations.start if early else 1.5 * durations.training / kills)
        time.sleep(seconds)
        run.send(number)
        status = run.end()
        if status == 0:  # it had ended
            break
        assert status in EXPECTED[number], run.output
        where = "after the start of the command" if early else "after the start of training"
        told.append(f"{index + 1}: {number.name} {seconds:.2f} s {where}, status {status}")
        print(told[-1], flush=True)
    last = Run(command, exp_dir)
    assert last.end() == 0, last.output
    return told


def compare(whole: Path, killed: Path) -> None:
    """Check for equal weights, headers, metrics and structures, and for incomplete files."""
    assert_equal_experiments(whole, killed)
    for name in ("structure.json", "model.json"):
        if (whole / name).exists():
            assert read_json(whole / name) == read_json(killed / name), name
    assert not list(killed.rglob(".tmp-*"))


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="of both experiments; must not hold any")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the moments and the signals")
    parser.add_argument("command", nargs="+", help="training command without --exp-dir")
    options = parser.parse_args()
    print(f"seed of the moments: {options.seed}", flush=True)
    whole, killed = options.directory / "whole", options.directory / "killed"
    durations = undisturbed(options.command, whole)
    print(f"undisturbed: {durations.start:.1f} s to the start, {durations.training:.1f} s of training", flush=True)
    told = disturbed(options.command, killed, options.kills, options.seed, durations)
    compare(whole, killed)
    print(f"after {len(told)} signals weights, metrics and structures are those of the undisturbed run")
    sys.exit(len(told) < options.kills)


if __name__ == "__main__":
    main()
