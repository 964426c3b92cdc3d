"""A run directory: what was trained, on what, and what it reached; trained, evaluated and used by path alone.

``run.json`` (config, prepared data, versions), ``model.safetensors`` (best weights), ``metrics.json``,
``checkpoints/``, ``tensorboard/``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess import PrepareOptions, Progress, prepare
from genrec_adapters.state import parse_json
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.files import reason_of, written_aside
from genrec_plugins.reports.runs import flat
from genrec_plugins.training.metrics import Metrics, evaluate_predictions
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.trackers import Trackers, open_trackers
from genrec_registry import SPLITS, ConfigError, DataError, ErrorPolicy, ModelError, Split, digest

Arrays = tuple[NDArray[np.float32], NDArray[np.float32]]

_RUN = "run.json"
_METRICS = "metrics.json"


def prepared_directory(run: LoadedRun, root: str | Path = "prepared") -> Path:
    """Where a run's prepared rows go by default: named by dataset and by the digest of what shapes them."""
    config = run.config.model_dump(mode="json")
    identity = digest({key: config[key] for key in ("dataset", "fields", "split")})
    return Path(root) / f"{run.config.dataset.type.replace('/', '-')}-{identity[:12]}"


def prepare_run(
    run: LoadedRun,
    out: str | Path | None = None,
    options: PrepareOptions | None = None,
    reporter: Reporter | None = None,
) -> Prepared:
    """Preprocess a run's dataset, or find it done.

    Args:
        run: the run.
        out: prepared directory; :func:`prepared_directory` if None.
        options: how to run and write.
        reporter: told where it stands.
    """
    reporter = reporter or Quiet()

    def tell(progress: Progress) -> None:
        if progress.stage == "reused":
            reporter.message("prepared rows are up to date")
        elif progress.stage == "done":
            skipped = f", {progress.skipped:,} bad rows left out" if progress.skipped else ""
            reporter.message(f"prepared {progress.rows:,} rows{skipped}")
        else:
            reporter.rows(stage=progress.stage, rows=progress.rows, total=progress.total)

    config = run.config
    return prepare(
        config.dataset,
        out or prepared_directory(run),
        fields=config.fields,
        split=config.split,
        options=options,
        registry=run.registry,
        progress=tell,
    )


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished run, opened from its directory.

    Args:
        directory: the run directory.
        run: its config and registry.
        prepared: its prepared rows.
    """

    directory: Path
    run: LoadedRun
    prepared: Prepared

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Open a run directory.

        Raises:
            DataError: it is not a run directory, or its prepared rows are gone.
        """
        directory = Path(directory)
        try:
            facts = parse_json((directory / _RUN).read_text())
            config, prepared, identity = facts["config"], Path(facts["prepared"]), facts.get("identity")
            if not isinstance(config, dict):
                raise TypeError("its config is no mapping")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{directory}: is not a run directory ({reason_of(error, _RUN)}); name the --out of 'genrec train'"
            ) from error
        rows = Prepared.open(prepared)
        if identity is not None and rows.identity != identity:
            raise DataError(
                f"{prepared}: was prepared anew since this run was trained, so that its ids may mean other values; "
                f"run 'genrec train --restart' again, or restore it ({directory / _RUN} has the run)"
            )
        return cls(directory=directory, run=parse_run(config), prepared=rows)

    def model(self) -> Any:
        """The trained model, a ``DLRMTrain`` in eval mode on the run's device.

        Raises:
            ModelError: the weights are missing or do not fit.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        from torchrec.models.dlrm import DLRMTrain

        from genrec_plugins.models import build_dlrm
        from genrec_plugins.training.trainer import pick_device

        path = self.directory / "model.safetensors"
        try:
            model = build_dlrm(self.run.config.model, self.prepared.fields, self.run.registry)
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"{path}: weights cannot be loaded ({str(error).splitlines()[0]}); run 'genrec train' again"
            ) from error
        return DLRMTrain(model).to(pick_device(self.run.config.train.device)).eval()

    def predict(self, split: Split) -> Arrays:
        """Labels and probabilities of a split in row order, ``[N]`` each."""
        from genrec_plugins.training.evaluation import predict
        from genrec_plugins.training.trainer import pick_device

        settings = self.run.config.train
        return predict(self.model(), self.prepared, split, settings, pick_device(settings.device))

    def predict_file(self, path: str, policy: ErrorPolicy | None = None) -> Arrays:
        """Labels and probabilities of a raw file in the format of the run's dataset, ``[N]`` each, in row order.

        Args:
            path: the file; it is encoded with the vocabularies of the training rows.
            policy: what to do with bad rows; stop if None.

        Raises:
            DataError: the file or one of its rows is bad.
        """
        from genrec_adapters.raw import raw_batches
        from genrec_plugins.training.evaluation import score
        from genrec_plugins.training.trainer import pick_device

        settings = self.run.config.train
        config = self.run.config.dataset.model_dump(exclude_none=True)
        dataset = {key: value for key, value in config.items() if key not in SPLITS} | {"path": path}
        batches = raw_batches(self.prepared, dataset, self.run.registry, settings.eval_batch_size, policy)
        dense = self.prepared.dense_features
        return score(self.model(), batches, settings, pick_device(settings.device), name=path, dense=dense)

    def evaluate(self, split: Split) -> Metrics:
        """Exact metrics on a split."""
        return evaluate_predictions(*self.predict(split))


def train_run(
    run: LoadedRun,
    directory: str | Path,
    prepared: Prepared,
    reporter: Reporter | None = None,
    *,
    restart: bool = False,
) -> dict[str, Any]:
    """Train a run into a directory, or go on with one that was interrupted; evaluate the best weights on test.

    Args:
        run: the run.
        directory: the run directory.
        prepared: its prepared rows.
        reporter: told of progress.
        restart: forget earlier checkpoints.

    Returns:
        What ``metrics.json`` holds: best epoch, validation and test metrics, history, training speed. With several
        ranks, the same on each.
    """
    from genrec_plugins.training.launch import launched
    from genrec_plugins.training.ranks import ensure_process_group, on_first
    from genrec_plugins.training.trainer import Trainer, pick_device

    directory = Path(directory)
    if launched():
        ensure_process_group(pick_device(run.config.train.device))
    on_first(lambda: _make(directory))
    trainer = Trainer(run.config, prepared, run.registry, directory, reporter, restart=restart)
    facts = {
        "config": run.config.model_dump(mode="json"),
        "prepared": str(prepared.directory.resolve()),
        "identity": prepared.identity,
        "versions": {name: metadata.version(name) for name in ("genrec-plugins", "torch", "torchrec")},
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "tokens": list(trainer.model.token_names),
        "warm_start": trainer.warm_start.as_dict() if trainer.warm_start else None,
    }
    trainer.restore()  # refuses the checkpoints of another run, before anything of that run is overwritten
    on_first(lambda: _begin(directory, facts))
    with _trackers(run, directory, facts, trainer.reporter, restart) as trackers:
        result = trainer.fit(trackers)
        report: dict[str, Any] = {
            "best_epoch": result.best_epoch,
            "rows_per_second": result.train_rows / result.train_seconds if result.train_seconds else None,
            "train_seconds": result.train_seconds,
            "history": result.history,
            "valid": next((entry["valid"] for entry in result.history if entry["epoch"] == result.best_epoch), None),
            "test": None,
        }
        final = {"best_epoch": float(result.best_epoch)}
        if prepared.rows("test"):
            trained = TrainedRun(directory=directory, run=run, prepared=prepared)
            alone = trainer.ranks == 1  # one process scores as 'genrec evaluate' will, with the model as it is served
            metrics = trained.evaluate("test") if alone else trainer.evaluate_best("test")
            report["test"] = metrics.as_dict()
            final |= metrics.named("test")
        trackers.summarise(final, result.history[-1]["step"])
    on_first(lambda: _write(directory / _METRICS, report))
    return on_first(lambda: report)


def _begin(directory: Path, facts: dict[str, Any]) -> None:
    """Say what is trained here; the metrics of an earlier training are no longer those of the weights."""
    _write(directory / _RUN, facts)
    (directory / _METRICS).unlink(missing_ok=True)


def _trackers(run: LoadedRun, directory: Path, facts: dict[str, Any], reporter: Reporter, restart: bool) -> Trackers:
    """Those of rank 0; nobody on the others, which end with it where one cannot be opened."""
    from genrec_plugins.training.ranks import on_first

    opened = [Trackers()]
    settings = run.config.train

    def open_them() -> None:
        params = flat(facts["config"]) | {"parameters": facts["parameters"], **flat(facts["versions"], "versions.")}
        names, project = settings.trackers, settings.tracker_project
        opened[0] = open_trackers(names, project, directory, params, reporter, fresh=restart)

    on_first(open_them)
    return opened[0]


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be made ({error.strerror}); name another --out directory") from error


def _write(path: Path, data: dict[str, Any]) -> None:
    with written_aside(path) as partial:
        partial.write_text(json.dumps(data, indent=2))
