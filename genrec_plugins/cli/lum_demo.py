"""``genrec lum demo``: semantic IDs, pre-training, query, rankers and retrieval on MovieLens, and one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    data: Annotated[Path, typer.Option("--data", "-d", help="The unpacked MovieLens-100K folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of everything that is made.")] = Path("lum-demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of LUM and rankers.")] = 1,
    rankers: Annotated[
        str,
        typer.Option(
            "--rankers",
            "-r",
            help="Comma-separated, or all; the first is compared with; 3lum: of three LUMs asked as one.",
        ),
    ] = "fat,fat+mean-pool,fat+lum",
    epochs: Annotated[int, typer.Option(min=1, help="Passes of the pre-training.")] = 30,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Fit semantic IDs, pre-train LUM, query it, rank with and without its knowledge, retrieve; print one table.

    Takes about six minutes on two cores. Given again, it goes on where it stopped.

    Examples:

        genrec lum demo --data ml-100k

        genrec lum demo --data ml-100k --seeds 3 --rankers all --out runs/lum-study
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.cli.table import print_json, print_table

    load_torchrec()

    from genrec_plugins.lum.demo import run_demo
    from genrec_plugins.lum.demo_configs import RANKERS
    from genrec_plugins.training.reporter import Console, Quiet

    names = list(RANKERS) if rankers == "all" else [name.strip() for name in rankers.split(",") if name.strip()]
    if quiet:
        result = run_demo(str(data), out, seeds=seeds, rankers=names, epochs=epochs, reporter=Quiet())
    else:
        with Console() as console:
            result = run_demo(str(data), out, seeds=seeds, rankers=names, epochs=epochs, reporter=console)
    if json_:
        print_json({"rankers": result.rankers, "retrieval": result.retrieval, "examples": result.examples})
        return
    print_table(*result.table())
    for user, found in result.examples.items():
        for how, titles in found.items():
            typer.echo(f"user {user}, next by {how}: {'; '.join(titles)}")
