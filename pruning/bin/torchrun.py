"""Start a command in several processes, with the options of torchrun.

``python -m pruning.bin.torchrun --standalone --nproc_per_node 2 -m pruning.bin.train ...``

Unlike torchrun, it works with torch 1.13 under Python 3.11, waits after SIGTERM until the processes have saved their
state, exits with the status of the command (75: state saved, run it again), prints nothing after the command's error
line, and restarts (--max_restarts) only after a process was lost.

``srun python -m pruning.bin.torchrun --slurm --nproc_per_node 4 -m pruning.bin.train ...`` in a Slurm job of several
nodes with one task each starts one training on all of them: --slurm sets --nnodes and the rendezvous options.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Optional

from pruning import compat
from pruning.bin import command
from pruning.training import elastic
from pruning.training.interruption import BAD_INPUT_STATUS, REQUEUE_STATUS


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run torchrun and exit with the status of its processes."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = elastic.options(list(sys.argv[1:] if argv is None else argv))
    compat.repair_torchrun()
    elastic.restart_lost_alone()
    end = elastic.PassedOn()
    end.install()
    try:
        run.main(arguments)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        if REQUEUE_STATUS in codes:
            sys.exit(REQUEUE_STATUS)
        if end.asked and set(codes) == {-signal.SIGTERM}:
            sys.exit(128 + signal.SIGTERM)  # training had not started, so there was nothing to save
        for rank, failure in error.failures.items():
            if failure.exitcode < 0:  # a process killed by a signal could not print an error itself
                print(
                    f"error: process {rank} was killed by {signal.Signals(-failure.exitcode).name}; run the same "
                    "command again to continue",
                    file=sys.stderr,
                )
        sys.exit(1 if BAD_INPUT_STATUS in codes else max([1, *codes]))
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        sys.exit(REQUEUE_STATUS)


if __name__ == "__main__":
    command.run(main)
