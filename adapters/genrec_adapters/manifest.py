"""``manifest.json`` of prepared data: what was read, how it was split and encoded, and which files hold the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from genrec_adapters.state import parse_json
from genrec_registry.contracts import SPLITS, FieldSpec, Split
from genrec_registry.errors import DataError

FORMAT: Literal["genrec-prepared"] = "genrec-prepared"
VERSION = 1
NAME = "manifest.json"
LABEL_COLUMN = "__label__"
_AGAIN = "run 'genrec preprocess' again"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Part):
    """A file below the prepared directory, and what it must look like."""

    path: str
    bytes: int
    sha256: str


class Shard(FileEntry):
    """One file of encoded rows."""

    rows: int


class SplitEntry(_Part):
    """One split's rows."""

    rows: int
    label_mean: float | None
    shards: tuple[Shard, ...]


class FieldEntry(_Part):
    """One fitted field: its config, what it asks of the model, and its learned state."""

    config: dict[str, Any]
    plugin: str
    spec: FieldSpec
    state: FileEntry
    tables: dict[str, FileEntry]


class SourceEntry(_Part):
    """One input file as it was when it was read."""

    path: str
    split: Split | None
    bytes: int
    mtime_ns: int
    sha256: str


class Manifest(_Part):
    """The whole manifest.

    Attributes:
        config_digest: digest of dataset, fields, split and options; equal digests and sources give equal data.
        config: the configs themselves, for people.
        versions: the packages that wrote it.
        label: the dataset's label column; in the shards it is called ``__label__``.
        rows_read: usable rows and skipped ones.
        rows_skipped: rows that ``on_error: skip`` left out.
        skipped_examples: the first few of them, as sentences.
    """

    format: Literal["genrec-prepared"] = FORMAT
    version: int = VERSION
    config_digest: str
    config: dict[str, Any]
    versions: dict[str, str]
    label: str
    storage: Literal["arrow", "parquet"]
    rows_read: int
    rows_skipped: int
    skipped_examples: tuple[str, ...]
    sources: tuple[SourceEntry, ...]
    fields: tuple[FieldEntry, ...]
    splits: dict[Split, SplitEntry]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The manifest of a prepared directory.

        Raises:
            DataError: it is missing, damaged, or of another version.
        """
        path = directory / NAME
        try:
            data = parse_json(path.read_bytes())
        except FileNotFoundError:
            what = "has no manifest.json" if directory.is_dir() else "does not exist"
            raise DataError(f"{directory}: {what}, expected prepared data; run 'genrec preprocess' first") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}), expected a manifest; {_AGAIN}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise DataError(f"{path}: is not the manifest of prepared data; name the folder 'genrec preprocess' wrote")
        if data.get("version") != VERSION:
            raise DataError(f"{path}: has format version {data.get('version')}, this program reads {VERSION}; {_AGAIN}")
        try:
            found = cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DataError(f"{path}: key '{where}' is damaged ({first['msg']}); {_AGAIN}") from None
        problem = found._problem()
        if problem:
            raise DataError(f"{path}: {problem}; {_AGAIN}")
        return found

    def _problem(self) -> str:
        """What its parts disagree on; empty if nothing."""
        if set(self.splits) != set(SPLITS):
            return f"has the splits {', '.join(self.splits)}, expected {', '.join(SPLITS)}"
        for name, split in self.splits.items():
            if split.rows != sum(shard.rows for shard in split.shards):
                return f"split '{name}' has {split.rows} rows, and its files another number"
        for entry in self.entries():
            if Path(entry.path).is_absolute() or ".." in Path(entry.path).parts:
                return f"names the file {entry.path}, outside its folder"
        return ""

    def entries(self) -> list[FileEntry]:
        """Every file the manifest names."""
        files: list[FileEntry] = [shard for split in self.splits.values() for shard in split.shards]
        for field in self.fields:
            files += [field.state, *field.tables.values()]
        return files

    def check_files(self, directory: Path) -> None:
        """Check that every file is there and has its size; digests are checked by :meth:`check_digests`.

        Raises:
            DataError: one is missing or was changed.
        """
        for entry in self.entries():
            path = directory / entry.path
            if not path.is_file():
                raise DataError(f"{path}: is missing, expected {entry.bytes} bytes; {_AGAIN}")
            found = path.stat().st_size
            if found != entry.bytes:
                raise DataError(f"{path}: has {found} bytes, expected {entry.bytes}; {_AGAIN}")

    def check_digests(self, directory: Path) -> None:
        """Check every file's SHA-256 (reads everything).

        Raises:
            DataError: one is missing or was changed.
        """
        from genrec_adapters.datasets.files import digest_file

        self.check_files(directory)
        for entry in self.entries():
            found = digest_file(str(directory / entry.path)).sha256
            if found != entry.sha256:
                raise DataError(
                    f"{directory / entry.path}: has sha256 {found[:16]}.., expected {entry.sha256[:16]}..; {_AGAIN}"
                )
