"""The field type ``geohash``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from genrec_adapters.field_types.base import Fitted
from genrec_adapters.field_types.columns import number
from genrec_adapters.field_types.vocabulary import ValueCounter, VocabularyIds
from genrec_geo_field.config import GeohashConfig
from genrec_geo_field.geohash import geohash
from genrec_registry import FieldSpec, FieldState, SparseFeature
from genrec_registry.contracts import ColumnKind

NOWHERE = 1
_FIRST_CELL = 2


class Geohash:
    """Two tokens of a place, its coarse and its fine cell: implements ``FieldType``.

    Ids of either: 0 is a cell that training did not see often enough; 1 is nowhere, a row without coordinates or with
    impossible ones; the cells follow. Features are called ``{name}_{length}``.

    Args:
        name: field name.
        config: see :class:`~genrec_geo_field.config.GeohashConfig`.

    Example::

        >>> field = Geohash("place", GeohashConfig(precisions=(1, 3)))
        >>> fitter = field.fitter()
        >>> fitter.update(pl.DataFrame({"latitude": [42.6, 57.6, 57.6], "longitude": [-5.6, 10.4, 10.4]}))
        >>> rows = pl.DataFrame({"latitude": [57.65, 42.6, None, 91.0], "longitude": [10.5, -5.6, 0.0, 0.0]})
        >>> rows.select(fitter.finish().encode()).rows()
        [(2, 2), (3, 3), (1, 1), (1, 1)]
    """

    def __init__(self, name: str, config: GeohashConfig) -> None:
        self.name = name
        self.config = config

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """Latitude and longitude."""
        return {self.config.latitude: "number", self.config.longitude: "number"}

    def cells(self) -> list[pl.Expr]:
        """Geohashes of either length; null where there is no place."""
        degrees = [number(self.config.latitude), number(self.config.longitude)]
        return [
            pl.map_batches(degrees, _Cells(length), return_dtype=pl.String, is_elementwise=True)
            for length in self.config.precisions
        ]

    def fitter(self) -> GeohashFitter:
        """Counts cells."""
        return GeohashFitter(self)

    def restore(self, state: FieldState) -> Fitted:
        """The field with the vocabularies of ``state``."""
        sparse, expressions = [], []
        for length, cell in zip(self.config.precisions, self.cells(), strict=True):
            ids = VocabularyIds(state.tables[f"cells_{length}"]["value"], first=_FIRST_CELL)
            sparse.append(SparseFeature(name=f"{self.name}_{length}", num_embeddings=ids.end))
            nowhere = pl.lit(NOWHERE, dtype=pl.Int32)
            expressions.append(pl.when(cell.is_null()).then(nowhere).otherwise(ids.of(cell)))
        return Fitted(
            spec=FieldSpec(name=self.name, type="geohash", sparse=tuple(sparse)),
            expressions=tuple(expressions),
            field_state=state,
        )


class GeohashFitter:
    """Counts the cells of either length: implements ``FieldFitter``."""

    def __init__(self, field: Geohash) -> None:
        self._field = field
        self._counters = {length: ValueCounter() for length in field.config.precisions}

    def update(self, chunk: pl.DataFrame) -> None:
        """Count one chunk."""
        for counter, cell in zip(self._counters.values(), self._field.cells(), strict=True):
            counter.add(chunk.select(cell.alias("cell"))["cell"])

    def finish(self) -> Fitted:
        """The field with the cells found."""
        min_count = self._field.config.min_count
        tables = {f"cells_{length}": counter.counts(min_count=min_count) for length, counter in self._counters.items()}
        return self._field.restore(FieldState(tables=tables))


class _Cells:
    """Series of latitudes and longitudes to a series of geohashes."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __call__(self, degrees: Sequence[pl.Series]) -> pl.Series:
        latitude, longitude = (series.to_numpy() for series in degrees)  # null is NaN, and compares as false
        somewhere = (np.abs(latitude) <= 90) & (np.abs(longitude) <= 180)
        hashes = geohash(np.where(somewhere, latitude, 0.0), np.where(somewhere, longitude, 0.0), self._length)
        texts = pl.Series("hash", hashes.tolist(), dtype=pl.Binary).cast(pl.String)
        return pl.select(pl.when(pl.Series(somewhere)).then(texts)).to_series()
