"""An exported model, opened from its directory alone: raw rows to ids, to scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from torchrec.datasets.utils import Batch

from genrec_adapters.fields import Field, build_fields
from genrec_adapters.loader import BatchMaker
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess.encoding import Encoder
from genrec_adapters.rows import Rows, encoded_rows
from genrec_adapters.state import parse_json
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.models import FieldDLRM
from genrec_plugins.serving.facts import CONFIG, KNOWLEDGE, NAME, PREPROCESSING, WEIGHTS, ExportFacts
from genrec_plugins.serving.plain import plain_inputs, plain_scorer
from genrec_plugins.serving.runtimes import Probabilities, Runtime, Score, choose, eager_score, onnx_score, plain_score
from genrec_plugins.serving.schema import RawSchema, RowError
from genrec_plugins.serving.scorer import build_scorer
from genrec_plugins.serving.tables import Tables, install_tables
from genrec_registry import DataError, GenrecError, ModelError, PluginError
from genrec_registry.contracts import FittedField

#: rows scored at a time; one row more or less changes no other row's score
BLOCK_ROWS = 4096


class Exported:
    """Scores raw rows as the run's own model does; everything comes from the directory.

    Safe to call from several threads.

    Args:
        directory: where it is.
        facts: what its ``export.json`` says.
        run: its config and registry.
        prepared: the preprocessing state.
        fields: the configured fields.
        runtime: what computes the scores, see :mod:`~genrec_plugins.serving.runtimes`.

    Attributes:
        schema: the raw columns; the label is none of them.
        digest: of all that decides a score: equal digests, equal scores.
        model: the :class:`~genrec_plugins.models.FieldDLRM`; its tables have memory under the runtime ``eager`` alone.
        runtime: what was chosen.
    """

    def __init__(
        self,
        directory: Path,
        facts: ExportFacts,
        run: LoadedRun,
        prepared: Prepared,
        fields: list[Field],
        runtime: Runtime,
    ) -> None:
        self.directory, self.facts, self.run, self.prepared = directory, facts, run, prepared
        self.schema = RawSchema.of(facts.schema)
        self.digest = facts.digest
        self._label = "__no_label__"
        self._encoder = Encoder(fields, [_restored(field, prepared) for field in fields], self._label)
        self._sparse, self._dense = prepared.sparse_features, prepared.dense_features
        self._make = BatchMaker(self._sparse, BLOCK_ROWS)
        self.runtime, self.model, self._score = self._scoring(runtime)

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        runtime: Runtime = "auto",
        stores: Mapping[str, Any] | None = None,
        verify: bool = True,
    ) -> Self:
        """Open an exported directory.

        Args:
            directory: the ``--to`` of ``genrec export``.
            runtime: what computes the scores; all runtimes give the same.
            stores: field -> what stands in for its knowledge store, an object with the reading methods of
                :class:`~genrec_adapters.knowledge.KnowledgeStore` and the same digest.
            verify: compare all files with their digests first.

        Raises:
            DataError: it is no exported model, or was changed.
            ModelError: its weights do not fit its config.
            PluginError: a plugin that it needs is not installed.
            ConfigError: the runtime cannot compute this model.
            SetupError: a package that the runtime needs is not installed.
        """
        directory = Path(directory)
        facts = ExportFacts.read(directory)
        if verify:
            facts.verify(directory)
        run = _read_config(directory / CONFIG)
        prepared = _preprocessing(directory)
        try:
            schema = RawSchema.of(facts.schema)
        except ValueError as error:
            raise DataError(f"{directory / NAME}: schema: {error}; run 'genrec export' again") from error
        kinds = {column.name: column.kind for column in schema.columns}
        fields = build_fields({e.spec.name: e.config for e in prepared.manifest.fields}, kinds, run.registry)
        for field in fields:
            if field.name in (stores or {}):
                vars(field.type)["store"] = (stores or {})[field.name]  # the field's own is opened at its first use
        return cls(directory, facts, run, prepared, fields, runtime)

    def _scoring(self, runtime: Runtime) -> tuple[Runtime, FieldDLRM, Score]:
        weights, tables = read_weights(self.directory), cast(Tables, self.facts.tables)
        given = (self.run.config.model, self.prepared.fields, self.run.registry, weights, tables)
        model = build_scorer(*given, with_tables=False)
        chosen = choose(runtime, model)
        if chosen == "eager":
            install_tables(model, weights, tables)
            return chosen, model, eager_score(model)
        if chosen == "onnx":
            return chosen, model, onnx_score(self.directory, self._sparse, model, torch.get_num_threads())
        scorer = plain_scorer(model, self.prepared.fields, weights, tables)
        floats = sum(feature.width for feature in self._dense) if chosen == "script" else None
        return chosen, model, plain_score(scorer, self._sparse, model, script_floats=floats)

    def ids(self, rows: pa.Table) -> Batch:
        """Raw rows as the batch that training would have seen: floats, and a KeyedJaggedTensor of ids.

        Args:
            rows: has the columns of :attr:`schema`; see :meth:`~genrec_plugins.serving.schema.RawSchema.frame`.

        Raises:
            RowError: a row is bad; it names row and column where one value is at fault.
        """
        return self._batch(self._encoded(self.schema.frame(rows)))

    def score(self, rows: pa.Table) -> Probabilities:
        """Probabilities of raw rows, ``[N]``.

        Args:
            rows: as for :meth:`ids`; any number of them.

        Raises:
            RowError: a row is bad.
        """
        encoded = self._encoded(self.schema.frame(rows))
        parts = [
            self.score_batch(self._batch(encoded.take(np.arange(start, min(start + BLOCK_ROWS, len(encoded))))))
            for start in range(0, len(encoded), BLOCK_ROWS)
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)

    def score_batch(self, batch: Batch) -> Probabilities:
        """Probabilities of what :meth:`ids` gave, ``[B]``."""
        return self._score(batch)

    def plain_inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What :meth:`ids` gave as the files of the formats take it: floats ``[B, W]`` and padded ids ``[B, L]``."""
        return plain_inputs(batch, self._sparse, self.model)

    def _batch(self, encoded: Rows) -> Batch:
        make = self._make if len(encoded) <= BLOCK_ROWS else BatchMaker(self._sparse, len(encoded))
        return make(encoded)

    def _encoded(self, frame: pl.DataFrame) -> Rows:
        labelled = frame.with_columns(pl.lit(0, dtype=pl.Int8).alias(self._label))
        try:
            encoded = self._encoder.encode(labelled)
        except PluginError:
            raise
        except GenrecError as error:
            raise RowError(self._first_refused(labelled), None, str(error)) from error
        return encoded_rows(encoded, self._sparse, self._dense, name=str(self.directory))

    def _first_refused(self, labelled: pl.DataFrame) -> int | None:
        """The first row that a field refuses: rows do not depend on each other, so that halving finds it."""
        low, high = 0, labelled.height
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self._encoder.encode(labelled[low:middle])
            except GenrecError:
                high = middle
            else:
                low = middle
        return low if labelled.height else None


def _restored(field: Field, prepared: Prepared) -> FittedField:
    state = prepared.field_state(field.name)
    try:
        return field.type.restore(state)
    except GenrecError:
        raise
    except Exception as error:  # a type may take its state for granted
        raise DataError(
            f"{prepared.directory}: state of field '{field.name}' cannot be used ({error}); run 'genrec export' again"
        ) from error


def _read_config(path: Path) -> LoadedRun:
    try:
        data = parse_json(path.read_bytes())
        if not isinstance(data, dict):
            raise ValueError(f"it holds a {type(data).__name__}, expected a mapping")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run 'genrec export' again") from error
    return parse_run(data)


def _preprocessing(directory: Path) -> Prepared:
    """The preprocessing state, with the knowledge stores of the directory under their paths of today."""
    prepared = Prepared.open(directory / PREPROCESSING)
    entries = []
    for entry in prepared.manifest.fields:
        store = entry.config.get("store")
        if isinstance(store, str) and store.startswith(f"{KNOWLEDGE}/"):
            config = entry.config | {"store": str(directory / store)}
            entries.append(entry.model_copy(update={"config": config}))
        else:
            entries.append(entry)
    manifest = prepared.manifest.model_copy(update={"fields": tuple(entries)})
    return Prepared(directory=prepared.directory, manifest=manifest)


def read_weights(directory: Path) -> dict[str, torch.Tensor]:
    """The weights of an exported directory, tables as they are stored.

    Raises:
        ModelError: they cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(directory / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{directory / WEIGHTS}: cannot be read ({error}); run 'genrec export' again") from error
