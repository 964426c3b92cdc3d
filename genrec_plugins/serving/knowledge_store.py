"""Knowledge from a key-value store: LMDB in a file, or Redis. The same answers as the Parquet store, in little memory.

Of a store with digest d there are, as bytes:

- ``m``: d, written last, so that a half-written store is none
- ``c``: row of the cold start, -1 without one
- ``u`` + user: pairs (time of the last event, row), int64, in the order of time
- ``r`` + row: vectors of all queries, float32 ``[Q, D]``
- ``i`` + item: row, and ``v`` + row: the item's vector, float32 ``[D]``

Redis has ``genrec:d16:`` in front of each (d16 being the first 16 digits of d), so that the stores of two models stand
beside each other while one takes the other's place. Rows are those of the Parquet tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from genrec_adapters.field_types.columns import number, text
from genrec_adapters.knowledge import ITEMS, USERS, Floats, Index, KnowledgeStore, Texts, Times
from genrec_adapters.state import read_parquet
from genrec_plugins.serving.problems import Problem
from genrec_registry import DataError

#: of a snapshot made from no event: before every time
NO_EVENT = np.iinfo(np.int64).min
_LONGEST_KEY = 400
_BLOCK = 4096
_READ = ((USERS, ["user", "last_event"]), (ITEMS, ["item"]))


def key_of(kind: bytes, value: str | int) -> bytes:
    """The key of a user, an item or a row; LMDB's keys have 511 bytes at most.

    Example::

        >>> key_of(b"u", "ann"), len(key_of(b"u", "x" * 10_000)), key_of(b"r", 7)
        (b'uann', 34, b'r\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x07')
    """
    if isinstance(value, int):
        return kind + value.to_bytes(8, "big")
    raw = value.encode()
    return kind + (raw if len(raw) <= _LONGEST_KEY else b"\0#" + hashlib.sha256(raw).digest()[:31])


class KeyValue(Protocol):
    """Where bytes are kept."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What stands under each key; None where there is nothing.

        Raises:
            Problem: it cannot be reached now (503).
        """


@dataclass
class _Held:
    """What the rows of one batch need."""

    users: dict[str, bytes | None] = field(default_factory=dict)
    items: dict[str, bytes | None] = field(default_factory=dict)
    rows: dict[int, bytes | None] = field(default_factory=dict)
    vectors: dict[int, bytes | None] = field(default_factory=dict)


class KeyValueKnowledge(KnowledgeStore):
    """A knowledge store whose users and items are read key by key.

    :meth:`hold` reads all that a batch needs in two steps, before the fields are encoded: within an expression nothing
    should wait. What was not held is read when it is asked for.

    Args:
        store: the Parquet store that it was made of; only its manifest is read.
        values: where the users and items are.
        columns: ``user``, ``item`` and ``time``: the columns of :meth:`hold`'s tables.

    Raises:
        DataError: ``values`` has another store, or none.
    """

    def __init__(self, store: KnowledgeStore, values: KeyValue, columns: Mapping[str, str]) -> None:
        super().__init__(store.directory, store.facts, store.digest, store.files)
        self._values = values
        self._columns = columns
        self._held = _Held()
        digest, cold = values.get_many([b"m", b"c"])
        if digest != store.digest.encode() or cold is None:
            raise DataError(f"{store.directory}: {values!r} does not have this knowledge; run 'genrec knowledge load'")
        self._cold = int(np.frombuffer(cold, dtype=np.int64)[0])

    def load(self, queries: Sequence[str]) -> None:
        """Nothing is loaded ahead."""

    def hold(self, rows: pa.Table) -> None:
        """Read what these rows need, in the place of what the rows before needed.

        Args:
            rows: raw rows.
        """
        frame = pl.DataFrame(pl.from_arrow(rows.select(list(dict.fromkeys(self._columns.values())))))
        found = frame.select(
            user=text(self._columns["user"]), item=text(self._columns["item"]), time=number(self._columns["time"])
        )
        users, items = (found[name].unique().to_list() for name in ("user", "item"))
        names = [*(key_of(b"u", user) for user in users), *(key_of(b"i", item) for item in items)]
        digest, *values = self._values.get_many([b"m", *names])
        if digest != self.digest.encode():  # else all users of a Redis that was emptied would be new ones
            raise Problem(503, f"{self._values!r} has lost this knowledge; run 'genrec knowledge load' again")
        held = _Held(
            users=dict(zip(users, values[: len(users)], strict=True)),
            items=dict(zip(items, values[len(users) :], strict=True)),
        )
        self._held = held
        times = found["time"].fill_null(float("nan")).to_numpy()
        chosen = self._rows(found["user"].to_list(), times, refuse=False)
        wanted = sorted({int(row) for row in chosen if row >= 0})
        of_items = sorted({int(row) for row in self.item_rows(items) if row >= 0})
        vectors = self._values.get_many([*(key_of(b"r", r) for r in wanted), *(key_of(b"v", r) for r in of_items)])
        if None in vectors:
            raise Problem(503, f"{self._values!r} has lost vectors of its users; run 'genrec knowledge load' again")
        held.rows = dict(zip(wanted, vectors[: len(wanted)], strict=True))
        held.vectors = dict(zip(of_items, vectors[len(wanted) :], strict=True))

    def user_rows(self, users: Texts, times: Times) -> Index:
        """As :meth:`KnowledgeStore.user_rows`."""
        names = pl.Series(users, dtype=pl.String, strict=False) if not isinstance(users, pl.Series) else users
        moments = pl.Series(times, dtype=pl.Float64, strict=False) if not isinstance(times, pl.Series) else times
        when = moments.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
        return self._rows(names.cast(pl.String, strict=False).to_list(), when, refuse=True)

    def item_rows(self, items: Texts) -> Index:
        """As :meth:`KnowledgeStore.item_rows`."""
        names = (
            pl.Series(items, dtype=pl.String, strict=False) if not isinstance(items, pl.Series) else items
        ).to_list()
        found = self._texts(b"i", self._held.items, names)
        return np.array([-1 if one is None else np.frombuffer(one, dtype=np.int64)[0] for one in found], dtype=np.int64)

    def is_cold(self, rows: Index) -> Any:
        """As :meth:`KnowledgeStore.is_cold`."""
        return rows == self._cold if self._cold >= 0 else rows < 0

    def query_vectors(self, query: str, rows: Index) -> Floats:
        """As :meth:`KnowledgeStore.query_vectors`."""
        place, dim = self.facts.queries.index(query), self.facts.dim
        return self._vectors_of(b"r", self._held.rows, rows, slice(place * dim, (place + 1) * dim))

    def item_vectors(self, rows: Index) -> Floats:
        """As :meth:`KnowledgeStore.item_vectors`."""
        return self._vectors_of(b"v", self._held.vectors, rows, slice(None))

    def _texts(self, kind: bytes, held: dict[str, bytes | None], names: Sequence[str | None]) -> list[bytes | None]:
        missing = list(dict.fromkeys(name for name in names if name is not None and name not in held))
        if missing:
            read = self._values.get_many([key_of(kind, name) for name in missing])
            held = held | dict(zip(missing, read, strict=True))
        return [None if name is None else held[name] for name in names]

    def _rows(self, users: Sequence[str | None], times: np.ndarray, *, refuse: bool) -> Index:
        snapshots = self._texts(b"u", self._held.users, users)
        rows = np.full(len(users), self._cold, dtype=np.int64)
        late: list[int] = []
        for place, (found, time) in enumerate(zip(snapshots, times, strict=True)):
            if found is None:
                continue
            pairs = np.frombuffer(found, dtype=np.int64).reshape(-1, 2)
            before = int(pairs[0, 0] == NO_EVENT)
            if not np.isnan(time):  # compared as floats, as the Parquet store does
                before += int(np.searchsorted(pairs[before:, 0].astype(np.float64), time, side="left"))
            if before:
                rows[place] = pairs[before - 1, 1]
            elif not np.isnan(time):
                late.append(place)
        if late and refuse:
            first = late[0]
            earliest = np.frombuffer(snapshots[first] or b"", dtype=np.int64)[0]
            raise DataError(
                f"{self.directory}: {len(late):,} of {len(users):,} rows would see their future: user "
                f"{users[first]!r} has a row at {times[first]:.0f}, and the earliest knowledge of this user was made "
                f"from events until {earliest}; send rows of later times"
            )
        return rows

    def _vectors_of(self, kind: bytes, held: dict[int, bytes | None], rows: Index, part: slice) -> Floats:
        known, place = np.unique(rows, return_inverse=True)
        missing = [int(row) for row in known if row >= 0 and int(row) not in held]
        if missing:
            read = self._values.get_many([key_of(kind, row) for row in missing])
            held = held | dict(zip(missing, read, strict=True))
        vectors = np.zeros((len(known), self.facts.dim), dtype=np.float32)
        for position, row in enumerate(known):
            if row < 0:
                continue
            value = held[int(row)]
            if value is None:
                raise DataError(
                    f"{self._values!r} has lost the vectors of row {row}; run 'genrec knowledge load' again"
                )
            vectors[position] = np.frombuffer(value, dtype=np.float32)[part]
        return vectors[place.reshape(-1)]


def pairs_of(store: KnowledgeStore) -> Iterable[tuple[bytes, bytes]]:
    """A Parquet store as the pairs that :class:`KeyValueKnowledge` reads; ``m`` comes last.

    Args:
        store: its digests are checked.

    Raises:
        DataError: it was changed.
    """
    store.load(store.facts.queries)
    users, items = (read_parquet(store.directory / name, columns) for name, columns in _READ)
    cold = 0 if users.height and users["user"][0] is None else -1
    yield b"c", np.int64(cold).tobytes()
    named = users.with_row_index("row").slice(cold + 1)
    for begin in range(0, users.height, _BLOCK):
        rows = np.arange(begin, min(begin + _BLOCK, users.height))
        vectors = np.concatenate([store.query_vectors(query, rows) for query in store.facts.queries], axis=1)
        yield from ((key_of(b"r", int(row)), vector.tobytes()) for row, vector in zip(rows, vectors, strict=True))
    snapshots = np.stack(
        [named["last_event"].fill_null(NO_EVENT).to_numpy(), named["row"].cast(pl.Int64).to_numpy()], axis=1
    )
    starts = np.flatnonzero((named["user"] != named["user"].shift(1)).fill_null(True).to_numpy())
    bounds = [*starts.tolist(), named.height]
    for begin, end in pairwise(bounds):
        yield key_of(b"u", named["user"][begin]), snapshots[begin:end].tobytes()
    for begin in range(0, items.height, _BLOCK):
        rows = np.arange(begin, min(begin + _BLOCK, items.height))
        for row, vector in zip(rows, store.item_vectors(rows), strict=True):
            yield key_of(b"i", items["item"][int(row)]), np.int64(row).tobytes()
            yield key_of(b"v", int(row)), vector.tobytes()
    yield b"m", store.digest.encode()
