"""Training on questions: the cross-entropy of the answer's tokens, for the adapter and whatever else is tuned."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from genrec_plugins.files import written_aside
from genrec_plugins.training.optimizers import schedule_factor
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.uqa.aligned import Aligned, check_lengths
from genrec_plugins.uqa.config import UqaConfig
from genrec_plugins.uqa.data import read_questions
from genrec_plugins.uqa.evaluate import evaluate
from genrec_plugins.uqa.prompts import batch_prompts
from genrec_registry import ConfigError, ModelError

METRICS = "metrics.json"


def train_uqa(config: UqaConfig, directory: str | Path, reporter: Reporter | None = None) -> dict[str, Any]:
    """Align user vectors to a language model, and ask the test questions once.

    Args:
        config: the run.
        directory: the run directory; it is written after each epoch.
        reporter: told of progress.

    Returns:
        What ``metrics.json`` holds: mean training loss of each epoch, seconds, accuracy by task.

    Raises:
        ModelError: the loss became NaN or infinite.
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
    prompts = aligned.prompts()
    asked = [prompts.prompt(question.text) for question in questions]
    answers = [prompts.answer(question.answer, end=True) for question in questions]
    check_lengths(asked, max(map(len, answers)), aligned.model)
    settings = config.train
    optimizer = torch.optim.AdamW(_groups(aligned), weight_decay=settings.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    steps = math.ceil(len(questions) / settings.batch_size)
    losses: list[float] = []
    began = time.perf_counter()
    for epoch in range(settings.epochs):
        aligned.train()
        order = torch.randperm(len(questions), generator=torch.Generator().manual_seed(config.seed * 1000 + epoch))
        total = 0.0
        for step, rows in enumerate(order.split(settings.batch_size)):
            chosen = rows.tolist()
            factor = schedule_factor(
                settings.lr_schedule, settings.warmup_steps, epoch * steps + step, settings.epochs * steps
            )
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            batch = batch_prompts([asked[row] for row in chosen], [answers[row] for row in chosen]).to(aligned.device)
            loss = aligned.model.loss(batch, aligned.soft_tokens([questions[row] for row in chosen]))
            value = float(loss.item())
            if not math.isfinite(value):
                raise ModelError(f"epoch {epoch + 1}, step {step + 1}: the loss is {value}; lower the learning rates")
            optimizer.zero_grad()
            loss.backward()
            if settings.clip_grad_norm:
                torch.nn.utils.clip_grad_norm_(trained, settings.clip_grad_norm)
            optimizer.step()
            total += value * len(chosen)
            reporter.step(epoch=epoch + 1, done=step + 1, total=steps, rows=len(chosen), loss=value)
        losses.append(total / len(questions))
        reporter.message(f"epoch {epoch + 1}: loss of the answers {losses[-1]:.4f}")
        aligned.save(directory)
    aligned.train(False)
    report: dict[str, Any] = {"train_loss": losses, "seconds": time.perf_counter() - began, "test": None}
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
