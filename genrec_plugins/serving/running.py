"""An application under uvicorn, until SIGTERM, Ctrl-C, or its first model cannot be loaded. Torch-free."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from genrec_plugins.serving.settings import ServeSettings
from genrec_registry import SetupError

_log = logging.getLogger("genrec.serve")
_LOOK = 0.1
_KEEP_ALIVE = 60
_ENDS = (signal.SIGTERM, signal.SIGINT)


class _Server(uvicorn.Server):
    """uvicorn's own would raise the signal again when all is done, so that an orderly end looks like a killed one."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _ENDS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in _ENDS:
                loop.remove_signal_handler(number)


def run_server(
    app: Any, host: str, port: int, settings: ServeSettings, *, stop: Callable[[], bool] = lambda: False
) -> None:
    """Serve until told to end; requests in flight are finished.

    Args:
        app: the ASGI application.
        host: address to listen at.
        port: 0 for any free one.
        settings: has the limits of connections, and how long the end may take.
        stop: asked now and then whether to end.

    Raises:
        SetupError: the address is taken, or is none of this machine's.
    """
    config = uvicorn.Config(
        app,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
        timeout_keep_alive=_KEEP_ALIVE,
        access_log=False,
        log_config=None,
    )
    listening = listen(host, port)
    where = listening.getsockname()
    name = f"[{where[0]}]" if ":" in where[0] else where[0]
    _log.info("listening at http://%s:%s", name, where[1])
    with listening:
        asyncio.run(_until(_Server(config), listening, stop))


async def _until(server: _Server, listening: socket.socket, stop: Callable[[], bool]) -> None:
    async def look() -> None:
        while not stop():
            await asyncio.sleep(_LOOK)
        server.should_exit = True

    looking = asyncio.create_task(look())
    try:
        await server.serve(sockets=[listening])
    finally:
        looking.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: address, or its name.
        port: 0 for any free one.

    Raises:
        SetupError: the address is taken, or is none of this machine's.

    Example::

        >>> with listen("127.0.0.1", 0) as found:
        ...     found.getsockname()[1] > 0
        True
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(1024)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise SetupError(
            f"--host {host} --port {port}: cannot be listened at ({error.strerror or error}); name another port, or 0"
        ) from error
    return listening
