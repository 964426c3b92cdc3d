"""Run directories as facts: finished, unfinished or broken, and how their configs differ. Torch-free.

Nothing is raised for a directory that is damaged: a list of runs must show the others.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genrec_adapters.state import parse_json
from genrec_plugins.files import reason_of
from genrec_registry import ConfigError, DataError, did_you_mean

Status = Literal["finished", "unfinished", "broken"]
#: metric -> whether more of it is better, for sorting; others sort by name
METRICS = {"auc": True, "logloss": False, "ne": False, "calibration": False}
SORTS = (*METRICS, "name", "time")
_RUN, _METRICS = "run.json", "metrics.json"
_SKIPPED = {"checkpoints", "tensorboard", "stream"}


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run directory says of itself.

    Args:
        name: as tables show it.
        directory: where it is.
        status: ``finished`` has metrics; ``unfinished`` was begun; ``broken`` cannot be read.
        note: why it is not finished, or how far it came.
        kind: ``ranker`` (genrec train), ``lum`` (genrec lum pretrain), ``other``.
        config: as it was trained with.
        history: an entry an evaluation.
        valid: metrics on the validation rows, of the weights that were kept.
        test: metrics on the test rows.
        facts: parameters, rows_per_second (events_per_second of pre-training), train_seconds, best_epoch, versions:
            those that are known.
        prepared: directory of its prepared rows; empty where it has none.
        identity: digests of its rows; equal ones mean equal rows.
        modified: time of its newest file, seconds since 1970.
    """

    name: str
    directory: Path
    status: Status
    note: str = ""
    kind: Literal["ranker", "lum", "other"] = "other"
    config: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    valid: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    prepared: str = ""
    identity: tuple[str, ...] = ()
    modified: float = 0.0

    @property
    def model(self) -> str:
        """The interaction, with the encoder where there is one; a pre-training run's encoder or objective."""
        section = self.config.get("model", self.config)
        parts = [section.get(key) for key in ("interaction", "encoder")] if isinstance(section, Mapping) else []
        names = [str(part["type"]) for part in parts if isinstance(part, Mapping) and "type" in part]
        return " + ".join(names)

    @property
    def epochs(self) -> int:
        """Evaluations so far."""
        return len(self.history)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: numbers that are not finite are null."""
        found = {name: getattr(self, name) for name in ("name", "status", "note", "kind", "model")}
        found |= {"directory": str(self.directory), "valid": dict(self.valid), "test": dict(self.test)}
        found |= {"facts": dict(self.facts), "epochs": self.epochs, "modified": self.modified}
        found |= {"config": self.config}
        return finite(found)


def finite(data: Any) -> Any:
    """Plain data in which what is NaN or infinite became None, as JSON has neither.

    Example::

        >>> finite({"a": [1.0, float("nan")]})
        {'a': [1.0, None]}
    """
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_run(directory: str | Path, name: str | None = None) -> RunFacts:
    """What is known of a run directory, whatever its state.

    Args:
        directory: the ``--out`` of ``genrec train`` or ``genrec lum pretrain``.
        name: what tables call it; the directory if None.

    Example::

        >>> import tempfile
        >>> read_run(tempfile.mkdtemp(), "empty").status
        'broken'
    """
    directory = Path(directory)
    shown = name if name is not None else str(directory)
    try:
        written = _mapping(directory / _RUN)
        config = written.get("config")
        if not isinstance(config, dict):
            raise ValueError(f"{_RUN} has no config")
        modified = (directory / _RUN).stat().st_mtime
    except (OSError, ValueError) as error:
        return RunFacts(name=shown, directory=directory, status="broken", note=reason_of(error, _RUN))
    facts: dict[str, Any] = {key: written[key] for key in ("parameters", "versions") if key in written}
    known: dict[str, Any] = {
        "name": shown,
        "directory": directory,
        "config": config,
        "kind": _kind(config),
        "prepared": str(written.get("prepared") or ""),
        "identity": tuple(str(part) for part in written.get("identity") or ()),
    }
    try:
        metrics = _mapping(directory / _METRICS)
        modified = max(modified, (directory / _METRICS).stat().st_mtime)
    except FileNotFoundError:
        return _unfinished(directory, known, facts, modified)
    except (OSError, ValueError) as error:
        note = reason_of(error, _METRICS)
        return RunFacts(**known, status="broken", note=note, facts=facts, modified=modified)
    for key in ("best_epoch", "rows_per_second", "events_per_second", "train_seconds"):
        if key in metrics:
            facts[key] = metrics[key]
    return RunFacts(
        **known,
        status="finished",
        history=_history(metrics.get("history")),
        valid=_numbers(metrics.get("valid")),
        test=_numbers(metrics.get("test")),
        facts=facts,
        modified=modified,
    )


def _unfinished(directory: Path, known: dict[str, Any], facts: dict[str, Any], modified: float) -> RunFacts:
    """A run without metrics; its newest readable checkpoint says how far it came."""
    note, history, valid = "no checkpoint yet", [], {}
    for path in sorted(directory.glob("checkpoints/step-*/trainer.json"), reverse=True):
        try:
            progress = _mapping(path).get("progress")
            if not isinstance(progress, dict):
                continue
            modified = max(modified, path.stat().st_mtime)
        except (OSError, ValueError):
            continue
        history, best = _history(progress.get("history")), progress.get("best")
        epoch = best.get("epoch") if isinstance(best, dict) else None
        valid = next((_numbers(entry.get("valid")) for entry in history if entry.get("epoch") == epoch), {})
        note = f"stopped after step {progress.get('step')}, {len(history)} epochs evaluated"
        if epoch is not None:
            facts["best_epoch"] = epoch
        break
    return RunFacts(
        **known, status="unfinished", note=note, history=history, valid=valid, facts=facts, modified=modified
    )


def _mapping(path: Path) -> dict[str, Any]:
    data = parse_json(path.read_bytes())
    if not isinstance(data, dict):
        raise ValueError("is no mapping")
    return data


def _history(data: Any) -> list[dict[str, Any]]:
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


def _numbers(data: Any) -> dict[str, float]:
    pairs = data.items() if isinstance(data, dict) else ()
    return {str(key): value for key, value in pairs if isinstance(value, (int, float)) and not isinstance(value, bool)}


def _kind(config: Mapping[str, Any]) -> Literal["ranker", "lum", "other"]:
    if isinstance(config.get("model"), dict):
        return "ranker"
    return "lum" if {"encoder", "objective"} & set(config) else "other"


def read_runs(directories: Sequence[str | Path]) -> list[RunFacts]:
    """Runs that were named, with short names that tell them apart; damaged ones are among them.

    Args:
        directories: of the runs.

    Raises:
        DataError: one is no directory: its name was misspelt.
    """
    for directory in directories:
        if not Path(directory).is_dir():
            raise DataError(
                f"{directory}: is no directory, expected the --out of 'genrec train'; see 'genrec runs list'"
            )
    names = distinct_names(directories)
    return [read_run(path, name) for path, name in zip(directories, names, strict=True)]


def find_runs(root: str | Path) -> list[RunFacts]:
    """All run directories under a folder, the folder itself included; sorted by path.

    A directory counts where it has a ``run.json``, or what a run leaves behind without one.

    Raises:
        DataError: the folder is none.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: is no folder; name one that has run directories, as runs")
    found = []
    for parent, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        here = Path(parent)
        remains = _METRICS in files and "model.safetensors" in files
        if _RUN in files or remains or (here / "checkpoints").is_dir():
            found.append(read_run(here, str(here.relative_to(root)) if here != root else here.resolve().name))
    return found


def sort_runs(runs: Sequence[RunFacts], by: str = "auc") -> list[RunFacts]:
    """Finished ones first, best first; then the others by name.

    Args:
        runs: any.
        by: one of ``SORTS``; a metric is that of the test rows, or of the validation rows where there is none.

    Raises:
        ConfigError: ``by`` is unknown.
    """
    if by not in SORTS:
        raise ConfigError(f"--sort is '{by}'{did_you_mean(by, SORTS)}")

    def place(run: RunFacts) -> tuple[Any, ...]:
        state = ("finished", "unfinished", "broken").index(run.status)
        if by == "name":
            return (run.name,)
        if by == "time":
            return (-run.modified, run.name)
        value = run.test.get(by, run.valid.get(by, math.nan))
        worth = abs(value - 1) if by == "calibration" else -value if METRICS[by] else value
        return (state, math.isnan(worth), 0.0 if math.isnan(worth) else worth, run.name)

    return sorted(runs, key=place)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists stay whole.

    Example::

        >>> flat({"model": {"interaction": {"type": "fat"}, "over_arch": [400]}})
        {'model.interaction.type': 'fat', 'model.over_arch': [400]}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def differences(runs: Sequence[RunFacts]) -> dict[str, list[str]]:
    """Config keys in which runs differ -> each run's value as JSON, ``-`` where it has no such key; those come last.

    Example::

        >>> def run(config):
        ...     return RunFacts(name="", directory=Path(), status="finished", config=config)
        >>> differences([run({"seed": 1, "train": {"epochs": 1}}), run({"seed": 1, "train": {"epochs": 2}})])
        {'train.epochs': ['1', '2']}
    """
    configs = [flat(run.config) for run in runs if run.status != "broken"]
    keys = dict.fromkeys(key for config in configs for key in config)
    found = {}
    for key in sorted(keys, key=lambda key: sum(key not in config for config in configs)):
        if len({_value(config, key) for config in configs}) > 1:
            found[key] = ["-" if run.status == "broken" else _value(flat(run.config), key) for run in runs]
    return found


def _value(config: Mapping[str, Any], key: str) -> str:
    return json.dumps(config[key], ensure_ascii=False) if key in config else "-"


def same_rows(runs: Sequence[RunFacts]) -> bool:
    """Whether all runs of a kind that can be read were trained on the same rows: then their metrics can be compared."""
    known = {(run.kind, run.identity) for run in runs if run.status != "broken"}
    return len(known) == len({kind for kind, _ in known})


def distinct_names(paths: Sequence[str | Path]) -> list[str]:
    """Short names that tell directories apart: the last part of each path, or as many as needed.

    Example::

        >>> distinct_names(["runs/fat", "runs/dcn"]), distinct_names(["a/fat", "b/fat"])
        (['fat', 'dcn'], ['a/fat', 'b/fat'])
    """
    parts = [Path(path).resolve().parts for path in paths]
    for length in range(1, max((len(part) for part in parts), default=1) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(path) for path in paths]
