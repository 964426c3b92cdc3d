"""Questions about users, with the history that each is about.

Two forms of file:

- UQABench's ``align_data_train.arrow`` and ``align_data_eval.arrow`` (an Arrow IPC file). Read are ``text``, a JSON
  list of a user's and an assistant's message, and ``uni_seq_item_id``, a list of one-element lists, the oldest event
  first. Its other columns are side information of the items.
- JSON lines, for questions about any data set: ``question``, ``answer``, and where they apply ``history`` (item ids,
  the oldest first), ``conditions`` (name -> one value an event), ``user``, ``time``, ``options``, ``task``.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_adapters.behaviour.histories import Histories, Vocabulary
from genrec_adapters.state import parse_json
from genrec_registry import DataError

ITEMS, TEXT = "uni_seq_item_id", "text"
#: UQABench's tasks: name -> (group, phrases that its question templates have and others do not), the first match wins
TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "direct feature": ("sequence understanding", ("次浏览的商品的", "次（从1开始计数）浏览的")),  # noqa: RUF001
    "match feature": ("sequence understanding", ("长度是多少？", "的商品有多少个")),  # noqa: RUF001
    "item prediction": ("action prediction", ("下一个可能点击的商品的标题是什么",)),
    "attribute prediction": ("action prediction", ("用户下一个可能点击的商品的",)),
    "long-term interest": ("interest perception", ("用户最感兴趣的3个",)),
    "short-term interest": ("interest perception", ("用户近期最感兴趣的",)),
    "interest trajectory": ("interest perception", ("偏好的转移路径是什么",)),
}
OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one user.

    Args:
        text: as it is asked.
        answer: the right one.
        options: what to choose from, the answer among them; empty for an open question.
        task: what kind it is; accuracy is told by task.
        user: for a knowledge store.
        time: what a knowledge store knew before it; None for the newest.
        history: item ids, the oldest first.
        conditions: name -> one value an event.
    """

    text: str
    answer: str
    options: tuple[str, ...] = ()
    task: str = OTHER
    user: str = ""
    time: float | None = None
    history: tuple[str, ...] = ()
    conditions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The group of a UQABench task; empty for others."""
        return TASKS[self.task][0] if self.task in TASKS else ""


def task_of(text: str) -> str:
    """The UQABench task that a question is of, by its template; ``"other"`` for a question of none.

    Example::

        >>> task_of("用户近期最感兴趣的类目是什么？")
        'short-term interest'
    """
    for task, (_, phrases) in TASKS.items():
        if any(phrase in text for phrase in phrases):
            return task
    return OTHER


def read_questions(path: str | Path, limit: int = 0) -> list[Question]:
    """Questions of a file of either form.

    Args:
        path: ``.arrow`` is read as UQABench's, everything else as JSON lines (``.gz`` too).
        limit: only the first so many; 0: all.

    Raises:
        DataError: the file is absent or of another form.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: is no file; name UQABench's align_data_*.arrow, or JSON lines of questions")
    reader = _read_uqabench if path.suffix == ".arrow" else _read_json_lines
    found = []
    for question in reader(path):
        found.append(question)
        if limit and len(found) == limit:
            break
    if not found:
        raise DataError(f"{path}: has no questions")
    return found


def _read_uqabench(path: Path) -> Iterator[Question]:
    frame = _read_columns(path, (ITEMS, TEXT))
    for row, (items, text) in enumerate(frame.iter_rows(), start=1):
        try:
            asked, answered = parse_json(text)[:2]
            question, answer = asked["content"], answered["content"]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}, row {row}, column {TEXT}: found {str(text)[:60]!r}, expected a JSON list of a user's and an "
                "assistant's message"
            ) from error
        if isinstance(answer, list):
            answer = answer[0] if answer else ""
        yield Question(
            text=question, answer=str(answer), task=task_of(question), history=_item_ids(items), user=str(row)
        )


def _item_ids(events: Any) -> tuple[str, ...]:
    """Ids as text of ``[[id], [id], ...]``; an event without an id is left out."""
    return tuple(str(event[0]) for event in events or () if event)


def _read_columns(path: Path, names: tuple[str, ...]) -> pl.DataFrame:
    try:
        schema = pl.read_ipc_schema(path)
        missing = [name for name in names if name not in schema]
        if missing:
            raise DataError(
                f"{path}: has no column '{missing[0]}', only {', '.join(schema)}; name one of UQABench's files"
            )
        if ITEMS in names and schema[ITEMS] not in (pl.List(pl.List(pl.Int64)), pl.List(pl.List(pl.Int32))):
            raise DataError(f"{path}: column {ITEMS} is {schema[ITEMS]}, expected a list of lists of integers")
        return pl.read_ipc(path, columns=list(names))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read as an Arrow file ({str(error).splitlines()[0]})") from error


def _read_json_lines(path: Path) -> Iterator[Question]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _parse_line(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from error


def _parse_line(line: str, where: str) -> Question:
    try:
        data = parse_json(line)
        question = Question(
            text=_text(data, "question"),
            answer=_text(data, "answer"),
            options=tuple(map(str, data.get("options") or ())),
            task=str(data.get("task") or task_of(data["question"])),
            user=str(data.get("user", "")),
            time=None if data.get("time") is None else float(data["time"]),
            history=tuple(map(str, data.get("history") or ())),
            conditions={name: tuple(map(str, values)) for name, values in (data.get("conditions") or {}).items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f'{where}: {error}; expected {{"question": "...", "answer": "...", "history": [...]}}'
        ) from error
    if question.options and question.answer not in question.options:
        raise DataError(f"{where}: answer {question.answer!r} is none of the options {list(question.options)}")
    for name, values in question.conditions.items():
        if len(values) != len(question.history):
            raise DataError(f"{where}: condition '{name}' has {len(values)} values for {len(question.history)} events")
    return question


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, (str, int, float)) or not str(value):
        raise ValueError(f"key '{key}' is {value!r}, expected text")
    return str(value)


def histories_of(questions: list[Question], items: Vocabulary, conditions: Mapping[str, Vocabulary]) -> Histories:
    """The questions' histories with the ids that an encoder learned; one user a question, in their order.

    Args:
        questions: Q questions.
        items: the encoder's items; others have id 0.
        conditions: the encoder's conditions; what a question does not say is unknown.

    Example::

        >>> asked = [Question(text="?", answer="a", history=("b", "x")), Question(text="?", answer="a")]
        >>> histories = histories_of(asked, Vocabulary.of(["a", "b"]), {"action": Vocabulary.of(["pv"])})
        >>> histories.items.tolist(), histories.lengths.tolist(), histories.conditions["action"].tolist()
        ([2, 0], [2, 0], [0, 0])
    """
    lengths = np.array([len(question.history) for question in questions], dtype=np.int64)
    total = int(lengths.sum())
    ids = {}
    for name, vocabulary in conditions.items():
        values = [value for q in questions for value in q.conditions.get(name, ("",) * len(q.history))]
        ids[name] = vocabulary.encode(values)
    return Histories(
        users=tuple(str(number) for number in range(len(questions))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=items.encode([item for question in questions for item in question.history]),
        times=np.zeros(total, dtype=np.int64),
        labels=np.ones(total, dtype=np.int8),
        conditions=ids,
    )


def write_events(path: str | Path, out: Path) -> tuple[int, int]:
    """Turn UQABench's ``pretrain_data_*.arrow`` into a file that the dataset ``taobao-userbehavior`` reads.

    A row becomes a user, named by its number; events keep their order as their time (the files have no clock), and
    are all page views. The item's category goes along where the file has it.

    Args:
        path: UQABench's file.
        out: CSV to write: user, item, category, action, time.

    Returns:
        Users and events written.

    Raises:
        DataError: the file is of another form, or ``out`` cannot be written.
    """
    from genrec_plugins.files import written_aside

    path = Path(path)
    category = "uni_seq_cate_id"
    names = (ITEMS, category) if path.is_file() and category in pl.read_ipc_schema(path) else (ITEMS,)
    events = (
        _read_columns(path, names)
        .with_row_index("user", offset=1)
        .explode(*names)
        .with_columns(pl.col(names).list.first())
        .drop_nulls(ITEMS)
        .select(
            "user",
            ITEMS,
            (pl.col(category) if category in names else pl.lit(0)).fill_null(0).alias("category"),
            pl.lit("pv").alias("action"),
            pl.int_range(pl.len()).over("user").alias("time"),
        )
    )
    if events.is_empty():
        raise DataError(f"{path}: has no events")
    with written_aside(out) as partial:
        events.write_csv(partial, include_header=False)
    return events["user"].n_unique(), events.height
