"""The server over a real exported model: the same scores, its OpenAPI, and its memory."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import psutil
import pyarrow as pa
import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json
from schemathesis.engine import events, from_schema
from schemathesis.python import asgi

from genrec_plugins.serving.export import export_run
from genrec_plugins.serving.exported import Exported
from genrec_plugins.serving.served import Served
from genrec_plugins.serving.server import create_app
from genrec_plugins.serving.settings import ServeSettings
from genrec_plugins.serving.wire import ARROW, rows_of
from tests.plugins.serve_cases import Ages, row, served
from tests.plugins.serving_cases import arrow, raw_rows, trained
from tests.plugins.test_serve_http import arrow_body, run
from tests.plugins.test_serve_process import process, run_command

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = trained(tmp_path_factory.mktemp("serve"), "run", "interaction: {type: fat, num_heads: 2}")
    export_run(found, found.parent / "exported", formats=())
    return found.parent / "exported"


@pytest.fixture(scope="module")
def exported(directory: Path) -> Exported:
    return Exported.open(directory)


@pytest.fixture(scope="module")
def model(directory: Path) -> Served:
    return Served.open(directory)


def records(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return frame.drop("label").to_dicts()


def test_json_and_arrow_score_as_the_export_does(model: Served, exported: Exported) -> None:
    frame = raw_rows(60, seed=3)
    expected = exported.score(arrow(frame))
    assert expected.std() > 0.01

    async def main() -> None:
        async with served(model=model) as client:
            answer = await client.post("/score", json={"rows": records(frame)})
            assert np.abs(np.array(answer.json()["probabilities"]) - expected).max() <= TOLERANCE
            assert answer.json()["model"] == exported.digest
            answer = await client.post(
                "/score", content=arrow_body(arrow(frame)), headers={"Content-Type": ARROW, "Accept": ARROW}
            )
            found = pa.ipc.open_stream(answer.content).read_all()["probability"].to_numpy()
            assert np.abs(found - expected).max() <= TOLERANCE

    run(main())


_TEXT = st.none() | st.text(max_size=6) | st.sampled_from(["red", "t1", "w1 w2"])
_INTEGER = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 40)
_DECIMAL = st.none() | st.floats(-1e6, 1e6) | st.integers(-9, 9)
_ROWS = st.fixed_dictionaries(
    {
        "colour": _TEXT,
        "shop": _INTEGER,
        "title": _TEXT,
        "age": _INTEGER,
        "tags": st.none() | st.lists(_TEXT, max_size=4),
        "seen": st.none() | st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), max_size=4),
        "when": _INTEGER,
        "price": _DECIMAL,
        "image": st.none() | st.lists(st.floats(-9, 9), min_size=3, max_size=3),
    }
)


@settings(max_examples=40, deadline=None)
@given(requests=st.lists(st.lists(_ROWS, min_size=1, max_size=4), min_size=1, max_size=5), data=st.data())
def test_any_rows_in_any_batch_score_as_the_export_does(
    model: Served, exported: Exported, requests: list[list[dict[str, Any]]], data: st.DataObject
) -> None:
    """Requests of JSON and Arrow in one batch; Arrow's tables have types of their own."""
    asked = []
    for rows in requests:
        body, kind = to_json({"rows": rows}), "application/json"
        if data.draw(st.booleans()):
            given = exported.schema.table(rows)
            names = data.draw(st.permutations(given.column_names))
            given = given.select(names)
            if data.draw(st.booleans()):
                given = given.cast(pa.schema([_wider(field) for field in given.schema]))
            body, kind = arrow_body(given), ARROW
        asked.append(rows_of(body, kind, exported.schema, max_rows=100))
    found = model.score(asked)
    expected = exported.score(exported.schema.table([one for rows in requests for one in rows]))
    assert np.abs(found - expected).max() <= TOLERANCE


def _wider(field: pa.Field) -> pa.Field:
    return pa.field(field.name, {pa.string(): pa.large_string()}.get(field.type, field.type))


def test_a_row_without_a_finite_score_is_refused(model: Served) -> None:
    rows = records(raw_rows(3))
    rows[1]["image"] = [1e38, -1e38, 3e38]  # fits into float32, and its products do not

    async def main() -> None:
        async with served(model=model) as client:
            answer = await client.post("/score", json={"rows": rows})
            assert (answer.status_code, answer.json()["row"]) == (422, 1)
            assert "no finite score" in answer.json()["error"]

    run(main())


def test_concurrent_requests_get_their_own_scores(model: Served, exported: Exported) -> None:
    frame = raw_rows(300, seed=9)
    expected = exported.score(arrow(frame))
    rows = records(frame)
    ends = np.random.default_rng(0).choice(np.arange(1, 300), 80, replace=False)
    parts = np.split(np.arange(300), np.sort(ends))

    async def main() -> None:
        async with served(model=model, batch_rows=64) as client:

            async def one(part: np.ndarray) -> None:
                answer = await client.post("/score", json={"rows": [rows[index] for index in part]})
                assert np.abs(np.array(answer.json()["probabilities"]) - expected[part]).max() <= TOLERANCE

            await asyncio.gather(*map(one, parts))
            text = (await client.get("/metrics")).text
            batches = float(text.split("genrec_batch_rows_count ")[1].split()[0])
            assert batches < len(parts)

    run(main())


@pytest.fixture(scope="module")
def app(directory: Path) -> Iterator[Any]:
    app = create_app(directory, Served.open, ServeSettings(watch_seconds=0), keys=["k"])
    with asgi.get_client(app) as client:
        while client.get("http://testserver/health").status_code != 200:
            time.sleep(0.02)
    yield app
    asgi.shutdown_lifespans()


def _fuzz(app: Any, examples: int) -> None:
    """All phases of Schemathesis but the stateful one: no answer of the server is another request's input."""
    config = schemathesis.Config.from_dict(
        {
            "headers": {"X-API-Key": "k"},
            "generation": {"max-examples": examples},
            "phases": {"stateful": {"enabled": False}},
            # bytes that are no Arrow, and candidates without a column, are good by the schema and bad by their meaning
            "checks": {"positive_data_acceptance": {"enabled": False}},
        }
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers={"X-API-Key": "k"})
    passed: Counter[tuple[str, str]] = Counter()
    problems = []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            problems.append(repr(event))
        if not isinstance(event, events.ScenarioFinished):
            continue
        for label, checks in event.recorder.checks.items():
            for check in checks:
                passed[event.recorder.label, check.name] += check.failure_info is None
                if check.failure_info is not None:
                    body = event.recorder.cases[label].value.body
                    problems.append(f"{event.recorder.label} {check.failure_info.failure} {body!r:.500}")
    assert problems == []
    for path, routes in schema.raw_schema["paths"].items():
        for method, route in routes.items():
            # Without a body, a parameter or a key there is one request to make.
            floor = examples if {"requestBody", "parameters", "security"} & set(route) else 1
            for name in (
                "not_a_server_error",
                "response_schema_conformance",
                "negative_data_rejection",
                "ignored_auth",
            ):
                assert passed[f"{method.upper()} {path}", name] >= floor, (path, name, passed)


def test_schemathesis(app: Any) -> None:
    _fuzz(app, 10)


@pytest.mark.long
def test_schemathesis_at_length(app: Any) -> None:
    _fuzz(app, 500)


async def _grown(client: Any, bodies: list[bytes], requests: int) -> float:
    """MiB that the process grew by over so many requests, after as many."""

    async def one(number: int) -> None:
        answer = await client.post("/score", content=bodies[number % len(bodies)])
        assert answer.status_code in (200, 400, 422)

    async def several() -> float:
        for start in range(0, requests, 20):
            await asyncio.gather(*(one(start + place) for place in range(20)))
        gc.collect()
        return float(psutil.Process().memory_info().rss / 2**20)

    client.headers["Content-Type"] = "application/json"
    before = await several()
    return await several() - before


def test_memory_of_the_server_is_steady() -> None:
    good = [to_json({"rows": [row(age)] * 30}) for age in range(20)]
    bodies = [*good, to_json({"rows": [row(1)] * 29 + [row(99)]}), b'{"rows":']

    async def main() -> float:
        async with served(model=Ages(), batch_rows=64) as client:
            return await _grown(client, bodies, 1500)

    assert run(main()) < 3  # each body has 1.2 KiB, its table and its answer about as much again


@pytest.mark.long
def test_memory_of_a_model_is_steady(model: Served) -> None:
    rows = records(raw_rows(64, seed=5))
    bodies = [to_json({"rows": rows[start:]}) for start in range(48)]
    bodies.append(to_json({"rows": [*rows[:3], rows[3] | {"price": "x"}]}))

    async def main() -> float:
        async with served(model=model, batch_rows=256, deadline_seconds=60) as client:
            return await _grown(client, bodies, 5000)

    assert asyncio.run(main()) < 16


@pytest.mark.slow
def test_the_command_serves_a_real_export(
    directory: Path, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = run_command(["serve", str(directory), "--check"], capsys)
    assert not code
    (tmp_path / "current").symlink_to(directory)
    (tmp_path / "keys").write_text("k\n")
    words = [
        "-m",
        "genrec_plugins.cli",
        "serve",
        str(tmp_path),
        "--port",
        "0",
        "--api-key-file",
        str(tmp_path / "keys"),
    ]
    with process(words) as (server, url):
        assert httpx.post(f"{url}/score", json={"rows": []}).status_code == 401
        headers = {"X-API-Key": "k"}
        columns = httpx.get(f"{url}/schema", headers=headers).json()["row"]["required"]
        rows = [dict.fromkeys(columns), *records(raw_rows(3))]
        answer = httpx.post(f"{url}/score", json={"rows": rows}, headers=headers, timeout=30)
        expected = exported.score(exported.schema.table(rows))
        assert np.abs(np.array(answer.json()["probabilities"]) - expected).max() <= TOLERANCE
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
