"""The server as a process: its end by SIGTERM, a new export under load over sockets, and the command's mistakes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from genrec_plugins.cli import main
from genrec_plugins.cli.serve import api_keys, settings_of
from genrec_plugins.serving.export import export_run
from genrec_plugins.serving.exported import Exported
from genrec_registry import ConfigError
from tests.plugins.serve_cases import put, row
from tests.plugins.serving_cases import arrow, raw_rows, trained

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def process(words: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and where it listens."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True, env=environment)
    assert server.stderr is not None
    lines: list[str] = []
    try:
        for line in server.stderr:
            lines.append(line)
            if found := re.search(r"http://\S+", line):
                break
        else:
            raise AssertionError("".join(lines))
        threading.Thread(target=lambda: lines.extend(server.stderr or ()), daemon=True).start()
        url = found.group()
        while _status(url) != 200:
            assert server.poll() is None, "".join(lines)
            time.sleep(0.05)
        yield server, url
    finally:
        server.kill()
        server.wait()


def _status(url: str) -> int:
    try:
        return httpx.get(f"{url}/health").status_code
    except httpx.TransportError:
        return 0


def ages(directory: Path, seconds: float) -> Any:
    return process(["-m", "tests.plugins.serve_ages", str(directory), str(seconds)])


def test_sigterm_finishes_what_is_in_flight(tmp_path: Path) -> None:
    put(tmp_path / "export", "a" * 64)
    with ages(tmp_path / "export", 0.2) as (server, url):

        def ask(age: int) -> tuple[int, list[float]]:
            answer = httpx.post(f"{url}/score", json={"rows": [row(age)]}, timeout=30)
            return answer.status_code, answer.json()["probabilities"]

        with ThreadPoolExecutor(8) as clients:
            asked = [clients.submit(ask, age) for age in range(8)]
            while "genrec_requests_in_flight 8.0" not in httpx.get(f"{url}/metrics").text:
                assert not any(one.done() for one in asked)
            server.send_signal(signal.SIGTERM)
            found = [one.result() for one in asked]
        assert [status for status, _ in found] == [200] * 8
        assert [scores[0] for _, scores in found] == pytest.approx([age / 100 for age in range(8)])
        assert server.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")


def test_a_new_export_over_sockets_drops_no_request(tmp_path: Path) -> None:
    put(tmp_path / "export", "a" * 64)
    with ages(tmp_path / "export", 0.001) as (_, url):
        stop = threading.Event()
        seen: list[str] = []

        def ask(age: int) -> int:
            count = 0
            with httpx.Client(timeout=30) as client:
                while not stop.is_set():
                    answer = client.post(f"{url}/score", json={"rows": [row(age)]})
                    assert answer.status_code == 200
                    assert answer.json()["probabilities"] == pytest.approx([age / 100])
                    seen.append(answer.json()["model"][0])
                    count += 1
            return count

        with ThreadPoolExecutor(6) as clients:
            asked = [clients.submit(ask, age) for age in range(6)]
            while not seen:
                assert not any(one.done() for one in asked)
            for digest in ("b", "broken", "c"):
                put(tmp_path / "export", digest if digest == "broken" else digest * 64)
                end = time.monotonic() + 30
                while time.monotonic() < end:
                    if digest == "broken" and "reload_error" in httpx.get(f"{url}/health").json():
                        break
                    if seen[-1:] == [digest]:
                        break
            stop.set()
            assert min(one.result() for one in asked) > 0
        assert sorted(set(seen)) == ["a", "b", "c"]
        assert seen[-1] == "c"


def run_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    with pytest.raises(SystemExit) as stopped:
        main.run(words)
    return stopped.value.code, capsys.readouterr().err


def test_mistakes_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, words = run_command(["serve", str(tmp_path / "none"), "--port", "0"], capsys)
    assert code == 4
    assert "is no exported model" in words
    assert "name the --to of 'genrec export'" in words
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, words = run_command(["serve", str(tmp_path), "--port", str(taken.getsockname()[1])], capsys)
    assert code == 6
    assert "cannot be listened at" in words
    code, words = run_command(["serve", str(tmp_path), "--set", "batch_row=1"], capsys)
    assert (code, "did you mean 'batch_rows'?" in words) == (2, True)
    code, words = run_command(["serve", str(tmp_path), "--knowledge", "ldmb"], capsys)
    assert (code, "expected lmdb" in words) == (2, True)


def test_limits_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(["batch_rows=7", "deadline_seconds=0.5"]).deadline_seconds == 0.5
    with pytest.raises(ConfigError, match="greater than or equal to 1"):
        settings_of(["batch_rows=0"])
    (tmp_path / "keys").write_text("# of today\n\n one \ntwo\n")
    assert api_keys(tmp_path / "keys") == ("one", "two")
    (tmp_path / "keys").write_text("# none\n")
    for path in (tmp_path / "keys", tmp_path / "absent"):
        with pytest.raises(ConfigError, match="--api-key-file"):
            api_keys(path)
    assert api_keys(None) == ()
    monkeypatch.setenv("GENREC_API_KEY", "three")
    assert api_keys(None) == ("three",)


@pytest.mark.long
def test_real_exports_take_over_under_load_and_drop_no_request(tmp_path: Path) -> None:
    """A link that is moved, and an export that is written anew in its place; each answer is its model's."""
    rows = raw_rows(8, seed=4)
    models = {"dot": "interaction: {type: dot}", "fat": "interaction: {type: fat, num_heads: 2}"}
    runs = {name: trained(tmp_path, name, model) for name, model in models.items()}
    expected = {}
    for name, run in runs.items():
        export_run(run, tmp_path / f"{name}-export", formats=())
        found = Exported.open(tmp_path / f"{name}-export")
        expected[found.digest] = found.score(arrow(rows))
    first, second = expected
    (tmp_path / "current").symlink_to("dot-export")
    body = {"rows": rows.drop("label").to_dicts()}
    stop, seen = threading.Event(), []

    def load() -> int:
        count = 0
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                answer = client.post(f"{url}/score", json=body)
                assert answer.status_code == 200, answer.text
                digest = answer.json()["model"]
                assert np.abs(np.array(answer.json()["probabilities"]) - expected[digest]).max() <= 1e-6
                seen.append(digest)
                count += 1
        return count

    def wait_for(digest: str) -> None:
        end = time.monotonic() + 60
        while seen[-1:] != [digest]:
            assert not any(one.done() for one in asked)
            assert time.monotonic() < end, f"{digest[:8]} does not take over"
            time.sleep(0.01)

    words = ["-m", "genrec_plugins.cli", "serve", str(tmp_path), "--port", "0", "--set", "watch_seconds=0.1"]
    words += ["--set", "deadline_seconds=60"]
    with process(words) as (_, url), ThreadPoolExecutor(6) as clients:
        asked = [clients.submit(load) for _ in range(6)]
        try:
            wait_for(first)
            for name, digest in [("fat", second), ("dot", first)] * 3:
                (tmp_path / "next").symlink_to(f"{name}-export")
                (tmp_path / "next").replace(tmp_path / "current")
                wait_for(digest)
            export_run(runs["fat"], tmp_path / "dot-export", formats=())  # in the place of the one that is served
            wait_for(second)
        finally:
            stop.set()
        assert min(one.result() for one in asked) > 0
    changes = [one for one, before in pairwise([*seen, ""]) if one != before]
    assert len(changes) >= 8
