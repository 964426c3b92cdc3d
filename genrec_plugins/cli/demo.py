"""``genrec demo``: the whole path on generated rows, with the best possible AUC beside what the models reach."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    benchmark: Annotated[str, typer.Argument(help="criteo or avazu: the format of the generated rows.")] = "criteo",
    rows: Annotated[int, typer.Option("--rows", "-n", min=1000, help="Rows to generate.")] = 200_000,
    interactions: Annotated[
        str, typer.Option("--interactions", "-i", help="Names, comma-separated.")
    ] = "fat,dcn,dot,mlp",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of weights and row order.")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training rows.")] = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of rows and report.")] = Path("demo"),
) -> None:
    """Generate rows from a known field-aware model, prepare them, train several interactions, compare them.

    No model can beat the table's last row, the AUC of the probabilities that drew the labels.

    Examples:
        genrec demo
        genrec demo avazu --rows 1000000 --interactions fat,autoint --seeds 3
    """
    from genrec_plugins.cli.bench import bench
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.synthetic import FORMATS, generate
    from genrec_registry import ConfigError, did_you_mean

    if benchmark not in FORMATS:
        raise ConfigError(f"unknown format '{benchmark}'{did_you_mean(benchmark, FORMATS)}")
    load_torchrec()
    data = out / f"{benchmark}-{rows}.{'txt' if benchmark == 'criteo' else 'csv'}"
    truth = data.with_name(f"{data.name}.truth.parquet")
    if not (data.exists() and truth.exists()):
        typer.echo(f"generating {rows:,} rows in {data}", err=True)
        out.mkdir(parents=True, exist_ok=True)
        generate(benchmark, rows, data, seed=1, with_truth=True)
    bench(
        benchmark,
        data=[str(data)],
        interactions=interactions,
        seeds=seeds,
        epochs=epochs,
        min_count=2,
        tuned="none",
        set_=["train.batch_size=512", "train.interaction_lr=3.0e-3"],
        out=out / f"{benchmark}-report",
    )
