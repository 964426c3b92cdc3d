"""Checks of the embeddings and ids that a tokenizer is given, and their chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from genrec_registry import DataError

Floats = npt.NDArray[np.float32]
CHUNK_ROWS = 16384
LARGEST = 1e15  # the squared distance of two such vectors is still a float32


def chunks(rows: int, size: int = CHUNK_ROWS) -> Iterator[slice]:
    """Slices that cover ``rows`` rows in order.

    Example::

        >>> list(chunks(5, 2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def check_embeddings(embeddings: np.ndarray, item_ids: Sequence[str], width: int | None = None) -> None:
    """Raise unless there is one finite vector for each item. Nothing is copied: the array may be a memory map.

    Args:
        embeddings: ``[N, E]``.
        item_ids: ``[N]``.
        width: the E that is expected; any if None.

    Raises:
        DataError: they do not go together, E is another one, or a number is NaN, infinite or absurdly
            large (names the item).

    Example::

        >>> check_embeddings(np.array([[0.0, 1.0], [np.nan, 0.0]]), ["a", "b"])
        Traceback (most recent call last):
        genrec_registry.errors.DataError: item 'b': its embedding holds nan in column 0; expected numbers of ...
    """
    if embeddings.ndim != 2 or len(embeddings) != len(item_ids):
        raise DataError(
            f"embeddings have shape {embeddings.shape} for {len(item_ids)} items; expected one row of numbers an item"
        )
    if not np.issubdtype(embeddings.dtype, np.floating):
        raise DataError(f"embeddings are {embeddings.dtype}, expected floats; cast them to float32")
    if width is not None and embeddings.shape[1] != width:
        raise DataError(
            f"embeddings have width {embeddings.shape[1]}, the tokenizer was fitted on width {width}; "
            "make them as those it was fitted on, or fit it again"
        )
    for part in chunks(len(embeddings)):
        usable = np.abs(embeddings[part]) <= LARGEST  # false for NaN
        if not usable.all():
            row, column = np.argwhere(~usable)[0]
            raise DataError(
                f"item '{item_ids[part.start + int(row)]}': its embedding holds {embeddings[part][row, column]} in "
                f"column {column}; expected numbers of at most {LARGEST:g}: mend the item's content, or leave it out"
            )


def check_catalogue(embeddings: np.ndarray, item_ids: Sequence[str], sizes: Sequence[int]) -> None:
    """Raise unless a tokenizer with these codebooks can be fitted on these items.

    Args:
        embeddings: ``[N, E]``.
        item_ids: ``[N]``.
        sizes: codes of each level that is learned; empty where nothing is.

    Raises:
        DataError: see :func:`check_embeddings`; or there is no item, an id is no text or stands twice, or a level has
            more codes than there are items.

    Example::

        >>> check_catalogue(np.zeros((2, 4), np.float32), ["a", "b"], [2, 8])
        Traceback (most recent call last):
        genrec_registry.errors.DataError: level 2 has 8 codes for 2 items; a codebook cannot be larger than the ...
    """
    if not len(item_ids):
        raise DataError("there are no items to fit a tokenizer on; name a catalogue with at least one item")
    check_embeddings(embeddings, item_ids)
    strange = next((item for item in item_ids if not isinstance(item, str)), None)
    if strange is not None:
        raise DataError(f"item id {strange!r} is a {type(strange).__name__}, expected text; give str(id)")
    if len(set(item_ids)) < len(item_ids):
        seen: set[str] = set()
        twice = next(item for item in item_ids if item in seen or seen.add(item))  # type: ignore[func-returns-value]
        raise DataError(f"item '{twice}' stands twice in the catalogue; give each item once")
    for level, size in enumerate(sizes, start=1):
        if size > len(item_ids):
            raise DataError(
                f"level {level} has {size} codes for {len(item_ids)} items; a codebook cannot be larger than the "
                f"catalogue: set sizes of at most {len(item_ids)}"
            )


def float32(embeddings: np.ndarray) -> Floats:
    """The embeddings as float32 rows; no copy where they are that already."""
    return np.ascontiguousarray(embeddings, dtype=np.float32)
