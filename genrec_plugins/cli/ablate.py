"""``genrec ablate``: what each choice of an interaction is worth, on validation rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ablate(
    benchmark: Annotated[str, typer.Argument(help="criteo or avazu.")],
    data: Annotated[list[str], typer.Option("--data", help="Raw file, or train=FILE, valid=FILE and test=FILE.")],
    interaction: Annotated[str, typer.Option("--interaction", "-i", help="Which one.")] = "fat",
    tuned: Annotated[
        Path | None, typer.Option(help="Settings to start from, of 'genrec tune' [default: the packaged ones].")
    ] = None,
    spaces: Annotated[Path | None, typer.Option(help="YAML of values to try [default: the packaged ones].")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each value.")] = 3,
    min_count: Annotated[int, typer.Option(min=1, help="Training rows that must have an id.")] = 1,
    preset: Annotated[str | None, typer.Option(help="BARS fields, as criteo_x4_001.")] = None,
    split: Annotated[str, typer.Option(help="shuffled, time or random.")] = "shuffled",
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for all, as train.epochs=2.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Directory [default: ablate-out/NAME].")] = None,
) -> None:
    """Change one setting at a time, with the same seeds, and print the paired differences in validation AUC.

    Examples:
        genrec ablate criteo --data train.txt.gz
        genrec ablate avazu --data train.gz --interaction dcn --tuned best.yaml --spaces my.yaml
    """
    from genrec_plugins.cli.logs import load_torchrec

    load_torchrec()
    from genrec_plugins.benchmarks.ablate import effects_table, run_ablation
    from genrec_plugins.benchmarks.plan import base_run, tuned_settings
    from genrec_plugins.benchmarks.tune import load_spaces
    from genrec_plugins.cli.bench import data_paths, set_for_all
    from genrec_plugins.files import written_aside
    from genrec_plugins.training.reporter import Console
    from genrec_registry import ConfigError

    found = load_spaces(spaces, packaged="ablation.yaml")
    if interaction not in found:
        raise ConfigError(f"no values to try for '{interaction}', only for {', '.join(found)}; give --spaces FILE")
    base = base_run(benchmark, data_paths(data), preset=preset, split=split, min_count=min_count)
    directory = out or Path("ablate-out") / benchmark
    with Console() as console:
        effects = run_ablation(
            set_for_all(base, set_),
            interaction,
            tuned_settings(benchmark, tuned).get(interaction, {}),
            found[interaction],
            directory,
            seeds=range(101, 101 + seeds),
            reporter=console,
        )
    table = effects_table(effects)
    with written_aside(directory / f"{interaction}.md") as partial:
        partial.write_text(table + "\n")
    typer.echo(table)
