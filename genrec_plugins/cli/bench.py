"""``genrec bench``: interactions compared under one budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def bench(
    benchmark: Annotated[str, typer.Argument(help="criteo or avazu.")],
    data: Annotated[
        list[str],
        typer.Option("--data", help="Raw file as downloaded (.gz too), or train=FILE, valid=FILE and test=FILE."),
    ],
    interactions: Annotated[
        str, typer.Option("--interactions", "-i", help="Names, comma-separated; 'all' for every installed one.")
    ] = "fat,dcn,dot,mlp",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, 1..N.")] = 3,
    min_count: Annotated[
        int, typer.Option(min=1, help="Training rows that must have an id; with all rows, 10 keeps tables small.")
    ] = 1,
    preset: Annotated[str | None, typer.Option(help="BARS fields, as criteo_x4_001 or avazu_x4_001.")] = None,
    split: Annotated[str, typer.Option(help="shuffled, time or random; with three files, theirs.")] = "shuffled",
    recipe: Annotated[str, typer.Option(help="Training preset: torchrec or bars.")] = "torchrec",
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows [default: the recipe's].")] = None,
    tuned: Annotated[
        str, typer.Option(help="Settings by interaction: 'packaged', 'none', or a YAML file of 'genrec tune'.")
    ] = "packaged",
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for all, as train.epochs=2.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Report directory [default: bench-out/NAME].")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train interactions on the same rows with the same budget and seeds; print a table, write Markdown, JSON and HTML.

    Examples:

        genrec bench criteo --data train.txt.gz

        genrec bench avazu --data train.gz --interactions fat,dcn,autoint --seeds 5 --split time

        genrec bench criteo --data train=train.csv --data valid=valid.csv --data test=test.csv
        --preset criteo_x4_001 --recipe bars
    """
    from genrec_plugins.benchmarks.plan import base_run, tuned_settings
    from genrec_plugins.cli.logs import load_torchrec

    names = component_names(interactions)
    base = base_run(
        benchmark,
        data_paths(data),
        preset=preset,
        split=split,
        recipe=recipe,
        epochs=epochs,
        min_count=min_count,
    )
    base = set_for_all(base, set_)
    settings = {} if tuned == "none" else tuned_settings(benchmark, None if tuned == "packaged" else tuned)
    load_torchrec()

    from genrec_plugins.benchmarks.bench import run_bench
    from genrec_plugins.benchmarks.report import COLUMNS, table_rows, write_report
    from genrec_plugins.cli.table import print_json, print_table
    from genrec_plugins.training.reporter import Console

    directory = out or Path("bench-out") / benchmark
    with Console() as console:
        result = run_bench(base, names, range(1, seeds + 1), settings, directory, reporter=console)
    files = write_report(result, directory, f"{benchmark}: {', '.join(names)}")
    if json_:
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in table_rows(result)])
    else:
        print_table(COLUMNS, table_rows(result))
        typer.echo(f"report: {files['.html']}, {files['.md']}, {files['.json']}")


def component_names(interactions: str) -> list[str]:
    """``"fat,dcn"`` to names; ``"all"`` to every installed interaction.

    Raises:
        ConfigError: the list is empty.
    """
    from genrec_registry import ConfigError, default_registry

    names = [name.strip() for name in interactions.split(",") if name.strip()]
    if names == ["all"]:
        names = [component.name for component in default_registry().components("interaction")]
    if not names:
        raise ConfigError("--interactions is empty; name at least one, as fat,dcn")
    return names


def set_for_all(base: dict[str, Any], pairs: list[str] | None) -> dict[str, Any]:
    """The shared run with ``--set`` values over it."""
    from genrec_plugins.benchmarks.plan import merge
    from genrec_plugins.config import parse_overrides
    from genrec_registry.yaml_source import parse_yaml

    values = {
        key: parse_yaml(f"value: {value}", name=f"--set {key}").data["value"]
        for key, value in parse_overrides(pairs).items()
    }
    return merge(base, values)


def data_paths(data: list[str]) -> str | dict[str, str]:
    """``--data`` as one path, or as the paths of the three splits."""
    from genrec_registry import SPLITS, ConfigError

    pairs = dict(item.split("=", 1) for item in data if item.split("=", 1)[0] in SPLITS and "=" in item)
    if not pairs and len(data) == 1:
        return data[0]
    if set(pairs) != set(SPLITS) or len(data) != len(SPLITS):
        raise ConfigError(f"--data is {', '.join(data)}; expected one file, or train=FILE, valid=FILE and test=FILE")
    return pairs
