"""``lum-knowledge``: what a user model knows of the row's user and item, from a knowledge store (LUM, step 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from genrec_adapters.field_types.base import Fitted
from genrec_adapters.field_types.columns import number, text
from genrec_adapters.field_types.configs import LumKnowledgeConfig
from genrec_adapters.field_types.histogram import Histogram
from genrec_adapters.field_types.numeric_dense import moments
from genrec_adapters.knowledge import MANIFEST, Floats, KnowledgeStore
from genrec_registry import (
    ConfigError,
    DataError,
    DenseFeature,
    FieldFitter,
    FieldSpec,
    FieldState,
    Split,
    did_you_mean,
)
from genrec_registry.contracts import ColumnKind

Of = Callable[[Sequence[pl.Series]], pl.Series]


@dataclass(frozen=True, kw_only=True)
class FittedKnowledge(Fitted):
    """A fitted field that knows from when its store's weights are.

    Args:
        field: the field it was made of.
    """

    field: LumKnowledge

    def check_split(self, rows: pl.DataFrame, split: Split) -> None:
        """Refuse validation and test rows from the time the weights were trained on, unless the config allows it.

        Raises:
            DataError: there are such rows.
        """
        if split != "train" and self.field.config.weights == "past":
            times = rows.select(number(self.field.config.time).alias("time")).to_series()
            try:
                self.field.store.check_rows(times, f"{split} rows")
            except DataError as error:
                raise DataError(f"fields.{self.field.name}: {error}") from None


class LumKnowledge:
    """Knowledge of user and item as dense features: implements ``FieldType``.

    ``y = f(u, i, {o_q, sim(o_q, e_i)}_q, e_i)`` (arXiv 2502.08309, step 3). For each query q of the store there are
    ``{name}.vector.{q}`` with D floats and ``{name}.similarity.{q}`` with two, the similarity and 1 where the item is
    known (else both are 0); ``{name}.item`` has the item's D floats, zeros if it is unknown. Each is one token.

    An unknown user, and a row without a time, has the cold-start row of the store. What is known of a user was made
    from events strictly before the row, or the row is refused.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.LumKnowledgeConfig`.

    Example::

        >>> import tempfile
        >>> from genrec_adapters.knowledge import KnowledgeFacts
        >>> vectors = lambda *rows: pl.Series(rows, dtype=pl.Array(pl.Float32, 2))
        >>> store = KnowledgeStore.write(
        ...     tempfile.mkdtemp() + "/store",
        ...     [pl.DataFrame({"user": ["u"], "last_event": [10], "like": vectors([3.0, 4.0])})],
        ...     pl.DataFrame({"item": ["i", "j"], "vector": vectors([3.0, 4.0], [4.0, -3.0])}),
        ...     KnowledgeFacts(model="0" * 64, trained_until=10, queries=("like",), dim=2),
        ... )
        >>> field = LumKnowledge("lum", LumKnowledgeConfig(store=str(store.directory), parts=("similarities",)))
        >>> rows = pl.DataFrame({"user": ["u", "u", "u"], "item": ["i", "j", "?"], "time": [11, 12, 12]})
        >>> fitter = field.fitter()
        >>> fitter.update(rows)
        >>> rows.select(fitter.finish().encode())["lum.similarity.like"].to_list()
        [[1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]
    """

    def __init__(self, name: str, config: LumKnowledgeConfig) -> None:
        self.name = name
        self.config = config

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """User, item and time."""
        return {self.config.user: "string", self.config.item: "string", self.config.time: "number"}

    @property
    def files(self) -> tuple[str, ...]:
        """What else the encoding depends on; the manifest has the digests of the tables."""
        return (str(Path(self.config.store) / MANIFEST),)

    @cached_property
    def store(self) -> KnowledgeStore:
        """The open store.

        Raises:
            DataError: it is none.
        """
        return KnowledgeStore.open(self.config.store)

    @property
    def queries(self) -> tuple[str, ...]:
        """The queries that are used.

        Raises:
            ConfigError: the store has not one of them.
        """
        there = self.store.facts.queries
        for query in self.config.queries or ():
            if query not in there:
                problem = f"{self.config.store} has no query '{query}'{did_you_mean(query, there)}"
                raise ConfigError(f"fields.{self.name}.queries: {problem}")
        return self.config.queries or there

    @property
    def _sources(self) -> list[pl.Expr]:
        return [text(self.config.user), number(self.config.time), text(self.config.item)]

    def fitter(self) -> FieldFitter:
        """Measures the similarities of the training rows."""
        return _Fitter(self)

    def similarities(self, query: str, columns: Sequence[pl.Series]) -> tuple[Floats, np.ndarray]:
        """Similarity under one query, and which items are known, ``[N]`` each.

        Args:
            query: which.
            columns: users, times and items of the rows.
        """
        users, times, items = columns
        item_rows = self.store.item_rows(items)
        vectors = self.store.query_vectors(query, self.store.user_rows(users, times))
        return self.store.similarity(vectors, self.store.item_vectors(item_rows)), item_rows >= 0

    def restore(self, state: FieldState) -> FittedKnowledge:
        """The field with the similarities' moments of ``state``.

        Raises:
            DataError: the store is not the one that the field was fitted with.
        """
        facts = state.json
        if facts["digest"] != self.store.digest:
            raise DataError(
                f"fields.{self.name}: {self.config.store} is another knowledge store than the rows were prepared with "
                f"(digest {self.store.digest[:16]}.., expected {facts['digest'][:16]}..); put the old one back, or run "
                "'genrec preprocess' and train again"
            )
        self.store.load(self.queries)
        dim = self.store.facts.dim
        made: list[tuple[DenseFeature, Of]] = []
        if "vectors" in self.config.parts:
            made += [
                (DenseFeature(name=f"{self.name}.vector.{query}", width=dim), self._vectors(query))
                for query in self.queries
            ]
        if "similarities" in self.config.parts:
            made += [
                (
                    DenseFeature(name=f"{self.name}.similarity.{query}", width=2),
                    self._similarity(query, *facts["similarities"][query]),
                )
                for query in self.queries
            ]
        if "item-vector" in self.config.parts:
            made.append((DenseFeature(name=f"{self.name}.item", width=dim), self._item_vectors))
        return FittedKnowledge(
            spec=FieldSpec(name=self.name, type="lum-knowledge", dense=tuple(feature for feature, _ in made)),
            expressions=tuple(
                pl.map_batches(self._sources, of, return_dtype=pl.Array(pl.Float32, feature.width), is_elementwise=True)
                for feature, of in made
            ),
            field_state=state,
            field=self,
        )

    def _vectors(self, query: str) -> Of:
        def of(columns: Sequence[pl.Series]) -> pl.Series:
            rows = self.store.user_rows(columns[0], columns[1])
            return self._as_series(self.store.query_vectors(query, rows))

        return of

    def _item_vectors(self, columns: Sequence[pl.Series]) -> pl.Series:
        return self._as_series(self.store.item_vectors(self.store.item_rows(columns[2])))

    def _as_series(self, vectors: Floats) -> pl.Series:
        if self.config.normalise:
            size = np.sqrt(np.square(vectors).mean(axis=1, keepdims=True))
            vectors = np.divide(vectors, size, out=np.zeros_like(vectors), where=size > 0)
        return pl.Series(vectors, dtype=pl.Array(pl.Float32, self.store.facts.dim))

    def _similarity(self, query: str, mean: float, scale: float) -> Of:
        def of(columns: Sequence[pl.Series]) -> pl.Series:
            found, known = self.similarities(query, columns)
            value = np.where(known, (found.astype(np.float64) - mean) / scale, 0.0)
            pairs = np.stack([value, known], axis=1).astype(np.float32)
            return pl.Series(pairs, dtype=pl.Array(pl.Float32, 2))

        return of


class _Fitter:
    """Measures similarities over chunks: implements ``FieldFitter``."""

    def __init__(self, field: LumKnowledge) -> None:
        self._field = field
        measured = field.config.standardise and "similarities" in field.config.parts
        self._histograms = {query: Histogram() for query in field.queries} if measured else {}

    def update(self, chunk: pl.DataFrame) -> None:
        """Measure one chunk's similarities to known items."""
        if not self._histograms:
            return
        columns = chunk.select(
            source.alias(name) for source, name in zip(self._field._sources, ("user", "time", "item"), strict=True)
        ).get_columns()
        for query, histogram in self._histograms.items():
            found, known = self._field.similarities(query, columns)
            histogram.add(pl.Series(found[known].astype(np.float64)))

    def partial(self) -> FieldState:
        """The histograms so far."""
        parts = {query: histogram.partial() for query, histogram in self._histograms.items()}
        return FieldState(
            json={query: part.json for query, part in parts.items()},
            tables={query: part.tables["counts"] for query, part in parts.items()},
        )

    def absorb(self, partial: FieldState) -> None:
        """Add another fitter's histograms."""
        for query, histogram in self._histograms.items():
            histogram.absorb(FieldState(json=partial.json[query], tables={"counts": partial.tables[query]}))

    def finish(self) -> FittedKnowledge:
        """The field with the moments found."""
        similarities = {query: [0.0, 1.0] for query in self._field.queries}
        for query, histogram in self._histograms.items():
            table = histogram.table()
            similarities[query] = list(moments(table["value"].to_numpy(), table["count"].to_numpy()))
        return self._field.restore(FieldState(json={"digest": self._field.store.digest, "similarities": similarities}))
