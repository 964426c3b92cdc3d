"""``genrec knowledge``: knowledge stores for serving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="""Put a knowledge store where 'genrec serve' reads it key by key.

    Examples:
        genrec knowledge load stores/lum --to knowledge
        genrec knowledge load export/knowledge/0 --to redis://localhost:6379/0
    """
)


@app.command()
def load(
    store: Annotated[Path, typer.Argument(help="What 'genrec lum query' wrote, or the copy in an export.")],
    to: Annotated[str, typer.Option(help="A folder for a file of LMDB, or redis://HOST:PORT/DB.")],
) -> None:
    """Write a knowledge store to LMDB, or to a Redis server.

    The stores of several models stand beside each other: load the new one, then export the new model to where the
    server looks.

    Examples:

        genrec knowledge load stores/lum --to knowledge

        genrec knowledge load export/knowledge/0 --to redis://localhost:6379/0
    """
    from genrec_adapters.knowledge import KnowledgeStore
    from genrec_plugins.serving.key_values import load_knowledge

    typer.echo(f"{store}: loaded to {load_knowledge(KnowledgeStore.open(store), to)}")


@app.callback()
def _group() -> None:
    pass
