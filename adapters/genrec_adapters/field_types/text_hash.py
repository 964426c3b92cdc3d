"""``text-hash``: words and character n-grams of a text, hashed to ids."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from genrec_adapters.field_types.base import Fitted, NothingToFit
from genrec_adapters.field_types.columns import text
from genrec_adapters.field_types.configs import TextHashConfig
from genrec_adapters.field_types.vocabulary import HashIds
from genrec_registry import FieldFitter, FieldSpec, FieldState, SparseFeature
from genrec_registry.contracts import ColumnKind

_NGRAM_MARK = "\x1f"  # keeps the n-gram "art" and the word "art" apart


class TextHash:
    """Hashed words and n-grams: implements ``FieldType``.

    A word is a run of letters, digits and underscores of any script, lower-cased. n-grams are taken of ``<word>``, with
    the angle brackets marking its ends, as fastText does (Bojanowski et al., arXiv 1607.04606, section 3.2). A row's
    ids are its words in order, then its n-grams, cut after max_length. Missing or wordless text has the empty list,
    which pools to zeros; id 0 is never given.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.TextHashConfig`.

    Example::

        >>> field = TextHash("title", TextHashConfig(num_buckets=1000, ngrams=(3,)))
        >>> rows = pl.DataFrame({"title": ["Red  red!", "", None]})
        >>> ids = rows.select(field.fitter().finish().encode())["title"].to_list()
        >>> len(ids[0]), ids[0][0] == ids[0][1], ids[1:]  # 2 words, and <re red ed> of each
        (8, True, [[], []])
    """

    def __init__(self, name: str, config: TextHashConfig) -> None:
        self.name = name
        self.config = config
        self.column = config.column or name

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """The one column."""
        return {self.column: "string"}

    def fitter(self) -> FieldFitter:
        """Learns nothing."""
        return NothingToFit(self.restore)

    def restore(self, state: FieldState) -> Fitted:
        """The field; it has no state."""
        ids = HashIds(self.config.num_buckets, first=1, seed=self.config.seed)
        words = text(self.column).str.to_lowercase().str.extract_all(r"\w+")
        parts = [words] if self.config.words else []
        parts += [_ngrams(words, length) for length in self.config.ngrams]
        kept = pl.concat_list(parts).list.head(self.config.max_length)
        feature = SparseFeature(
            name=self.name, num_embeddings=ids.end, max_length=self.config.max_length, pooling="mean"
        )
        return Fitted(
            spec=FieldSpec(name=self.name, type="text-hash", sparse=(feature,)),
            expressions=(kept.list.eval(ids.of(pl.element())),),
            field_state=state,
        )


def _ngrams(words: pl.Expr, length: int) -> pl.Expr:
    """Lists of the n-grams of lists of words; each distinct word of a chunk is cut up once."""

    def of_series(series: pl.Series) -> pl.Series:
        rows = pl.DataFrame({"row": pl.int_range(series.len(), eager=True), "word": series})
        long = rows.explode("word").drop_nulls()
        starts = pl.int_ranges(0, (pl.col("word").str.len_chars().cast(pl.Int64) + 3 - length).clip(0))
        distinct = (
            long.select(pl.col("word").unique()).with_columns(starts.alias("start")).explode("start").drop_nulls()
        )
        piece = pl.format("<{}>", pl.col("word")).str.slice(pl.col("start"), length)
        grams = distinct.with_columns((pl.lit(_NGRAM_MARK) + piece).alias("gram"))
        of_word = grams.group_by("word", maintain_order=True).agg("gram")
        of_row = (
            long.join(of_word, on="word", how="inner", maintain_order="left")
            .explode("gram")
            .group_by("row", maintain_order=True)
            .agg("gram")
        )
        joined = rows.join(of_row, on="row", how="left", maintain_order="left")["gram"]
        return joined.fill_null(pl.Series([[]], dtype=pl.List(pl.String))).alias(series.name)

    return words.map_batches(of_series, return_dtype=pl.List(pl.String), is_elementwise=True)
