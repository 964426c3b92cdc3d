"""Criteo: the Kaggle Display Advertising challenge (and its Criteo_x4 split), and the 1 TB click logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from genrec_adapters.datasets.configs import CriteoKaggleConfig, CriteoTerabyteConfig
from genrec_adapters.datasets.delimited import TextFormat, count_rows, scan_text
from genrec_adapters.datasets.files import config_sources, find_files
from genrec_adapters.datasets.parted_text import PartedText
from genrec_adapters.datasets.parts import Part
from genrec_registry.contracts import ColumnKind, ErrorPolicy, SourceFile, Split
from genrec_registry.errors import DataError

LABEL = "label"
NUMBERS = tuple(f"I{index}" for index in range(1, 14))
CATEGORIES = tuple(f"C{index}" for index in range(1, 27))
RAW = TextFormat(
    label=LABEL,
    features=NUMBERS + CATEGORIES,
    names=(LABEL, *NUMBERS, *CATEGORIES),
    separator="\t",
    integers=frozenset(NUMBERS),
)
PUBLISHED = TextFormat(
    label=LABEL, features=NUMBERS + CATEGORIES, integers=frozenset(NUMBERS), quote='"', renames={"Label": LABEL}
)
# reczoo/Datasets, Criteo/Criteo_x4.
X4_MD5: Mapping[Split, str] = {
    "train": "4a53bb7cbc0e4ee25f9d6a73ed824b1a",
    "valid": "fba5428b22895016e790e2dec623cb56",
    "test": "cfc37da0d75c4d2d8778e76997df2976",
}
# BARS (Zhu et al., CIKM 2021 and SIGIR 2022), dataset_config.yaml of the two protocols: min count, embedding width.
X4_PRESETS = {"criteo_x4_001": (10, 16), "criteo_x4_002": (2, 40)}
DAYS = 24


def criteo_fields(*, shape: str = "fields", min_count: int = 10, preset: bool = False) -> dict[str, Any]:
    """The ``fields`` section for Criteo's 39 columns.

    Args:
        shape: ``"fields"`` for one token a column; ``"stock"`` for DLRM's shape, 13 numbers ln(1 + x) through one
            dense arch and 26 tables.
        min_count: categories seen fewer times share one id.
        preset: the BARS protocols: buckets are categories with the same min count, and a missing number is 0.

    Example::

        >>> criteo_fields(shape="stock")["I{1..13}"]
        {'type': 'numeric-dense', 'transform': 'log1p', 'missing_indicator': False}
    """
    numbers: dict[str, Any] = {"type": "numeric-bucket", "method": "criteo"}
    if preset:
        numbers |= {"min_count": min_count, "fill_na": 0}
    if shape == "stock":
        numbers = {"type": "numeric-dense", "transform": "log1p", "missing_indicator": False}
    return {"I{1..13}": numbers, "C{1..26}": {"type": "categorical", "min_count": min_count}}


class _Criteo(PartedText):
    """What both Criteo datasets have: a label, 13 integers (possibly empty or negative), 26 hashed categories."""

    label = LABEL
    columns: Mapping[str, ColumnKind] = {**dict.fromkeys(NUMBERS, "number"), **dict.fromkeys(CATEGORIES, "string")}


class CriteoKaggle(_Criteo):
    """Raw ``train.txt`` or the published Criteo_x4 CSVs; each file's first line tells which it is.

    Args:
        config: see :class:`~genrec_adapters.datasets.configs.CriteoKaggleConfig`.

    Example::

        >>> dataset = CriteoKaggle(CriteoKaggleConfig(path="train.txt", preset="criteo_x4_001"))
        >>> dataset.embedding_dim, dataset.default_fields()["C{1..26}"]
        (16, {'type': 'categorical', 'min_count': 10})
    """

    def __init__(self, config: CriteoKaggleConfig) -> None:
        self.config = config

    @property
    def embedding_dim(self) -> int | None:
        """The preset's embedding width: a hint for the model."""
        return X4_PRESETS[self.config.preset][1] if self.config.preset else None

    def sources(self) -> Sequence[SourceFile]:
        """The files; with a preset and ``verify_md5``, those of the published split carry their md5."""
        return config_sources(self.config, X4_MD5 if self.config.preset and self.config.verify_md5 else None)

    def default_fields(self) -> Mapping[str, Any]:
        """By preset, else by shape."""
        if self.config.preset:
            return criteo_fields(min_count=X4_PRESETS[self.config.preset][0], preset=True)
        return criteo_fields(shape=self.config.shape)

    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks: label Int8, I1..I13 Int64, C1..C26 String."""
        return scan_text(source.path, self.text_format(source), policy)

    def text_format(self, source: SourceFile) -> TextFormat:
        """By the file's first line."""
        return PUBLISHED if _has_header(source.path) else RAW


def _has_header(path: str) -> bool:
    """Whether a Criteo file is a published CSV: its first bytes are ``label,``."""
    import gzip

    try:
        with Path(path).open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else Path(path).open("rb") as file:
            return file.read(16).lstrip(b'\xef\xbb\xbf"').lower().startswith(b"label")
    except (OSError, EOFError):
        return False  # the scan says what is wrong with the file


class CriteoTerabyte(_Criteo):
    """``day_0`` .. ``day_23``; split as in MLPerf DLRM: the last day's halves are validation and test.

    Args:
        config: see :class:`~genrec_adapters.datasets.configs.CriteoTerabyteConfig`.
    """

    embedding_dim: int | None = None

    def __init__(self, config: CriteoTerabyteConfig) -> None:
        self.config = config
        self._half: dict[str, int] = {}

    def sources(self) -> Sequence[SourceFile]:
        """One file a day; under ``split: mlperf`` the last one stands twice, for its two halves."""
        paths = find_files(self.config.path, key="dataset.path")
        if self.config.split == "none":
            return [SourceFile(path=path) for path in paths]
        if len(paths) != DAYS:
            raise DataError(
                f"{self.config.path}: found {len(paths)} file{'s' * (len(paths) != 1)}, expected {DAYS} days for "
                "split: mlperf; add the missing days, or set dataset.split: none and choose a split of the run"
            )
        *train, last = paths
        return [
            *(SourceFile(path=path, split="train") for path in train),
            SourceFile(path=last, split="valid"),
            SourceFile(path=last, split="test"),
        ]

    def default_fields(self) -> Mapping[str, Any]:
        """By shape."""
        return criteo_fields(shape=self.config.shape)

    def text_format(self, source: SourceFile) -> TextFormat:
        """The format of all days."""
        return RAW

    def parts(self, source: SourceFile, size: int) -> Sequence[Part]:
        """The parts of a day; its halves are read as they are, since they are told apart by counting."""
        return super().parts(source, size) if source.split in (None, "train") else []

    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks of a day, or of one half of the last day (the first half is the longer one)."""
        if source.split in (None, "train"):
            return scan_text(source.path, RAW, policy)
        if source.path not in self._half:
            self._half[source.path] = (count_rows(source.path) + 1) // 2
        half = self._half[source.path]
        if source.split == "valid":
            return scan_text(source.path, RAW, policy, stop=half)
        return scan_text(source.path, RAW, policy, start=half)
