"""``genrec scale``: what a run gains from size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def scale(
    run_file: Annotated[
        Path, typer.Argument(metavar="RUN.YAML", help="A run file of 'genrec train' or of 'genrec lum pretrain'.")
    ],
    axis: Annotated[
        list[str],
        typer.Option("--axis", help="KEY=VALUE,VALUE,... of the run file; may be given again, one curve each."),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, 1..N.")] = 3,
    metric: Annotated[
        str | None, typer.Option(help="What to fit: auc, logloss, ne; loss, recall@10, ndcg@10 [default: the first].")
    ] = None,
    x: Annotated[
        str, typer.Option("--x", help="Size to fit over: value (of the key), parameters, dense-parameters or flops.")
    ] = "value",
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for all, as train.epochs=2.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Directory [default: scale-out/NAME].")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a run at several sizes of one key at a time, fit a power law and a log law, and say what the points show.

    Writes table.md, result.json and a plot for each axis; finished runs are kept, the same command goes on. For a
    ranker there is one more key, 'rows': how many of the training rows to use.

    Examples:

        genrec scale run.yaml --axis model.interaction.num_layers=1,2,4 --seeds 3

        genrec scale run.yaml --axis model.embedding_dim=4,8,16,32 --axis rows=1000,4000,16000 --x dense-parameters

        genrec scale lum.yaml --axis encoder.num_layers=1,2,4 --metric recall@10
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.config import parse_overrides
    from genrec_plugins.scaling.subjects import subject_of
    from genrec_plugins.scaling.sweep import Axis, run_sweep

    directory = out or Path("scale-out") / run_file.stem
    subject = subject_of(run_file, parse_overrides(set_), directory)
    axes = [Axis.parse(text) for text in axis]
    for wanted in axes:
        for value in wanted.values:
            subject.plan({wanted.key: value}, 1)  # a mistake is told before torch is imported
    load_torchrec()

    from genrec_plugins.cli.table import print_json, print_table
    from genrec_plugins.scaling.report import FIT_COLUMNS, as_dict, columns, fit_row, rows, write_report
    from genrec_plugins.training.reporter import Console

    with Console() as console:
        swept = run_sweep(subject, axes, range(1, seeds + 1), directory, metric=metric, size=x, reporter=console)
    files = write_report(swept, directory, f"Scaling of {run_file.name}")
    if json_:
        print_json([as_dict(one) for one in swept])
        return
    for one in swept:
        print_table(columns(one), rows(one))
        typer.echo("")
        if one.curve.fits:
            print_table(FIT_COLUMNS, [fit_row(fit) for fit in one.curve.fits])
        for sentence in one.curve.says:
            typer.echo(f"- {sentence}")
        typer.echo("")
    typer.echo(f"report: {', '.join(str(path) for path in files)}")
