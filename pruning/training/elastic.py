"""torchrun as training needs it: told to end, it lets its processes save their state; it restarts only what was lost.

torchrun itself kills its processes 30 seconds after a signal, and starts anew, as often as it may, whatever ended.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, Optional

import psutil

from pruning.errors import UserError
from pruning.training.interruption import BAD_INPUT_STATUS, REQUEUE_STATUS


class PassedOn:
    """SIGTERM, SIGINT and SIGHUP go to the processes as SIGTERM, and torchrun waits for them; a second SIGINT ends it.

    Attributes:
        asked: whether one arrived.
    """

    def __init__(self) -> None:
        self.asked = False

    def install(self) -> None:
        """Stand in for the handler that torchrun sets when it starts processes."""
        from torch.distributed.elastic.multiprocessing import api

        original = api._terminate_process_handler

        def handle(number: int, frame: Optional[FrameType]) -> None:
            at_once = number == signal.SIGQUIT or (number == signal.SIGINT and self.asked)
            workers = [] if at_once else psutil.Process().children()
            if not workers:
                original(number, frame)
            self.asked = True
            for worker in workers:
                # of SIGINT a terminal has sent them one already, and the second would interrupt the saving
                with suppress(psutil.NoSuchProcess):
                    worker.terminate()

        api._terminate_process_handler = handle  # type: ignore[assignment]


def restart_lost_alone() -> None:
    """Let torchrun's ``--max_restarts`` be for processes that were killed, or lost one that was, alone."""
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    monitor: Callable[[Any, Any], Any] = LocalElasticAgent._monitor_workers

    def monitored(agent: Any, group: Any) -> Any:
        result = monitor(agent, group)
        if final(failure.exitcode for failure in result.failures.values()):
            agent._remaining_restarts = 0
        return result

    LocalElasticAgent._monitor_workers = monitored  # type: ignore[method-assign]


def final(statuses: Iterable[int]) -> bool:
    """Whether a process ended in a way that starting it again at once would not mend."""
    return bool({REQUEUE_STATUS, BAD_INPUT_STATUS}.intersection(statuses))


def slurm_options(environment: Mapping[str, str]) -> list[str]:
    """torchrun's options for one launcher on each node of a Slurm job, as srun starts them.

    The first node, where srun itself runs, is where they meet; the port comes from the job's number.

    Raises:
        UserError: this is not within ``srun``.
    """
    names = ("SLURM_JOB_ID", "SLURM_NNODES", "SLURM_NODEID", "SLURM_LAUNCH_NODE_IPADDR")
    missing = [name for name in names if name not in environment]
    if missing:
        raise UserError(f"--slurm, but {missing[0]} is not set", "start it within a Slurm job, by srun")
    job, nodes, node, address = (environment[name] for name in names)
    restarts = environment.get("SLURM_RESTART_COUNT", "0")
    port = 20000 + int(job) % 20000
    return [
        "--nnodes",
        nodes,
        "--rdzv_backend",
        "c10d",
        "--rdzv_id",
        f"{job}.{restarts}",
        "--rdzv_endpoint",
        f"{address}:{port}",
        "--rdzv_conf",
        f"is_host={'true' if node == '0' else 'false'}",
    ]


def options(arguments: list[str]) -> list[str]:
    """The arguments for torchrun, ``--slurm`` or ``--standalone`` before ``-m`` spelled out.

    The latter is port 29400 to torch 1.13: a second training on the machine would end with the first.
    """
    own = arguments[: arguments.index("-m")] if "-m" in arguments else arguments
    rest = arguments[len(own) :]
    if "--slurm" in own:
        meeting = slurm_options(os.environ)
    elif "--standalone" in own:
        meeting = ["--nnodes", "1", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0",
                   "--rdzv_conf", "is_host=true", "--rdzv_id", str(uuid.uuid4())]  # fmt: skip
    else:
        return arguments
    return [*meeting, *(word for word in own if word not in ("--slurm", "--standalone")), *rest]
