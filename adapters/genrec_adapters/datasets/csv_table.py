"""Any delimited text file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import polars as pl

from genrec_adapters.datasets.blocks import StreamFault
from genrec_adapters.datasets.configs import CsvConfig
from genrec_adapters.datasets.delimited import TextFormat, first_line, read_header, scan_text
from genrec_adapters.datasets.files import config_sources
from genrec_adapters.datasets.parted_text import PartedText
from genrec_adapters.patterns import select
from genrec_registry.contracts import ColumnKind, ErrorPolicy, SourceFile
from genrec_registry.errors import ConfigError, DataError, did_you_mean


class CsvTable(PartedText):
    """A table in delimited text: the label, text columns, and the columns listed as numbers.

    Args:
        config: see :class:`~genrec_adapters.datasets.configs.CsvConfig`.

    Example::

        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        ...     _ = file.write(b"y;age;city\\n1;7;Ulm\\n0;;Bonn\\n"), file.flush()
        ...     dataset = CsvTable(CsvConfig(path=file.name, label="y", separator=";", numbers=["age"]))
        ...     [chunk.rows() for chunk in dataset.scan(dataset.sources()[0], ErrorPolicy())]
        [[(1, 7.0, 'Ulm'), (0, None, 'Bonn')]]
    """

    def __init__(self, config: CsvConfig) -> None:
        self.config = config

    @property
    def label(self) -> str:
        """The label column."""
        return self.config.label

    @cached_property
    def columns(self) -> Mapping[str, ColumnKind]:
        """Columns of the first file (or of ``names``), each text unless listed in ``numbers``."""
        return {name: "number" if name in self._layout.floats else "string" for name in self._layout.features}

    def sources(self) -> Sequence[SourceFile]:
        """The files in reading order."""
        return config_sources(self.config)

    def default_fields(self) -> Mapping[str, Any]:
        """A category for each text column, buckets of equal counts for each number."""
        number, text = {"type": "numeric-bucket", "method": "quantile"}, {"type": "categorical", "min_count": 2}
        return {name: dict(number if kind == "number" else text) for name, kind in self.columns.items()}

    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks: label Int8, numbers Float64, all others String."""
        return scan_text(source.path, self._layout, policy)

    def text_format(self, source: SourceFile) -> TextFormat:
        """The format of all files."""
        return self._layout

    @cached_property
    def _layout(self) -> TextFormat:
        config = self.config
        names = tuple(config.names) if config.names else self._header()
        if config.label not in names:
            raise ConfigError(f"dataset.label: there is no column '{config.label}'{did_you_mean(config.label, names)}")
        others = [name for name in names if name != config.label]
        features = others if config.columns is None else select(config.columns, others, where="dataset.columns")
        return TextFormat(
            label=config.label,
            features=tuple(features),
            names=tuple(config.names) if config.names else None,
            separator=config.separator,
            quote=config.quote,
            floats=frozenset(select(config.numbers, features, where="dataset.numbers")),
            null_values=tuple(config.null_values),
        )

    def _header(self) -> tuple[str, ...]:
        path = self.sources()[0].path
        layout = TextFormat(label="", features=(), separator=self.config.separator, quote=self.config.quote)
        try:
            line = first_line(path)
        except StreamFault as fault:
            raise DataError(f"{path}: {fault} in its header, expected a complete file; download it again") from fault
        return read_header(line, path, layout, check=False)
