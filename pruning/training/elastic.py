"""Changes to torchrun: on a signal it lets its processes save their state, and it restarts only after lost processes.

Without them, torchrun kills its processes 30 seconds after a signal, and restarts after any failure.
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
    """Passes SIGTERM, SIGINT and SIGHUP to the processes as SIGTERM and waits for them; a second SIGINT ends torchrun.

    Attributes:
        asked: whether a signal arrived.
    """

    def __init__(self) -> None:
        self.asked = False

    def install(self) -> None:
        """Replace the signal handler that torchrun sets when it starts processes."""
        from torch.distributed.elastic.multiprocessing import api

        original = api._terminate_process_handler

        def handle(number: int, frame: Optional[FrameType]) -> None:
            at_once = number == signal.SIGQUIT or (number == signal.SIGINT and self.asked)
            workers = [] if at_once else psutil.Process().children()
            if not workers:
                original(number, frame)
            self.asked = True
            for worker in workers:
                # not SIGINT: a terminal has already sent them one, and a second one would interrupt saving
                with suppress(psutil.NoSuchProcess):
                    worker.terminate()

        api._terminate_process_handler = handle  # type: ignore[assignment]


def restart_lost_alone() -> None:
    """Restrict torchrun's ``--max_restarts`` to processes that were killed, or that lost one that was killed."""
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    monitor: Callable[[Any, Any], Any] = LocalElasticAgent._monitor_workers

    def monitored(agent: Any, group: Any) -> Any:
        result = monitor(agent, group)
        if final(failure.exitcode for failure in result.failures.values()):
            agent._remaining_restarts = 0
        return result

    LocalElasticAgent._monitor_workers = monitored  # type: ignore[method-assign]


def final(statuses: Iterable[int]) -> bool:
    """Return whether a process ended with a status after which an immediate restart is useless."""
    return bool({REQUEUE_STATUS, BAD_INPUT_STATUS}.intersection(statuses))


def slurm_options(environment: Mapping[str, str]) -> list[str]:
    """Return torchrun's options for a Slurm job in which srun starts one launcher on each node.

    The rendezvous is on the first node, where srun itself runs; the port is derived from the job's number.

    Raises:
        UserError: the command was not started by ``srun``.
    """
    names = ("SLURM_JOB_ID", "SLURM_NNODES", "SLURM_NODEID", "SLURM_LAUNCH_NODE_IPADDR")
    missing = [name for name in names if name not in environment]
    if missing:
        raise UserError(f"--slurm is given, but {missing[0]} is not set", "start the command with srun in a Slurm job")
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
    """Return the arguments for torchrun, with ``--slurm`` or ``--standalone`` before ``-m`` replaced by other options.

    In torch 1.13, ``--standalone`` always uses port 29400: a second training on the same machine would end with the
    first one.
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
