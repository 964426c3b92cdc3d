"""``export.json``: what an exported directory holds, checked when it is opened. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from genrec_adapters.datasets.files import digest_file
from genrec_adapters.state import checked_state, parse_json
from genrec_plugins.files import reason_of
from genrec_registry import DataError, digest

FORMAT = "genrec-export"
VERSION = 1
NAME = "export.json"
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
PREPROCESSING = "preprocessing"
KNOWLEDGE = "knowledge"
#: how the files of the formats begin
MODEL = "model."
CARD_TEXT, CARD_DATA = "model_card.md", "model_card.json"
_AGAIN = "run 'genrec export' again"


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """One file: its size and SHA-256."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """What ``export.json`` says.

    Args:
        schema: the raw columns, see :class:`~genrec_plugins.serving.schema.RawSchema`.
        tables: how embedding tables are stored.
        inputs: order and widths of the plain inputs of the files of ``formats``.
        formats: format -> its file.
        files: path below the directory -> size and digest, of everything but this file and the model card.
        versions: packages that wrote it.
    """

    schema: dict[str, Any]
    tables: str
    inputs: dict[str, Any]
    formats: dict[str, str]
    files: dict[str, FileFacts]
    versions: dict[str, str]

    @property
    def digest(self) -> str:
        """Digest of all that decides a score: equal digests, equal scores. The compiled formats do not count."""
        counted = {name: entry.sha256 for name, entry in self.files.items() if not name.startswith(MODEL)}
        return digest({"files": counted, "schema": self.schema, "tables": self.tables})

    def write(self, directory: Path) -> None:
        """Write it; the directory is one that is still being made."""
        data = {"format": FORMAT, "version": VERSION, "digest": self.digest, **asdict(self)}
        (directory / NAME).write_text(json.dumps(data, indent=1))

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The facts of an exported directory; the presence and size of its files is checked.

        Raises:
            DataError: it is none, is damaged, or of another version.
        """
        try:
            data = parse_json((directory / NAME).read_bytes())
            if not isinstance(data, dict) or data.pop("format") != FORMAT:
                raise ValueError("its format is another")
            if (version := data.pop("version")) != VERSION:
                raise DataError(f"{directory}: has format version {version}, this program reads {VERSION}; {_AGAIN}")
            stated = data.pop("digest")
            facts = checked_state(cls, data)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{directory}: is no exported model ({reason_of(error, NAME)}); name the --to of 'genrec export'"
            ) from error
        if stated != facts.digest:
            raise DataError(f"{directory / NAME}: its digest is not that of what it says; {_AGAIN}")
        for name, entry in facts.files.items():
            path = directory / name
            found = path.stat().st_size if path.is_file() else None
            if Path(name).is_absolute() or ".." in Path(name).parts or found != entry.bytes:
                raise DataError(f"{path}: has {found or 0} bytes, expected {entry.bytes}; {_AGAIN}")
        return facts

    def verify(self, directory: Path, names: Iterable[str] | None = None) -> None:
        """Compare files with their digests; reads them whole.

        Args:
            directory: where they are.
            names: which; all if None.

        Raises:
            DataError: one was changed.
        """
        for name in self.files if names is None else names:
            found, expected = digest_file(str(directory / name)).sha256, self.files[name].sha256
            if found != expected:
                raise DataError(f"{directory / name}: has sha256 {found[:16]}.., expected {expected[:16]}..; {_AGAIN}")


def file_facts(directory: Path) -> dict[str, FileFacts]:
    """Size and digest of every file below a directory, by its path there; ``export.json`` does not count.

    Example::

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a").write_bytes(b"abc")
        >>> file_facts(folder)["a"].bytes
        3
    """
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / NAME)
    return {
        path.relative_to(directory).as_posix(): FileFacts(
            bytes=path.stat().st_size, sha256=digest_file(str(path)).sha256
        )
        for path in paths
    }
