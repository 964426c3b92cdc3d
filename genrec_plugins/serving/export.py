"""``genrec export``: a trained run as one directory that scores raw rows.

``export.json`` (what is in it), ``config.json``, ``weights.safetensors`` (folded, tables quantised), ``preprocessing/``
(vocabularies, bucket edges), ``knowledge/`` (stores of lum-knowledge fields), the model in the formats asked for, and
``model_card.md`` and ``.json``. It appears under its name when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrec_adapters.manifest import NAME as MANIFEST
from genrec_adapters.manifest import SplitEntry
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess.swap import replaced
from genrec_plugins.files import system_errors, written_aside
from genrec_plugins.models import FieldDLRM
from genrec_plugins.serving.facts import CONFIG, KNOWLEDGE, NAME, PREPROCESSING, WEIGHTS, ExportFacts, file_facts
from genrec_plugins.serving.raw_columns import raw_schema
from genrec_plugins.serving.scorer import fold
from genrec_plugins.serving.tables import Tables, quantise, table_names
from genrec_plugins.training.run import TrainedRun
from genrec_registry import SPLITS, DataError

_PACKAGES = ("genrec-plugins", "torch", "torchrec", "polars", "pyarrow")


def export_run(run_directory: str | Path, to: str | Path, *, tables: Tables = "fp32", data: str | None = None) -> Path:
    """Export a run.

    Args:
        run_directory: the ``--out`` of ``genrec train``.
        to: the directory to write; an older export there is replaced at once, when the new one is complete.
        tables: how embedding tables are stored.
        data: a raw file of the run's format, where the run's own are gone.

    Returns:
        The directory.

    Raises:
        DataError: it is no run directory, its raw rows are gone, or the result cannot be written.
        ModelError: the weights are missing or do not fit.
    """
    trained, target = TrainedRun.open(run_directory), Path(to)
    schema = raw_schema(trained.run, trained.prepared, data)
    model: FieldDLRM = trained.model().model.cpu()
    model, model_config, _ = fold(model, trained.run.config.model)
    stored = quantise(plain(model), table_names(model), tables)
    config = trained.run.config.model_copy(update={"model": model_config})
    try:
        with system_errors(), replaced(target, marker=NAME, what="an exported model") as aside:
            _write_json(aside / CONFIG, config.model_dump(mode="json"))
            _write_weights(aside / WEIGHTS, stored)
            write_preprocessing(trained.prepared, aside)
            facts = ExportFacts(
                schema=schema.as_dict(),
                tables=tables,
                inputs={},
                formats={},
                files=file_facts(aside),
                versions={name: metadata.version(name) for name in _PACKAGES},
            )
            facts.write(aside)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error}); name another --to") from error
    return target


def plain(model: torch.nn.Module) -> dict[str, Tensor]:
    """A model's state dict, detached and contiguous, no two entries in one memory."""
    return {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}


def _write_json(path: Path, data: Any) -> None:
    with written_aside(path) as partial:
        partial.write_text(json.dumps(data, indent=1))


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with written_aside(path) as partial:
        save_file(dict(weights), partial)


def write_preprocessing(prepared: Prepared, aside: Path) -> None:
    """Copy what the fields learned, and the stores they read, below ``aside``; prepared rows stay where they are.

    The result is prepared data without rows.

    Args:
        prepared: the run's rows.
        aside: the export in the making.
    """
    manifest, folder = prepared.manifest, aside / PREPROCESSING
    entries = []
    for entry in manifest.fields:
        for file in (entry.state, *entry.tables.values()):
            with written_aside(folder / file.path) as partial:
                shutil.copyfile(prepared.directory / file.path, partial)
        store = entry.config.get("store") if entry.spec.type == "lum-knowledge" else None
        if store is None:
            entries.append(entry)
            continue
        inside = f"{KNOWLEDGE}/{len(entries)}"
        shutil.copytree(store, aside / inside)
        entries.append(entry.model_copy(update={"config": entry.config | {"store": inside}}))
    empty = {split: SplitEntry(rows=0, label_mean=None, shards=()) for split in SPLITS}
    kept = manifest.model_copy(update={"fields": tuple(entries), "splits": empty})
    with written_aside(folder / MANIFEST) as partial:
        partial.write_text(kept.model_dump_json(indent=1))
