"""``genrec tune``: settings for each interaction, found with an equal budget on validation rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    benchmark: Annotated[str, typer.Argument(help="criteo or avazu.")],
    data: Annotated[list[str], typer.Option("--data", help="Raw file, or train=FILE, valid=FILE and test=FILE.")],
    interactions: Annotated[
        str, typer.Option("--interactions", "-i", help="Names, comma-separated.")
    ] = "fat,dcn,dot,mlp",
    trials: Annotated[int, typer.Option(min=1, help="Random settings of each interaction.")] = 32,
    finalists: Annotated[int, typer.Option(min=1, help="Settings repeated with more seeds.")] = 6,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds a finalist gets in all.")] = 3,
    spaces: Annotated[Path | None, typer.Option(help="YAML of search spaces [default: the packaged ones].")] = None,
    min_count: Annotated[
        int, typer.Option(min=1, help="Training rows that must have an id; with all rows, 10 keeps tables small.")
    ] = 1,
    preset: Annotated[str | None, typer.Option(help="BARS fields, as criteo_x4_001.")] = None,
    split: Annotated[str, typer.Option(help="shuffled, time or random.")] = "shuffled",
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for all, as train.epochs=2.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Directory [default: tune-out/NAME].")] = None,
) -> None:
    """Tune every interaction with the same number of trials; running again goes on. The test rows are never read.

    Examples:

        genrec tune criteo --data train.txt.gz --interactions fat,dcn,dot

        genrec bench criteo --data train.txt.gz --tuned tune-out/criteo/best.yaml
    """
    from genrec_plugins.cli.logs import load_torchrec

    load_torchrec()
    from genrec_plugins.benchmarks.plan import base_run
    from genrec_plugins.benchmarks.tune import load_spaces, run_tuning
    from genrec_plugins.cli.bench import component_names, data_paths, set_for_all
    from genrec_plugins.cli.table import print_table
    from genrec_plugins.training.reporter import Console

    names = component_names(interactions)
    base = set_for_all(base_run(benchmark, data_paths(data), preset=preset, split=split, min_count=min_count), set_)
    directory = out or Path("tune-out") / benchmark
    with Console() as console:
        winners = run_tuning(
            base,
            names,
            load_spaces(spaces),
            directory,
            trials=trials,
            finalists=finalists,
            seeds=seeds,
            reporter=console,
        )
    rows = [(w.label, f"{w.auc:.5f} ± {w.auc_std:.5f}", f"{w.logloss:.5f}", w.trials, w.settings) for w in winners]
    print_table(["interaction", "valid AUC", "valid logloss", "runs", "settings"], rows)
    typer.echo(f"settings: {directory / 'best.yaml'}")
