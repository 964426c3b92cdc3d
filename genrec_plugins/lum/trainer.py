"""The pre-training loop: packed batches, exact evaluation, best weights, early stop, checkpoints, resume."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genrec_plugins.files import written_aside
from genrec_plugins.lum.batches import SequenceBatch, cut_windows, make_batch, packs
from genrec_plugins.lum.build import build_model
from genrec_plugins.lum.config import LoadedLum
from genrec_plugins.lum.data import LumData, evenly, fixed_conditions
from genrec_plugins.lum.efficiency import Utilisation
from genrec_plugins.lum.evaluate import Asked, evaluate
from genrec_plugins.lum.optimizer import LumRecipe
from genrec_plugins.training.checkpoints import CheckpointStore
from genrec_plugins.training.memory import keep_freed_memory
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.trainer import pick_device
from genrec_registry import ModelError, digest

MONITOR = "ndcg@10"
WEIGHTS = "model.safetensors"


@dataclass(kw_only=True)
class Pretrained:
    """What pre-training came to.

    Args:
        history: one entry an evaluation: epoch, step, validation metrics, mean training loss, speed.
        best_epoch: the epoch whose weights were kept.
        train_seconds: seconds in training steps, without evaluation.
        train_events: events trained on.
        mfu: model FLOPs utilisation over all training steps.
        flops_per_event: of forward and backward.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    train_seconds: float = 0.0
    train_events: int = 0
    mfu: float = 0.0
    flops_per_event: float = 0.0


def asked_of(run: LoadedLum, data: LumData) -> Asked:
    """How a run's questions are asked, from its ``evaluation`` section."""
    settings = run.config.evaluation
    own = settings.conditions == "own"
    return Asked(
        max_length=run.config.max_length,
        batch_events=settings.batch_events,
        exclude_seen=settings.exclude_seen,
        fixed=None if own else fixed_conditions(settings.conditions, data.conditions, "evaluation.conditions"),  # type: ignore[arg-type]
        amp=run.config.train.amp == "bf16",
    )


class LumTrainer:
    """Pre-trains one model.

    Args:
        run: its config and registry.
        data: what it reads.
        directory: run directory for weights, checkpoints and TensorBoard; None keeps the weights in memory.
        reporter: told of progress.
        restart: forget checkpoints in ``directory`` instead of going on from them.
    """

    def __init__(
        self,
        run: LoadedLum,
        data: LumData,
        directory: Path | None = None,
        reporter: Reporter | None = None,
        *,
        restart: bool = False,
    ) -> None:
        keep_freed_memory()
        self.run, self.data, self.directory = run, data, directory
        self.settings = settings = run.config.train
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.reporter = reporter or Quiet()
        self.device = pick_device(settings.device)
        torch.manual_seed(run.config.seed)
        sizes = {name: len(vocabulary) for name, vocabulary in data.conditions.items()}
        counts = torch.from_numpy(data.counts)
        self.model: Any = build_model(run.config, data.catalogue, sizes, counts, run.registry).to(self.device)
        self.recipe = LumRecipe(self.model, settings)
        self.asked = asked_of(run, data)
        if settings.windows == "all":
            self.rows, self.users = cut_windows(data.train, run.config.max_length)
        else:
            self.rows, self.users = data.train, np.arange(len(data.train.users))
        self.lengths = np.minimum(self.rows.lengths, run.config.max_length)
        self.steps_per_epoch = len(self._packs(0))
        self.utilisation = Utilisation(settings.peak_flops, self.device, settings.amp)
        self.best_weights: dict[str, Tensor] = {}
        self.store: CheckpointStore | None = None
        if directory is not None:
            identity = digest({"run": run.config.model_dump(mode="json"), "data": data.identity})
            self.store = CheckpointStore(directory / "checkpoints", identity, settings.keep_checkpoints)
            if restart:
                self.store.clear()

    def _packs(self, epoch: int) -> list[Any]:
        return packs(self.lengths, max_events=self.settings.max_events, seed=self.run.config.seed, epoch=epoch)

    def _batches(self, epoch: int, skip: int) -> Iterator[SequenceBatch]:
        for rows in self._packs(epoch)[skip:]:
            batch = make_batch(self.rows, rows, self.run.config.max_length)
            if self.settings.event_dropout:
                batch = batch.thinned(self.settings.event_dropout)
            yield replace(batch, users=torch.from_numpy(self.users[rows])).to(self.device)

    def fit(self) -> Pretrained:
        """Train, from the newest checkpoint if there is one; the result does not depend on interruptions.

        Raises:
            ModelError: the loss became NaN or infinite, or a checkpoint belongs to another config.
        """
        from torch.utils.tensorboard import SummaryWriter

        progress: dict[str, Any] = {"step": 0, "epoch": 0, "done": 0, "events": 0, "seconds": 0.0, "loss_sum": 0.0}
        progress |= {"train_loss": math.nan, "stale": 0, "best": None, "history": [], "stop": False}
        restored = self.store.load_newest(self.recipe) if self.store else None
        if self.store and restored is not None:
            progress = restored
            self.reporter.message(f"going on from step {progress['step']}{self.store.passed_over}")
        writer = SummaryWriter(str(self.directory / "tensorboard")) if self.directory else None
        try:
            while not progress["stop"] and progress["epoch"] < self.settings.epochs:
                self._train_epoch(progress, writer)
                every, last = self.settings.evaluate_every, self.settings.epochs
                if progress["epoch"] % every == 0 or progress["epoch"] == last:
                    self._evaluate_epoch(progress, writer)
                if self.store:
                    self.store.save(self.recipe, progress)
        finally:
            if writer is not None:
                writer.close()
        speed = progress["events"] / progress["seconds"] if progress["seconds"] else 0.0
        return Pretrained(
            history=progress["history"],
            best_epoch=progress["best"]["epoch"],
            train_seconds=progress["seconds"],
            train_events=progress["events"],
            mfu=self.utilisation.mfu(speed),
            flops_per_event=self.utilisation.flops_per_event,
        )

    def _train_epoch(self, progress: dict[str, Any], writer: Any) -> None:
        epoch, steps = progress["epoch"], len(self._packs(progress["epoch"]))
        total = self.settings.epochs * self.steps_per_epoch
        self.model.train()
        began = time.perf_counter()
        for batch in self._batches(epoch, progress["done"]):
            if self.utilisation.samples:
                progress["seconds"] += time.perf_counter() - began
                self.utilisation.see(self.model, batch)
                began = time.perf_counter()
            # epochs differ by a batch or two: the schedule follows the share of the epoch that is done
            position = (epoch + progress["done"] / steps) * self.steps_per_epoch
            self.recipe.set_progress(position, total)
            value = self._step(batch, progress)
            progress["done"] += 1
            progress["step"] += 1
            progress["events"] += len(batch.items)
            progress["loss_sum"] += value
            self.reporter.step(epoch=epoch + 1, done=progress["done"], total=steps, rows=len(batch.items), loss=value)
            if writer is not None and progress["step"] % self.settings.log_every == 0:
                writer.add_scalar("train/loss", value, progress["step"])
                writer.add_scalar("train/lr", self.recipe.optimizer.param_groups[-1]["lr"], progress["step"])
            every = self.settings.checkpoint_every
            if self.store and every and progress["step"] % every == 0 and progress["done"] < steps:
                progress["seconds"] += time.perf_counter() - began
                self.store.save(self.recipe, progress)
                began = time.perf_counter()
        progress["seconds"] += time.perf_counter() - began
        progress |= {"epoch": epoch + 1, "done": 0, "train_loss": progress["loss_sum"] / steps, "loss_sum": 0.0}

    def _step(self, batch: SequenceBatch, progress: dict[str, Any]) -> float:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.amp == "bf16"):
            loss = self.model.loss(batch)
        loss.backward()
        value = float(loss.item())
        if not math.isfinite(value):
            raise ModelError(
                f"epoch {progress['epoch'] + 1}, step {progress['done'] + 1}: the loss is {value}; lower train.lr, "
                "or raise objective.temperature"
            )
        self.recipe.step()
        return value

    def _evaluate_epoch(self, progress: dict[str, Any], writer: Any) -> None:
        metrics = self._validation()
        best = progress["best"]
        value = metrics[MONITOR] if metrics else -progress["train_loss"]
        improved = best is None or value > best["value"] or not metrics
        if improved:
            progress["best"] = {"epoch": progress["epoch"], "value": value}
            progress["stale"] = 0
            self._save_best()
        else:
            progress["stale"] += 1
        speed = progress["events"] / progress["seconds"]
        mfu = self.utilisation.mfu(speed)
        entry = {"epoch": progress["epoch"], "step": progress["step"], "seconds": progress["seconds"]}
        entry |= {"events_per_second": speed, "mfu": mfu, "train_loss": progress["train_loss"], "valid": metrics}
        progress["history"].append(entry)
        told = f"epoch {progress['epoch']}: train loss {progress['train_loss']:.4f}, "
        if metrics:
            told += f"valid recall@10 {metrics['recall@10']:.4f}, ndcg@10 {metrics['ndcg@10']:.4f}, "
        told += f"{speed:,.0f} events/s, MFU {mfu:.1%}{'' if improved else ' (no better)'}"
        self.reporter.message(told)
        if writer is not None:
            writer.add_scalar("speed/events_per_second", speed, progress["step"])
            writer.add_scalar("speed/mfu", mfu, progress["step"])
            for name, number in (metrics or {}).items():
                writer.add_scalar(f"valid/{name}", number, progress["step"])
        patience = self.settings.early_stop_patience
        progress["stop"] = bool(patience) and progress["stale"] >= patience

    def _validation(self) -> dict[str, Any] | None:
        if not len(self.data.valid):
            return None
        chosen = evenly(self.data.valid, self.run.config.evaluation.max_valid)
        return evaluate(
            self.model, self.data.valid, self.asked, self.device, chosen=chosen, reporter=self.reporter, name="valid"
        )

    def _save_best(self) -> None:
        from safetensors.torch import save_file

        self.best_weights = plain_weights(self.model)
        if self.directory is not None:
            with written_aside(self.directory / WEIGHTS) as partial:
                save_file(self.best_weights, partial)


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights on the CPU."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}
