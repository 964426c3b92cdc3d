"""The knowledge store: what a user model knows of every user, written once, joined to rows without seeing their future.

A directory of three files. ``users.parquet``: ``user`` (String; null is the cold-start row), ``last_event`` (Int64, the
time of the last event the row was made from; null if it was made from none), and one column for each query, ``Array
(Float32, D)``; sorted by user, then last_event, so that a user may have several snapshots. ``items.parquet``: ``item``
(String) and ``vector`` (``Array(Float32, D)``). ``manifest.json``: the facts below and the SHA-256 of both tables.

A row of time t gets its user's newest snapshot whose last event lies strictly before t.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_adapters.datasets.files import digest_file
from genrec_adapters.field_types.vocabulary import VocabularyIds
from genrec_adapters.knowledge_tables import write_items, write_users
from genrec_adapters.preprocess.swap import replaced
from genrec_adapters.state import checked_state, parse_json, read_parquet
from genrec_registry.errors import DataError

FORMAT = "genrec-knowledge"
VERSION = 1
MANIFEST, USERS, ITEMS = "manifest.json", "users.parquet", "items.parquet"
_AGAIN = "run 'genrec lum query' again"

Floats = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]
Texts = pl.Series | Sequence[str | None]
Times = pl.Series | npt.NDArray[Any] | Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class KnowledgeFacts:
    """What a store says of itself.

    Args:
        model: digest of the weights that made it.
        trained_until: time of the last event these weights were trained on; None where that is not known.
        queries: names of the queries, which are columns of ``users.parquet``.
        dim: D.
        similarity: how a query's vector is compared with an item's.
        temperature: tau that the similarity was divided by in training; :meth:`KnowledgeStore.lookup` does not.
    """

    model: str
    trained_until: int | None
    queries: tuple[str, ...]
    dim: int
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """What N rows learn from a store.

    Args:
        vectors: ``[N, Q, D]``, the user under each query.
        similarities: ``[N, Q]`` between these and the item; 0 for an unknown item.
        item_vectors: ``[N, D]``; zeros for an unknown item.
        known_users: ``[N]``, false where the cold-start row took the user's place.
        known_items: ``[N]``.
    """

    vectors: Floats
    similarities: Floats
    item_vectors: Floats
    known_users: npt.NDArray[np.bool_]
    known_items: npt.NDArray[np.bool_]


class KnowledgeStore:
    """A store that is open for reading; tables are loaded, and their digests checked, when they are first needed.

    Args:
        directory: where it is.
        facts: what its manifest says.
        digest: SHA-256 of the manifest, and so of everything: equal digests mean equal stores.
        files: file name -> SHA-256.

    Example::

        >>> import tempfile
        >>> facts = KnowledgeFacts(model="0" * 64, trained_until=50, queries=("like",), dim=2)
        >>> vector = lambda *rows: pl.Series(rows, dtype=pl.Array(pl.Float32, 2))
        >>> users = pl.DataFrame({
        ...     "user": [None, "u", "u"], "last_event": [None, 10, 20], "like": vector([1, 0], [0, 1], [1, 1])
        ... })
        >>> items = pl.DataFrame({"item": ["i"], "vector": vector([0, 2])})
        >>> store = KnowledgeStore.write(tempfile.mkdtemp() + "/store", [users], items, facts)
        >>> found = store.lookup(["u", "u", "new"], [20, 21, 5], ["i", "?", "i"])
        >>> found.vectors[:, 0].tolist(), found.similarities[:, 0].tolist(), found.known_items.tolist()
        ([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]], [1.0, 0.0, 0.0], [True, False, True])
    """

    def __init__(self, directory: Path, facts: KnowledgeFacts, digest: str, files: dict[str, str]) -> None:
        self.directory = directory
        self.facts = facts
        self.digest = digest
        self.files = files

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Open a store.

        Raises:
            DataError: it is none, or of another version.
        """
        directory = Path(directory)
        try:
            raw = (directory / MANIFEST).read_bytes()
            data = parse_json(raw)
            if not isinstance(data, dict) or data.pop("format") != FORMAT:
                raise ValueError("its format is another")
            if (version := data.pop("version")) != VERSION:
                raise DataError(f"{directory}: has format version {version}, this program reads {VERSION}; {_AGAIN}")
            given = checked_state(dict[str, str], data.pop("files"))
            files = {name: given[name] for name in (USERS, ITEMS)}
            facts = checked_state(KnowledgeFacts, data)
            if facts.dim < 1 or not facts.queries or len(set(facts.queries)) < len(facts.queries):
                raise ValueError(f"dim {facts.dim} and queries {facts.queries} cannot be")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{directory}: is no knowledge store ({MANIFEST}: {error}); name what 'genrec lum query' wrote"
            ) from error
        return cls(directory, facts, hashlib.sha256(raw).hexdigest(), files)

    @classmethod
    def write(
        cls, directory: str | Path, users: Iterable[pl.DataFrame], items: pl.DataFrame, facts: KnowledgeFacts
    ) -> Self:
        """Write a store, a frame of users at a time, and put it in place when it is whole.

        Args:
            directory: where; an older store there is replaced.
            users: rows of ``users.parquet``, sorted by user, then last_event, nulls first, also from frame to frame;
                at most one row has no user, the cold-start row, and it has no last_event.
            items: rows of ``items.parquet``, each item once.
            facts: the facts.

        Raises:
            DataError: the frames are not as said, or the directory cannot be written.
        """
        target = Path(directory)
        if target.exists() and not (target / MANIFEST).exists() and (not target.is_dir() or any(target.iterdir())):
            raise DataError(f"{target}: exists and is no knowledge store; name another directory")
        try:
            with replaced(target, marker=MANIFEST, what="a knowledge store") as aside:
                write_users(aside / USERS, users, facts.queries, facts.dim)
                write_items(aside / ITEMS, items, facts.dim)
                files = {name: digest_file(str(aside / name)).sha256 for name in (USERS, ITEMS)}
                manifest = {"format": FORMAT, "version": VERSION, **asdict(facts), "files": files}
                (aside / MANIFEST).write_text(json.dumps(manifest, indent=1))
        except OSError as error:
            raise DataError(
                f"{target}: cannot be written ({error.strerror or error}); name another directory"
            ) from error
        return cls.open(target)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self, name: str, columns: Sequence[str]) -> pl.DataFrame:
        path = self.directory / name
        if name not in self._checked:
            try:
                found = digest_file(str(path)).sha256
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror}); {_AGAIN}") from error
            if found != self.files[name]:
                raise DataError(f"{path}: has sha256 {found[:16]}.., expected {self.files[name][:16]}..; {_AGAIN}")
            self._checked.add(name)
        try:
            return read_parquet(path, columns)
        except pl.exceptions.PolarsError as error:
            problem = str(error).splitlines()[0]
            raise DataError(f"{path}: has not the columns that {MANIFEST} names ({problem}); {_AGAIN}") from error

    @cached_property
    def _checked(self) -> set[str]:
        return set()

    @cached_property
    def _tables(self) -> dict[tuple[str, str], Floats]:
        return {}

    def _vectors(self, name: str, column: str) -> Floats:
        """A column of vectors, with a row of zeros at its end for what is not there: index -1."""
        key = (name, column)
        if key not in self._tables:
            found, expected = self._read(name, [column])[column], pl.Array(pl.Float32, self.facts.dim)
            if found.dtype != expected:
                raise DataError(
                    f"{self.directory / name}: column '{column}' is {found.dtype}, {MANIFEST} says {expected}; {_AGAIN}"
                )
            vectors = found.to_numpy().reshape(-1, self.facts.dim)
            self._tables[key] = np.concatenate([vectors, np.zeros((1, self.facts.dim), dtype=np.float32)])
        return self._tables[key]

    def load(self, queries: Sequence[str]) -> None:
        """Read everything that look-ups under these queries need.

        Else it is read by the first look-up, which must not happen inside an expression: polars runs those on its own
        threads, and a thread that waits for a file's columns there takes up another expression, which waits for it.
        """
        self.item_rows([""])
        self.item_vectors(np.zeros(0, dtype=np.int64))
        self.user_rows([None], [None])
        for query in queries:
            self.query_vectors(query, np.zeros(0, dtype=np.int64))

    @cached_property
    def _snapshots(self) -> _Snapshots:
        return _Snapshots(self._read(USERS, ["user", "last_event"]))

    @cached_property
    def _item_ids(self) -> VocabularyIds:
        return VocabularyIds(self._read(ITEMS, ["item"])["item"], first=1)

    def user_rows(self, users: Texts, times: Times) -> Index:
        """Row of ``users.parquet`` for each row, ``[N]``; -1 for an unknown user where there is no cold-start row.

        Args:
            users: ids as text; one that is missing or unknown has the cold-start row.
            times: of the rows, in the unit of ``last_event``; a row without a time has the cold-start row, unless its
                user has a snapshot made from no event.

        Raises:
            DataError: a user's snapshots were all made from events at or after the row's time.
        """
        return self._snapshots.rows(_texts(users), _times(times), self.directory)

    def item_rows(self, items: Texts) -> Index:
        """Row of ``items.parquet`` for each item, ``[N]``; -1 for an unknown one."""
        frame = pl.DataFrame({"item": _texts(items)})
        return frame.select(self._item_ids.of(pl.col("item"))).to_series().to_numpy().astype(np.int64) - 1

    def is_cold(self, rows: Index) -> npt.NDArray[np.bool_]:
        """Which of :meth:`user_rows` are nobody's: the cold-start row, or none."""
        return rows == self._snapshots.cold if self._snapshots.cold >= 0 else rows < 0

    def query_vectors(self, query: str, rows: Index) -> Floats:
        """Vectors ``[N, D]`` of one query at rows of :meth:`user_rows`."""
        return self._vectors(USERS, query)[rows]

    def item_vectors(self, rows: Index) -> Floats:
        """Vectors ``[N, D]`` at rows of :meth:`item_rows`."""
        return self._vectors(ITEMS, "vector")[rows]

    def similarity(self, left: Floats, right: Floats) -> Floats:
        """The store's similarity of ``[N, D]`` and ``[N, D]``, ``[N]``; 0 where one side is zero."""
        product = np.einsum("nd,nd->n", left, right)
        if self.facts.similarity == "cosine":
            lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
            product = np.divide(product, lengths, out=np.zeros_like(product), where=lengths > 0)
        return np.asarray(product, dtype=np.float32)

    def lookup(self, users: Texts, times: Times, items: Texts) -> Lookup:
        """Everything the store says of N rows; see :meth:`user_rows` for the arguments.

        Raises:
            DataError: a row would see its future.
        """
        rows, item_rows = self.user_rows(users, times), self.item_rows(items)
        item_vectors = self.item_vectors(item_rows)
        by_query = [self.query_vectors(query, rows) for query in self.facts.queries]
        return Lookup(
            vectors=np.stack(by_query, axis=1),
            similarities=np.stack([self.similarity(vectors, item_vectors) for vectors in by_query], axis=1),
            item_vectors=item_vectors,
            known_users=~self.is_cold(rows),
            known_items=item_rows >= 0,
        )

    def check_rows(self, times: Times, what: str = "rows") -> None:
        """Refuse rows that lie in the time the weights were trained on: they were fitted to these very events.

        Whoever knows which rows validate or test calls this with their times.

        Args:
            times: of the rows.
            what: the rows, for the message.

        Raises:
            DataError: a row is not after ``trained_until``, or has no time.
        """
        until, values = self.facts.trained_until, _times(times)
        late = np.isnan(values) if until is None else ~(values > until)
        if until is not None and not late.any():
            return
        if until is None:
            found = "it does not say until when its weights were trained"
        else:
            first = values[late.argmax()]
            found = (
                f"its weights were trained on events until {until}, and {late.sum():,} of {late.size:,} {what} are not "
                f"after that ({'one has no time' if np.isnan(first) else f'the first is at {first:.0f}'})"
            )
        raise DataError(
            f"{self.directory}: {found}; pre-train on the time before these rows ('genrec lum pretrain' with "
            "split.type: time), or allow it with 'weights: any' and say so beside the result"
        )


class _Snapshots:
    """Who has which snapshots: the as-of join as one binary search over (user, time) keys.

    Args:
        frame: ``user`` and ``last_event``, sorted.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        self.users = frame["user"]
        self.last_events = frame["last_event"]
        self.cold = 0 if frame.height and self.users[0] is None else -1
        named = frame.slice(self.cold + 1)
        self._first = self.cold + 1
        self._ids = VocabularyIds(named["user"].unique(maintain_order=True), first=1)
        times = named["last_event"]
        self._times = np.unique(times.drop_nulls().to_numpy())
        # Slot 0 of a user is the snapshot made from no event, slot 1 + k the one of the k-th distinct time.
        slots = np.searchsorted(self._times, times.fill_null(0).to_numpy()) + 1
        slots[times.is_null().to_numpy()] = 0
        self._width = len(self._times) + 2
        ids = named.select(self._ids.of(pl.col("user"))).to_series().to_numpy().astype(np.int64)
        self._keys = ids * self._width + slots

    def rows(self, users: pl.Series, times: npt.NDArray[np.float64], where: Path) -> Index:
        """See :meth:`KnowledgeStore.user_rows`."""
        ids = pl.DataFrame({"user": users}).select(self._ids.of(pl.col("user"))).to_series().to_numpy()
        ids = ids.astype(np.int64)
        timed = ~np.isnan(times)
        # As many distinct times lie strictly before the row's; without a time, none does.
        before = np.where(timed, np.searchsorted(self._times, np.where(timed, times, 0.0), side="left"), 0)
        found = np.searchsorted(self._keys, ids * self._width + before + 1, side="left") - 1
        own = (found >= 0) & (ids > 0)
        own[own] = self._keys[found[own]] // self._width == ids[own]
        late = (ids > 0) & ~own & timed
        if late.any():
            self._refuse(users, times, int(late.argmax()), int(late.sum()), where)
        return np.where(own, found + self._first, self.cold)

    def _refuse(self, users: pl.Series, times: npt.NDArray[np.float64], row: int, count: int, where: Path) -> None:
        earliest = self.last_events.filter(self.users == users[row]).min()
        raise DataError(
            f"{where}: {count:,} of {len(users):,} rows would see their future: user {users[row]!r} has a row at "
            f"{times[row]:.0f}, and the earliest knowledge of this user was made from events until {earliest!r}; query "
            "for a time before the rows ('genrec lum query --help'), or drop these rows"
        )


def _texts(values: Texts) -> pl.Series:
    series = values if isinstance(values, pl.Series) else pl.Series(values, dtype=pl.String, strict=False)
    return series.cast(pl.String, strict=False)


def _times(values: Times) -> npt.NDArray[np.float64]:
    """Float64, NaN where there is no time; times are exact up to 2^53."""
    series = values if isinstance(values, pl.Series) else pl.Series(values, dtype=pl.Float64, strict=False)
    return series.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
