"""Configs of the built-in datasets. Imports neither polars nor torch: configs are checked before anything is loaded."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from genrec_registry.config import Config

CriteoPreset = Literal["criteo_x4_001", "criteo_x4_002"]
AvazuPreset = Literal["avazu_x4_001", "avazu_x4_002"]
Paths = str | list[str]

_ONE_OR_MANY = "a file, a folder, a glob pattern, or a list of these"


class FilesConfig(Config):
    """Where the rows are: ``path``, to be split by the run, or one path for each of ``train``, ``valid``, ``test``.

    Example::

        >>> FilesConfig(path="train.txt").path
        'train.txt'
        >>> FilesConfig(train="a.csv", valid="b.csv", test="c.csv").bound
        True
    """

    path: Paths | None = Field(default=None, description=f"rows that the run splits: {_ONE_OR_MANY}")
    train: Paths | None = Field(default=None, description=f"training rows: {_ONE_OR_MANY}")
    valid: Paths | None = Field(default=None, description=f"validation rows: {_ONE_OR_MANY}")
    test: Paths | None = Field(default=None, description=f"test rows: {_ONE_OR_MANY}")

    @property
    def bound(self) -> bool:
        """Whether the files themselves carry the split."""
        return self.path is None

    @model_validator(mode="after")
    def _one_style(self) -> Self:
        if self.path is not None and (self.train or self.valid or self.test):
            raise ValueError("found both 'path' and 'train/valid/test', expected one of the two; remove the other")
        if self.path is None and self.train is None:
            raise ValueError("found neither 'path' nor 'train', expected the file to read; set dataset.path")
        return self


class CriteoKaggleConfig(FilesConfig):
    """Criteo Display Advertising: raw ``train.txt`` (tab-separated, no header), or the published Criteo_x4 CSVs."""

    preset: CriteoPreset | None = Field(
        default=None, description="BARS protocol: fields and min counts; checks published CSVs"
    )
    verify_md5: bool = Field(
        default=True, description="with a preset and train/valid/test, check the published files' md5"
    )
    shape: Literal["fields", "stock"] = Field(
        default="fields", description="default fields: one token for each of 39 fields, or 13 numbers in one dense arch"
    )

    @model_validator(mode="after")
    def _preset_is_categorical(self) -> Self:
        if self.preset and self.shape == "stock":
            raise ValueError(f"preset '{self.preset}' makes all 39 fields categorical; remove shape: stock")
        return self


class CriteoTerabyteConfig(Config):
    """Criteo 1 TB click logs: ``day_0`` .. ``day_23``, plain or gzipped."""

    path: Paths = Field(description=f"the day files: {_ONE_OR_MANY}")
    split: Literal["mlperf", "none"] = Field(
        default="mlperf",
        description="mlperf: days 0-22 train, the halves of day 23 valid and test; none: split by the run",
    )
    shape: Literal["fields", "stock"] = Field(default="fields", description="default fields, as for criteo-kaggle")


class AvazuConfig(FilesConfig):
    """Avazu CTR prediction: raw CSV with header, or the published Avazu_x4 CSVs."""

    preset: AvazuPreset | None = Field(
        default=None, description="BARS protocol: fields and min counts; checks published CSVs"
    )
    verify_md5: bool = Field(
        default=True, description="with a preset and train/valid/test, check the published files' md5"
    )


class TableConfig(FilesConfig):
    """What any table needs: the label, and which columns to read."""

    label: str = Field(description="name of the label column; its values are 0 and 1")
    columns: list[str] | None = Field(
        None, description="feature columns or patterns to read; all but the label if unset"
    )


class ParquetConfig(TableConfig):
    """Any Parquet table."""


class CsvConfig(TableConfig):
    """Any delimited text file, plain or gzipped."""

    separator: str = Field(default=",", min_length=1, max_length=1, description="one character between values")
    quote: str | None = Field(default='"', min_length=1, max_length=1, description="quote character; null for none")
    header: bool = Field(default=True, description="whether the first line holds the column names")
    names: list[str] | None = Field(
        default=None, description="all column names in file order, for files without a header"
    )
    numbers: list[str] = Field(default=[], description="columns or patterns that hold numbers; the others are text")
    null_values: list[str] = Field(default=[], description="words that mean missing, beside the empty string")

    @model_validator(mode="after")
    def _names_without_header(self) -> Self:
        if self.header == (self.names is not None):
            found = "'names' beside header: true" if self.header else "header: false without 'names'"
            raise ValueError(f"found {found}; list all columns in 'names' exactly when the file has no header")
        if not self.separator.isascii() or self.separator in '\n\r"':
            raise ValueError(
                f"separator {self.separator!r} cannot be used; take one ASCII character such as ',' or '|'"
            )
        return self
