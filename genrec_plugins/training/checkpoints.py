"""Atomic checkpoints: a directory appears under its final name only when everything in it is on disk.

Tensors go through ``torch.distributed.checkpoint`` (which knows DMP's ShardedTensors), the rest into ``trainer.json``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.api import CheckpointException

from genrec_plugins.training.ranks import known, on_every, on_first, rank, seed_rank, world_size
from genrec_plugins.training.safe_state import check_files, digest_files, load_state
from genrec_registry import ModelError, digest

_META = "trainer.json"
_FORMAT = 2


class Trained(Protocol):
    """What a checkpoint is made of."""

    @property
    def model(self) -> torch.nn.Module:
        """The model."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """All that is stepped."""

    def state(self) -> dict[str, Any]:
        """JSON: what a resumed run must know beside the optimizer's state."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state`, or refuse it, before anything else is restored."""


class CheckpointStore:
    """The checkpoints of one run, newest last.

    With several ranks every method is called by all of them; they save their parts, agree on what is loaded, and fail
    together. A checkpoint of N ranks can be loaded by any other number.

    Args:
        directory: where they live; made on the first save. All ranks must see the same files there.
        config_digest: of the run; a checkpoint of another config is refused, not loaded.
        keep: how many to keep.
    """

    def __init__(self, directory: Path, config_digest: str, keep: int) -> None:
        self.directory = directory
        self.config_digest = config_digest
        self.keep = keep
        #: after :meth:`load_newest`: which newer checkpoints could not be read, to be told to the user
        self.passed_over = ""

    def save(self, recipe: Trained, progress: dict[str, Any]) -> Path:
        """Write model, optimizer, random state and ``progress`` (JSON; has the key ``step``).

        Raises:
            ModelError: the disk is full or cannot be written; earlier checkpoints stay whole.
        """
        final = self.directory / f"step-{progress['step']:010d}"
        meta = {
            "format": _FORMAT,
            "config_digest": self.config_digest,
            "progress": progress,
            "recipe": recipe.state(),
            "ranks": world_size(),
        }
        aside = on_first(lambda: self._begin(final))
        try:
            with on_every("saving a checkpoint"), self._told(), _plain_errors():
                state = _state(recipe) | {"rng": {str(rank()): torch.get_rng_state()}}
                dcp.save(state, checkpoint_id=str(aside / "state"), no_dist=not dist.is_initialized())
            on_first(lambda: self._finish(aside, final, meta))
        except ModelError:
            if rank() == 0:
                shutil.rmtree(aside, ignore_errors=True)
            raise
        return final

    def _begin(self, final: Path) -> Path:
        aside = self.directory / f".partial-{final.name}-{os.getpid()}"
        with self._told():
            aside.mkdir(parents=True, exist_ok=True)
        return aside

    def _finish(self, aside: Path, final: Path, meta: dict[str, Any]) -> None:
        with self._told():
            meta |= {"sha256": digest_files(aside / "state")}
            (aside / _META).write_text(json.dumps(meta | {"digest": digest(meta)}))
            _sync(aside)
            self._remove(final)
            aside.replace(final)
            _sync(self.directory)
        self._thin_out()

    def _thin_out(self) -> None:
        for old in self._newest_first()[self.keep :]:
            with suppress(OSError):
                self._remove(old)

    def _remove(self, path: Path) -> None:
        """Remove a checkpoint; a kill on the way leaves no half of it under its name."""
        if path.exists():
            leaving = path.replace(path.with_name(f".partial-{path.name}-leaving"))
            shutil.rmtree(leaving, ignore_errors=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in a sentence that a checkpoint cannot be written."""
        try:
            yield
        except OSError as error:
            raise ModelError(
                f"{self.directory}: checkpoint cannot be written ({error.strerror or error}); "
                "free space or name another run directory, then run the same command again to go on"
            ) from error

    def _newest_first(self) -> list[Path]:
        return sorted(self.directory.glob("step-*"), reverse=True)

    def _found(self) -> list[tuple[Path, dict[str, Any] | None, str]]:
        """Each checkpoint, newest first, with what its ``trainer.json`` says, or what is wrong with that."""
        for leftover in [*self.directory.glob(".partial-*"), _leaving(self.directory)]:
            shutil.rmtree(leftover, ignore_errors=True)
        found: list[tuple[Path, dict[str, Any] | None, str]] = []
        for path in self._newest_first():
            try:
                found.append((path, _read_meta(path / _META), ""))
            except Exception as error:  # a damaged file can hold anything
                found.append((path, None, _short(error)))
        return found

    def load_newest(self, recipe: Trained) -> dict[str, Any] | None:
        """Restore the newest whole checkpoint into ``recipe`` and the random state.

        With another number of ranks than it was written by, the random states are new ones, which depend on the step.

        Returns:
            The ``progress`` it was saved with, or None where there is no checkpoint.

        Raises:
            ModelError: the newest checkpoint belongs to another config, or none of those there can be read.
        """
        problems = []
        for path, meta, problem in on_first(self._found):
            if meta is None:
                problems.append(f"{path.name} ({problem})")
                continue
            if meta["config_digest"] != self.config_digest:
                message = (
                    f"{path}: was written by a run with another config or other data; name a new --out directory, "
                )
                raise known(ModelError(f"{message}or pass --restart to train from scratch here"))
            try:
                on_first(partial(check_files, path / "state", meta.get("sha256", {})))
                with on_every(str(path)):
                    self._restore(path, recipe, meta)
            except Exception as error:  # a damaged checkpoint can fail anywhere inside the readers
                problems.append(f"{path.name} ({_short(error)})")
                continue
            self.passed_over = f"; cannot be read: {', '.join(problems)}" if problems else ""
            if not problems:
                on_first(self._thin_out)  # a kill may have come between the newest and the removal of the oldest
            return dict(meta["progress"])
        if problems:
            message = f"{self.directory}: no checkpoint can be read: {', '.join(problems)}; "
            raise known(ModelError(f"{message}pass --restart to train from scratch here"))
        return None

    def _restore(self, path: Path, recipe: Trained, meta: dict[str, Any]) -> None:
        _make_optimizer_state(recipe)
        recipe.load_state(meta["recipe"])
        state = _state(recipe)
        same_ranks = meta.get("ranks") == world_size()
        if same_ranks:
            state["rng"] = {str(rank()): torch.get_rng_state()}
        with _plain_errors():
            load_state(state, path / "state", no_dist=not dist.is_initialized())
        recipe.model.load_state_dict(state["model"])
        recipe.optimizer.load_state_dict(state["optimizer"])
        if same_ranks:
            torch.set_rng_state(state["rng"][str(rank())])
        elif "rng" in meta:  # format 1, written by one process
            torch.set_rng_state(torch.tensor(meta["rng"], dtype=torch.uint8))
        else:
            seed_rank(int(self.config_digest[:8], 16), meta["progress"]["step"])

    def clear(self) -> None:
        """Forget every checkpoint."""
        on_first(lambda: forget(self.directory))


def forget(directory: Path) -> None:
    """Remove a directory of checkpoints, first its name: a kill on the way leaves none of them half there.

    Args:
        directory: need not be there.

    Raises:
        ModelError: it cannot be removed.
    """
    leaving = _leaving(directory)
    shutil.rmtree(leaving, ignore_errors=True)
    if directory.exists():
        try:
            directory.replace(leaving)
        except OSError as error:
            raise ModelError(f"{directory}: cannot be removed ({error.strerror}); name another --out") from error
        shutil.rmtree(leaving, ignore_errors=True)


def _leaving(directory: Path) -> Path:
    return directory.with_name(f".partial-{directory.name}-leaving")


def _read_meta(path: Path) -> dict[str, Any]:
    meta = json.loads(path.read_text())
    if meta["format"] not in (1, _FORMAT):
        raise ModelError(f"has format {meta['format']}, this program reads {_FORMAT}")
    if meta["format"] == _FORMAT and meta.pop("digest") != digest(meta):
        raise ModelError(f"{_META} was changed")
    return {"config_digest": meta["config_digest"], "progress": meta["progress"], **meta}


def _short(error: Exception) -> str:
    return str(error).splitlines()[0] if isinstance(error, ModelError) else type(error).__name__


def _state(recipe: Trained) -> dict[str, Any]:
    return {"model": recipe.model.state_dict(), "optimizer": recipe.optimizer.state_dict()}


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise what went wrong on a rank instead of DCP's own BaseException around it, which all ranks get."""
    try:
        yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        first = next((cause for cause in causes if isinstance(cause, OSError)), causes[0])
        if isinstance(first, Exception):
            raise first from error
        raise


def _make_optimizer_state(recipe: Trained) -> None:
    """Have Adam make its lazy state, so that there is something to load into: a step of rate and gradient zero."""
    groups = recipe.optimizer.param_groups
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            if not isinstance(parameter, ShardedTensor) and parameter.requires_grad:  # fused ones have their state
                parameter.grad = torch.zeros_like(parameter)
    recipe.optimizer.step()
    recipe.optimizer.zero_grad()
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate


def _sync(directory: Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def plain_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of a (wrapped) ``DLRMTrain`` under the names of the bare DLRM, on the CPU, without sharding types.

    With several ranks all call it; rank 0 gets the weights, gathered table by table, the others nothing.

    Args:
        model: ``DLRMTrain``, or DMP around it.
    """
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        whole = _gathered(value) if isinstance(value, ShardedTensor) else value.detach()
        if rank() == 0:
            weights[name.removeprefix("model.")] = whole.to("cpu", copy=True).contiguous()
    return weights


def _gathered(table: ShardedTensor) -> Tensor:
    """All shards of a table on rank 0, one after the other; what the others get is nothing."""
    mine = {tuple(shard.metadata.shard_offsets): shard.tensor.detach() for shard in table.local_shards()}
    properties = table.metadata().tensor_properties
    whole = torch.empty(table.metadata().size if rank() == 0 else 0, dtype=properties.dtype)
    for shard in table.metadata().shards_metadata:
        part = mine.get(tuple(shard.shard_offsets))
        if rank() != 0:
            if part is not None:
                dist.send(part.contiguous(), 0)
            continue
        if part is None:
            owner: Any = shard.placement
            part = torch.empty(shard.shard_sizes, dtype=properties.dtype, device=owner.device().type)
            dist.recv(part, owner.rank())
        whole[_place(shard.shard_offsets, shard.shard_sizes)] = part.cpu()
    return whole


@torch.no_grad()
def load_plain_weights(model: torch.nn.Module, weights: Mapping[str, Tensor] | Path) -> None:
    """Put weights named as the bare DLRM names them into a (wrapped) ``DLRMTrain``, in place; each rank its part.

    Args:
        model: ``DLRMTrain``, or DMP around it.
        weights: from :func:`plain_weights`, or a safetensors file of them, of which only this rank's part is read.
    """
    if isinstance(weights, Path):
        from safetensors import safe_open

        with safe_open(weights, framework="pt") as file:
            _load_parts(model, file.get_slice)
    else:
        _load_parts(model, weights.__getitem__)


def _load_parts(model: torch.nn.Module, of: Callable[[str], Any]) -> None:
    for name, value in model.state_dict().items():
        source = of(name.removeprefix("model."))
        if not isinstance(value, ShardedTensor):
            value.copy_(source[...])
            continue
        for shard in value.local_shards():
            shard.tensor.copy_(source[_place(shard.metadata.shard_offsets, shard.metadata.shard_sizes)])


def _place(offsets: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))
