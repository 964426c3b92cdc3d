"""The processes of one run: which one this is, what only the first does, and how an error on one ends all of them.

An error on one rank alone would leave the others waiting in a collective. So what can fail on one rank is run under
:func:`on_every` or :func:`on_first`, which tell all ranks of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from genrec_plugins.training.launch import launched, restarts
from genrec_registry import GenrecError, ModelError

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

_FOREVER = timedelta(days=365)


def rank() -> int:
    """The number of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if launched() else world_size()


def ensure_process_group(device: torch.device) -> None:
    """Join the group that torchrun's environment names, or start one of this process alone: DMP needs one even then.

    Args:
        device: where to train; decides the backend.
    """
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if not launched():
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The agent's store outlives a restart, with the addresses of the processes that were there before: a rank that
    # reads one of those waits for ever. (Agents of several machines may count restarts differently.)
    store, number, count = next(dist.rendezvous("env://", timeout=dist.default_pg_timeout))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        store = dist.PrefixStore(f"start-{restarts()[0]}", store)
    store.set_timeout(dist.default_pg_timeout)
    dist.init_process_group(backend, store=store, rank=number, world_size=count)


@contextmanager
def on_every(what: str) -> Iterator[None]:
    """Run the block on every rank; if it fails on one of them, it fails on all.

    The block must hold no collective of its own that an error could leave others waiting in.

    Args:
        what: is done in the block, for the message on the other ranks.

    Raises:
        GenrecError: another rank's error, where this one has none.
    """
    if world_size() == 1:
        yield
        return
    mine: Exception | None = None
    try:
        yield
    except Exception as error:
        mine = error
    told: list[tuple[type[GenrecError], str] | None] = [None] * world_size()
    dist.all_gather_object(told, _telling(mine))
    if mine is not None:
        raise known(mine)
    for other, problem in enumerate(told):
        if problem is not None:
            kind, message = problem
            raise known(kind(f"{what}, process {other} of {world_size()}: {message}"))


def on_first(action: Callable[[], T]) -> T:
    """Run ``action`` on rank 0 alone and give every rank what it returned; all fail if it fails.

    The others wait as long as it takes, also beyond the timeout of collectives.

    Args:
        action: what it returns must be picklable.
    """
    if world_size() == 1:
        return action()
    told: list[Any] = [None, None]
    mine: Exception | None = None
    if rank() == 0:
        try:
            told[1] = action()
        except Exception as error:
            mine = error
            told[0] = _telling(error)
    _wait_for_first()
    dist.broadcast_object_list(told, src=0)
    if mine is not None:
        raise known(mine)
    if told[0] is not None:
        kind, message = told[0]
        raise known(kind(message))
    result: T = told[1]
    return result


def total(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over the ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def seed_rank(*entropy: int) -> None:
    """Seed torch's generator with numbers that all ranks share, differently on each: dropout must not be the same.

    Args:
        entropy: not negative.
    """
    torch.manual_seed(int(np.random.SeedSequence((*entropy, rank())).generate_state(1, np.uint64)[0] >> 1))


_waits = count()


def _wait_for_first() -> None:
    """Hold the others in the rendezvous store, whose waits may be long, until rank 0 is done with its part."""
    store = dist.distributed_c10d._get_default_store()
    key = f"genrec/first/{next(_waits)}"
    if rank() == 0:
        store.set(key, "done")
    else:
        store.wait([key], _FOREVER)


def _telling(error: Exception | None) -> tuple[type[GenrecError], str] | None:
    if error is None:
        return None
    if isinstance(error, GenrecError):
        return type(error), str(error)
    return ModelError, f"{type(error).__name__}: {error}"


def known(error: E) -> E:
    """Mark an error that every rank raises, so that one of them tells the user and no restart is tried."""
    error.known_to_all_ranks = True  # type: ignore[attr-defined]
    return error
