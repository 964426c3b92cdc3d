"""A model without torch, and an application over it in this process, for the tests of the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from genrec_plugins.serving.schema import RawColumn, RawSchema, RowError
from genrec_plugins.serving.server import create_app
from genrec_plugins.serving.settings import ServeSettings
from genrec_plugins.serving.wire import Asked
from genrec_registry import DataError

SCHEMA = RawSchema(
    columns=(
        RawColumn(name="city", kind="string", values="text", fields=("city",)),
        RawColumn(name="age", kind="number", values="integer", fields=("age",)),
        RawColumn(name="seen", kind="list", values="text", fields=("seen",)),
    ),
    label="y",
)


def row(age: int | None, city: str | None = "Ulm", seen: Sequence[str] | None = ()) -> dict[str, Any]:
    """A raw row, whose score is its age in percent."""
    return {"city": city, "age": age, "seen": None if seen is None else list(seen)}


class Ages:
    """Scores of rows by their age; one of 99 is refused, one of 98 is a bug, one of 97 takes long.

    Args:
        directory: has a file ``digest`` in the place of an export, and ``broken`` if it is none.
    """

    shared: frozenset[str] = frozenset()
    history = "none"

    def __init__(self, directory: Path | None = None, seconds: float = 0.0) -> None:
        if directory is not None and "broken" in (directory / "export.json").read_text():
            raise DataError(f"{directory}: is broken")
        self.digest = "0" * 64 if directory is None else (directory / "export.json").read_text()
        self.schema = SCHEMA
        self.loaded_at = time.time()
        self.seconds = seconds
        self.batches: list[list[int]] = []

    def score(self, asked: Sequence[Asked]) -> np.ndarray:
        self.batches.append([one.rows for one in asked])
        ages = np.array(pa.concat_tables([one.table for one in asked])["age"].fill_null(0).to_pylist())
        time.sleep(self.seconds + 0.3 * (ages == 97).any())
        if (ages == 99).any():
            place = int((ages == 99).argmax())
            raise RowError(place, "age", "found 99, expected less")
        if (ages == 98).any():
            raise ZeroDivisionError
        return (ages / 100).astype(np.float32)

    def try_out(self) -> None:
        if "untried" in self.digest:
            raise DataError("cannot score")


def put(directory: Path, digest: str) -> None:
    """An export that :class:`Ages` opens, put in place at once."""
    directory.mkdir(exist_ok=True)
    partial = directory / ".partial"
    partial.write_text(digest)
    partial.replace(directory / "export.json")


@asynccontextmanager
async def served(
    directory: Path | None = None, model: Any = None, keys: Sequence[str] = (), **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application in this process."""
    opened = (lambda path: model) if model is not None else Ages
    app = create_app(
        directory or Path("nowhere"), opened, ServeSettings(**({"watch_seconds": 0} | settings)), keys=keys
    )
    async with app.router.lifespan_context(app):
        while app.state.models.current is None and app.state.models.failure is None:
            await asyncio.sleep(0.001)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            client.app = app  # type: ignore[attr-defined]
            yield client
