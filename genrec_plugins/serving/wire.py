"""Bodies of requests to tables of raw rows, and probabilities to bodies of answers. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrec_plugins.serving.problems import Problem
from genrec_plugins.serving.schema import RawColumn, RawSchema, RowError

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The rows of one request.

    Args:
        table: the model's raw columns, in the types of the training rows.
        leader: for each row, the row of this table whose history it has; None where each has its own.
    """

    table: pa.Table
    leader: NDArray[np.int64] | None = None

    @property
    def rows(self) -> int:
        """N."""
        return int(self.table.num_rows)


def rows_of(
    body: bytes, content_type: str, schema: RawSchema, *, max_rows: int, shared: frozenset[str] = frozenset()
) -> Asked:
    """The rows of a body.

    Args:
        body: JSON (``{"rows": [...]}``, or ``{"user": {...}, "candidates": [...]}``), or a stream of Arrow's.
        content_type: which of the two.
        schema: of the model that will score them.
        max_rows: more are refused.
        shared: columns of a history that is encoded once for all candidates of a user, where it is told in ``user``.

    Raises:
        Problem: the body is none of these (400), of another type (415), or a row is bad (422).
    """
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == ARROW:
            return Asked(table=_arrow(body, schema, max_rows))
        if kind == JSON:
            return _json(body, schema, max_rows, shared)
    except RowError as error:
        raise Problem.of_row(error) from error
    raise Problem(415, f"Content-Type is '{content_type}', expected {JSON} or {ARROW}")


def _arrow(body: bytes, schema: RawSchema, max_rows: int) -> pa.Table:
    batches, rows = [], 0
    try:
        with pa.ipc.open_stream(body) as reader:
            for batch in reader:
                rows += batch.num_rows
                _check_rows(rows, max_rows)
                batches.append(batch)
            given = pa.Table.from_batches(batches, reader.schema)
            _ = given.column_names  # which are decoded now, if they are text
    except (pa.ArrowException, OSError, ValueError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Problem(400, f"the body is no stream of Arrow's ({problem})") from error
    # as JSON rows come: all requests of a batch then have the same types
    return schema.frame(given).to_arrow().cast(pa.schema([(column.name, column.arrow) for column in schema.columns]))


def _json(body: bytes, schema: RawSchema, max_rows: int, shared: frozenset[str]) -> Asked:
    from pydantic_core import from_json

    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, f"the body is not JSON ({error})") from error
    keys = set(data) if isinstance(data, dict) else None
    if keys == {"rows"}:
        return Asked(table=schema.table(_list(data, "rows", max_rows)))
    if keys == {"user", "candidates"}:
        return _candidates(data, schema, max_rows, shared)
    found = type(data).__name__ if keys is None else f"the keys {sorted(keys)}"
    raise Problem(422, f'the body has {found}, expected {{"rows": [..]}} or {{"user": {{..}}, "candidates": [..]}}')


def _candidates(data: Mapping[str, Any], schema: RawSchema, max_rows: int, shared: frozenset[str]) -> Asked:
    user, candidates = data["user"], _list(data, "candidates", max_rows)
    if not isinstance(user, dict):
        raise Problem(422, f"'user' is {type(user).__name__}, expected an object with columns as keys")
    for row, candidate in enumerate(candidates):
        if isinstance(candidate, dict):
            both = user.keys() & candidate.keys()
            if both:
                column = min(both)
                raise Problem(422, "is told of the user and of the candidate; say it once", row=row, column=column)
        else:
            raise RowError(row, None, f"found {type(candidate).__name__}, expected an object with columns as keys")
    once = shared <= user.keys()
    told = {column.name: _user_value(column, user) for column in schema.columns if column.name in user}
    rest = RawSchema(
        columns=tuple(column for column in schema.columns if column.name not in user),
        label=schema.label,
        nulls=schema.nulls,
    )
    if not candidates:
        return Asked(table=schema.table([]))
    given = rest.table(candidates)
    arrays = []
    for column in schema.columns:
        if column.name not in told:
            arrays.append(given.column(column.name))
        elif once and column.name in shared:
            none = pa.nulls(len(candidates) - 1, type=column.arrow)
            arrays.append(pa.chunked_array([told[column.name], none]))
        else:
            arrays.append(pa.repeat(told[column.name][0], len(candidates)))
    table = pa.Table.from_arrays(arrays, names=[column.name for column in schema.columns])
    leader = np.zeros(len(candidates), dtype=np.int64) if once and shared else None
    return Asked(table=table, leader=leader)


def _user_value(column: RawColumn, user: Mapping[str, Any]) -> pa.Array:
    """The one value, as an array; a bad one is no row's."""
    try:
        one = RawSchema(columns=(column,), label="").table([user])
    except RowError as error:
        raise RowError(None, column.name, f"of the user: {error.problem}") from None
    return one.column(0).combine_chunks()


def _list(data: Mapping[str, Any], key: str, max_rows: int) -> list[Any]:
    rows = data[key]
    if not isinstance(rows, list):
        raise Problem(422, f"'{key}' is {type(rows).__name__}, expected a list of objects")
    _check_rows(len(rows), max_rows)
    return rows


def _check_rows(found: int, most: int) -> None:
    if found > most:
        raise Problem(422, f"the request has {found:,} rows or more, expected at most {most:,}; send several requests")


def answer_type(accept: str | None) -> str:
    """JSON or Arrow, whichever an ``Accept`` header likes better; JSON where it likes both.

    Args:
        accept: the header; None if there is none.

    Raises:
        Problem: it likes neither (406).

    Example::

        >>> answer_type(None), answer_type("application/vnd.apache.arrow.stream, application/json;q=0.5")
        ('application/json', 'application/vnd.apache.arrow.stream')
    """
    if accept is None:
        return JSON
    liking = {JSON: 0.0, ARROW: 0.0}
    exact: set[str] = set()
    for part in accept.split(","):
        name, _, rest = part.partition(";")
        name = name.strip().lower()
        found = re.search(r"\bq\s*=\s*([0-9.]{1,10})", rest)
        try:
            quality = float(found.group(1)) if found else 1.0
        except ValueError:
            quality = 0.0
        for known, before in liking.items():
            if name == known:
                liking[known] = quality
                exact.add(known)
            elif name in ("*/*", "application/*") and known not in exact:
                liking[known] = max(before, quality)
    best = max(liking.values())
    if best <= 0:
        raise Problem(406, f"Accept is '{accept}', expected {JSON} or {ARROW}")
    return ARROW if liking[JSON] < best else JSON


def answer_body(probabilities: NDArray[np.float32], model: str, kind: str) -> bytes:
    """Probabilities as a body.

    Args:
        probabilities: ``[N]``.
        model: digest of the model that gave them.
        kind: what :func:`answer_type` said.

    Example::

        >>> answer_body(np.array([0.5], dtype=np.float32), "abc", JSON)
        b'{"probabilities":[0.5],"model":"abc"}'
    """
    if kind == JSON:
        from pydantic_core import to_json

        return to_json({"probabilities": probabilities.tolist(), "model": model})
    field = pa.schema([pa.field("probability", pa.float32(), nullable=False)], metadata={"model": model})
    table = pa.Table.from_arrays([pa.array(probabilities)], schema=field)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, field) as writer:
        writer.write_table(table)
    body: bytes = sink.getvalue().to_pybytes()
    return body
