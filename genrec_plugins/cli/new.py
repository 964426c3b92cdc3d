"""``genrec new plugin``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="""Write a new plugin package, ready to be installed and tested.

    Examples:
        genrec new plugin acme-cross --kind interaction
    """
)


@app.callback()
def _root() -> None:
    pass


@app.command()
def plugin(
    name: Annotated[str, typer.Argument(help="The pip package, as acme-cross; its component is called the same.")],
    kind: Annotated[str, typer.Option("--kind", "-k", help="interaction, field-type, tokenizer, encoder or dataset.")],
    to: Annotated[Path | None, typer.Option(help="Directory of the package [default: ./NAME].")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a directory that has files, over those of the same names.")
    ] = False,
) -> None:
    """Write a pip package with a component of your own: config, module, entry point, tests, CI.

    It works as it is: replace what it computes by what yours should, and keep its tests green. A name that begins with
    genrec- gives a component without it. Needs the extra [new].

    Examples:
        genrec new plugin acme-cross --kind interaction
        genrec new plugin genrec-category-path --kind field-type --to ~/src/category-path
    """
    from genrec_plugins.templates.new_plugin import PluginNames, new_plugin

    names = PluginNames(package=name, kind=kind)
    directory = to or Path(name)
    for path in new_plugin(names, directory, force=force):
        typer.echo(directory / path)
    typer.echo(f'next: pip install --editable "{directory}[test]" && pytest {directory}')
