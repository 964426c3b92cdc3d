"""Raw rows to batches through the fitted fields of prepared data, as scoring needs it; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torchrec.datasets.utils import Batch

from genrec_adapters.fields import build_fields
from genrec_adapters.loader import BatchMaker
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess.encoding import Encoder
from genrec_adapters.rows import encoded_rows
from genrec_registry.config import parse_component
from genrec_registry.contracts import Dataset, ErrorPolicy
from genrec_registry.manager import Registry


def raw_batches(
    prepared: Prepared, dataset: Any, registry: Registry, batch_size: int, policy: ErrorPolicy | None = None
) -> Iterator[Batch]:
    """Batches of a dataset's raw rows in file order, encoded as the training rows were.

    Args:
        prepared: gives the fitted fields.
        dataset: tagged dataset config, or ``{"type": ...}`` mapping, of the files to read.
        registry: finds dataset and field types.
        batch_size: rows a batch, at most: a batch does not reach over the end of a chunk.
        policy: what to do with bad rows; stop if None.

    Raises:
        DataError: a file or row is bad.
        ConfigError: the dataset has not the columns that the fields read.
    """
    built: Dataset = registry.create("dataset", parse_component(registry, "dataset", dataset))
    configs = {entry.spec.name: entry.config for entry in prepared.manifest.fields}
    fields = build_fields(configs, built.columns, registry)
    restored = prepared.restore_fields(registry)
    encoder = Encoder(fields, [restored[field.name] for field in fields], built.label)
    sparse, dense = prepared.sparse_features, prepared.dense_features
    make = BatchMaker(sparse, batch_size)
    policy = policy or ErrorPolicy()
    for source in built.sources():
        for chunk in built.scan(source, policy):
            for start in range(0, chunk.height, batch_size):
                encoded = encoder.encode(chunk[start : start + batch_size])
                yield make(encoded_rows(encoded, sparse, dense, name=source.path))
