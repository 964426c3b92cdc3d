"""Find the files a dataset config names, and check their digests."""

from __future__ import annotations

import glob
import hashlib
import re
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path

from genrec_adapters.datasets.configs import FilesConfig, Paths
from genrec_registry.contracts import SourceFile, Split
from genrec_registry.errors import DataError

_DIGITS = re.compile(r"(\d+)")


def natural_key(path: str) -> list[tuple[int, str]]:
    """Sort key that puts ``day_2`` before ``day_10``.

    Example::

        >>> sorted(["day_10", "day_2"], key=natural_key)
        ['day_2', 'day_10']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _DIGITS.split(path)]


def find_files(paths: Paths, *, key: str) -> list[str]:
    """The files that a path, folder, glob pattern, or list of these stands for, in natural order within each.

    Args:
        paths: what the config says.
        key: the config key, for the message.

    Raises:
        DataError: nothing is there.
    """
    found: list[str] = []
    for entry in [paths] if isinstance(paths, str) else paths:
        path = Path(entry).expanduser()
        if path.is_dir():
            here = [str(child) for child in path.iterdir() if child.is_file() and child.name[0] not in "._"]
            problem = "is a folder without files"
        elif path.exists():
            here, problem = [str(path)], ""
        else:
            here = [name for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
            problem = "matches no file" if glob.has_magic(entry) else "does not exist"
        if not here:
            raise DataError(f"{entry}: {problem}, expected the file to read; mend {key}")
        found.extend(sorted(here, key=natural_key))
    if not found:
        raise DataError(f"{key}: is an empty list, expected at least one file; name one")
    return found


def config_sources(config: FilesConfig, md5: Mapping[Split, str] | None = None) -> list[SourceFile]:
    """The files of a config with ``path`` or ``train/valid/test``, in reading order.

    Args:
        config: the dataset's config.
        md5: expected digests by split, for splits that are one file.

    Raises:
        DataError: a file is missing.
    """
    if config.path is not None:
        return [SourceFile(path=path) for path in find_files(config.path, key="dataset.path")]
    bound: list[tuple[Split, Paths | None]] = [("train", config.train), ("valid", config.valid), ("test", config.test)]
    sources: list[SourceFile] = []
    for split, paths in bound:
        files = find_files(paths, key=f"dataset.{split}") if paths else []
        expected = (md5 or {}).get(split) if len(files) == 1 else None
        sources.extend(SourceFile(path=path, split=split, md5=expected) for path in files)
    return sources


@dataclass(frozen=True, kw_only=True)
class FileDigests:
    """What identifies a file's content."""

    sha256: str
    md5: str = ""


def digest_file(path: str, *, md5: str | None = None, stop: threading.Event | None = None) -> FileDigests:
    """SHA-256 of a file, and its MD5 where one is expected.

    Args:
        path: the file.
        md5: the MD5 it must have, or None to skip that.
        stop: set from another thread to give up.

    Raises:
        DataError: the file cannot be read, or has another MD5.
        CancelledError: ``stop`` was set.
    """
    hashes = [hashlib.sha256(), *([hashlib.md5(usedforsecurity=False)] if md5 else [])]
    try:
        with Path(path).open("rb") as file:
            while piece := file.read(4 << 20):
                if stop is not None and stop.is_set():
                    raise CancelledError
                for each in hashes:
                    each.update(piece)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}), expected a readable file") from error
    found = hashes[1].hexdigest() if md5 else ""
    if md5 and found != md5:
        raise DataError(
            f"{path}: has md5 {found}, expected {md5} (the published file of this preset); "
            "download it again, or set dataset.verify_md5: false to use this file all the same"
        )
    return FileDigests(sha256=hashes[0].hexdigest(), md5=found)
