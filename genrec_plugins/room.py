"""Whether a model fits the machine at all, asked before any memory is taken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from genrec_registry import ConfigError

Module = TypeVar("Module", bound=nn.Module)
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB", "EB")


def check_room(
    build: Callable[[], Module],
    what: str,
    *,
    keys: Mapping[str, str] | None = None,
    skip: Callable[[Module], Iterable[Tensor]] = lambda module: (),
) -> None:
    """Refuse a module whose parameters and buffers alone take more memory than this machine has.

    The module is built on the meta device, which takes no memory and draws no random numbers. One that cannot be built
    there, as a plugin's that reads its parameters' values, is not checked.

    Args:
        build: makes the module.
        what: what it is, as the user's file calls it.
        keys: name of a child -> what the user's file calls it.
        skip: gives the tensors of the module that will have no memory of their own here.

    Raises:
        ConfigError: it does not fit.

    Example::

        >>> check_room(lambda: nn.Linear(2**20, 2**30), "tokenizer")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        genrec_registry.errors.ConfigError: tokenizer: its parameters would take 4.5 PB, more than the ... of this \
machine; choose smaller sizes
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            module = build()
    except RuntimeError as error:
        if "overflow" not in str(error):
            return
        raise ConfigError(f"{what}: one of its parameters would take over 2**63 bytes; choose smaller sizes") from error
    except Exception:  # of a plugin; whatever it is, building it in earnest will tell
        return
    skipped = {id(tensor) for tensor in skip(module)}
    total, room = _bytes(module, skipped), memory_of_machine()
    if total <= room:
        return
    largest = max(module.named_children(), key=lambda child: _bytes(child[1], skipped), default=None)
    where = (keys or {}).get(largest[0]) if largest else None
    most = f", most of it in {where}" if where else ""
    raise ConfigError(
        f"{what}: its parameters would take {_text(total)}{most}, more than the {_text(room)} of this machine; choose "
        "smaller sizes"
    )


def memory_of_machine() -> int:
    """Bytes of memory and swap space, or what the limit of a container leaves of them."""
    with suppress(ImportError):
        import psutil  # comes with torchrec

        room = int(psutil.virtual_memory().total + psutil.swap_memory().total)
        with suppress(OSError, ValueError):  # another system, or no limit
            room = min(room, int(_LIMIT.read_text()))
        return room
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _bytes(module: nn.Module, skipped: set[int]) -> int:
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for key, tensor in tensors.items() if key not in skipped)


def _text(size: float) -> str:
    for unit in _UNITS[:-1]:
        if size < 999.5:  # which would be written as 1e+03
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"
