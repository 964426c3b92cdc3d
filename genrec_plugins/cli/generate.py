"""``genrec generate criteo|avazu``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from genrec_plugins.cli.table import print_json

app = typer.Typer(
    help="""Write Criteo or Avazu rows with a known best possible AUC.

    The labels are drawn from a planted field-aware model, so that the AUC and the logloss of the true probabilities,
    which no model can beat, are known; they are printed and written beside the file, to OUT.truth.json.

    Examples:
        genrec generate criteo --rows 1000000 --out train.txt.gz
        genrec generate avazu --rows 1000000 --out train.csv.gz --seed 1
    """
)

_Rows = Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows.")]
_Out = Annotated[Path, typer.Option("--out", "-o", help="The file; gzipped if it ends in .gz.")]
_Seed = Annotated[int, typer.Option("--seed", help="Of the rows.")]
_ModelSeed = Annotated[
    int, typer.Option("--model-seed", help="Of the planted model; files with equal ones can test each other's models.")
]
_WithTruth = Annotated[
    bool, typer.Option("--with-truth", help="Also write each row's true probability to OUT.truth.parquet.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def criteo(
    out: _Out,
    rows: _Rows = 100_000,
    seed: _Seed = 0,
    model_seed: _ModelSeed = 0,
    with_truth: _WithTruth = False,
    as_json: _Json = False,
) -> None:
    """Write rows as in Criteo's train.txt: TSV, no header.

    Examples:
        genrec generate criteo --rows 100000 --out train.txt.gz
        genrec generate criteo --rows 10000000 --out train.txt --with-truth
    """
    _generate("criteo", rows, out, seed, model_seed, with_truth, as_json)


@app.command()
def avazu(
    out: _Out,
    rows: _Rows = 100_000,
    seed: _Seed = 0,
    model_seed: _ModelSeed = 0,
    with_truth: _WithTruth = False,
    as_json: _Json = False,
) -> None:
    """Write rows as in Avazu's train.csv: CSV with header, in time order.

    Examples:
        genrec generate avazu --rows 100000 --out train.csv.gz
        genrec generate avazu --rows 100000 --out other.csv.gz --seed 1 --json
    """
    _generate("avazu", rows, out, seed, model_seed, with_truth, as_json)


def _generate(format: str, rows: int, out: Path, seed: int, model_seed: int, with_truth: bool, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from genrec_plugins.synthetic import generate

    columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rows", total=rows)
        done = generate(
            format,
            rows,
            out,
            seed=seed,
            model_seed=model_seed,
            with_truth=with_truth,
            progress=lambda count: bar.advance(task, count),
        )
    bayes = done.bayes
    if as_json:
        paths = [done.path, done.sidecar, *([done.truth] if done.truth else [])]
        print_json({"files": [str(path) for path in paths], "bayes": asdict(bayes)})
        return
    typer.echo(f"{done.path}: {bayes.rows:,} rows, click rate {bayes.ctr:.4f}")
    doubt = f" (+-{bayes.auc_error_bound:.1e})" if bayes.auc_error_bound else ""
    typer.echo(f"best possible AUC {bayes.auc:.5f}{doubt}, logloss {bayes.logloss:.5f}; see {done.sidecar.name}")
