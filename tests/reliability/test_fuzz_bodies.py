"""Damaged bodies of requests: rows, or a problem that is told to the client; never an exception of another kind."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import strategies as st

from genrec_plugins.serving.problems import Problem
from genrec_plugins.serving.schema import RawColumn, RawSchema
from genrec_plugins.serving.wire import ARROW, JSON, rows_of
from tests.reliability.mutations import as_json, changed, damaged
from tests.reliability.test_fuzz_rows import fuzz

SCHEMA = RawSchema(
    columns=(
        RawColumn(name="city", kind="string", values="text"),
        RawColumn(name="age", kind="number", values="integer"),
        RawColumn(name="price", kind="number", values="decimal"),
        RawColumn(name="seen", kind="list", values="text"),
        RawColumn(name="times", kind="list", values="integer"),
    ),
    label="y",
    nulls=("?",),
)
ROW: dict[str, Any] = {"city": "Ulm", "age": 7, "price": 2.5, "seen": ["a", "b"], "times": [1, 2]}
BODIES: dict[str, dict[str, Any]] = {
    "rows": {"rows": [ROW, {**dict.fromkeys(ROW), "seen": []}]},
    "candidates": {
        "user": {"seen": ["a", "b"], "times": [1, 2]},
        "candidates": [{"city": "Ulm", "age": 7, "price": 2.5}, {"city": None, "age": None, "price": None}],
    },
}


def read(body: bytes, kind: str) -> int:
    asked = rows_of(body, kind, SCHEMA, max_rows=100, shared=frozenset(("seen", "times")))
    assert 0 <= asked.rows <= 100
    return asked.rows


def arrow() -> bytes:
    table = SCHEMA.table(BODIES["rows"]["rows"])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def arrow_holds(examples: int) -> None:
    sound = arrow()
    assert read(sound, ARROW) == 2

    def check(data: st.DataObject) -> None:
        damage = data.draw(damaged(sound))
        with suppress(Problem):
            read(damage, ARROW)

    fuzz(examples, check)


def json_holds(name: str, examples: int) -> None:
    sound = BODIES[name]
    text = json.dumps(sound).encode()
    assert read(text, JSON) == 2

    def check(data: st.DataObject) -> None:
        damage = data.draw(damaged(text)) if data.draw(st.booleans()) else as_json(data.draw(changed(sound)))
        with suppress(Problem):
            read(damage, JSON)

    fuzz(examples, check)


def test_arrow() -> None:
    arrow_holds(200)


def test_a_name_that_is_not_text() -> None:
    with pytest.raises(Problem, match="the body is no stream of Arrow's"):
        read(arrow().replace(b"city", b"\x80ity"), ARROW)


@pytest.mark.parametrize("name", BODIES)
def test_json(name: str) -> None:
    json_holds(name, 100)


@pytest.mark.long
def test_arrow_long() -> None:
    arrow_holds(20_000)


@pytest.mark.long
@pytest.mark.parametrize("name", BODIES)
def test_json_long(name: str) -> None:
    json_holds(name, 5_000)
