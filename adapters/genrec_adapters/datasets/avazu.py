"""Avazu click-through rate prediction (Kaggle), and its Avazu_x4 split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from genrec_adapters.datasets.configs import AvazuConfig
from genrec_adapters.datasets.delimited import TextFormat, scan_text
from genrec_adapters.datasets.files import config_sources
from genrec_adapters.datasets.parted_text import PartedText
from genrec_registry.contracts import ColumnKind, ErrorPolicy, SourceFile, Split

LABEL = "click"
CATEGORIES = (
    "C1",
    "banner_pos",
    "site_id",
    "site_domain",
    "site_category",
    "app_id",
    "app_domain",
    "app_category",
    "device_id",
    "device_ip",
    "device_model",
    "device_type",
    "device_conn_type",
    *(f"C{index}" for index in range(14, 22)),
)
# Columns are found by name in the header; ``id`` is not read, it identifies the row.
CSV = TextFormat(label=LABEL, features=("hour", *CATEGORIES), quote='"')
# reczoo/Datasets, Avazu/Avazu_x4.
X4_MD5: Mapping[Split, str] = {
    "train": "de3a27264cdabf66adf09df82328ccaa",
    "valid": "33232931d84d6452d3f956e936cab2c9",
    "test": "3ebb774a9ca74d05919b84a3d402986d",
}
# BARS (Zhu et al., CIKM 2021 and SIGIR 2022), dataset_config.yaml of the two protocols: min count, embedding width.
X4_PRESETS = {"avazu_x4_001": (2, 16), "avazu_x4_002": (1, 40)}


class Avazu(PartedText):
    """Raw ``train`` CSV: label ``click``, ``hour`` as YYMMDDHH, 21 categories; ``id`` is left out.

    The default fields are the 24 of BARS: hour of day, weekday and weekend from ``hour``, and the 21 categories.

    Args:
        config: see :class:`~genrec_adapters.datasets.configs.AvazuConfig`.

    Example::

        >>> dataset = Avazu(AvazuConfig(path="train.gz", preset="avazu_x4_002"))
        >>> dataset.embedding_dim, len(dataset.columns)
        (40, 22)
    """

    label = LABEL
    columns: Mapping[str, ColumnKind] = dict.fromkeys(CSV.features, "string")

    def __init__(self, config: AvazuConfig) -> None:
        self.config = config

    @property
    def embedding_dim(self) -> int | None:
        """The preset's embedding width: a hint for the model."""
        return X4_PRESETS[self.config.preset][1] if self.config.preset else None

    def sources(self) -> Sequence[SourceFile]:
        """The files; with a preset and ``verify_md5``, those of the published split carry their md5."""
        return config_sources(self.config, X4_MD5 if self.config.preset and self.config.verify_md5 else None)

    def default_fields(self) -> Mapping[str, Any]:
        """24 fields, all of them one id a row."""
        min_count = X4_PRESETS[self.config.preset][0] if self.config.preset else 2
        categorical = {"type": "categorical", "min_count": min_count}
        hour = {"type": "timestamp", "format": "yymmddhh", "parts": ["hour", "weekday", "weekend"]}
        return {"hour": hour, **{name: dict(categorical) for name in CATEGORIES}}

    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks: label Int8, all others String."""
        return scan_text(source.path, CSV, policy)

    def text_format(self, source: SourceFile) -> TextFormat:
        """The format of all files."""
        return CSV
