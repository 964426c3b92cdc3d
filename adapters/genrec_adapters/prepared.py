"""Prepared data: what ``genrec preprocess`` wrote, opened for training and serving. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from genrec_adapters.manifest import FieldEntry, Manifest
from genrec_adapters.state import parse_json, read_parquet
from genrec_registry.config import parse_component
from genrec_registry.contracts import (
    DenseFeature,
    FieldSpec,
    FieldState,
    FieldType,
    FittedField,
    SparseFeature,
    Split,
)
from genrec_registry.errors import DataError, GenrecError
from genrec_registry.manager import Registry


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared directory.

    Args:
        directory: where it is.
        manifest: what is in it.
        reused: whether the preprocessing that returned it found nothing to do.
    """

    directory: Path
    manifest: Manifest
    reused: bool = False

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Open a prepared directory; its manifest, and the presence and size of its files, are checked.

        Raises:
            DataError: it is not prepared data, is damaged, or of another version.
        """
        directory = Path(directory)
        manifest = Manifest.read(directory)
        manifest.check_files(directory)
        return cls(directory=directory, manifest=manifest)

    @property
    def identity(self) -> list[str]:
        """Digests of how and from what it was made; equal ones mean equal rows."""
        return [self.manifest.config_digest, *(source.sha256 for source in self.manifest.sources)]

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The fitted fields in order."""
        return tuple(entry.spec for entry in self.manifest.fields)

    @property
    def sparse_features(self) -> tuple[SparseFeature, ...]:
        """The sparse features of all fields in order: the keys of the batches' KeyedJaggedTensor."""
        return tuple(feature for spec in self.fields for feature in spec.sparse)

    @property
    def dense_features(self) -> tuple[DenseFeature, ...]:
        """The dense features of all fields in order: column blocks of the batches' ``dense_features``."""
        return tuple(feature for spec in self.fields for feature in spec.dense)

    def rows(self, split: Split) -> int:
        """Rows of a split."""
        return self.manifest.splits[split].rows

    def label_mean(self, split: Split) -> float | None:
        """Share of positive labels in a split; None for an empty one."""
        return self.manifest.splits[split].label_mean

    def shard_paths(self, split: Split) -> list[Path]:
        """Files of a split in row order."""
        return [self.directory / shard.path for shard in self.manifest.splits[split].shards]

    def restore_fields(self, registry: Registry) -> dict[str, FittedField]:
        """The fitted fields by name, to encode new raw rows as the training rows were (serving).

        Args:
            registry: finds the field types.

        Raises:
            PluginError: a field's type is not installed.
            DataError: its state is damaged.
        """
        restored: dict[str, FittedField] = {}
        for entry in self.manifest.fields:
            config = parse_component(registry, "field-type", entry.config)
            field: FieldType = registry.create("field-type", config, entry.spec.name)
            state = self.field_state(entry.spec.name)
            try:
                restored[entry.spec.name] = field.restore(state)
            except GenrecError:
                raise
            except Exception as error:  # a type may take its state for granted
                raise _damaged(self.directory, entry.spec.name, error) from error
        return restored

    def field_state(self, name: str) -> FieldState:
        """What a field learned, as it was written.

        Args:
            name: of the field; it must be one of :attr:`fields`.

        Raises:
            DataError: it is damaged.
        """
        entry = next(entry for entry in self.manifest.fields if entry.spec.name == name)
        return read_state(self.directory, entry)

    def verify(self) -> None:
        """Check the digests of all files; reads everything.

        Raises:
            DataError: a file was changed.
        """
        self.manifest.check_digests(self.directory)


def read_state(directory: Path, entry: FieldEntry) -> FieldState:
    """What a field learned, as it was written below a prepared directory.

    Args:
        directory: prepared, or in the making.
        entry: what the manifest says, or will say, of the field.

    Raises:
        DataError: it is damaged.
    """
    import polars as pl

    try:
        facts = parse_json((directory / entry.state.path).read_bytes())
        tables = {key: read_parquet(directory / file.path) for key, file in entry.tables.items()}
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise _damaged(directory, entry.spec.name, error) from error
    return FieldState(json=facts, tables=tables)


def _damaged(directory: Path, name: str, error: Exception) -> DataError:
    problem = (str(error) or type(error).__name__).splitlines()[0]
    return DataError(f"{directory}: state of field '{name}' cannot be read ({problem}); run 'genrec preprocess' again")
