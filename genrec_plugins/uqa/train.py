"""Training on questions: the cross-entropy of the answer's tokens, for the adapter and whatever else is tuned."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from genrec_plugins.files import written_aside
from genrec_plugins.training.checkpoints import CheckpointStore
from genrec_plugins.training.optimizers import schedule_factor
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.uqa.aligned import Aligned, check_lengths
from genrec_plugins.uqa.config import UqaConfig
from genrec_plugins.uqa.data import Question, read_questions
from genrec_plugins.uqa.evaluate import evaluate
from genrec_plugins.uqa.prompts import batch_prompts
from genrec_registry import ConfigError, ModelError, digest

METRICS = "metrics.json"


class _Progress:
    """What is trained, as :class:`~genrec_plugins.training.checkpoints.CheckpointStore` takes it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.model = torch.nn.ParameterList(weight for group in optimizer.param_groups for weight in group["params"])

    def state(self) -> dict[str, Any]:
        """Learning rates follow from the step."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class _Epochs:
    """Epochs over the questions.

    Args:
        aligned: what is trained.
        questions: the training questions.
        reporter: told of progress.
    """

    def __init__(self, aligned: Aligned, questions: Sequence[Question], reporter: Reporter) -> None:
        self.aligned, self.questions, self.reporter = aligned, questions, reporter
        self.settings = settings = aligned.config.train
        prompts = aligned.prompts()
        self.asked = [prompts.prompt(question.text) for question in questions]
        self.answers = [prompts.answer(question.answer, end=True) for question in questions]
        check_lengths(self.asked, max(map(len, self.answers)), aligned.model)
        self.optimizer = torch.optim.AdamW(_groups(aligned), weight_decay=settings.weight_decay)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.steps = math.ceil(len(questions) / settings.batch_size)

    def run(self, epoch: int) -> float:
        """Train one epoch (0-based); the mean loss of its questions.

        Raises:
            ModelError: the loss became NaN or infinite.
        """
        self.aligned.train()
        seed = self.aligned.config.seed * 1000 + epoch
        order = torch.randperm(len(self.questions), generator=torch.Generator().manual_seed(seed))
        total = 0.0
        for step, rows in enumerate(order.split(self.settings.batch_size)):
            chosen = rows.tolist()
            value = self._step(chosen, epoch, step)
            total += value * len(chosen)
            self.reporter.step(epoch=epoch + 1, done=step + 1, total=self.steps, rows=len(chosen), loss=value)
        return total / len(self.questions)

    def _step(self, rows: list[int], epoch: int, step: int) -> float:
        settings, aligned = self.settings, self.aligned
        position, total = epoch * self.steps + step, settings.epochs * self.steps
        factor = schedule_factor(settings.lr_schedule, settings.warmup_steps, position, total)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        batch = batch_prompts([self.asked[row] for row in rows], [self.answers[row] for row in rows])
        soft_tokens = aligned.soft_tokens([self.questions[row] for row in rows])
        loss = aligned.model.loss(batch.to(aligned.device), soft_tokens)
        value = float(loss.item())
        if not math.isfinite(value):
            raise ModelError(f"epoch {epoch + 1}, step {step + 1}: the loss is {value}; lower the learning rates")
        self.optimizer.zero_grad()
        loss.backward()
        if settings.clip_grad_norm:
            trained = [weight for group in self.optimizer.param_groups for weight in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, settings.clip_grad_norm)
        self.optimizer.step()
        return value


def train_uqa(
    config: UqaConfig, directory: str | Path, reporter: Reporter | None = None, *, restart: bool = False
) -> dict[str, Any]:
    """Align user vectors to a language model, or go on where that stopped; ask the test questions once.

    Args:
        config: the run.
        directory: the run directory; it is written after each epoch.
        reporter: told of progress.
        restart: forget earlier checkpoints.

    Returns:
        What ``metrics.json`` holds: mean training loss of each epoch, seconds, accuracy by task.

    Raises:
        ModelError: the loss became NaN or infinite, or a checkpoint belongs to another config.
    """
    directory = Path(directory)
    reporter = reporter or Quiet()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be made ({error.strerror}); name another --out directory") from error
    questions = read_questions(config.questions.train, config.questions.limit)
    test = read_questions(config.questions.test, config.questions.limit) if config.questions.test else []
    aligned = Aligned.build(config)
    reporter.message(
        f"{len(questions):,} training questions, {len(test):,} test questions; "
        f"{sum(weight.numel() for group in _groups(aligned) for weight in group['params']):,} trained parameters"
    )
    epochs = _Epochs(aligned, questions, reporter)
    recipe = _Progress(epochs.optimizer)
    identity = digest({"run": config.model_dump(mode="json"), "questions": [one.text for one in questions]})
    store = CheckpointStore(directory / "checkpoints", identity, keep=1)
    if restart:
        store.clear()
    progress: dict[str, Any] = {"step": 0, "epoch": 0, "losses": [], "seconds": 0.0}
    restored = store.load_newest(recipe)
    if restored is not None:
        progress = restored
        reporter.message(f"going on after epoch {progress['epoch']}")
    losses: list[float] = progress["losses"]
    for epoch in range(progress["epoch"], config.train.epochs):
        began = time.perf_counter()
        losses.append(epochs.run(epoch))
        reporter.message(f"epoch {epoch + 1}: loss of the answers {losses[-1]:.4f}")
        aligned.save(directory)
        seconds = progress["seconds"] + time.perf_counter() - began
        progress = {"step": epoch + 1, "epoch": epoch + 1, "losses": losses, "seconds": seconds}
        store.save(recipe, progress)
    aligned.train(False)
    report: dict[str, Any] = {"train_loss": losses, "seconds": progress["seconds"], "test": None}
    if test:
        report["test"] = [row.as_dict() for row in evaluate(aligned, test, reporter=reporter).rows]
    with written_aside(directory / METRICS) as partial:
        partial.write_text(json.dumps(report, indent=2))
    return report


def _groups(aligned: Aligned) -> list[dict[str, Any]]:
    """Parameters that are trained, each part with its own rate."""
    settings = aligned.config.train
    parts = [
        (aligned.adapter, settings.adapter_lr),
        (aligned.users, settings.encoder_lr),
        (aligned.model, settings.llm_lr),
    ]
    found = [
        {"params": [weight for weight in part.parameters() if weight.requires_grad], "lr": rate} for part, rate in parts
    ]
    return [group for group in found if group["params"]]
