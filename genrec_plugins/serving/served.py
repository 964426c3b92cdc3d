"""A model as the server holds it: an export, its knowledge, and histories that several rows share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import torch

from genrec_plugins.models.behaviour_arch import BehaviourArch
from genrec_plugins.serving.exported import Exported
from genrec_plugins.serving.facts import KNOWLEDGE, PREPROCESSING, ExportFacts
from genrec_plugins.serving.key_values import open_knowledge
from genrec_plugins.serving.knowledge_store import KeyValueKnowledge
from genrec_plugins.serving.runtimes import Probabilities, Runtime
from genrec_plugins.serving.schema import RawSchema, RowError
from genrec_plugins.serving.shared_history import SharedHistory, TargetWasRead, reads_target, shared_columns
from genrec_plugins.serving.wire import Asked


class Served:
    """Scores the rows of several requests at once, on one thread at a time.

    Args:
        exported: the model.
        knowledge: its lum-knowledge fields' stores, those that are not in memory.

    Attributes:
        shared: columns of a history that is encoded once a user; none where there is no history, another field reads it
            too, or the encoder reads the target.
        history: why, in words.
        loaded_at: seconds since 1970.
    """

    def __init__(self, exported: Exported, knowledge: Sequence[KeyValueKnowledge] = ()) -> None:
        self.exported, self.knowledge = exported, tuple(knowledge)
        self.loaded_at = time.time()
        self._shared_history: SharedHistory | None = None
        self.shared, self.history = self._share()

    @classmethod
    def open(cls, directory: Path, *, knowledge: str = "lmdb", runtime: Runtime = "auto") -> Self:
        """Open an exported directory.

        Args:
            directory: the ``--to`` of ``genrec export``.
            knowledge: where knowledge is read from, see :class:`~genrec_plugins.serving.settings.ServeSettings`.
            runtime: what computes the scores.

        Raises:
            GenrecError: it cannot be served; says why.
        """
        from genrec_adapters.prepared import Prepared

        ExportFacts.read(directory)  # says best what is wrong with a directory that is none
        stores = {}
        for entry in Prepared.open(directory / PREPROCESSING).manifest.fields:
            store = str(entry.config.get("store", ""))
            if entry.spec.type == "lum-knowledge" and store.startswith(f"{KNOWLEDGE}/") and knowledge != "memory":
                stores[entry.spec.name] = open_knowledge(directory / store, knowledge, entry.config)
        return cls(Exported.open(directory, runtime=runtime, stores=stores), tuple(stores.values()))

    @property
    def schema(self) -> RawSchema:
        """The raw columns."""
        return self.exported.schema

    @property
    def digest(self) -> str:
        """Equal digests, equal scores."""
        return self.exported.digest

    def score(self, asked: Sequence[Asked]) -> Probabilities:
        """Probabilities of all rows, one request after the other.

        Args:
            asked: rows that :func:`~genrec_plugins.serving.wire.rows_of` made with :attr:`schema` and :attr:`shared`.

        Raises:
            RowError: a row is bad; it is counted over all of them.
        """
        table = pa.concat_tables([one.table for one in asked])
        for store in self.knowledge:
            store.hold(table)
        if all(one.leader is None for one in asked):
            return _finite(self.exported.score(table))
        first = np.cumsum([0, *(one.rows for one in asked)])
        own = [np.arange(one.rows) if one.leader is None else one.leader for one in asked]
        leader = np.concatenate([begin + part for begin, part in zip(first[:-1], own, strict=True)])
        return _finite(self._score_shared(table, leader))

    def try_out(self) -> None:
        """Score one row in which everything is missing: a model that cannot must not take another's place.

        Raises:
            GenrecError: the model is broken; a field that refuses a row without values is none.
        """
        empty = pa.table({c.name: pa.nulls(1, type=c.arrow) for c in self.schema.columns})
        try:
            self.score([Asked(table=empty)])
        except RowError:
            return

    def _share(self) -> tuple[frozenset[str], str]:
        arch = self.exported.model.behaviour_arch
        if not isinstance(arch, BehaviourArch):
            return frozenset(), "the model reads no history"
        fields = {
            entry.spec.name: {"type": entry.spec.type} | entry.config
            for entry in self.exported.prepared.manifest.fields
        }
        columns = shared_columns(fields, {column.name: column.fields for column in self.schema.columns})
        if self.exported.runtime != "eager":
            return frozenset(), f"the runtime '{self.exported.runtime}' encodes each row's history"
        if not columns:
            return frozenset(), "another field reads the history's columns, too"
        if reads_target(arch):
            return frozenset(), "the encoder reads the target: each candidate's history is encoded by itself"
        self._shared_history = SharedHistory(arch)
        self.exported.model.behaviour_arch = self._shared_history  # type: ignore[assignment]
        return columns, "encoded once for all candidates of a user"

    def _score_shared(self, table: pa.Table, leader: np.ndarray) -> Probabilities:
        shared = self._shared_history
        assert shared is not None
        batch = self.exported.ids(table)
        try:
            with shared.led_by(torch.from_numpy(leader)):
                return self.exported.score_batch(batch)
        except TargetWasRead:  # under a condition that the trial at the start did not meet
            whole = table
            for name in self.shared:
                column = table.column(name).combine_chunks().take(pa.array(leader))
                whole = whole.set_column(whole.column_names.index(name), name, column)
            return self.exported.score(whole)


def _finite(scores: Probabilities) -> Probabilities:
    """The scores; a number that is too large for float32 makes one that is none.

    Raises:
        RowError: there is such a row.
    """
    good = np.isfinite(scores)
    if not good.all():
        raise RowError(int((~good).argmax()), None, "has no finite score; a number in it is too large for the model")
    return scores
