"""Run jobs on this machine, each with its log, and end all of them on a signal."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, Optional

from jobs.array import OPERATORS, Jobs

GRACE_SECONDS = float(os.environ.get("RUN_JOBS_GRACE", "60"))  # training saves its state after SIGTERM


def now() -> str:
    return datetime.datetime.now().astimezone().strftime("%a %b %d %H:%M:%S %Z %Y")


class Executor:
    """Run single jobs, and end all of them on request.

    Args:
        grace: seconds that jobs have to end themselves after SIGTERM.
        append: append to existing logs instead of overwriting them.
    """

    def __init__(self, grace: float = GRACE_SECONDS, append: bool = False) -> None:
        self._grace = grace
        self._mode = "ab" if append else "wb"
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._signal: Optional[int] = None

    def run(self, jobs: Jobs, number: int, gpus: Optional[str] = None) -> int:
        """Run one job to its end and return its status; its log records what ran, when, and how it ended.

        The job sees the GPUs ``gpus`` (a value of CUDA_VISIBLE_DEVICES), or all GPUs if None.
        """
        if self._signal is not None:
            return 128 + self._signal
        log = jobs.log_of(number)
        log.parent.mkdir(parents=True, exist_ok=True)
        line = jobs.shell_line(number)
        started = time.monotonic()
        with open(log, self._mode, buffering=0) as stream:
            stream.write(os.fsencode(f"# {line}\n# Started at {now()}\n#\n"))
            words = jobs.words(number)
            if shutil.which(words[0]) and not OPERATORS.intersection(words):
                # then a signal reaches the command itself, its status is the job's, and no line is too long
                command = ["bash", "-c", 'exec "$@"', "bash", *words]
            else:
                command = ["bash", "-c", f"set -o pipefail; {line}"]
            status = self._wait(command, stream, {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {})
            seconds = round(time.monotonic() - started)
            stream.write(
                f"# Accounting: time={seconds} threads={jobs.threads}\n"
                f"# Ended (code {status}) at {now()}, elapsed time {seconds} seconds\n".encode()
            )
        return status

    def _wait(self, command: list[str], stream: Any, settings: dict[str, str]) -> int:
        with self._lock:
            if self._signal is not None:
                return 128 + self._signal
            # its own session, so that everything the job started can be ended with it
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env={**os.environ, **settings},
            )
            self._running.add(process)
        status = process.wait()
        with self._lock:
            self._running.discard(process)
        return status if status >= 0 else 128 - status

    def stop(self, number: int) -> None:
        """End the running jobs and their children (SIGTERM, after the grace period SIGKILL), and start no more."""
        with self._lock:
            self._signal = number
            groups = [process.pid for process in self._running]
        for group in groups:
            _signal_group(group, signal.SIGTERM)
        deadline = time.monotonic() + self._grace
        while any(_signal_group(group, 0) for group in groups) and time.monotonic() < deadline:
            time.sleep(0.05)
        for group in groups:
            _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; return whether the group exists."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


_held = False
_arrived: Optional[int] = None


def catch_signals(*more: signal.Signals) -> None:
    """Turn the first SIGINT, SIGTERM, SIGHUP or ``more`` into :class:`Interrupted`, raised in the main thread."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *more)

    def handle(number: int, frame: Any) -> None:
        global _arrived
        for other in signals:
            # not SIG_IGN: a job that another thread is just starting would inherit it and could not be ended
            signal.signal(other, lambda *_: None)
        _arrived = number
        if not _held:
            raise Interrupted(number)

    for number in signals:
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup SIGHUP stays ignored
            signal.signal(number, handle)


@contextmanager
def signals_held() -> Iterator[None]:
    """Delay :class:`Interrupted` until the end of the block, for actions that must not be interrupted halfway."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False
    if _arrived is not None:
        raise Interrupted(_arrived)


def end_with_parent() -> None:
    """Send SIGTERM to this process when its parent is gone, so that jobs do not outlive a killed recipe."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def gpu_shares(jobs: Jobs) -> list[str]:
    """Return the machine's GPUs in shares of the size that each job requests; empty if all jobs see all GPUs."""
    wanted = jobs.options.get("gpu", "0")
    if jobs.count == 1 or not re.fullmatch(r"[1-9]\d*", wanted):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        gpus = [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    else:
        gpus = []
        with suppress(OSError, subprocess.TimeoutExpired):
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
            gpus = [str(index) for index, _ in enumerate(re.findall(r"^GPU \d+", listed.stdout, re.MULTILINE))]
    size = int(wanted)
    return [",".join(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)]


def run_here(jobs: Jobs) -> dict[int, int]:
    """Run the jobs on this machine, several at once, and return the status of each."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = gpu_shares(jobs)
    workers = min(jobs.count, jobs.whole_number("max_jobs_run", len(shares) or max(1, processors // jobs.threads)))
    free: SimpleQueue[Optional[str]] = SimpleQueue()
    for index in range(workers):
        free.put(shares[index % len(shares)] if shares else None)
    executor = Executor()

    def run(number: int) -> int:
        share = free.get()
        try:
            return executor.run(jobs, number, share)
        finally:
            free.put(share)

    numbers = range(jobs.first, jobs.last + 1)
    with ThreadPoolExecutor(workers) as pool:
        try:
            futures = {number: pool.submit(run, number) for number in numbers}
            return {number: future.result() for number, future in futures.items()}
        except Interrupted as interrupted:
            executor.stop(interrupted.number)
            raise
        except OSError:
            executor.stop(signal.SIGTERM)
            raise
