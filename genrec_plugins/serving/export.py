"""``genrec export``: a trained run as one directory that scores raw rows.

``export.json`` (what is in it), ``config.json``, ``weights.safetensors`` (folded, tables quantised), ``preprocessing/``
(vocabularies, bucket edges), ``knowledge/`` (stores of lum-knowledge fields), the model in the formats asked for, and
``model_card.md`` and ``.json``. It appears under its name when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrec_adapters.loader import BatchLoader
from genrec_adapters.manifest import NAME as MANIFEST
from genrec_adapters.manifest import SplitEntry
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess.swap import replaced
from genrec_plugins.files import system_errors, written_aside
from genrec_plugins.models import FieldDLRM
from genrec_plugins.serving.card import card_text
from genrec_plugins.serving.exported import Exported, read_weights
from genrec_plugins.serving.facts import (
    CARD_DATA,
    CARD_TEXT,
    CONFIG,
    KNOWLEDGE,
    NAME,
    PREPROCESSING,
    WEIGHTS,
    ExportFacts,
    file_facts,
)
from genrec_plugins.serving.formats import DEFAULT, Format, Written, require_formats, write_formats
from genrec_plugins.serving.plain import id_columns, plain_scorer
from genrec_plugins.serving.quality import measure
from genrec_plugins.serving.raw_columns import raw_schema
from genrec_plugins.serving.scorer import fold
from genrec_plugins.serving.tables import Tables, quantise, table_names
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.run import TrainedRun
from genrec_registry import SPLITS, DataError

_PACKAGES = ("genrec-plugins", "torch", "torchrec", "polars", "pyarrow")
#: rows that the formats are made with and tried on
_TRIED_ROWS = 256


def export_run(
    run_directory: str | Path,
    to: str | Path,
    *,
    tables: Tables = "fp32",
    formats: Sequence[Format] | None = None,
    data: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Export a run.

    Args:
        run_directory: the ``--out`` of ``genrec train``.
        to: the directory to write; an older export there is replaced at once, when the new one is complete.
        tables: how embedding tables are stored.
        formats: for other runtimes; those that need no compiler, if None, as far as their packages are there.
        data: a raw file of the run's format, where the run's own are gone.
        reporter: told what is done, and what cannot be.

    Returns:
        What ``model_card.json`` holds.

    Raises:
        DataError: it is no run directory, its raw rows are gone, or the result cannot be written.
        ModelError: the weights are missing or do not fit.
        ConfigError: the tables cannot be stored so.
        SetupError: a format needs a package that is not installed.
    """
    require_formats(formats or ())
    reporter = reporter or Quiet()
    trained, target = TrainedRun.open(run_directory), Path(to)
    schema = raw_schema(trained.run, trained.prepared, data)
    whole: FieldDLRM = trained.model().model.cpu()
    model, model_config, folded = fold(whole, trained.run.config.model)
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
                inputs=inputs_of(trained.prepared),
                formats={},
                files=file_facts(aside),
                versions={name: metadata.version(name) for name in _PACKAGES},
            )
            facts.write(aside)
            reporter.message("comparing it with the trained model on validation and test rows")
            exported = Exported.open(aside, runtime="eager")
            # The model as the run directory has it, and not the one that was folded in place.
            before: FieldDLRM = trained.model().model.cpu()
            batch_size = trained.run.config.train.eval_batch_size
            quality = measure(before, exported.score_batch, trained.prepared, batch_size)
            written = _write_formats(exported, trained.prepared, formats, reporter)
            facts = replace(facts, formats=written.files, files=file_facts(aside))
            facts.write(aside)
            card = _card(target.name, trained, before, exported, facts, folded)
            card |= {
                "metrics": {found.split: found.as_dict() for found in quality},
                "formats": {
                    name: {"file": file, "max_difference": written.differences[name]}
                    for name, file in written.files.items()
                },
                "left_out": written.reasons,
            }
            _write_json(aside / CARD_DATA, card)
            with written_aside(aside / CARD_TEXT) as partial:
                partial.write_text(card_text(card))
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error}); name another --to") from error
    return card


def _card(
    name: str, trained: TrainedRun, before: FieldDLRM, exported: Exported, facts: ExportFacts, folded: str
) -> dict[str, Any]:
    """The model card without what was measured."""
    config = trained.run.config.model
    return {
        "name": name,
        "digest": facts.digest,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "interaction": config.interaction.type,
            "encoder": config.encoder.type if config.encoder is not None else None,
            "embedding_dim": before.sparse_arch.D,
            "tokens": list(before.token_names),
            "parameters_trained": sum(parameter.numel() for parameter in before.parameters()),
            "folded": folded,
            "tables": facts.tables,
            "bytes_trained": _bytes(before.state_dict()),
            "bytes": _bytes(read_weights(exported.directory)),
        },
        "notes": _notes(trained, before),
        "data": _data(trained),
        "schema": facts.schema,
        "inputs": facts.inputs,
        "versions": {"trained with": _trained_versions(trained), "exported with": dict(facts.versions)},
    }


def _write_formats(
    exported: Exported, prepared: Prepared, formats: Sequence[Format] | None, reporter: Reporter
) -> Written:
    wanted = DEFAULT if formats is None else formats
    split = max(SPLITS, key=lambda name: (min(prepared.rows(name), _TRIED_ROWS), name != "train"))
    if not wanted:
        return Written()
    if prepared.rows(split) < 2:
        return Written(
            reasons=dict.fromkeys(wanted, "a trace needs two rows to try it on, and the run has not so many")
        )
    batch = next(iter(BatchLoader(prepared, split, min(_TRIED_ROWS, prepared.rows(split)))))
    reporter.message(f"writing {', '.join(wanted)}")
    tables = exported.facts.tables
    scorer = plain_scorer(exported.model, prepared.fields, read_weights(exported.directory), tables)
    tolerance = 1e-6 if tables in ("fp32", "fp16") else 1e-3
    written = write_formats(scorer, exported.plain_inputs(batch), exported.directory, wanted, tolerance)
    for name, reason in written.reasons.items():
        reporter.message(f"{name} was not written: {reason}")
    return written


def inputs_of(prepared: Prepared) -> dict[str, Any]:
    """How the inputs of the formats are laid out: the columns of each feature in ``dense_features`` and in ``ids``."""
    names, begins, width = id_columns(prepared.sparse_features)
    ends = [*begins[1:], width]
    dense: dict[str, list[int]] = {}
    position = 0
    for feature in prepared.dense_features:
        dense[feature.name] = [position, position + feature.width]
        position += feature.width
    ids = {name: [begin, end] for name, begin, end in zip(names, begins, ends, strict=True)}
    return {
        "dense_features": {"type": "float32", "width": position, "columns": dense},
        "ids": {"type": "int64", "width": width, "absent": -1, "columns": ids},
    }


def plain(model: torch.nn.Module) -> dict[str, Tensor]:
    """A model's state dict, detached and contiguous, no two entries in one memory."""
    return {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}


def _bytes(weights: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in weights.values())


def _notes(trained: TrainedRun, model: FieldDLRM) -> list[str]:
    notes = []
    if trained.run.config.train.amp == "bf16":
        notes.append("the run was trained and evaluated under bf16 autocast; all scores here are computed in fp32")
    if model.dynamic_ids is not None:
        notes.append("ids of dynamic-id fields are rows of their tables here, as 'Exported.plain_inputs' gives them")
    return notes


def _data(trained: TrainedRun) -> dict[str, Any]:
    manifest = trained.prepared.manifest
    return {
        "dataset": trained.run.config.dataset.type,
        "label": manifest.label,
        "rows": {split: trained.prepared.rows(split) for split in SPLITS},
        "config_digest": manifest.config_digest,
        "sources": [
            {"path": Path(one.path).name, "split": one.split, "bytes": one.bytes, "sha256": one.sha256}
            for one in manifest.sources
        ],
    }


def _trained_versions(trained: TrainedRun) -> dict[str, str]:
    facts: dict[str, Any] = json.loads((trained.directory / "run.json").read_text())
    return dict(facts.get("versions", {}))


def _write_json(path: Path, data: Any) -> None:
    with written_aside(path) as partial:
        partial.write_text(json.dumps(data, indent=1))


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with written_aside(path) as partial:
        save_file(dict(weights), partial)
        partial.chmod(0o644)  # safetensors keeps it from others, and a server may be another user


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
