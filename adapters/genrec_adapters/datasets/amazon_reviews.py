"""Amazon reviews, in the forms that papers on sequential recommendation use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import polars as pl

from genrec_adapters.datasets.amazon_formats import Form, detect, read_lists, read_ratings, read_reviews
from genrec_adapters.datasets.amazon_items import read_meta
from genrec_adapters.datasets.behaviour_base import BehaviourTable
from genrec_adapters.datasets.behaviour_configs import AmazonReviewsConfig
from genrec_adapters.datasets.files import find_files
from genrec_adapters.datasets.mini_one_rec import read_targets
from genrec_registry.contracts import ColumnKind, ErrorPolicy, SourceFile, Split
from genrec_registry.errors import ConfigError, DataError


class AmazonReviews(BehaviourTable):
    """Reviews as events.

    - User -> items JSON: no clock and no ratings; an event's time is its place in the list, all labels are 1, and
      rows with label 0 are sampled (``negatives``).
    - Reviews as JSON lines (2014, 2018, 2023), or a CSV of user_id, parent_asin, rating and timestamp: a like is a
      rating of ``like_at`` or more, and is the condition ``action``.
    - MiniOneRec's CSVs: the users' lists are rebuilt from the rows; given as ``valid`` and ``test`` (and ``train``
      where it is there), they carry the published split.

    Args:
        config: see :class:`~genrec_adapters.datasets.behaviour_configs.AmazonReviewsConfig`.

    Example::

        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        ...     _ = file.write('{"u": [5, 3]}'), file.flush()
        ...     AmazonReviews(AmazonReviewsConfig(path=file.name)).events().rows()
        [('u', '5', 0, 1), ('u', '3', 1, 1)]
    """

    def __init__(self, config: AmazonReviewsConfig) -> None:
        super().__init__(config)
        self.config = config

    @cached_property
    def _files(self) -> list[SourceFile]:
        config = self.config
        if config.path is not None:
            return [SourceFile(path=path) for path in find_files(config.path, key="dataset.path")]
        named: list[tuple[Split, Any]] = [("train", config.train), ("valid", config.valid), ("test", config.test)]
        return [
            SourceFile(path=path, split=split)
            for split, paths in named
            if paths
            for path in find_files(paths, key=f"dataset.{split}")
        ]

    @cached_property
    def form(self) -> Form:
        """What the files hold: ``lists``, ``reviews``, ``ratings`` or ``targets``."""
        forms = {file.path: detect(file.path) for file in self._files}
        first = next(iter(forms.values()))
        for path, form in forms.items():
            if form != first:
                raise DataError(f"{path}: holds {form}, but {next(iter(forms))} holds {first}; give files of one form")
        if self.config.bound and first != "targets":
            raise ConfigError(
                f"dataset.valid: found a file of {first}, but only MiniOneRec's CSVs carry a split; give the file as "
                "dataset.path"
            )
        return first

    @property
    def conditions(self) -> tuple[str, ...]:
        """``action`` (like, dislike) where there are ratings."""
        return ("action",) if self.form in ("reviews", "ratings") else ()

    @property
    def carries_split(self) -> bool:
        """Whether the files say which events train, validate and test."""
        return self.config.bound

    @property
    def item_side(self) -> Mapping[str, ColumnKind]:
        """Title, brand, price and categories, where ``meta`` is given."""
        side: dict[str, ColumnKind] = {"title": "string", "brand": "string", "price": "number", "categories": "list"}
        return side if self.config.meta else {}

    def event_files(self) -> Sequence[str]:
        """The files of events."""
        return [file.path for file in self._files]

    def side_files(self) -> Sequence[str]:
        """The files of ``meta``."""
        return find_files(self.config.meta, key="dataset.meta") if self.config.meta else []

    def read_events(self, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks of events, in file order."""
        if self.form == "targets":
            yield read_targets(self._files, policy)
            return
        like = pl.col("rating") >= self.config.like_at
        action = pl.when(like).then(pl.lit("like")).otherwise(pl.lit("dislike")).alias("action")
        for file in self._files:
            if self.form == "lists":
                yield from read_lists(file.path, policy)
                continue
            read = read_reviews if self.form == "reviews" else read_ratings
            for chunk in read(file.path, policy):
                yield chunk.select("user", "item", "time", action, like.cast(pl.Int8).alias("label"))

    def read_items(self, policy: ErrorPolicy) -> pl.DataFrame:
        """Item, text (title and description), categories, title, brand, price and description."""
        files = self.side_files()
        return pl.concat([read_meta(path, policy) for path in files]) if files else super().read_items(policy)

    def default_fields(self) -> Mapping[str, Any]:
        """All but the title, which says no more than the item's id."""
        return {name: field for name, field in super().default_fields().items() if name != "title"}
