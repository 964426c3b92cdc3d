"""Checkpoints between full ones that hold only what changed: most rows of a table do not from one file to the next.

Every ``full_every``-th checkpoint is a :class:`~genrec_plugins.training.checkpoints.CheckpointStore`'s. The others are
one safetensors file each: of every tensor of model and optimizer, the rows that differ, bit by bit, from the checkpoint
before, or all of it where most do. What changed is found by comparing with a copy in memory, so that it does not depend
on what the optimizer touches; the price is the memory of a second model and optimizer.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.checkpoint._nested_dict import flatten_state_dict

from genrec_plugins.files import written_aside
from genrec_plugins.training.checkpoints import CheckpointStore, Trained
from genrec_registry import ModelError, digest

_FORMAT = 1
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
#: of a tensor's name in a delta file: all of it, or the numbers of the changed rows and what they hold
_WHOLE, _ROWS, _VALUES = "whole:", "rows:", "values:"
_RANDOM = "random:"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that was written.

    Args:
        kind: full or delta.
        size: bytes on disk.
    """

    kind: Literal["full", "delta"]
    size: int


class DeltaStore:
    """Full checkpoints with deltas between them; the work of one process.

    Args:
        directory: where they live; made on the first save.
        config_digest: of the run; checkpoints of another one are refused.
        full_every: every so many checkpoints one is full; 1: all are.
        keep: how many full ones are kept, and the deltas after them.
    """

    def __init__(self, directory: Path, config_digest: str, full_every: int, keep: int) -> None:
        self.directory = directory
        self.config_digest = config_digest
        self.full_every = full_every
        self._full = CheckpointStore(directory, config_digest, keep)
        self._last: dict[str, Tensor] = {}
        self._last_digest = ""
        self._deltas = 0
        #: after :meth:`load_newest`: which newer checkpoints could not be read, to be told to the user
        self.passed_over = ""

    def save(self, recipe: Trained, progress: dict[str, Any]) -> Saved:
        """Write a checkpoint, full or not.

        Args:
            recipe: model and optimizer.
            progress: JSON; its key ``step`` is one more than in the checkpoint before.

        Raises:
            ModelError: it cannot be written; earlier ones stay whole.
            DataError: the same, of a delta.
        """
        tensors = _tensors(recipe)
        if self._deltas + 1 >= self.full_every or self._last.keys() != tensors.keys():
            saved = self._save_full(recipe, progress)
            self._last = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        else:
            saved = self._save_delta(recipe, progress, tensors)
        if self.full_every == 1:
            self._last = {}
        self._last_digest = digest(progress)
        return saved

    def _save_full(self, recipe: Trained, progress: dict[str, Any]) -> Saved:
        path = self._full.save(recipe, progress)
        self._deltas = 0
        oldest = min(int(kept.name.removeprefix("step-")) for kept in self.directory.glob("step-*"))
        for delta in self.directory.glob("delta-*.safetensors"):
            if _number(delta) < oldest:
                delta.unlink(missing_ok=True)
        return Saved(kind="full", size=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))

    def _save_delta(self, recipe: Trained, progress: dict[str, Any], tensors: dict[str, Tensor]) -> Saved:
        from safetensors.torch import save_file

        parts = {_RANDOM: torch.get_rng_state()}
        for name, value in tensors.items():
            parts |= _difference(name, self._last[name], value.detach().cpu())
        meta: dict[str, Any] = {
            "format": _FORMAT,
            "config_digest": self.config_digest,
            "previous": self._last_digest,
            "progress": progress,
            "recipe": recipe.state(),
            "sha256": _sha256(parts),
        }
        path = self._path(progress["step"])
        with written_aside(path, instead="free space, then run the same command again to go on") as partial:
            save_file(parts, partial, {"meta": json.dumps(meta), "digest": digest(meta)})
            _sync(partial)
        _sync(path.parent)
        _apply(parts, self._last)  # only now: a delta that was not written is none that the next one follows
        self._deltas += 1
        return Saved(kind="delta", size=path.stat().st_size)

    def _path(self, step: int) -> Path:
        return self.directory / f"delta-{step:010d}.safetensors"

    def load_newest(self, recipe: Trained) -> dict[str, Any] | None:
        """Restore the newest full checkpoint that is whole, and the deltas after it as far as they are.

        Returns:
            The ``progress`` of the last of them, or None where there is no checkpoint.

        Raises:
            ModelError: they belong to another config, or no full one can be read.
        """
        for leftover in self.directory.glob(".delta-*.partial"):
            leftover.unlink(missing_ok=True)
        progress = self._full.load_newest(recipe)
        self.passed_over = self._full.passed_over
        if progress is None:
            return None
        self._deltas = 0
        state = {"model": recipe.model.state_dict(), "optimizer": recipe.optimizer.state_dict()}
        tensors = _flat(state)
        while self._path(progress["step"] + 1).exists():
            path = self._path(progress["step"] + 1)
            try:
                parts, meta = self._read(path, tensors, digest(progress))
            except ModelError as error:
                self.passed_over += f"; left out: {error}"
                break
            random = parts.pop(_RANDOM)
            with torch.no_grad():
                _apply(parts, tensors)
            torch.set_rng_state(random)
            recipe.load_state(meta["recipe"])
            progress = dict(meta["progress"])
            self._deltas += 1
        # beside the tensors, modules and optimizers may keep what follows from them
        recipe.model.load_state_dict(state["model"])
        recipe.optimizer.load_state_dict(state["optimizer"])
        for delta in self.directory.glob("delta-*.safetensors"):
            if _number(delta) > progress["step"]:  # nothing leads there any more
                delta.unlink(missing_ok=True)
        self._last_digest = digest(progress)
        if self.full_every > 1:
            self._last = {name: value.detach().cpu().clone() for name, value in _tensors(recipe).items()}
        return progress

    def _read(self, path: Path, tensors: dict[str, Tensor], previous: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a delta holds, checked against its digests and the tensors it goes with."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                meta: dict[str, Any] = json.loads(header["meta"])
                parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path.name} (cannot be read: {type(error).__name__})") from error
        if header.get("digest") != digest(meta) or meta.get("sha256") != _sha256(parts):
            raise ModelError(f"{path.name} (was changed)")
        if meta["format"] != _FORMAT or meta["config_digest"] != self.config_digest or meta["previous"] != previous:
            raise ModelError(f"{path.name} (does not follow the checkpoint before it)")
        for name, value in parts.items():
            base = name.partition(":")[2]
            fits = (
                base in tensors
                and tensors[base].shape[name.startswith(_VALUES) :] == (value.shape[name.startswith(_VALUES) :])
            )
            if name != _RANDOM and not name.startswith(_ROWS) and not fits:
                raise ModelError(f"{path.name} (holds another model's '{base}')")
        return parts, meta


def _number(delta: Path) -> int:
    return int(delta.name.removeprefix("delta-").removesuffix(".safetensors"))


def _tensors(recipe: Trained) -> dict[str, Tensor]:
    """Every tensor of model and optimizer by name; they share their memory with these."""
    return _flat({"model": recipe.model.state_dict(), "optimizer": recipe.optimizer.state_dict()})


def _flat(state: dict[str, Any]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in flatten_state_dict(state)[0].items():
        if hasattr(value, "local_shards"):
            tensors |= {f"{name}/{place}": shard.tensor for place, shard in enumerate(value.local_shards())}
        elif isinstance(value, Tensor):
            tensors[name] = value
    return tensors


def _bits(value: Tensor) -> Tensor:
    """The rows of a tensor as integers, so that NaN equals itself and -0.0 is not 0.0: ``[rows, width]``."""
    rows = value.contiguous().reshape(len(value) if value.dim() else 1, -1)
    return rows.view(_INTEGERS[rows.element_size()])


def _difference(name: str, old: Tensor, new: Tensor) -> dict[str, Tensor]:
    """What a delta holds of one tensor: nothing, changed rows, or all of it.

    Example::

        >>> old = torch.zeros(5, 2)
        >>> new = old.clone()
        >>> new[3] = 7.0
        >>> {name: part.tolist() for name, part in _difference("w", old, new).items()}
        {'rows:w': [3], 'values:w': [[7.0, 7.0]]}
        >>> _difference("w", old, old.clone())
        {}
    """
    if not new.numel():
        return {}
    changed = (_bits(old) != _bits(new)).any(dim=1).nonzero().flatten()
    if not changed.numel():
        return {}
    if not new.dim() or 2 * changed.numel() > len(new):
        return {_WHOLE + name: new.contiguous().clone()}
    index = changed.to(torch.int32) if len(new) < 2**31 else changed
    return {_ROWS + name: index, _VALUES + name: new[changed]}


def _apply(parts: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Make tensors what they were when the delta was written, in place."""
    for name, value in parts.items():
        base = name.partition(":")[2]
        if name.startswith(_WHOLE):
            tensors[base].copy_(value)
        elif name.startswith(_ROWS):
            target = tensors[base]
            target[value.to(target.device, torch.int64)] = parts[_VALUES + base].to(target.device)


def _sha256(parts: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(parts):
        value = parts[name].contiguous()
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
