"""The training loop: epochs over prepared rows, exact evaluation, best weights, early stop, checkpoints, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchrec.datasets.utils import Batch
from torchrec.models.dlrm import DLRMTrain

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_plugins.config import RunConfig
from genrec_plugins.files import written_aside
from genrec_plugins.models import FieldDLRM, build_dlrm
from genrec_plugins.training.checkpoints import CheckpointStore, plain_weights
from genrec_plugins.training.memory import keep_freed_memory
from genrec_plugins.training.metrics import Metrics, evaluate_predictions
from genrec_plugins.training.optimizers import Recipe, make_recipe
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.settings import BarsTraining, TorchRecTraining
from genrec_plugins.training.warm_start import WarmStartReport, warm_start
from genrec_registry import ConfigError, ModelError, Registry, Split, digest


@dataclass(kw_only=True)
class TrainResult:
    """What a run came to.

    Args:
        history: one entry an evaluation: epoch, step, validation metrics, mean training loss, seconds so far.
        best_epoch: the epoch whose weights were kept.
        weights: the best weights under the bare DLRM's names.
        train_seconds: seconds in training steps, without evaluation.
        train_rows: rows trained on.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    train_seconds: float = 0.0
    train_rows: int = 0


def pick_device(name: str) -> torch.device:
    """The device of the ``train`` section.

    Raises:
        ConfigError: CUDA was asked for and is not there, or the name is unknown.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"train.device is '{name}'; expected auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device is 'cuda' but torch finds no GPU; write auto or cpu")
    return device


class Trainer:
    """Trains one model on prepared rows.

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
        self.reporter = reporter or Quiet()
        self.device = pick_device(settings.device)
        torch.manual_seed(config.seed)
        self.model: FieldDLRM = build_dlrm(config.model, prepared.fields, registry)
        self.warm_start: WarmStartReport | None = None
        if settings.warm_start is not None:
            self.warm_start = warm_start(self.model, settings.warm_start, prepared, registry)
            self.reporter.message(str(self.warm_start))
        self.recipe: Recipe = make_recipe(DLRMTrain(self.model), settings, self.device)
        self.loader = BatchLoader(prepared, "train", settings.batch_size, shuffle=True, seed=config.seed)
        self.steps_per_epoch = len(self.loader)
        if self.steps_per_epoch == 0:
            raise ConfigError("the train split has no rows; change 'split' or the dataset")
        self.store: CheckpointStore | None = None
        if directory is not None:
            made_of = {"run": config.model_dump(mode="json"), "data": prepared.identity}
            if self.warm_start is not None:
                made_of["warm_start"] = self.warm_start.digest
            identity = digest(made_of)
            self.store = CheckpointStore(directory / "checkpoints", identity, settings.keep_checkpoints)
            if restart:
                self.store.clear()

    def fit(self) -> TrainResult:
        """Train, from the newest checkpoint if there is one; the result does not depend on interruptions.

        Raises:
            ModelError: the loss became NaN or infinite, or a checkpoint belongs to another config.
        """
        from torch.utils.tensorboard import SummaryWriter

        result = TrainResult()
        progress: dict[str, Any] = {"step": 0, "rows": 0, "seconds": 0.0, "loss_sum": 0.0, "train_loss": math.nan}
        progress |= {"stale": 0, "best": None, "history": [], "stop": False}
        restored = self.store.load_newest(self.recipe) if self.store else None
        if restored is not None:
            progress = restored
            self.reporter.message(f"going on from step {progress['step']}")
            result.weights = self._load_best()
        writer = SummaryWriter(str(self.directory / "tensorboard")) if self.directory else None
        try:
            while not progress["stop"] and progress["step"] < self.settings.epochs * self.steps_per_epoch:
                self._train_epoch(progress, writer)
                self._evaluate_epoch(progress, result, writer)
        finally:
            if writer is not None:
                writer.close()
        result.history = progress["history"]
        result.best_epoch = progress["best"]["epoch"]
        result.train_seconds = progress["seconds"]
        result.train_rows = progress["rows"]
        return result

    def _train_epoch(self, progress: dict[str, Any], writer: Any) -> None:
        model, optimizer = self.recipe.model, self.recipe.optimizer
        epoch, done = divmod(progress["step"], self.steps_per_epoch)
        total = self.settings.epochs * self.steps_per_epoch
        self.loader.set_epoch(epoch)
        self.loader.skip(done)
        model.train()
        loss_sum = progress["loss_sum"]
        began = time.perf_counter()
        for host_batch in self.loader:
            batch = host_batch if self.device.type == "cpu" else host_batch.to(self.device, non_blocking=True)
            self.recipe.set_progress(progress["step"], total)
            optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.amp == "bf16"):
                loss, _ = model(batch)
            penalty = self.recipe.penalty()
            (loss if penalty is None else loss + penalty).backward()
            self.recipe.before_step()
            optimizer.step()
            value = loss.item()
            if not math.isfinite(value):
                raise ModelError(
                    f"epoch {epoch + 1}, step {done + 1}: the loss is {value}; lower the learning rates, "
                    "or look for extreme values in the dense fields"
                )
            done += 1
            progress["step"] += 1
            progress["rows"] += batch.labels.numel()
            loss_sum += value
            self.reporter.step(
                epoch=epoch + 1, done=done, total=self.steps_per_epoch, rows=batch.labels.numel(), loss=value
            )
            if writer is not None and progress["step"] % self.settings.log_every == 0:
                writer.add_scalar("train/loss", value, progress["step"])
                writer.add_scalar("train/lr", optimizer.param_groups[-1]["lr"], progress["step"])
            every = self.settings.checkpoint_every
            if self.store and every and progress["step"] % every == 0 and done < self.steps_per_epoch:
                now = time.perf_counter()
                progress["seconds"] += now - began
                progress["loss_sum"] = loss_sum
                self.store.save(self.recipe, progress)
                began = time.perf_counter()
        progress["seconds"] += time.perf_counter() - began
        progress["loss_sum"] = 0.0
        progress["train_loss"] = loss_sum / self.steps_per_epoch

    def _evaluate_epoch(self, progress: dict[str, Any], result: TrainResult, writer: Any) -> None:
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
            if writer is not None:
                for name in ("auc", "logloss", "ne", "calibration"):
                    writer.add_scalar(f"valid/{name}", metrics.as_dict()[name], progress["step"])
        patience = self.settings.early_stop_patience
        progress["stop"] = bool(patience) and progress["stale"] >= patience
        if self.store:
            self.store.save(self.recipe, progress)

    def _validation(self) -> Metrics | None:
        if not self.prepared.rows("valid"):
            return None
        labels, probabilities = predict(self.recipe.model, self.prepared, "valid", self.settings, self.device)
        return evaluate_predictions(labels, probabilities)

    def _save_best(self, weights: dict[str, Tensor]) -> None:
        if self.directory is None:
            return
        from safetensors.torch import save_file

        with written_aside(self.directory / "model.safetensors") as partial:
            save_file(weights, partial)

    def _load_best(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        path = self.directory / "model.safetensors" if self.directory else None
        return load_file(path) if path and path.exists() else {}


def predict(
    model: nn.Module,
    prepared: Prepared,
    split: Split,
    settings: TorchRecTraining | BarsTraining,
    device: torch.device,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Labels and probabilities of a whole split, in row order.

    Args:
        model: ``DLRMTrain`` (wrapped or not).
        prepared: the rows.
        split: which split.
        settings: evaluation batch size and autocast.
        device: where the model is.

    Returns:
        ``[N]`` labels and ``[N]`` probabilities.
    """
    return score(model, BatchLoader(prepared, split, settings.eval_batch_size), settings, device, name=f"{split} split")


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Iterable[Batch],
    settings: TorchRecTraining | BarsTraining,
    device: torch.device,
    *,
    name: str,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Labels and probabilities of batches, in their order.

    Args:
        model: ``DLRMTrain`` (wrapped or not).
        batches: the rows.
        settings: autocast.
        device: where the model is.
        name: of the rows, for messages.

    Raises:
        ConfigError: there are no rows.
    """
    was_training = model.training
    model.eval()
    labels, probabilities = [], []
    for host_batch in batches:
        batch = host_batch if device.type == "cpu" else host_batch.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.amp == "bf16"):
            _, (_, logits, _) = model(batch)
        probabilities.append(torch.sigmoid(logits.float()).cpu().numpy())
        labels.append(batch.labels.float().cpu().numpy())
    model.train(was_training)
    if not labels:
        raise ConfigError(f"the {name} has no rows; change 'split' or the dataset")
    return np.concatenate(labels), np.concatenate(probabilities)
