"""``genrec serve``: an exported model over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from genrec_plugins.serving.settings import ServeSettings
    from genrec_registry import GenrecError

KEY_VARIABLE = "GENREC_API_KEY"


def _print_limits(wanted: bool) -> None:
    if not wanted:
        return
    from genrec_plugins.cli.table import print_table
    from genrec_plugins.serving.settings import ServeSettings

    rows = [[name, field.default, field.description] for name, field in ServeSettings.model_fields.items()]
    print_table(["limit", "default", "what it is"], rows)
    raise typer.Exit()


def serve(
    directory: Annotated[
        Path, typer.Argument(help="What 'genrec export' wrote; a link to it; or a folder with a link 'current' in it.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for any free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help=f"File with API keys, one a line, each good [default: the variable {KEY_VARIABLE}]."),
    ] = None,
    knowledge: Annotated[
        str, typer.Option(help="Where lum-knowledge fields read: lmdb, lmdb:FOLDER, memory or redis://HOST:PORT/DB.")
    ] = "lmdb",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of a limit, as batch_rows=256; --limits lists them.")
    ] = None,
    limits: Annotated[
        bool,
        typer.Option("--limits", help="List the limits and exit.", is_eager=True, callback=_print_limits),
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Open the model, score one row, and exit.")] = False,
) -> None:
    """Serve an exported model over HTTP: JSON or Arrow rows in, probabilities out.

    POST /score, GET /health, /metrics (Prometheus), /schema and /openapi.json, POST /reload. A new export in the same
    place is served without a restart and without a dropped request. SIGTERM finishes what is in flight.

    Examples:

        genrec serve export

        genrec serve models --host 0.0.0.0 --port 8080 --api-key-file keys.txt --set batch_rows=1024

        genrec serve export --knowledge redis://localhost:6379/0
    """
    settings = settings_of(set_, knowledge)
    keys = api_keys(api_key_file)

    from genrec_plugins.cli.logs import load_torchrec

    _require_packages()
    load_torchrec()
    import torch

    torch.set_num_threads(settings.threads)
    if check:
        _check(directory, settings)
        return
    _serve(directory, host, port, keys, settings)


def settings_of(pairs: list[str] | None, knowledge: str = "lmdb") -> ServeSettings:
    """``--set`` as settings.

    Raises:
        ConfigError: a key is unknown, or a value is wrong.

    Example::

        >>> settings_of(["batch_rows=64"]).batch_rows
        64
    """
    from pydantic import ValidationError

    from genrec_plugins.config import parse_overrides
    from genrec_plugins.serving.settings import ServeSettings
    from genrec_registry import ConfigError, did_you_mean

    values = {"knowledge": knowledge} | parse_overrides(pairs)
    for key in values:
        if key not in ServeSettings.model_fields:
            raise ConfigError(f"--set {key}: unknown limit{did_you_mean(key, ServeSettings.model_fields)}")
    try:
        return ServeSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"--set {place or 'limits'}: {first['msg'].removeprefix('Value error, ')}") from None


def api_keys(path: Path | None) -> tuple[str, ...]:
    """The keys of a file, or of the environment; none if there is neither.

    Raises:
        ConfigError: the file cannot be read, or has no key.
    """
    import os

    from genrec_registry import ConfigError

    if path is None:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        return (key,) if key else ()
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file {path}: cannot be read ({error}); name a text file") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ConfigError(f"--api-key-file {path}: has no key; write one a line")
    return keys


def _require_packages() -> None:
    from importlib.util import find_spec

    from genrec_registry import SetupError

    for name in ("fastapi", "uvicorn", "prometheus_client"):
        if find_spec(name) is None:
            raise SetupError(f'genrec serve needs {name}: pip install "genrec-plugins[serve]"')


def _check(directory: Path, settings: ServeSettings) -> None:
    from genrec_plugins.serving.reload import export_place
    from genrec_plugins.serving.served import Served

    model = Served.open(export_place(directory), knowledge=settings.knowledge)
    model.try_out()
    typer.echo(f"model {model.digest[:16]} can be served; histories: {model.history}")


def _serve(directory: Path, host: str, port: int, keys: tuple[str, ...], settings: ServeSettings) -> None:
    import logging

    from genrec_plugins.serving.running import run_server
    from genrec_plugins.serving.served import Served
    from genrec_plugins.serving.server import create_app

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, force=True)
    logging.getLogger("genrec.serve").setLevel(logging.INFO)
    failed: list[GenrecError] = []
    app = create_app(
        directory,
        lambda place: Served.open(place, knowledge=settings.knowledge),
        settings,
        keys=keys,
        on_failure=failed.append,
    )
    run_server(app, host, port, settings, stop=lambda: bool(failed))
    if failed:
        raise failed[0]
