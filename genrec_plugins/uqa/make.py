"""Questions in UQABench's manner about any data set whose items have categories, with the answers read off the events.

Four tasks, one of each kind that UQABench asks: the category of the last item, the most frequent category of the whole
history and of its last events, and the category of the item that came next, which the history does not have.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrec_plugins.files import written_aside
from genrec_plugins.lum.run import LumRun
from genrec_registry import ConfigError

#: task -> question
ASKED = {
    "last category": "Which category had the last item this user chose ?",
    "long-term interest": "Which category does this user choose most ?",
    "short-term interest": "Which category did this user choose most of late ?",
    "next category": "Which category will the next item of this user have ?",
}
LATELY = 10


@dataclass(frozen=True, kw_only=True)
class Made:
    """Questions of two disjoint sets of users.

    Args:
        train: lines as :func:`genrec_plugins.uqa.data.read_questions` reads them.
        test: likewise.
    """

    train: list[dict[str, Any]]
    test: list[dict[str, Any]]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``train.jsonl`` and ``test.jsonl``.

        Raises:
            DataError: they cannot be written.
        """
        paths = folder / "train.jsonl", folder / "test.jsonl"
        for path, lines in zip(paths, (self.train, self.test), strict=True):
            with written_aside(path) as partial:
                partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return paths


def make_questions(run: LumRun, *, test_share: float = 0.2, options: int = 4, seed: int = 1) -> Made:
    """Four questions a user, from the histories of the run's test questions.

    Args:
        run: a pre-training run; what its encoder was trained on is not asked for in ``"next category"``.
        test_share: share of the users whose questions are kept for the test.
        options: categories to choose from; the wrong ones are drawn as often as they are right answers of the task, so
            that knowing which are frequent helps little.
        seed: of the users and the options.

    Raises:
        ConfigError: the items have no categories, fewer of them than options, or the run has no test questions.
    """
    categories = _first_categories(run)
    questions = run.data.test
    if not len(questions):
        raise ConfigError(f"{run.directory}: its split has no test questions to make others of")
    histories = questions.histories
    # a user with several questions (time splits) is asked about once, at the last
    last = {int(user): row for row, user in enumerate(questions.users)}
    source = np.random.default_rng(seed)
    answers: list[tuple[int, dict[str, str], range]] = []
    for user, row in sorted(last.items()):
        events = range(int(histories.offsets[row]), int(histories.offsets[row + 1]))
        known = [categories[item] for item in histories.items[events.start : events.stop].tolist()]
        found = _answers([name for name in known if name], categories[int(questions.targets[row])])
        answers.append((user, found, events))
    pool = {task: Counter(found[task] for _, found, _ in answers if task in found) for task in ASKED}
    for task, counts in pool.items():
        if len(counts) < options:
            raise ConfigError(
                f"{run.directory}: '{task}' has {len(counts)} different answers, expected at least {options}; name a "
                "run whose items have categories, or ask with fewer options"
            )
    is_test = source.permutation(len(answers)) < round(test_share * len(answers))
    made = Made(train=[], test=[])
    for (user, found, events), held_out in zip(answers, is_test.tolist(), strict=True):
        lines = _lines(run, user, found, events, pool, options, source)
        (made.test if held_out else made.train).extend(lines)
    return made


def _first_categories(run: LumRun) -> list[str]:
    """The first category of each catalogue row; empty where there is none."""
    items = run.run.registry.create("dataset", run.run.config.dataset).items()
    by_item = {item: (names or [""])[0] for item, names in items.select("item", "categories").iter_rows()}
    return [by_item.get(item) or "" for item in run.catalogue.items.values]


def _answers(known: list[str], target: str) -> dict[str, str]:
    found = {"next category": target}
    if known:
        found |= {
            "last category": known[-1],
            "long-term interest": Counter(known).most_common(1)[0][0],
            "short-term interest": Counter(known[-LATELY:]).most_common(1)[0][0],
        }
    return {task: answer for task, answer in found.items() if answer}


def _lines(
    run: LumRun,
    user: int,
    answers: dict[str, str],
    events: range,
    pool: Mapping[str, Counter[str]],
    options: int,
    source: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    histories = run.data.test.histories
    kept = slice(events.start, events.stop)
    items = [run.catalogue.items.values[item] for item in histories.items[kept].tolist()]
    conditions = {
        name: [vocabulary.values[value] for value in histories.conditions[name][kept].tolist()]
        for name, vocabulary in run.vocabularies.items()
    }
    for task, question in ASKED.items():
        if task not in answers:
            continue
        others = {name: count for name, count in sorted(pool[task].items()) if name != answers[task]}
        chances = np.array(list(others.values())) / sum(others.values())
        wrong = source.choice(list(others), options - 1, replace=False, p=chances)
        choices = [answers[task], *wrong.tolist()]
        yield {
            "user": run.data.histories.users[user],
            "history": items,
            "conditions": conditions,
            "question": question,
            "options": [choices[place] for place in source.permutation(options).tolist()],
            "answer": answers[task],
            "task": task,
        }
