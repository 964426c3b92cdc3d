"""The training loop: epochs over prepared rows, exact evaluation, best weights, early stop, checkpoints, resume."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchrec.datasets.utils import Batch

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_plugins.config import RunConfig
from genrec_plugins.files import written_aside
from genrec_plugins.models import FieldDLRM, build_dlrm
from genrec_plugins.models.dynamic_ids import settle
from genrec_plugins.training.checkpoints import CheckpointStore, load_plain_weights, plain_weights
from genrec_plugins.training.evaluation import evaluate_split
from genrec_plugins.training.guards import why_not_finite
from genrec_plugins.training.launch import launched
from genrec_plugins.training.memory import keep_freed_memory
from genrec_plugins.training.metrics import Metrics
from genrec_plugins.training.optimizers import Recipe, make_recipe
from genrec_plugins.training.ranks import (
    ensure_process_group,
    known,
    on_every,
    on_first,
    rank,
    seed_rank,
    total,
    world_size,
)
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.settings import BarsTraining, TorchRecTraining
from genrec_plugins.training.steps import ShareTrain, make_steps
from genrec_plugins.training.trackers import Trackers, tensorboard_alone
from genrec_plugins.training.warm_start import WarmStartReport, warm_start
from genrec_registry import ConfigError, ModelError, Registry, Split, digest

_BEST = "model.safetensors"


@dataclass(kw_only=True)
class TrainResult:
    """What a run came to.

    Args:
        history: one entry an evaluation: epoch, step, validation metrics, mean training loss, seconds so far.
        best_epoch: the epoch whose weights were kept.
        weights: the best weights under the bare DLRM's names; on rank 0 alone.
        train_seconds: seconds in training steps, without evaluation.
        train_rows: rows trained on.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    train_seconds: float = 0.0
    train_rows: int = 0


def pick_device(name: str) -> torch.device:
    """The device of the ``train`` section; for a process that torchrun started, the GPU of its own.

    Raises:
        ConfigError: CUDA was asked for and is not there, or the name is unknown.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"train.device is '{name}'; expected auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device is 'cuda' but torch finds no GPU; write auto or cpu")
    if device.type == "cuda" and device.index is None and launched():
        index = int(os.environ.get("LOCAL_RANK", "0"))
        if index >= torch.cuda.device_count():
            raise ConfigError(f"there are {torch.cuda.device_count()} GPUs for more processes; start one a GPU")
        return torch.device("cuda", index)
    return device


def table_device(settings: TorchRecTraining | BarsTraining) -> str | None:
    """Where a model's tables are built: on no device where their pieces are drawn later, as they come to lie."""
    pieces = isinstance(settings, TorchRecTraining) and settings.sharding.draw == "pieces"
    return "meta" if pieces else None


class Trainer:
    """Trains one model on prepared rows, alone or as one of the ranks of a process group.

    Ranks share every batch, so that their number does not change what is learned.

    Args:
        config: the run.
        prepared: its prepared rows.
        registry: where components come from.
        directory: run directory for checkpoints and TensorBoard; None keeps everything in memory.
        reporter: told of progress.
        restart: forget checkpoints in ``directory`` instead of going on from them.
    """

    def __init__(
        self,
        config: RunConfig,
        prepared: Prepared,
        registry: Registry,
        directory: Path | None = None,
        reporter: Reporter | None = None,
        *,
        restart: bool = False,
    ) -> None:
        settings: TorchRecTraining | BarsTraining = config.train
        keep_freed_memory()
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.config = config
        self.settings = settings
        self.prepared = prepared
        self.directory = directory
        self.device = pick_device(settings.device)
        if launched():
            ensure_process_group(self.device)
        self.ranks = world_size()
        self.reporter = reporter if reporter and rank() == 0 else Quiet()
        self.warm_start: WarmStartReport | None = None
        self._result = TrainResult()
        self._progress: dict[str, Any] | None = None  # None: not restored
        torch.manual_seed(config.seed)
        with on_every("building the model"):
            self.loader = BatchLoader(
                prepared,
                "train",
                settings.batch_size,
                shuffle=True,
                seed=config.seed,
                rank=rank(),
                world_size=self.ranks,
                cut=True,
            )
            self.steps_per_epoch = len(self.loader)
            if self.steps_per_epoch == 0:
                raise ConfigError("the train split has no rows; change 'split' or the dataset")
            self.model: FieldDLRM = build_dlrm(
                config.model, prepared.fields, registry, table_device=table_device(settings)
            )
            if settings.warm_start is not None:
                self.warm_start = warm_start(self.model, settings.warm_start, prepared, registry)
                self.reporter.message(str(self.warm_start))
        self._train = ShareTrain(self.model)
        self.recipe: Recipe = make_recipe(self._train, settings, self.device)
        self._steps = make_steps(self.recipe, self.device, settings.amp == "bf16")
        if self.ranks > 1:
            seed_rank(config.seed)
        self.store: CheckpointStore | None = None
        if directory is not None:
            # the layout of the tables may change, as checkpoints can be laid out anew; kernels compute the same, and
            # who is told changes nothing
            free = {"train": {"sharding", "compile", "trackers", "tracker_project"}}
            made_of: dict[str, Any] = {"run": config.model_dump(mode="json", exclude=free)}
            made_of["data"] = prepared.identity
            if self.warm_start is not None:
                made_of["warm_start"] = self.warm_start.digest
            identity = digest(made_of)
            self.store = CheckpointStore(directory / "checkpoints", identity, settings.keep_checkpoints)
            if restart:
                self.store.clear()

    def restore(self) -> None:
        """Go on from the newest checkpoint if there is one; :meth:`fit` does so where it was not done.

        Raises:
            ModelError: it belongs to another config or other data, or cannot be read.
        """
        progress: dict[str, Any] = {"step": 0, "rows": 0, "seconds": 0.0, "loss_sum": 0.0, "train_loss": math.nan}
        progress |= {"stale": 0, "best": None, "history": [], "stop": False}
        restored = self.store.load_newest(self.recipe) if self.store else None
        self._result, self._progress = TrainResult(), restored or progress
        if self.store and restored is not None:
            self.reporter.message(f"going on from step {restored['step']}{self.store.passed_over}")
            if restored["best"] is not None:
                with on_every("reading the best weights"):
                    self._result.weights = self._load_best() if rank() == 0 else {}

    def fit(self, trackers: Trackers | None = None) -> TrainResult:
        """Train, from the newest checkpoint if there is one; the result does not depend on interruptions.

        Args:
            trackers: told of losses and metrics, and left open; TensorBoard alone if None.

        Raises:
            ModelError: the loss became NaN or infinite, or a checkpoint belongs to another config.
        """
        if trackers is None:
            with tensorboard_alone(self.directory if rank() == 0 else None) as alone:
                return self.fit(alone)
        if self._progress is None:
            self.restore()
        assert self._progress is not None
        result, progress = self._result, self._progress
        self._progress = None
        while not progress["stop"] and progress["step"] < self.settings.epochs * self.steps_per_epoch:
            self._train_epoch(progress, trackers)
            self._evaluate_epoch(progress, result, trackers)
        result.history = progress["history"]
        result.best_epoch = progress["best"]["epoch"]
        result.train_seconds = progress["seconds"]
        result.train_rows = progress["rows"]
        return result

    def _train_epoch(self, progress: dict[str, Any], trackers: Trackers) -> None:
        epoch, first = divmod(progress["step"], self.steps_per_epoch)
        total_steps = self.settings.epochs * self.steps_per_epoch
        self.loader.set_epoch(epoch)
        batches = iter(self.loader.skip(first))
        self.recipe.model.train()
        loss_sum = progress["loss_sum"]
        began = time.perf_counter()
        for done in range(first + 1, self.steps_per_epoch + 1):
            self.recipe.set_progress(progress["step"], total_steps)
            value = self._step(batches, done - 1)
            if not math.isfinite(value):
                raise known(ModelError(f"epoch {epoch + 1}, step {done}: the loss is {value}; {self._why(done - 1)}"))
            rows = self.loader.all_rows(done - 1)
            progress["step"] += 1
            progress["rows"] += rows
            loss_sum += value
            self.reporter.step(epoch=epoch + 1, done=done, total=self.steps_per_epoch, rows=rows, loss=value)
            if progress["step"] % self.settings.log_every == 0:
                rate = self.recipe.optimizer.param_groups[-1]["lr"]
                trackers.log({"train/loss": value, "train/lr": rate}, progress["step"])
            every = self.settings.checkpoint_every
            if self.store and every and progress["step"] % every == 0 and done < self.steps_per_epoch:
                now = time.perf_counter()
                progress["seconds"] += now - began
                progress["loss_sum"] = loss_sum
                self._save(progress)
                began = time.perf_counter()
        self._steps.pause()
        progress["seconds"] += time.perf_counter() - began
        progress["loss_sum"] = 0.0
        progress["train_loss"] = loss_sum / self.steps_per_epoch

    def _step(self, batches: Iterator[Batch], index: int) -> float:
        """Train on batch ``index`` of the epoch; its mean loss over the rows of all ranks."""
        if self.ranks == 1:
            return self._steps(batches).item()
        own, rows = self.loader.own_rows(index), self.loader.all_rows(index)
        self._train.weight = None if own * self.ranks == rows else own * self.ranks / rows
        return total(self._steps(batches).double() * (own / rows)).item()

    def _why(self, index: int) -> str:
        """Why batch ``index`` of the epoch has a loss that is not finite."""
        batch = next(iter(self.loader.skip(index)))
        stepped, amp = not self._steps.refuses, self.settings.amp == "bf16"
        return why_not_finite(self.recipe.model, batch, self.prepared, stepped=stepped, amp=amp)

    def _evaluate_epoch(self, progress: dict[str, Any], result: TrainResult, trackers: Trackers) -> None:
        epoch = progress["step"] // self.steps_per_epoch
        metrics = self._validation()
        best = progress["best"]
        value = metrics.as_dict()[self.settings.monitor] if metrics else math.nan
        sign = 1 if self.settings.monitor == "auc" else -1
        improved = best is None or math.isnan(best["value"]) or sign * value > sign * best["value"]
        if improved:
            progress["best"] = {"epoch": epoch, "value": value}
            progress["stale"] = 0
            result.weights = plain_weights(self.recipe.model)
            self._save_best(result.weights)
        else:
            progress["stale"] += 1
        self.recipe.after_evaluation(improved)
        entry = {"epoch": epoch, "step": progress["step"], "seconds": progress["seconds"]}
        entry |= {"train_loss": progress["train_loss"], "valid": metrics.as_dict() if metrics else None}
        progress["history"].append(entry)
        if metrics is not None:
            self.reporter.message(
                f"epoch {epoch}: train loss {progress['train_loss']:.5f}, "
                f"valid AUC {metrics.auc:.5f}, logloss {metrics.logloss:.5f}, NE {metrics.ne:.5f}, "
                f"calibration {metrics.calibration:.4f}{'' if improved else ' (no better)'}"
            )
        told = {"train/epoch_loss": progress["train_loss"]} | (metrics.named("valid") if metrics else {})
        trackers.log(told, progress["step"])
        patience = self.settings.early_stop_patience
        progress["stop"] = bool(patience) and progress["stale"] >= patience
        self._save(progress)

    def _save(self, progress: dict[str, Any]) -> None:
        if self.store:
            settle(self.recipe.model)
            self.store.save(self.recipe, progress)

    def _validation(self) -> Metrics | None:
        if not self.prepared.rows("valid"):
            return None
        return evaluate_split(self.recipe.model, self.prepared, "valid", self.settings, self.device)

    def evaluate_best(self, split: Split) -> Metrics:
        """Exact metrics of the best weights in the run directory, which become the model's, on a split."""
        assert self.directory is not None
        with on_every("reading the best weights"):
            load_plain_weights(self.recipe.model, self.directory / _BEST)
        return evaluate_split(self.recipe.model, self.prepared, split, self.settings, self.device)

    def _save_best(self, weights: dict[str, Tensor]) -> None:
        if self.directory is not None:
            on_first(lambda: self._write_best(weights))

    def _write_best(self, weights: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

        assert self.directory is not None
        with written_aside(self.directory / _BEST) as partial:
            save_file(weights, partial)

    def _load_best(self) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        assert self.directory is not None
        path = self.directory / _BEST
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{path}: the best weights so far cannot be read ({str(error).splitlines()[0]}); put the file back, or "
                "pass --restart to train from scratch here"
            ) from error
