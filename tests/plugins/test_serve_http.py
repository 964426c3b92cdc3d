"""The server over a model without torch: bodies, limits, keys, batches, overload, deadlines, reload."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from genrec_plugins.serving.settings import ServeSettings
from genrec_plugins.serving.wire import ARROW, JSON
from tests.plugins.serve_cases import Ages, put, row, served


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def arrow_body(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_json_and_arrow_in_and_out() -> None:
    async def main() -> None:
        async with served(model=Ages()) as client:
            rows = [row(5), row(None, None, None), row(50, "Rom", ["a", None])]
            answer = await client.post("/score", json={"rows": rows})
            assert answer.status_code == 200
            assert answer.headers["x-model"] == "0" * 64
            assert answer.json()["probabilities"] == pytest.approx([0.05, 0.0, 0.5])
            # other integers, dictionary text, and lists of another kind: Arrow's types are many
            table = pa.table(
                {
                    "seen": pa.array([["a"], None], pa.large_list(pa.large_string())),
                    "age": pa.array([7, 8], pa.int16()),
                    "city": pa.array(["Ulm", None]).dictionary_encode(),
                    "further": [1, 2],
                }
            )
            answer = await client.post(
                "/score", content=arrow_body(table), headers={"Content-Type": ARROW, "Accept": ARROW}
            )
            assert answer.headers["content-type"] == ARROW
            found = pa.ipc.open_stream(answer.content).read_all()
            assert found["probability"].to_pylist() == pytest.approx([0.07, 0.08])
            assert found.schema.field("probability").type == pa.float32()
            for empty in ({"rows": []}, {"user": {"city": "Ulm"}, "candidates": []}):
                assert (await client.post("/score", json=empty)).json()["probabilities"] == []

    run(main())


def test_candidates_are_rows_with_the_users_columns() -> None:
    async def main() -> None:
        async with served(model=Ages()) as client:
            body = {"user": {"city": "Ulm", "seen": ["a"]}, "candidates": [{"age": 3}, {"age": 4}]}
            assert (await client.post("/score", json=body)).json()["probabilities"] == pytest.approx([0.03, 0.04])
            body = {"user": {"city": "Ulm", "seen": ["a"]}, "candidates": [{"age": 3}, {"age": 4, "city": "Rom"}]}
            twice = await client.post("/score", json=body)
            assert twice.status_code == 422
            assert (twice.json()["row"], twice.json()["column"]) == (1, "city")
            bad = await client.post("/score", json={"user": {"city": 1.5, "seen": []}, "candidates": [{"age": 3}]})
            assert bad.status_code == 422
            assert (bad.json()["row"], bad.json()["column"]) == (None, "city")
            assert "of the user: found 1.5" in bad.json()["error"]

    run(main())


BAD: list[tuple[Any, dict[str, str], int, str]] = [
    (b"", {}, 400, "not JSON"),
    (b"{", {}, 400, "not JSON"),
    (b'{"rows": [{"age": NaN}]}', {}, 400, "not JSON"),
    (b"[" * 1900, {}, 400, "not JSON"),
    (b"[]", {}, 422, "has list"),
    (b'{"rows": 1}', {}, 422, "'rows' is int"),
    (b'{"rows": [1]}', {}, 422, "row 0: found int"),
    (b'{"row": []}', {}, 422, "['row']"),
    (b'{"user": [], "candidates": []}', {}, 422, "'user' is list"),
    (b'{"user": {}, "candidates": [[]]}', {}, 422, "row 0: found list"),
    (json.dumps({"rows": [row(1), {"city": "Ulm", "seen": []}]}).encode(), {}, 422, "row 1, column age: is missing"),
    (json.dumps({"rows": [row(1), row(2) | {"age": "x"}]}).encode(), {}, 422, "row 1, column age: found 'x'"),
    (json.dumps({"rows": [row(1), row(99)]}).encode(), {}, 422, "row 1, column age: found 99"),
    (b"no", {"Content-Type": ARROW}, 400, "no stream of Arrow's"),
    (b"no", {"Content-Type": "text/csv"}, 415, "text/csv"),
    (b"{}", {"Content-Encoding": "gzip"}, 415, "gzip"),
    (b"{}", {"Accept": "text/html"}, 406, "text/html"),
    (b"x" * 3000, {}, 413, "longer than 2,000"),
    (json.dumps({"rows": [row(1)] * 11}).encode(), {}, 422, "at most 10"),
]


@pytest.mark.parametrize(("body", "headers", "status", "words"), BAD, ids=range(len(BAD)))
def test_bad_requests_are_told_why(body: bytes, headers: dict[str, str], status: int, words: str) -> None:
    async def main() -> None:
        async with served(model=Ages(), max_body_bytes=2000, max_request_rows=10) as client:
            answer = await client.post("/score", content=body, headers={"Content-Type": JSON} | headers)
            assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text

    run(main())


def test_a_long_body_without_its_length_is_refused_while_it_comes() -> None:
    async def parts() -> Any:
        for _ in range(1000):
            yield b"x" * 1000

    async def main() -> None:
        async with served(model=Ages(), max_body_bytes=2000) as client:
            answer = await client.post("/score", content=parts(), headers={"Content-Type": JSON})
            assert answer.status_code == 413

    run(main())


def test_keys() -> None:
    async def main() -> None:
        async with served(model=Ages(), keys=["old", "new"]) as client:
            body = {"rows": [row(1)]}
            for path in ("/metrics", "/schema", "/openapi.json"):
                assert (await client.get(path)).status_code == 401
            for headers in ({}, {"X-API-Key": "ol"}, {"X-API-Key": ""}, {"Authorization": "Bearer no"}):
                assert (await client.post("/score", json=body, headers=headers)).status_code == 401
                assert (await client.post("/reload", headers=headers)).status_code == 401
            for headers in ({"X-API-Key": "old"}, {"X-API-Key": "new"}, {"Authorization": "Bearer new"}):
                assert (await client.post("/score", json=body, headers=headers)).status_code == 200
            assert (await client.get("/health")).json()["status"] == "ready"
            same = await client.post("/reload", headers={"X-API-Key": "new"})
            assert same.json() == {"changed": False, "model": "0" * 64}
        async with served(model=Ages()) as client:
            assert (await client.post("/reload")).status_code == 403

    run(main())


def test_requests_are_mixed_and_each_gets_its_own() -> None:
    model = Ages(seconds=0.01)

    async def one(client: Any, first: int) -> None:
        ages = [first % 90, (first * 7) % 90, (first * 3) % 90][: 1 + first % 3]
        answer = await client.post("/score", json={"rows": [row(age) for age in ages]})
        assert answer.json()["probabilities"] == pytest.approx([age / 100 for age in ages])

    async def bad(client: Any, age: int, status: int) -> None:
        answer = await client.post("/score", json={"rows": [row(1), row(age)]})
        assert answer.status_code == status
        if status == 422:  # counted within its own request, not in the batch
            assert answer.json()["row"] == 1

    async def main() -> None:
        async with served(model=model, batch_rows=16) as client:
            good = [one(client, first) for first in range(150)]
            await asyncio.gather(*good, *(bad(client, 99, 422) for _ in range(3)), bad(client, 98, 500))
            text = (await client.get("/metrics")).text
            assert 'genrec_requests_total{status="200"} 150.0' in text
            assert 'genrec_requests_total{status="422"} 3.0' in text
            assert f"genrec_rows_total {sum(1 + first % 3 for first in range(150))}.0" in text

    run(main())
    assert max(len(batch) for batch in model.batches) > 3
    assert max(sum(batch) for batch in model.batches) <= 16


def test_a_lone_request_does_not_wait_for_others() -> None:
    async def main() -> None:
        async with served(model=Ages(), batch_wait_ms=20_000) as client:
            assert (await client.post("/score", json={"rows": [row(1)]})).status_code == 200

    run(main())


def test_overload_is_shed_and_passes() -> None:
    async def main() -> None:
        model = Ages(seconds=0.02)
        async with served(
            model=model, batch_rows=4, queue_rows=8, max_request_rows=8, max_requests=40, deadline_seconds=20
        ) as client:
            answers = await asyncio.gather(*(client.post("/score", json={"rows": [row(3)] * 2}) for _ in range(100)))
            found = [answer.status_code for answer in answers]
            assert set(found) == {200, 503}
            assert 4 <= found.count(200) < 60
            for answer in answers:
                if answer.status_code == 503:
                    assert int(answer.headers["retry-after"]) >= 1
                else:
                    assert answer.json()["probabilities"] == pytest.approx([0.03] * 2)
            service = client.app.state.service  # type: ignore[attr-defined]
            assert (service.requests, service.batcher.waiting_rows, service._pending_bytes) == (0, 0, 0)
            assert (await client.post("/score", json={"rows": [row(3)]})).status_code == 200

    run(main())


def test_clients_that_do_not_mind_a_refusal_are_held_back() -> None:
    """Else they come back at once, and their refusals take the time of those who are answered."""

    async def main() -> None:
        async with served(model=Ages(seconds=0.6), max_requests=1, refusal_wait_ms=100) as client:
            holding = asyncio.create_task(client.post("/score", json={"rows": [row(3)]}))
            await asyncio.sleep(0.1)
            refused = 0
            while not holding.done():
                if (await client.post("/score", json={"rows": [row(4)]})).status_code == 503:
                    refused += 1
            assert (await holding).status_code == 200
            assert 1 <= refused <= 6

    run(main())


def test_waiting_that_would_take_too_long_is_refused_at_once() -> None:
    async def main() -> None:
        async with served(model=Ages(seconds=0.2), batch_rows=1, deadline_seconds=0.5) as client:
            first = await client.post("/score", json={"rows": [row(3)]})
            answers = await asyncio.gather(*(client.post("/score", json={"rows": [row(3)]}) for _ in range(8)))
            assert first.status_code == 200
            found = {answer.status_code for answer in answers}
            assert 503 in found
            assert 200 in found

    run(main())


def test_bytes_in_the_house_are_bounded() -> None:
    async def slow() -> Any:
        yield b"x" * 900
        await asyncio.sleep(0.3)

    async def main() -> None:
        async with served(model=Ages(), max_body_bytes=1000, max_pending_bytes=1000) as client:
            holding = asyncio.create_task(client.post("/score", content=slow()))
            await asyncio.sleep(0.1)
            assert (await client.post("/score", json={"rows": [row(3)] * 5})).status_code == 503
            assert (await holding).status_code == 400
            assert (await client.post("/score", json={"rows": [row(3)] * 5})).status_code == 200

    run(main())


def test_deadlines() -> None:
    async def slow() -> Any:
        yield b"{"
        await asyncio.sleep(5)

    async def main() -> None:
        async with served(model=Ages(), deadline_seconds=0.15) as client:
            late = await client.post("/score", json={"rows": [row(97)]})
            assert late.status_code == 504
            assert (await client.post("/score", content=slow())).status_code == 408
            assert (await client.post("/score", json={"rows": [row(3)]})).status_code == 200

    run(main())


def test_settings_that_contradict_each_other() -> None:
    for bad in ({"knowledge": "ldmb"}, {"max_pending_bytes": 5}, {"queue_rows": 5}):
        with pytest.raises(ValidationError):
            ServeSettings(**bad)


# -- reload -----------------------------------------------------------------------------------------------------------


def test_a_new_export_takes_over_under_load_without_a_dropped_request(tmp_path: Path) -> None:
    export = tmp_path / "export"
    put(export, "a" * 64)

    async def main() -> None:
        async with served(export, watch_seconds=0.02, batch_rows=8) as client:
            seen: list[str] = []
            stop = False

            async def load(number: int) -> None:
                while not stop:
                    answer = await client.post("/score", json={"rows": [row(number)]})
                    assert answer.status_code == 200
                    assert answer.json()["probabilities"] == pytest.approx([number / 100])
                    seen.append(answer.json()["model"])

            clients = [asyncio.create_task(load(number)) for number in range(8)]
            for digest in ("b", "c", "d"):
                await asyncio.sleep(0.1)
                put(export, digest * 64)
                while seen[-1:] != [digest * 64]:
                    await asyncio.sleep(0.01)
            stop = True
            await asyncio.gather(*clients)
            changes = [one for one, before in zip(seen, ["", *seen], strict=False) if one != before]
            assert {one[0] for one in changes} == set("abcd")

    run(main())


def test_a_broken_export_keeps_the_old_one_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    put(first, "a" * 64)
    put(second, "broken")
    link = tmp_path / "current"
    link.symlink_to("1")

    async def main() -> None:
        async with served(tmp_path, keys=["k"], watch_seconds=0) as client:
            client.headers["X-API-Key"] = "k"
            assert (await client.post("/reload")).json() == {"changed": False, "model": "a" * 64}
            for digest in ("broken", "untried"):
                put(second, digest)
                link.unlink()
                link.symlink_to("2")
                refused = await client.post("/reload")
                assert refused.status_code == 409
                health = await client.get("/health")
                assert health.status_code == 200
                assert health.json()["model"] == "a" * 64
                assert health.json()["reload_error"]["error"] == refused.json()["error"]
                assert (await client.post("/score", json={"rows": [row(3)]})).json()["model"] == "a" * 64
            assert "cannot be served" in caplog.text
            put(second, "b" * 64)
            assert (await client.post("/reload")).json() == {"changed": True, "model": "b" * 64}
            assert "reload_error" not in (await client.get("/health")).json()
            text = (await client.get("/metrics")).text
            for outcome, count in (("failed", 2), ("same", 1), ("ok", 2)):
                assert f'genrec_reloads_total{{outcome="{outcome}"}} {count}.0' in text

    run(main())


def test_not_ready_until_a_model_is_loaded(tmp_path: Path) -> None:
    export = tmp_path / "export"

    async def main() -> None:
        put(export, "broken")
        async with served(export, watch_seconds=0.02) as client:
            health = await client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "failed")
            refused = await client.post("/score", json={"rows": []})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert (await client.get("/schema")).status_code == 503
            put(export, "c" * 64)
            while (await client.get("/health")).status_code == 503:
                await asyncio.sleep(0.01)
            schema = (await client.get("/schema")).json()
            assert schema["row"]["required"] == ["city", "age", "seen"]
            assert (await client.get(schema["openapi"])).json()["openapi"].startswith("3.1")

    run(main())


def test_rows_of_the_old_model_are_scored_by_the_old_model() -> None:
    """Both wait in one queue; a batch must not mix them."""
    old, new = Ages(seconds=0.05), Ages()
    new.digest = "1" * 64

    async def main() -> None:
        async with served(model=old) as client:
            models = client.app.state.models  # type: ignore[attr-defined]
            asked = [asyncio.create_task(client.post("/score", json={"rows": [row(1)]})) for _ in range(4)]
            await asyncio.sleep(0.03)
            models.current = new
            asked += [asyncio.create_task(client.post("/score", json={"rows": [row(1)]})) for _ in range(4)]
            answers = await asyncio.gather(*asked)
            assert [answer.json()["model"][0] for answer in answers] == list("00001111")

    run(main())
    assert sum(map(sum, old.batches)) == 4
    assert sum(map(sum, new.batches)) == 4


def test_scores_are_exact_float32() -> None:
    async def main() -> None:
        async with served(model=Ages()) as client:
            answer = await client.post("/score", json={"rows": [row(age) for age in range(90)]})
            found = np.array(answer.json()["probabilities"], dtype=np.float32)
            assert (found == (np.arange(90) / 100).astype(np.float32)).all()

    run(main())
