"""Amazon reviews, in the three forms that papers on sequential recommendation use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import polars as pl

from genrec_adapters.datasets.amazon_formats import detect, read_lists
from genrec_adapters.datasets.behaviour_base import BehaviourTable
from genrec_adapters.datasets.behaviour_configs import AmazonReviewsConfig
from genrec_adapters.datasets.files import find_files
from genrec_registry.contracts import ErrorPolicy


class AmazonReviews(BehaviourTable):
    """Reviews as events.

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
    def _files(self) -> list[str]:
        assert self.config.path
        return find_files(self.config.path, key="dataset.path")

    @cached_property
    def form(self) -> str:
        """``lists``, ``reviews`` or ``targets``."""
        return detect(self._files[0])

    @property
    def conditions(self) -> tuple[str, ...]:
        """``action`` (like, dislike) where there are ratings."""
        return ("action",) if self.form == "reviews" else ()

    def event_files(self) -> Sequence[str]:
        """The files of reviews."""
        return self._files

    def read_events(self, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks of events, in file order."""
        for path in self._files:
            yield from read_lists(path, policy)

    def default_fields(self) -> Mapping[str, Any]:
        """All but the title."""
        return {name: field for name, field in super().default_fields().items() if name != "title"}
