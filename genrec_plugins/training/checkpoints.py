"""Atomic checkpoints: a directory appears under its final name only when everything in it is on disk.

Tensors go through ``torch.distributed.checkpoint`` (which knows DMP's ShardedTensors), the rest into ``trainer.json``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from genrec_registry import ModelError

_META = "trainer.json"
_FORMAT = 1


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
        """Restore :meth:`state`."""


class CheckpointStore:
    """The checkpoints of one run, newest last.

    Args:
        directory: where they live; made on the first save.
        config_digest: of the run; a checkpoint of another config is refused, not loaded.
        keep: how many to keep.
    """

    def __init__(self, directory: Path, config_digest: str, keep: int) -> None:
        self.directory = directory
        self.config_digest = config_digest
        self.keep = keep

    def save(self, recipe: Trained, progress: dict[str, Any]) -> Path:
        """Write model, optimizer, random state and ``progress`` (JSON; has the key ``step``).

        Raises:
            ModelError: the disk is full or cannot be written; earlier checkpoints stay whole.
        """
        final = self.directory / f"step-{progress['step']:010d}"
        partial = self.directory / f".partial-{final.name}-{os.getpid()}"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            dcp.save(_state(recipe), checkpoint_id=str(partial / "state"), no_dist=not dist.is_initialized())
            meta = {
                "format": _FORMAT,
                "config_digest": self.config_digest,
                "progress": progress,
                "recipe": recipe.state(),
                "rng": torch.get_rng_state().tolist(),
            }
            (partial / _META).write_text(json.dumps(meta))
            _sync(partial)
            if final.exists():
                shutil.rmtree(final)
            partial.replace(final)
            _sync(self.directory)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise ModelError(
                f"{self.directory}: checkpoint cannot be written ({error.strerror or error}); "
                "free space or name another run directory, then run the same command again to go on"
            ) from error
        for old in list(self._newest_first())[self.keep :]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def _newest_first(self) -> Iterator[Path]:
        yield from sorted(self.directory.glob("step-*"), reverse=True)

    def load_newest(self, recipe: Trained) -> dict[str, Any] | None:
        """Restore the newest whole checkpoint into ``recipe`` and the random state.

        Returns:
            The ``progress`` it was saved with, or None where there is no checkpoint.

        Raises:
            ModelError: the newest checkpoint belongs to another config, or none of those there can be read.
        """
        for leftover in self.directory.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        problems = []
        for path in self._newest_first():
            try:
                meta = json.loads((path / _META).read_text())
                theirs, progress = meta["config_digest"], meta["progress"]
                if theirs == self.config_digest:
                    self._restore(path, recipe, meta)
            except Exception as error:  # a damaged checkpoint can fail anywhere inside the readers
                problems.append(f"{path.name} ({type(error).__name__})")
                continue
            if theirs != self.config_digest:
                raise ModelError(
                    f"{path}: was written by a run with another config or other data; name a new --out directory, "
                    "or pass --restart to train from scratch here"
                )
            return dict(progress)
        if problems:
            raise ModelError(
                f"{self.directory}: no checkpoint can be read: {', '.join(problems)}; "
                "pass --restart to train from scratch here"
            )
        return None

    def _restore(self, path: Path, recipe: Trained, meta: dict[str, Any]) -> None:
        _make_optimizer_state(recipe)
        state = _state(recipe)
        dcp.load(state, checkpoint_id=str(path / "state"), no_dist=not dist.is_initialized())
        recipe.model.load_state_dict(state["model"])
        recipe.optimizer.load_state_dict(state["optimizer"])
        recipe.load_state(meta["recipe"])
        torch.set_rng_state(torch.tensor(meta["rng"], dtype=torch.uint8))

    def clear(self) -> None:
        """Forget every checkpoint."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _state(recipe: Trained) -> dict[str, Any]:
    return {"model": recipe.model.state_dict(), "optimizer": recipe.optimizer.state_dict()}


def _make_optimizer_state(recipe: Trained) -> None:
    """Have Adam make its lazy state, so that there is something to load into: a step of rate and gradient zero."""
    groups = recipe.optimizer.param_groups
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = 0.0
    for parameter in recipe.model.parameters():
        if parameter.requires_grad:
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

    Args:
        model: ``DLRMTrain``, or DMP around it, on one rank.
    """
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        tensor = value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
        weights[name.removeprefix("model.")] = tensor.detach().to("cpu", copy=True).contiguous()
    return weights
