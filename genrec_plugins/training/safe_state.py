"""Read what ``torch.distributed.checkpoint`` wrote without running code that a file brings along.

DCP's own reader gives ``.metadata`` to ``pickle.load``, and objects beside tensors to ``torch.load`` without
``weights_only``, so that whoever can write a checkpoint can run code in the process that resumes from it. Here both are
read with a list of what they may name. The files stay DCP's own, so that other tools read them too.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import ReadItem
from torch.serialization import _get_layout

from genrec_registry import ModelError

#: what the metadata of tensors consists of; none of it does anything but hold what it is given
_ALLOWED: Mapping[tuple[str, str], Any] = {
    **{
        (kind.__module__, kind.__name__): kind
        for kind in (
            metadata.BytesStorageMetadata,
            metadata.ChunkStorageMetadata,
            metadata.Metadata,
            metadata.MetadataIndex,
            metadata.StorageMeta,
            metadata.TensorProperties,
            metadata.TensorStorageMetadata,
            metadata._MEM_FORMAT_ENCODING,
            filesystem._StorageInfo,
        )
    },
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): _get_layout,
    # where it was saved, which nothing reads
    ("pathlib", "PosixPath"): PurePosixPath,
    ("pathlib._local", "PosixPath"): PurePosixPath,
}


class _Unpickler(pickle.Unpickler):
    """Builds nothing but what :data:`_ALLOWED` lists, and torch's dtypes."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        found = getattr(torch, name, None) if module == "torch" else None
        if isinstance(found, torch.dtype):
            return found
        raise pickle.UnpicklingError(f"it names {module}.{name}, which the metadata of tensors does not")


class SafeReader(dcp.FileSystemReader):
    """DCP's reader of files, with metadata that can name tensors and their files only.

    Args:
        path: folder of the checkpoint's state.

    Raises:
        ModelError: the metadata are damaged, or hold something else.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        """The metadata of the whole checkpoint, or of the part of ``rank``."""
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        try:
            with path.open("rb") as file:
                found = _Unpickler(file).load()
            for info in found.storage_data.values():
                name = info.relative_path
                if PurePosixPath(name).name != name:
                    raise ValueError(f"it places a tensor into {name}, outside its folder")
            if found.storage_meta is None:
                found.storage_meta = metadata.StorageMeta()
            found.storage_meta.load_id = self.load_id
        except Exception as error:  # a damaged pickle can raise anything
            raise ModelError(f"{path}: is no metadata of a checkpoint ({error}); remove that checkpoint") from error
        checked: metadata.Metadata = found
        return checked


class _Planner(DefaultLoadPlanner):
    """Reads objects beside tensors (an optimizer's settings) with ``weights_only``: numbers, texts and containers."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put one such object into the state."""
        safe = io.BytesIO()
        # the base class unpickles without restriction, so that it is given what a restricted reader has made
        torch.save(torch.load(value, weights_only=True), safe)
        safe.seek(0)
        super().load_bytes(read_item, safe)


def load_state(state: dict[str, Any], folder: Path, *, no_dist: bool) -> None:
    """``dcp.load`` into ``state``, in place, without running what the files bring along.

    Args:
        state: tensors of the right shapes, and objects, by name.
        folder: where ``dcp.save`` wrote.
        no_dist: whether this process loads alone.

    Raises:
        ModelError: the metadata are damaged, or hold something else than the metadata of tensors.
        CheckpointException: another file is damaged, or misses what ``state`` asks for (around any of these with DCP).

    Example::

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = dcp.save({"weight": torch.ones(2)}, checkpoint_id=str(folder), no_dist=True)
        >>> state = {"weight": torch.zeros(2)}
        >>> load_state(state, folder, no_dist=True)
        >>> state["weight"].tolist()
        [1.0, 1.0]
    """
    dcp.load(state, storage_reader=SafeReader(folder), planner=_Planner(), no_dist=no_dist)


def digest_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder: ``torch.load`` does not see a flipped bit in a tensor.

    Example::

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a").write_bytes(b"abc")
        >>> {name: sha256[:8] for name, sha256 in digest_files(folder).items()}
        {'a': 'ba7816bf'}
    """
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def check_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Compare the files of a folder with their digests.

    Args:
        folder: where they are.
        expected: what :func:`digest_files` gave when they were written.

    Raises:
        ModelError: one is missing or was changed.
    """
    found = digest_files(folder) if folder.is_dir() else {}
    for name, sha256 in expected.items():
        if found.get(name) != sha256:
            raise ModelError(f"{folder / name}: {'was changed' if name in found else 'is missing'}")
