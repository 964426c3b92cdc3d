"""Start the processes of a run on this machine, under the agent behind ``torchrun``: if one dies, all start again.

A function is started and not a command, since a restart mends a lost process, not a mistake: a rank that ends with an
error which all ranks know of returns it, and the agent sees no failure that it would try again. Torch-free until then.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

from genrec_registry import SetupError

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Whether torchrun (or another launcher with its environment) started this process as one of a group."""
    return all(name in os.environ for name in _LAUNCHED)


def restarts() -> tuple[int, int]:
    """How often the agent has started this group again, and how often it may; 0, 0 outside of one."""
    count, most = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return count, most


def end(code: int = 0) -> NoReturn:
    """End the process of a rank at once, without Python's own way out.

    A thread of Gloo may still be dropping the tensors of the last collective, for which it needs Python's lock. One
    that asks for the lock of a Python that is ending takes the process down ("terminate called without an active
    exception"), and a run that was done would count as a lost process.

    Args:
        code: the exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def launch(ranks: int, target: Callable[..., Any], *arguments: Any, max_restarts: int = 3) -> dict[int, Any]:
    """Run ``target(*arguments)`` in several processes that form a group; they find it in torchrun's environment.

    Args:
        ranks: how many processes.
        target: a module's function.
        arguments: its arguments, picklable.
        max_restarts: how often all processes are started again when one of them died.

    Returns:
        What it returned, by rank.

    Raises:
        SetupError: a process died, and the restarts are used up.
        SystemExit: a process ended with a mistake of its own, which it has told, or this one was told to stop.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # ranks tell their errors themselves
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a container's host name often leads nowhere
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=max_restarts,
    )
    try:
        return elastic_launch(config, target)(*arguments)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 1:
            sys.exit(failure.exitcode)
        how = f"was killed by {signal.Signals(-failure.exitcode).name}" if failure.exitcode < 0 else "died"
        tried = f" and was started again {max_restarts} times" if max_restarts else ""
        raise SetupError(
            f"process {rank} of {ranks} {how}{tried}; run the same command again to go on from the last checkpoint"
        ) from error
