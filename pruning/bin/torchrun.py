"""Start a command in several processes: torchrun, with its options.

``python -m pruning.bin.torchrun --standalone --nproc_per_node 2 -m pruning.bin.train ...``

Unlike torchrun itself it starts with torch 1.13 under Python 3.11, waits after SIGTERM until the processes have saved
their state, ends with the status of the command (75: the state was saved, run it again), leaves the last word to the
command's own error line, and restarts (--max_restarts) only after the loss of a process.

``srun python -m pruning.bin.torchrun --slurm --nproc_per_node 4 -m pruning.bin.train ...`` in a Slurm job of several
nodes, one task each, makes them one training: --slurm stands for --nnodes and where they meet.
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
    """Run torchrun and pass on how its processes ended."""
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
            sys.exit(128 + signal.SIGTERM)  # before training began: there was nothing to save
        for rank, failure in error.failures.items():
            if failure.exitcode < 0:  # such a process could not say anything itself
                print(
                    f"error: process {rank} was ended by {signal.Signals(-failure.exitcode).name}; run the same "
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
