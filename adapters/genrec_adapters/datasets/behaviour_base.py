"""What all datasets of users' events share: events read once, given as events and as CTR rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import polars as pl

from genrec_adapters.behaviour.events import EventTable
from genrec_adapters.behaviour.examples import examples
from genrec_adapters.behaviour.negatives import with_negatives
from genrec_adapters.datasets.behaviour_configs import BehaviourConfig
from genrec_registry.contracts import ColumnKind, ErrorPolicy, SourceFile

LABEL = "label"
T = TypeVar("T")


@dataclass
class Memory:
    """What was read, and which bad rows that met: the next to ask gets both without reading again."""

    _kept: dict[tuple[str, str], tuple[Any, ErrorPolicy]] = field(default_factory=dict)

    def get(self, name: str, policy: ErrorPolicy | None, read: Callable[[ErrorPolicy], T]) -> T:
        """What ``read`` gives, with its bad rows reported to ``policy``."""
        policy = policy or ErrorPolicy()
        key = name, policy.on_error
        if key not in self._kept:
            met = ErrorPolicy(on_error=policy.on_error)
            self._kept[key] = read(met), met
        value, met = self._kept[key]
        policy.skipped += met.skipped
        policy.examples.extend(met.examples[: max(policy.max_examples - len(policy.examples), 0)])
        result: T = value
        return result


class BehaviourTable:
    """Base of the datasets of events: a subclass reads its files, this class makes events and rows of them.

    A subclass has :meth:`event_files` and :meth:`read_events`; where it knows more, :meth:`side_files`,
    :meth:`read_items` and :meth:`read_users`, and says so in the attributes.

    Args:
        config: see :class:`~genrec_adapters.datasets.behaviour_configs.BehaviourConfig`.
    """

    label = LABEL
    #: what a row calls the column ``categories`` of :meth:`items`
    categories = "categories"

    def __init__(self, config: BehaviourConfig) -> None:
        self._options = config
        self._memory = Memory()

    # -- what a subclass says of its source --

    @property
    def conditions(self) -> tuple[str, ...]:
        """Columns of :meth:`events` that say under what condition an item came."""
        return ("action",)

    @property
    def context(self) -> Mapping[str, ColumnKind]:
        """Columns of an event that are known before its outcome, and so are columns of its row."""
        return {}

    @property
    def item_side(self) -> Mapping[str, ColumnKind]:
        """Columns of :meth:`items` that are columns of a row."""
        return {}

    @property
    def user_side(self) -> Mapping[str, ColumnKind]:
        """Columns of :meth:`users` that are columns of a row."""
        return {}

    def event_files(self) -> Sequence[str]:
        """Files of events, in reading order; raises DataError where one is missing."""
        raise NotImplementedError

    def side_files(self) -> Sequence[str]:
        """Files of the items' and users' content."""
        return []

    def read_events(self, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks with user, item, time, label, the conditions and the context, in file order."""
        raise NotImplementedError

    def read_items(self, policy: ErrorPolicy) -> pl.DataFrame:
        """One row an item with content: item, text, categories, and further text columns."""
        return pl.DataFrame(schema={"item": pl.String, "text": pl.String, "categories": pl.List(pl.String)})

    def read_users(self, policy: ErrorPolicy) -> pl.DataFrame:
        """One row a user with a profile: user and further columns."""
        return pl.DataFrame(schema={"user": pl.String})

    # -- what the contract asks for --

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """Columns of a row beside the label."""
        history: dict[str, ColumnKind] = {f"history_{name}": "list" for name in ("item", *self.conditions)}
        known: dict[str, ColumnKind] = {"user": "string", "item": "string", "time": "number"}
        return {**known, **self.context, **self.user_side, **self.item_side, **history}

    def sources(self) -> Sequence[SourceFile]:
        """The files of events, then those of content: all that a row depends on."""
        return [SourceFile(path=path) for path in (*self.event_files(), *self.side_files())]

    def default_fields(self) -> Mapping[str, Any]:
        """User and item, one category for each text column known of them, sets of ids for lists; no history."""
        fields: dict[str, Any] = {"user": {"type": "categorical"}, "item": {"type": "categorical"}}
        for name, kind in {**self.context, **self.user_side, **self.item_side}.items():
            if kind == "string":
                fields[name] = {"type": "categorical", "min_count": 2}
            elif kind == "list":
                fields[name] = {"type": "multi-hot", "min_count": 2}
            else:
                fields[name] = {"type": "numeric-bucket", "method": "quantile"}
        return fields

    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """One row an event, of all files together, in time order.

        Histories reach over files, so that all rows come with the first source; the others give none.
        """
        if source.path == self.event_files()[0]:
            yield from self.rows(self.table(policy), policy)

    def events(self, policy: ErrorPolicy | None = None) -> pl.DataFrame:
        """All events, sorted by user, time and file order: user, item, time, conditions, label."""
        return self.table(policy).frame(self.conditions)

    def items(self) -> pl.DataFrame:
        """One row an item with content: item, text, categories, and further text columns."""
        return self._content("items", None)

    def users(self) -> pl.DataFrame:
        """One row a user with a profile: user and further columns."""
        return self._content("users", None)

    # -- how --

    def table(self, policy: ErrorPolicy | None = None) -> EventTable:
        """All events, coded."""
        return self._memory.get("events", policy, self._read_table)

    def rows(self, table: EventTable, policy: ErrorPolicy, events: np.ndarray | None = None) -> Iterator[pl.DataFrame]:
        """CTR rows.

        Args:
            table: all events.
            policy: for content that is read on the way.
            events: rows of the table to give, in time order; all if None.
        """
        options = self._options
        events = table.by_time if events is None else events
        chosen, items, labels = with_negatives(
            table, events, options.negatives, options.negative_sampling, options.seed
        )
        content = self._content("items", policy).rename({"categories": self.categories})
        yield from examples(
            table,
            max_history=options.max_history,
            kind=options.history,
            conditions=self.conditions,
            context=list(self.context),
            item_side=_aligned(table.items, "item", content, self.item_side),
            user_side=_aligned(table.users, "user", self._content("users", policy), self.user_side),
            events=chosen,
            items=items,
            labels=labels,
        )

    def _content(self, name: str, policy: ErrorPolicy | None) -> pl.DataFrame:
        read = self.read_items if name == "items" else self.read_users
        key = {"items": "item", "users": "user"}[name]
        # The first of several rows of one item counts, so that its columns are those of one row.
        return self._memory.get(name, policy, lambda met: read(met).unique(key, keep="first", maintain_order=True))

    def _read_table(self, policy: ErrorPolicy) -> EventTable:
        extra = (*self.conditions, *self.context)
        chunks = self.read_events(policy)
        if self._options.user_share < 1:
            chunks = (_share_of_users(chunk, self._options.user_share) for chunk in chunks)
        first = self.event_files()[0]
        table = EventTable.of((chunk for chunk in chunks if chunk.height), list(dict.fromkeys(extra)), name=first)
        return table


def _share_of_users(chunk: pl.DataFrame, share: float) -> pl.DataFrame:
    users = chunk["user"].unique()
    kept = [user for user in users.to_list() if zlib.crc32(user.encode()) < share * 2**32]
    return chunk.filter(pl.col("user").is_in(kept))


def _aligned(keys: pl.Series, key: str, content: pl.DataFrame, side: Mapping[str, ColumnKind]) -> pl.DataFrame | None:
    """The side columns, a row for each of ``keys``; text is null and lists are empty where nothing is known."""
    if not side:
        return None
    found = pl.DataFrame({key: keys}).join(content, on=key, how="left", maintain_order="left").select(list(side))
    empty = pl.lit([], dtype=pl.List(pl.String))
    return found.with_columns(pl.col(name).fill_null(empty) for name, kind in side.items() if kind == "list")
