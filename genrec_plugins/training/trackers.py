"""Who is told of a run's numbers while it trains: TensorBoard always, MLflow and Weights & Biases on request.

- Only rank 0 tells; the others hold an empty :class:`Trackers`.
- Where a tracker's server is, or that there is none, it reads from its own environment variables, as
  ``MLFLOW_TRACKING_URI`` and ``WANDB_MODE=offline``.
- A run that goes on tells the same MLflow or W&B run: ``trackers.json`` in the run directory has the ids.
- A tracker that fails while training is told nothing more, and the user is told once: hours of training are worth more.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self
from uuid import uuid4

from genrec_adapters.state import parse_json
from genrec_plugins.files import written_aside
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.settings import TrackerName
from genrec_registry import SetupError

Outcome = Literal["finished", "failed", "killed"]
_IDS = "trackers.json"
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
_MLFLOW_STATUS: dict[Outcome, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class Tracker(Protocol):
    """Told of one run."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers as of a step."""

    def summarise(self, values: Mapping[str, float], step: int) -> None:
        """The run's final numbers."""

    def close(self, outcome: Outcome) -> None:
        """Nothing more will come."""


class TensorBoard:
    """Event files in a folder.

    Args:
        directory: of the files.
    """

    def __init__(self, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One scalar each."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def summarise(self, values: Mapping[str, float], step: int) -> None:
        """Scalars of the last step."""
        self.log(values, step)

    def close(self, outcome: Outcome) -> None:
        """Write what waits."""
        self._writer.close()


class MLflow:
    """A run of an MLflow experiment, by its client alone: no global state, no artefacts.

    Args:
        project: the experiment; made if it is not there.
        name: of the run.
        params: written once, when the run is new.
        run_id: of a run to go on with, or None.

    Raises:
        SetupError: mlflow is not installed.
    """

    def __init__(self, project: str, name: str, params: Mapping[str, Any], run_id: str | None) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        except ModuleNotFoundError as error:
            raise _missing("mlflow", error) from error
        self._client, self._metric = MlflowClient(), Metric
        if run_id is not None:
            self.run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(project)
        number = experiment.experiment_id if experiment else self._client.create_experiment(project)
        self.run_id = self._client.create_run(number, run_name=name).info.run_id
        named = {_NOT_IN_NAMES.sub("_", key): str(value)[:6000] for key, value in params.items()}
        told = [Param(key, value) for key, value in named.items()]
        for start in range(0, len(told), 100):  # of one request at most
            self._client.log_batch(self.run_id, params=told[start : start + 100])

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Metrics; those that are not finite are left out."""
        import time

        now = int(time.time() * 1000)
        told = [self._metric(name, value, now, step) for name, value in values.items() if math.isfinite(value)]
        if told:
            self._client.log_batch(self.run_id, metrics=told)

    def summarise(self, values: Mapping[str, float], step: int) -> None:
        """Metrics of the last step."""
        self.log(values, step)

    def close(self, outcome: Outcome) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self.run_id, status=_MLFLOW_STATUS[outcome])


class Wandb:
    """A run of a Weights & Biases project.

    Args:
        project: the project.
        name: of the run.
        params: its config.
        run_id: of a run to go on with, or None.
        directory: where files go that wait to be sent.

    Raises:
        SetupError: wandb is not installed.
    """

    def __init__(self, project: str, name: str, params: Mapping[str, Any], run_id: str | None, directory: Path) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise _missing("wandb", error) from error
        self.run_id = run_id or uuid4().hex[:12]
        self._run = wandb.init(
            project=project,
            name=name,
            id=self.run_id,
            resume="allow",
            dir=str(directory),
            config=dict(params),
            settings=wandb.Settings(silent=True, save_code=False, disable_git=True),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """A row of the history; values that are not finite are left out."""
        self._run.log(_finite(values), step=step)

    def summarise(self, values: Mapping[str, float], step: int) -> None:
        """The run's summary."""
        self._run.summary.update(_finite(values))

    def close(self, outcome: Outcome) -> None:
        """Say how the run ended."""
        self._run.finish(exit_code=0 if outcome == "finished" else 1)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _missing(name: TrackerName, error: ModuleNotFoundError) -> SetupError:
    return SetupError(
        f"train.trackers names '{name}', and the module '{error.name}' is not installed; "
        f'pip install "genrec-plugins[{name}]", or drop it from train.trackers'
    )


class Trackers(AbstractContextManager["Trackers"]):
    """All trackers of a run, told together; as a context it closes them with the outcome of its block.

    Args:
        always: may raise.
        asked_for: by name; one that raises is told nothing more.
        reporter: told that one failed.

    Example::

        >>> with Trackers() as nobody:
        ...     nobody.log({"train/loss": 0.7}, step=1)
    """

    def __init__(
        self,
        always: Sequence[Tracker] = (),
        asked_for: Mapping[TrackerName, Tracker] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self._always = list(always)
        self._asked_for = dict(asked_for or {})
        self._reporter = reporter or Quiet()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers as of a step."""
        self._tell(lambda tracker: tracker.log(values, step))

    def summarise(self, values: Mapping[str, float], step: int) -> None:
        """The run's final numbers, those of its last step."""
        self._tell(lambda tracker: tracker.summarise(values, step))

    def close(self, outcome: Outcome) -> None:
        """Nothing more will come."""
        self._tell(lambda tracker: tracker.close(outcome))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in self._always:
            what(tracker)
        for name, tracker in list(self._asked_for.items()):
            try:
                what(tracker)
            except Exception as error:  # of a server, a network, a disk: anything
                del self._asked_for[name]
                self._reporter.message(f"{name}: {_short(error)}; it is told nothing more of this run")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("finished" if kind is None else "failed" if issubclass(kind, Exception) else "killed")


def tensorboard_alone(directory: Path | None) -> Trackers:
    """TensorBoard's files in a run directory; nobody where there is none."""
    return Trackers([TensorBoard(directory / "tensorboard")] if directory is not None else [])


def open_trackers(
    names: Sequence[TrackerName],
    project: str,
    directory: Path,
    params: Mapping[str, Any],
    reporter: Reporter | None = None,
    *,
    fresh: bool = False,
) -> Trackers:
    """TensorBoard and the trackers that a run names; to be called on rank 0 alone.

    Args:
        names: of ``train.trackers``.
        project: the experiment or project they put the run into.
        directory: the run directory, after which the run is named.
        params: what the run was made of, flat.
        reporter: told of trackers that fail later.
        fresh: begin new runs, also where ``trackers.json`` has the ids of earlier ones.

    Raises:
        SetupError: a tracker is not installed, or cannot be reached.
    """
    ids = {} if fresh else _read_ids(directory / _IDS)
    name = directory.resolve().name
    opened: dict[TrackerName, Tracker] = {}
    for wanted in names:
        known = ids.get(wanted)
        try:
            tracker: MLflow | Wandb
            if wanted == "mlflow":
                tracker = MLflow(project, name, params, known)
            else:
                tracker = Wandb(project, name, params, known, directory)
        except SetupError:
            raise
        except Exception as error:
            raise SetupError(
                f"train.trackers names '{wanted}', which cannot be opened ({_short(error)}); set it up by its own "
                "environment variables (MLFLOW_TRACKING_URI, WANDB_MODE, ...), or drop it from train.trackers"
            ) from error
        ids[wanted] = tracker.run_id
        opened[wanted] = tracker
    if opened:
        with written_aside(directory / _IDS) as partial:
            partial.write_text(json.dumps(ids))
    return Trackers([TensorBoard(directory / "tensorboard")], opened, reporter)


def _read_ids(path: Path) -> dict[str, str]:
    """Ids by tracker; none where the file is absent or damaged."""
    try:
        data = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in data.items()} if isinstance(data, dict) else {}


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:300]
