"""Entry point shared by all commands: turns expected failures into one line and an exit status."""

from __future__ import annotations

import errno
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, Optional

from pruning.errors import UserError
from pruning.training.interruption import bad_input_status

_PATH_FAULTS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST,
)  # fmt: skip

_MEMORY = re.compile(r"out of memory|DefaultCPUAllocator|can't allocate memory", re.IGNORECASE)
"""What torch says when memory runs out, on a GPU (`torch.cuda.OutOfMemoryError`, a `RuntimeError`) or a CPU."""


def run(main: Callable[[Optional[Sequence[str]]], None], argv: Optional[Sequence[str]] = None) -> NoReturn:
    """Run ``main(argv)`` and exit with 0 when it returns, 1 after bad input, a full disk, a path that cannot be used or
    too little memory, and 130 when interrupted.

    Any other exception is a bug in the toolkit and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(bad_input_status())
    except OSError as error:
        print(f"error: {_told(error)}", file=sys.stderr)
        sys.exit(bad_input_status())
    except (MemoryError, RuntimeError) as error:
        print(f"error: {_of_memory(error)}", file=sys.stderr)
        sys.exit(bad_input_status())
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _told(error: OSError) -> str:
    """Return one line about an error that the user can correct; raise any other error again."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "the output directory"
        return f"no space left on the disk of {where}; free some space and run the same command again"
    if error.errno in _PATH_FAULTS and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    raise error


def _of_memory(error: Exception) -> str:
    """Return one line about memory that ran out, on a GPU or not; raise any other error again."""
    reason = str(error).strip().split("\n")[0]
    if not isinstance(error, MemoryError) and not _MEMORY.search(reason):
        raise error
    remedy = (
        "make batches smaller (data.max_duration or data.max_tokens in training, --max-duration of other programs) or "
        "divide the longest utterances, then run the same command again"
    )
    return f"out of memory ({reason or 'of Python'}); {remedy}"
