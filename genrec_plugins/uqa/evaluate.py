"""Accuracy of a language model's answers, by task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.uqa.aligned import Aligned, check_lengths
from genrec_plugins.uqa.data import Question
from genrec_plugins.uqa.prompts import Prompts, batch_prompts
from genrec_registry import ConfigError

#: whose soft tokens a question gets: its own user's, another user's, or none
Whose = Literal["own", "shuffled", "none"]
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class TaskAccuracy:
    """One line of the result.

    Args:
        task: a task, a group of tasks, or ``"all"``.
        questions: how many.
        correct: answered right.
        chance: accuracy of guessing among the options; None where a question has none.
        constant: accuracy of always giving the answer that is right most often.
    """

    task: str
    questions: int
    correct: int
    chance: float | None
    constant: float

    @property
    def accuracy(self) -> float:
        """Share answered right."""
        return self.correct / self.questions

    @property
    def error(self) -> float:
        """Standard error of the accuracy."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.questions))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "accuracy": self.accuracy, "error": self.error}


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Questions with their answers.

    Args:
        rows: accuracies: all questions, groups, tasks.
        predictions: ``[Q]`` what was answered.
        correct: ``[Q]`` whether it is right.
    """

    rows: tuple[TaskAccuracy, ...]
    predictions: tuple[str, ...]
    correct: tuple[bool, ...]


def evaluate(
    aligned: Aligned,
    questions: Sequence[Question],
    *,
    mode: str | None = None,
    whose: Whose = "own",
    reporter: Reporter | None = None,
) -> Answered:
    """Ask questions and count right answers.

    Args:
        aligned: users, adapter, language model.
        questions: what to ask.
        mode: ``choice``, ``greedy`` or ``auto``; the config's if None.
        whose: ``shuffled`` gives each question the soft tokens of another question's user, ``none`` leaves them out:
            what is lost then is what the soft tokens said of the user.
        reporter: told of progress.

    Raises:
        ConfigError: choice is asked for and a question has no options.
        DataError: a question is longer than the language model takes.
    """
    reporter = reporter or Quiet()
    settings = aligned.config.evaluation
    chosen_mode = mode or settings.mode
    without = next((number for number, question in enumerate(questions, start=1) if not question.options), None)
    if chosen_mode == "choice" and without is not None:
        raise ConfigError(f"question {without} has no options to choose from; use the mode auto or greedy")
    choose = [chosen_mode == "choice" or (chosen_mode == "auto" and bool(q.options)) for q in questions]
    prompts = aligned.prompts(with_user=whose != "none")
    asked = [prompts.prompt(question.text) for question in questions]
    check_lengths(asked, settings.max_new_tokens, aligned.model)
    users = _partners(len(questions)) if whose == "shuffled" else np.arange(len(questions))
    # prompts of one length beside each other, those that are answered alike together
    order = sorted(range(len(questions)), key=lambda row: (choose[row], len(asked[row])))
    found = [""] * len(questions)
    aligned.train(False)
    done = 0
    for start in range(0, len(order), settings.batch_size):
        rows = order[start : start + settings.batch_size]
        for way in (True, False):
            part = [row for row in rows if choose[row] is way]
            if not part:
                continue
            with torch.no_grad():
                soft = None if whose == "none" else aligned.soft_tokens([questions[int(users[row])] for row in part])
            ids = [asked[row] for row in part]
            if way:
                answers = _choose(aligned, prompts, ids, soft, [questions[row].options for row in part])
            else:
                answers = _generate(aligned, ids, soft, settings.max_new_tokens)
            for row, answer in zip(part, answers, strict=True):
                found[row] = answer
            done += len(part)
            reporter.rows(stage="asking", rows=done, total=len(questions))
    correct = [
        found[row] == question.answer if choose[row] else found[row].strip().startswith(question.answer)
        for row, question in enumerate(questions)
    ]
    return Answered(rows=tuple(accuracies(questions, correct)), predictions=tuple(found), correct=tuple(correct))


def _partners(count: int) -> np.ndarray:
    """For each question another one, at random, the same every time."""
    order = np.random.default_rng(0).permutation(count)
    partners = np.empty(count, dtype=np.int64)
    partners[order] = np.roll(order, 1)
    return partners


def _choose(
    aligned: Aligned,
    prompts: Prompts,
    ids: Sequence[Sequence[int]],
    soft: Tensor | None,
    options: Sequence[Sequence[str]],
) -> list[str]:
    """The most likely option of each prompt; the first of equals."""
    tokens = [[prompts.answer(option) for option in choices] for choices in options]
    owner = [row for row, choices in enumerate(tokens) for _ in choices]
    flat = [answer for choices in tokens for answer in choices]
    if all(len(answer) == 1 for answer in flat):  # one forward a question is enough
        batch = batch_prompts(ids, [[choices[0][0]] for choices in tokens]).to(aligned.device)
        with torch.no_grad():
            logits = aligned.model.logits(batch, soft, 1)[:, 0]
        scores = [float(logits[row, answer[0]]) for row, answer in zip(owner, flat, strict=True)]
    else:
        scores = []
        size = aligned.config.evaluation.batch_size
        for start in range(0, len(flat), size):
            part = owner[start : start + size]
            batch = batch_prompts([ids[row] for row in part], flat[start : start + size]).to(aligned.device)
            scores += aligned.model.log_likelihood(batch, None if soft is None else soft[part]).tolist()
    answers, at = [], 0
    for choices in options:
        here = scores[at : at + len(choices)]
        answers.append(choices[int(np.argmax(here))])
        at += len(choices)
    return answers


def _generate(aligned: Aligned, ids: Sequence[Sequence[int]], soft: Tensor | None, max_new_tokens: int) -> list[str]:
    batch = batch_prompts(ids).to(aligned.device)
    tokens = aligned.model.generate(batch, soft, max_new_tokens)
    return [str(text) for text in aligned.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def accuracies(questions: Sequence[Question], correct: Sequence[bool]) -> list[TaskAccuracy]:
    """Accuracy over all questions, by group, and by task, in this order.

    Args:
        questions: Q questions.
        correct: ``[Q]``.

    Example::

        >>> asked = [Question(text="?", answer=answer, options=("a", "b"), task="mood") for answer in "aab"]
        >>> rows = accuracies(asked, [True, False, True])
        >>> [(row.task, row.correct, row.chance, round(row.constant, 2)) for row in rows]
        [('all', 2, 0.5, 0.67), ('mood', 2, 0.5, 0.67)]
    """
    rows = [_line(ALL, list(range(len(questions))), questions, correct)]
    for names in ([question.group for question in questions], [question.task for question in questions]):
        for name in sorted({name for name in names if name}):
            rows.append(_line(name, [row for row, own in enumerate(names) if own == name], questions, correct))
    return rows


def _line(name: str, rows: Sequence[int], questions: Sequence[Question], correct: Sequence[bool]) -> TaskAccuracy:
    options = [len(questions[row].options) for row in rows]
    # the best constant answer of each task: several tasks together may have one each
    by_task: dict[str, Counter[str]] = {}
    for row in rows:
        by_task.setdefault(questions[row].task, Counter())[questions[row].answer] += 1
    constant = sum(counts.most_common(1)[0][1] for counts in by_task.values())
    return TaskAccuracy(
        task=name,
        questions=len(rows),
        correct=sum(bool(correct[row]) for row in rows),
        chance=float(np.mean([1 / count for count in options])) if all(options) else None,
        constant=constant / len(rows),
    )
