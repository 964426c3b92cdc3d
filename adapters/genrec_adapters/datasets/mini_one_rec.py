"""MiniOneRec's CSVs: a row is a target with the items before it. Rebuilds each user's events from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from genrec_adapters.datasets.delimited import TextFormat, scan_text
from genrec_adapters.datasets.row_checks import ROW, sound_rows
from genrec_registry.contracts import ErrorPolicy, SourceFile

_ROWS = TextFormat(
    label="",
    features=("user_id", "history_item_id", "item_id"),
    quote='"',
    required=frozenset({"user_id", "history_item_id", "item_id"}),
    row=ROW,
)
_LIST = r"^\[.*\]$"


def read_targets(sources: Sequence[SourceFile], policy: ErrorPolicy) -> pl.DataFrame:
    """User, item, time (the place in the user's events), label 1 and split of all users' events.

    A user's rows go together: the history of each ends with the user's items before it, and shows a fixed number of
    them at most. What comes before a user's first row is known from that row's history alone, and counts as training.

    Args:
        sources: files in time order: those of training rows first, of test rows last.
        policy: takes rows whose history is no list, or does not continue the user's earlier rows.

    Example::

        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        ...     _ = file.write('user_id,history_item_id,item_id\\nu,"[4, 2]",7\\nu,"[2, 7]",4\\n'), file.flush()
        ...     read_targets([SourceFile(path=file.name, split="valid")], ErrorPolicy()).rows()
        [('u', '4', 0, 1, 'train'), ('u', '2', 1, 1, 'train'), ('u', '7', 2, 1, 'valid'), ('u', '4', 3, 1, 'valid')]
    """
    users: dict[str, list[str]] = {}
    splits: dict[str, list[str]] = {}
    for source in sources:
        for row, user, history, item in _rows(source.path, policy):
            items = users.setdefault(user, [])
            if not items:
                items.extend(history)
                splits[user] = ["train"] * len(history)
            elif items[-len(history) :] != history:
                problem = f"found {str(history)[:40]}, expected the end of this user's items so far"
                policy.bad_row(source.path, row, "history_item_id", f"{problem} (..., {', '.join(items[-3:])})")
                continue
            items.append(item)
            splits[user].append(source.split or "train")
    frame = pl.DataFrame(
        {"user": list(users), "item": list(users.values()), "split": list(splits.values())},
        schema={"user": pl.String, "item": pl.List(pl.String), "split": pl.List(pl.String)},
    )
    time = pl.int_ranges(pl.col("item").list.len(), dtype=pl.Int64).alias("time")
    frame = frame.with_columns(time).explode("item", "time", "split")
    return frame.select("user", "item", "time", pl.lit(1, dtype=pl.Int8).alias("label"), "split")


def _rows(path: str, policy: ErrorPolicy) -> Iterator[tuple[int, str, list[str], str]]:
    """Row number, user, history and target."""
    history = pl.col("history_item_id").str.strip_chars()
    inner = history.str.strip_chars("[]").str.replace_all(r"['\"\s]", "")
    for chunk in scan_text(path, _ROWS, policy):
        good = history.str.contains(_LIST) & (inner != "") & ~inner.str.contains(r"^,|,,|,$")
        sound = sound_rows(
            chunk, good, policy, path=path, column="history_item_id", expected="a list of items, as [12, 7]"
        )
        yield from sound.select(ROW, "user_id", inner.str.split(","), "item_id").iter_rows()
