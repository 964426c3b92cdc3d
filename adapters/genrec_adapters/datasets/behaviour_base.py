"""What all datasets of users' events share: events read once, given as events and as CTR rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_adapters.behaviour.events import EventTable
from genrec_adapters.behaviour.examples import examples
from genrec_adapters.behaviour.histories import Int64
from genrec_adapters.behaviour.negatives import with_negatives
from genrec_adapters.behaviour.splits import MIN_EVENTS
from genrec_adapters.datasets.behaviour_configs import BehaviourConfig
from genrec_registry.contracts import SPLITS, ColumnKind, ErrorPolicy, SourceFile
from genrec_registry.errors import ConfigError, did_you_mean

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
    def carries_split(self) -> bool:
        """Whether :meth:`read_events` has a column ``split`` (train, valid, test) that the source publishes."""
        return False

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

    @property
    def facts(self) -> Sequence[str]:
        """Further columns of :meth:`read_events` to keep, from which the subclass makes its items or users."""
        return []

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
        listed = ("item", *self.conditions, *self._history_side)
        history: dict[str, ColumnKind] = {f"history_{name}": "list" for name in listed}
        known: dict[str, ColumnKind] = {"user": "string", "item": "string", "time": "number"}
        return {**known, **self.context, **self.user_side, **self.item_side, **history}

    def sources(self) -> Sequence[SourceFile]:
        """The files of events, then those of content: all that a row depends on.

        Where events are bound to splits, the first file stands for the rows of each.
        """
        files = [*self.event_files(), *self.side_files()]
        if not self._bound:
            return [SourceFile(path=path) for path in files]
        bound = [SourceFile(path=files[0], split=split) for split in SPLITS]
        return [*bound, *(SourceFile(path=path, split="train") for path in files[1:])]

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

        Histories reach over files, so that all rows (or all of a split) come with the first source; the others give
        none.
        """
        if source.path != self.event_files()[0]:
            return
        # Bad rows are told once, with the first source.
        if source.split not in (None, SPLITS[0]):
            policy = ErrorPolicy(on_error=policy.on_error)
        table = self.table(policy)
        events = table.by_time
        if self._bound:
            events = events[self.split_of(table)[events] == SPLITS.index(source.split or SPLITS[0])]
        yield from self.rows(table, events, policy)

    def events(self, policy: ErrorPolicy | None = None) -> pl.DataFrame:
        """All events, sorted by user, time and file order: user, item, time, conditions, label.

        Where the source publishes a split, a column ``split`` besides.
        """
        return self.table(policy).frame([*self.conditions, *(["split"] if self.carries_split else [])])

    def items(self) -> pl.DataFrame:
        """One row an item with content: item, text, categories, and further text columns."""
        return self._content("items", None)

    def users(self) -> pl.DataFrame:
        """One row a user with a profile: user and further columns."""
        return self._content("users", None)

    # -- how --

    @property
    def _bound(self) -> bool:
        if self.carries_split and self._options.leave_one_out:
            raise ConfigError(
                "dataset.leave_one_out: the files carry a split already; remove it, or give the files as dataset.path"
            )
        return self.carries_split or self._options.leave_one_out

    @property
    def _history_side(self) -> tuple[str, ...]:
        known = [name for name, kind in self.item_side.items() if kind == "string"]
        for name in self._options.history_side:
            if name not in known:
                raise ConfigError(
                    f"dataset.history_side: the items have no text column '{name}'{did_you_mean(name, known)}"
                )
        return self._options.history_side

    def split_of(self, table: EventTable) -> npt.NDArray[np.int8]:
        """``[T]`` the index into ``SPLITS`` of each event, where events are bound to splits."""
        if self.carries_split:
            names = table.extra["split"].cast(pl.String)
            return names.replace_strict(list(SPLITS), range(len(SPLITS)), return_dtype=pl.Int8).to_numpy()
        stops = table.offsets[1:][np.diff(table.offsets) >= MIN_EVENTS]
        found = np.zeros(len(table), dtype=np.int8)
        found[stops - 1], found[stops - 2] = 2, 1
        return found

    def table(self, policy: ErrorPolicy | None = None) -> EventTable:
        """All events, coded."""
        return self._memory.get("events", policy, self._read_table)

    def rows(self, table: EventTable, events: Int64, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """CTR rows.

        Args:
            table: all events.
            events: rows of the table to give, in time order.
            policy: for content that is read on the way.
        """
        options = self._options
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
            history_side=self._history_side,
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
        split = ("split",) if self.carries_split else ()
        extra = list(dict.fromkeys((*self.conditions, *self.context, *self.facts, *split)))
        chunks = self.read_events(policy)
        if self._options.user_share < 1:
            chunks = (_share_of_users(chunk, self._options.user_share) for chunk in chunks)
        return EventTable.of((chunk for chunk in chunks if chunk.height), extra, name=self.event_files()[0])


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
    return found.with_columns(
        pl.col(name).fill_null(empty) if kind == "list" else pl.col(name).cast(pl.Float64, strict=False)
        for name, kind in side.items()
        if kind != "string"
    )
