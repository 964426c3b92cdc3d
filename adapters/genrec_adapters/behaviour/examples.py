"""Events to CTR rows: one row an event, in time order, with what its user did strictly before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from genrec_adapters.behaviour.events import EventTable
from genrec_adapters.behaviour.histories import Int64

CHUNK_ROWS = 65_536


class Past:
    """What may be seen of each event's user at the event's time.

    Args:
        table: all events.
        max_history: the most recent events kept.
        kind: ``"all"`` events, or only the ``"positive"`` ones (label 1).

    Example::

        >>> rows = pl.DataFrame({"user": ["u"] * 4, "item": [*"abcd"], "time": [1, 2, 2, 3], "label": [1, 0, 1, 1]})
        >>> table = EventTable.of([rows])
        >>> past = Past(table, max_history=2)
        >>> past.lists(np.arange(4), table.items, table.item).to_list()
        [[], ['a'], ['a'], ['b', 'c']]
    """

    def __init__(self, table: EventTable, max_history: int, kind: Literal["all", "positive"] = "all") -> None:
        self.table = table
        self.max_history = max_history
        # kept: the events that may stand in a history; before[t]: how many of them stand before row t of the table.
        keep = np.ones(len(table), dtype=bool) if kind == "all" else table.label == 1
        self.kept = np.flatnonzero(keep)
        self.before = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)

    def spans(self, events: Int64) -> tuple[Int64, Int64]:
        """For each of ``events [N]``, its history as a range of :attr:`kept`."""
        stops = self.before[self.table.seen[events]]
        firsts = self.before[self.table.offsets[self.table.user[events]]]
        return np.maximum(firsts, stops - self.max_history), stops

    def lists(self, events: Int64, texts: pl.Series, codes: npt.NDArray[np.integer]) -> pl.Series:
        """List(String) ``[N]``: the text of each event in the history of each of ``events``.

        Args:
            events: rows of the table.
            texts: what a code says.
            codes: ``[T]`` one for each event of the table.
        """
        starts, stops = self.spans(events)
        lengths = stops - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # Position p of the flat values comes from its row's start plus its place within the row.
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        values = texts.gather(codes[self.kept[places]])
        flat = values.to_arrow(compat_level=pl.CompatLevel.newest())
        return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(offsets), flat)))


def examples(
    table: EventTable,
    *,
    max_history: int = 50,
    kind: Literal["all", "positive"] = "all",
    conditions: Sequence[str] = (),
    context: Sequence[str] = (),
    history_side: Sequence[str] = (),
    item_side: pl.DataFrame | None = None,
    user_side: pl.DataFrame | None = None,
    events: Int64 | None = None,
    items: npt.NDArray[np.int32] | None = None,
    labels: npt.NDArray[np.int8] | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[pl.DataFrame]:
    """One row an event, in time order (ties in file order), a chunk at a time.

    A row at time t lists events of its user with a time below t, never one at t: events that came together do not
    see each other, nor does a row see its own label.

    Args:
        table: all events.
        max_history: events listed, the most recent ones.
        kind: whether all events are listed, or those with label 1.
        conditions: columns of ``table.extra`` to list beside the items, as ``history_<condition>``.
        context: columns of ``table.extra`` that are known before the event's outcome, and are columns of the row.
        history_side: text columns of ``item_side`` to list beside the items, as ``history_<column>``.
        item_side: columns of the items, in the order of ``table.items``.
        user_side: columns of the users, in the order of ``table.users``.
        events: ``[N]`` rows of the table to give, in this order; all in time order if None.
        items: ``[N]`` other items in place of the events' own (sampled negatives).
        labels: ``[N]`` their labels.
        chunk_rows: rows a chunk.

    Example::

        >>> rows = pl.DataFrame({"user": ["u", "v", "u"], "item": [*"abc"], "time": [1, 2, 2], "label": [1, 0, 1]})
        >>> [frame.rows() for frame in examples(EventTable.of([rows]))]
        [[('u', 'a', 1, [], 1), ('v', 'b', 2, [], 0), ('u', 'c', 2, ['a'], 1)]]
    """
    events = table.by_time if events is None else events
    items = table.item[events] if items is None else items
    labels = table.label[events] if labels is None else labels
    past = Past(table, max_history, kind)
    listed = {name: _as_codes(table.extra[name]) for name in conditions}
    if item_side is not None:
        for name in history_side:
            texts, codes = _as_codes(item_side[name])
            listed[name] = texts, codes[table.item]
    for start in range(0, len(events), chunk_rows):
        rows = slice(start, start + chunk_rows)
        chosen = events[rows]
        columns: Mapping[str, pl.Series] = {
            "user": table.users.gather(table.user[chosen]),
            "item": table.items.gather(items[rows]),
            "time": pl.Series(table.time[chosen], dtype=pl.Int64),
            **{name: _plain(table.extra[name].gather(chosen)) for name in context},
            **(user_side[table.user[chosen]].to_dict() if user_side is not None else {}),
            **(item_side[items[rows]].to_dict() if item_side is not None else {}),
            "history_item": past.lists(chosen, table.items, table.item),
            **{f"history_{name}": past.lists(chosen, *listed[name]) for name in listed},
            "label": pl.Series(labels[rows], dtype=pl.Int8),
        }
        yield pl.DataFrame(columns)


def _plain(column: pl.Series) -> pl.Series:
    return column.cast(pl.String) if column.dtype == pl.Categorical else column


def _as_codes(column: pl.Series) -> tuple[pl.Series, npt.NDArray[np.int32]]:
    """Distinct texts, and the place of each row's among them; a missing value is the empty text."""
    texts = column.cast(pl.String).fill_null("")
    distinct = texts.unique().sort()
    codes = texts.replace_strict(distinct, np.arange(len(distinct), dtype=np.int32), return_dtype=pl.Int32)
    return distinct, codes.to_numpy()
