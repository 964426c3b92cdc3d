"""``genrec schema``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel


def _run() -> type[BaseModel]:
    from genrec_plugins.config import run_config_model
    from genrec_registry import default_registry

    return run_config_model(default_registry())


def _lum() -> type[BaseModel]:
    from genrec_plugins.lum.config import lum_config_model
    from genrec_registry import default_registry

    return lum_config_model(default_registry())


def _tokenize() -> type[BaseModel]:
    from genrec_plugins.tokenizers.fit_config import tokenize_config_model
    from genrec_registry import default_registry

    return tokenize_config_model(default_registry())


def _uqa() -> type[BaseModel]:
    from genrec_plugins.uqa.config import UqaConfig

    return UqaConfig


#: kind of file -> its model
FILES: dict[str, Callable[[], type[BaseModel]]] = {"run": _run, "lum": _lum, "tokenize": _tokenize, "uqa": _uqa}


def schema(
    kind: Annotated[
        str, typer.Argument(help=f"The file: {', '.join(FILES)} (of 'genrec train', 'lum', 'tokenize', 'uqa').")
    ] = "run",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file, not to the screen.")] = None,
) -> None:
    """Print the JSON Schema of a YAML file, with the configs of every installed plugin.

    Editors with a YAML language server complete keys and mark mistakes when the first line of the run file is
    '# yaml-language-server: $schema=genrec.schema.json'.

    Examples:
        genrec schema > genrec.schema.json
        genrec schema lum --out lum.schema.json
    """
    from genrec_plugins.files import written_aside
    from genrec_registry import ConfigError, did_you_mean

    if kind not in FILES:
        raise ConfigError(f"genrec schema: there is no file '{kind}'{did_you_mean(kind, FILES)}")
    text = json.dumps(FILES[kind]().model_json_schema(), indent=2)
    if out is None:
        typer.echo(text)
        return
    with written_aside(out) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
