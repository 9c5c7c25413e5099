"""Start a command in several processes: torchrun, with its options.

``python -m pruning.bin.torchrun --standalone --nproc_per_node 2 -m pruning.bin.train ...``

Unlike torchrun itself it starts with torch 1.13 under Python 3.11, ends with the status of the command (75 after
SIGTERM: the state was saved, run it again), and leaves the last word to the command's own error line.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Optional

from pruning import compat
from pruning.bin import command
from pruning.training.interruption import REQUEUE_STATUS


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run torchrun and pass on how its processes ended."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    compat.repair_torchrun()
    try:
        run.main(list(sys.argv[1:] if argv is None else argv))
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        if REQUEUE_STATUS in codes:
            sys.exit(REQUEUE_STATUS)
        for rank, failure in error.failures.items():
            if failure.exitcode < 0:  # such a process could not say anything itself
                print(f"error: process {rank} was ended by {signal.Signals(-failure.exitcode).name}; run the same "
                      "command again to continue", file=sys.stderr)
        sys.exit(max([1, *codes]))
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        sys.exit(REQUEUE_STATUS)


if __name__ == "__main__":
    command.run(main)
