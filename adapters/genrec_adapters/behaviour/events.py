"""All events of a source in memory, coded: 4 bytes for a user or item, sorted by user, then time, then file order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_adapters.behaviour.histories import Int32, Int64
from genrec_registry.errors import DataError


@dataclass(frozen=True, kw_only=True)
class EventTable:
    """T events of U users about I items.

    Args:
        users: ``[U]`` ids as text, sorted, each once.
        items: ``[I]`` ids as text, sorted, each once.
        user: ``[T]`` index into ``users``, ascending.
        item: ``[T]`` index into ``items``.
        time: ``[T]`` ascending within a user; ties in file order.
        label: ``[T]`` 0 or 1.
        rank: ``[T]`` place of the event in its source, counted over all files.
        extra: further columns of the events, ``[T]`` each: conditions and what else is known of an event.

    Example::

        >>> rows = pl.DataFrame({"user": [*"vuv"], "item": [*"abb"], "time": [7, 9, 5], "label": [1, 0, 1]})
        >>> table = EventTable.of([rows])
        >>> table.items.gather(table.item).to_list(), table.rank.tolist(), table.offsets.tolist()
        (['b', 'b', 'a'], [1, 2, 0], [0, 1, 3])
    """

    users: pl.Series
    items: pl.Series
    user: Int32
    item: Int32
    time: Int64
    label: npt.NDArray[np.int8]
    rank: Int64
    extra: Mapping[str, pl.Series] = field(default_factory=dict)

    @classmethod
    def of(cls, chunks: Iterable[pl.DataFrame], extra: Sequence[str] = (), *, name: str = "input") -> Self:
        """The events of chunks in file order, with columns user, item, time, label and those of ``extra``.

        Text is coded chunk by chunk, so that memory holds a few bytes an event.

        Args:
            chunks: rows in file order.
            extra: names of the further columns.
            name: of the source, for the message.

        Raises:
            DataError: there is no event.
        """
        coded = [_coded(chunk.select("user", "item", "time", "label", *extra)) for chunk in chunks]
        if not coded:
            raise DataError(f"{name}: has no usable event, expected at least one; check the input")
        frame = pl.concat(coded, rechunk=True).with_row_index("rank")
        coded.clear()
        users, user = _dense(frame["user"])
        items, item = _dense(frame["item"])
        frame = frame.with_columns(user, item).sort("user", "time", "rank")
        return cls(
            users=users,
            items=items,
            user=frame["user"].to_numpy(),
            item=frame["item"].to_numpy(),
            time=frame["time"].to_numpy(),
            label=frame["label"].to_numpy(),
            rank=frame["rank"].cast(pl.Int64).to_numpy(),
            extra={name: frame[name] for name in extra},
        )

    def __len__(self) -> int:
        """T."""
        return len(self.item)

    @cached_property
    def offsets(self) -> Int64:
        """``[U + 1]``: user u's events are rows ``offsets[u]`` to ``offsets[u + 1]``."""
        counts = np.bincount(self.user, minlength=len(self.users))
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @cached_property
    def seen(self) -> Int64:
        """``[T]``: the events ``offsets[user[t]]`` to ``seen[t]`` are those of t's user strictly before t's time."""
        first = np.ones(len(self), dtype=bool)
        first[1:] = (np.diff(self.user) != 0) | (np.diff(self.time) != 0)
        return np.maximum.accumulate(np.where(first, np.arange(len(self)), 0))

    @cached_property
    def by_time(self) -> Int64:
        """``[T]`` the events in global time order; ties in file order."""
        return np.lexsort((self.rank, self.time))

    def select(self, keep: npt.NDArray[np.bool_]) -> Self:
        """The events where ``keep [T]`` holds; users and items stay listed."""
        return type(self)(
            users=self.users,
            items=self.items,
            user=self.user[keep],
            item=self.item[keep],
            time=self.time[keep],
            label=self.label[keep],
            rank=self.rank[keep],
            extra={name: column.filter(pl.Series(keep)) for name, column in self.extra.items()},
        )

    def frame(self, columns: Sequence[str]) -> pl.DataFrame:
        """The events as text: user, item, time, ``columns`` (of :attr:`extra`), label."""
        return pl.DataFrame(
            {
                "user": self.users.gather(self.user),
                "item": self.items.gather(self.item),
                "time": pl.Series(self.time, dtype=pl.Int64),
                **{name: self.extra[name].cast(pl.String) for name in columns},
                "label": pl.Series(self.label, dtype=pl.Int8),
            }
        )


def _coded(chunk: pl.DataFrame) -> pl.DataFrame:
    text = [name for name, dtype in chunk.schema.items() if dtype == pl.String]
    return chunk.with_columns(
        pl.col(text).cast(pl.Categorical), pl.col("time").cast(pl.Int64), pl.col("label").cast(pl.Int8)
    )


def _dense(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The distinct texts of a Categorical column in order, and the place of each row's text among them."""
    distinct = column.unique()
    texts = distinct.cast(pl.String)
    order = texts.arg_sort().to_numpy()
    physical = distinct.to_physical().to_numpy()[order]
    places = np.zeros(int(physical.max()) + 1, dtype=np.int32)
    places[physical] = np.arange(len(order), dtype=np.int32)
    return texts.gather(order), pl.Series(column.name, places[column.to_physical().to_numpy()])
