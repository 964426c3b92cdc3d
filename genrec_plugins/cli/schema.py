"""``genrec schema``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file, not to the screen.")] = None,
) -> None:
    """Print the JSON Schema of a run file, with the configs of every installed plugin.

    Editors with a YAML language server complete keys and mark mistakes when the first line of the run file is
    '# yaml-language-server: $schema=genrec.schema.json'.

    Examples:
        genrec schema > genrec.schema.json
        genrec schema --out genrec.schema.json
    """
    from genrec_plugins.config import run_config_model
    from genrec_registry import SetupError, default_registry

    text = json.dumps(run_config_model(default_registry()).model_json_schema(), indent=2)
    if out is None:
        typer.echo(text)
        return
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
