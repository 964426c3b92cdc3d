"""``genrec report``: one HTML page about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories of 'genrec train' or 'genrec lum pretrain'.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    scale: Annotated[Path | None, typer.Option("--scale", help="What 'genrec scale' wrote: its curves.")] = None,
    tokenizer: Annotated[
        list[Path] | None,
        typer.Option("--tokenizer", help="What 'genrec tokenize' wrote, beside the semantic IDs that the runs read."),
    ] = None,
    shuffles: Annotated[int, typer.Option(min=0, help="Shuffles of each field, for its importance; 0: none.")] = 3,
    max_rows: Annotated[
        int, typer.Option("--max-rows", min=1, help="Test rows whose fields are shuffled; more are drawn from.")
    ] = 20_000,
    slices: Annotated[int, typer.Option(min=1, help="Values a field that get a slice of their own.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of shuffles and draws.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, too.")] = False,
) -> None:
    """Write one HTML page about runs, which needs no network: curves, calibration, slices, importance, comparison.

    Examples:

        genrec report runs/fat

        genrec report runs/fat runs/dcn --out compared.html

        genrec report runs/fat --scale scale-out/run --tokenizer sid --shuffles 5
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.files import check_writable

    check_writable(out)  # before the work
    load_torchrec()

    from genrec_plugins.cli.ranks import reporter_of
    from genrec_plugins.cli.table import print_json
    from genrec_plugins.reports.page import make_report
    from genrec_plugins.reports.study import StudyOptions

    options = StudyOptions(shuffles=shuffles, max_rows=max_rows, slices=slices, seed=seed)
    with reporter_of(quiet) as reporter:
        made = make_report(runs, scale=scale, tokenizers=tokenizer or (), options=options, reporter=reporter)
    made.write(out)
    if json_:
        print_json(made.as_dict())
    typer.echo(f"{out}: written", err=json_)
