"""Item content to embeddings: one or several sources, side by side, fitted once and then fixed.

- each source gives a vector of length 1 an item, times its weight, so that distances weigh sources as asked
- what was fitted is saved with the tokenizer, as JSON and npz: a new item is embedded without another fit
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import polars as pl
from pydantic import TypeAdapter, ValidationError

from genrec_adapters.behaviour.histories import Histories, Vocabulary
from genrec_adapters.state import parse_json
from genrec_plugins.tokenizers.content_config import (
    ContentSource,
    CoOccurrenceSource,
    SentenceEncoderSource,
    TableSource,
    TfidfSource,
)
from genrec_plugins.tokenizers.content_lookup import NO_EVENTS, Lookup, co_occurrence, read_table
from genrec_plugins.tokenizers.content_text import SentenceEncoder, Tfidf
from genrec_plugins.tokenizers.inputs import Floats, chunks
from genrec_registry import ConfigError, DataError

FILE = "content.json"
CHUNK = 1024

Progress = Callable[[int, int], None]


class FittedSource(Protocol):
    """A source that has learned what it needs."""

    @property
    def width(self) -> int:
        """Dimensions."""

    def embed(self, items: pl.DataFrame) -> Floats:
        """``[N, width]`` of any length; zeros stand for nothing known."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learned."""


@dataclass(frozen=True, kw_only=True)
class FittedContent:
    """Sources of content, fitted.

    Args:
        configs: of the sources.
        sources: what was fitted, in the same order.

    Example::

        >>> items = pl.DataFrame({"item": ["a", "b", "c"], "text": ["blue pen", "red pen", "red desk"]})
        >>> content = fit_content([TfidfSource(dim=2, min_items=1, weight=2.0)], items)
        >>> content.embed(items).shape, [round(float(n), 3) for n in np.linalg.norm(content.embed(items), axis=1)]
        ((3, 2), [2.0, 2.0, 2.0])
    """

    configs: tuple[ContentSource, ...]
    sources: tuple[FittedSource, ...]

    @property
    def width(self) -> int:
        """E, the sources' dimensions together."""
        return sum(source.width for source in self.sources)

    def embed(self, items: pl.DataFrame, progress: Progress | None = None) -> Floats:
        """Embeddings ``[N, E]`` of items; each depends on that item alone.

        Args:
            items: with a column ``item``, and what the sources read.
            progress: told how many items of how many are done.

        Raises:
            DataError: a source has nothing for an item, and was told to stop there.
        """
        found = np.empty((len(items), self.width), dtype=np.float32)
        for part in chunks(len(items), CHUNK):
            rows = items[part.start : part.stop]
            parts = zip(self.configs, self.sources, strict=True)
            found[part] = np.concatenate(
                [_unit(source.embed(rows)) * config.weight for config, source in parts], axis=1
            )
            if progress is not None:
                progress(part.stop, len(items))
        return found

    def save(self, directory: Path) -> None:
        """Write ``content.json`` and ``content_N.npz`` into an existing directory.

        A table of ready embeddings is not copied: its path is kept.
        """
        for index, (config, source) in enumerate(zip(self.configs, self.sources, strict=True)):
            arrays = {} if isinstance(config, TableSource) else source.arrays()
            if arrays:
                np.savez(directory / f"content_{index}.npz", **arrays)  # type: ignore[arg-type]
        facts = {
            "sources": [config.model_dump(mode="json") for config in map(_absolute, self.configs)],
            "widths": [source.width for source in self.sources],
        }
        (directory / FILE).write_text(json.dumps(facts, indent=1))

    @classmethod
    def load(cls, directory: Path, *, table: str | None = None) -> Self:
        """Take back what :meth:`save` wrote.

        Args:
            directory: of the tokenizer.
            table: path that takes the place of the ``table`` source's, as when new items have embeddings elsewhere.

        Raises:
            DataError: the directory has no content, or a file is missing or damaged.
            ConfigError: ``table`` is given and no source is a table.
        """
        path = directory / FILE
        try:
            facts = parse_json(path.read_text())
            configs = TypeAdapter(tuple[ContentSource, ...]).validate_python(facts["sources"])
            widths = list(facts["widths"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{path}: cannot be read ({reason}), expected the content sources of a tokenizer; fit it with "
                "'genrec tokenize fit', or give embeddings instead of items"
            ) from error
        if table is not None:
            configs = _with_table(configs, table)
        sources = tuple(_restore(directory, index, config) for index, config in enumerate(configs))
        for config, source, width in zip(configs, sources, widths, strict=True):
            if source.width != width:
                raise DataError(
                    f"{path}: source '{config.type}' has width {source.width} now, {width} when it was fitted"
                )
        return cls(configs=configs, sources=sources)


def fit_content(
    configs: Sequence[ContentSource],
    items: pl.DataFrame,
    histories: Histories | None = None,
    vocabulary: Vocabulary | None = None,
) -> FittedContent:
    """Fit the sources of content on a catalogue.

    Args:
        configs: of the sources, side by side in this order.
        items: every item once: ``item``, ``text``, ``categories`` and what else the sources read.
        histories: training events, for ``co-occurrence``; the caller has cut off what must not be learned.
        vocabulary: which item is which catalogue row of ``histories``.

    Raises:
        ConfigError: there is no source, or one that needs events and there are none.
        DataError: an item has no content, or a file cannot be read.
        SetupError: a source needs a package that is not installed.
    """
    if not configs:
        raise ConfigError("content: is empty, expected at least one source; add {type: tfidf}")
    if not len(items):
        raise DataError("the catalogue has no items, expected at least one; check the input")
    return FittedContent(
        configs=tuple(configs), sources=tuple(_fit(config, items, histories, vocabulary) for config in configs)
    )


def _fit(
    config: ContentSource, items: pl.DataFrame, histories: Histories | None, vocabulary: Vocabulary | None
) -> FittedSource:
    if isinstance(config, TfidfSource):
        return Tfidf.fit(config, items)
    if isinstance(config, SentenceEncoderSource):
        return SentenceEncoder(config)
    if isinstance(config, TableSource):
        return read_table(config)
    if histories is None or vocabulary is None:
        raise ConfigError(
            "content: the source 'co-occurrence' needs events, and a file of items has none; name a dataset with "
            "events instead of items, or use another source"
        )
    return co_occurrence(config, histories, vocabulary)


def _restore(directory: Path, index: int, config: ContentSource) -> FittedSource:
    if isinstance(config, SentenceEncoderSource):
        return SentenceEncoder(config)
    if isinstance(config, TableSource):
        return read_table(config)
    path = directory / f"content_{index}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        if isinstance(config, CoOccurrenceSource):
            return Lookup.of_arrays(arrays, config.empty, NO_EVENTS)
        return Tfidf(config, **arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}), expected what the fit wrote; fit the tokenizer again"
        ) from error


def _unit(vectors: Floats) -> Floats:
    """Rows of length 1; rows of zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def _absolute(config: ContentSource) -> ContentSource:
    """A table's path that can be found from everywhere."""
    if not isinstance(config, TableSource):
        return config
    ids = None if config.ids is None else str(Path(config.ids).resolve())
    return config.model_copy(update={"path": str(Path(config.path).resolve()), "ids": ids})


def _with_table(configs: tuple[ContentSource, ...], path: str) -> tuple[ContentSource, ...]:
    places = [index for index, config in enumerate(configs) if isinstance(config, TableSource)]
    if len(places) != 1:
        raise ConfigError(f"--table {path}: the tokenizer has {len(places)} sources of type 'table', expected one")
    place = places[0]
    changed = TableSource.model_validate(configs[place].model_dump() | {"path": path, "ids": None})
    return (*configs[:place], changed, *configs[place + 1 :])
