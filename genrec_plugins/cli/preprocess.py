"""``genrec preprocess``: raw rows to prepared rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def preprocess(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.YAML", help="The run whose dataset and fields are meant.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Prepared directory [default: prepared/DATASET-DIGEST].")
    ] = None,
    on_error: Annotated[str, typer.Option(help="Bad rows: stop at the first, or skip, count and report.")] = "stop",
    storage: Annotated[str, typer.Option(help="arrow (memory-mapped) or parquet (smaller).")] = "arrow",
    shard_rows: Annotated[int, typer.Option(help="Rows a file.")] = 1_000_000,
    threads: Annotated[int | None, typer.Option(help="Fields fitted at the same time [default: cores].")] = None,
    engine: Annotated[
        str, typer.Option(help="local, or ray: the same result by the workers of a Ray cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a running Ray, or auto [default: $RAY_ADDRESS, else a Ray of this run's own]."),
    ] = None,
    part_mib: Annotated[int, typer.Option(help="MiB of a file that one Ray task reads.")] = 64,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over the file, as dataset.path=x.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the manifest's summary as JSON.")] = False,
) -> None:
    """Turn raw rows into ids and floats, in two streaming passes; running again does nothing.

    Examples:

        genrec preprocess run.yaml

        genrec preprocess run.yaml --out prepared/criteo --on-error skip

        genrec preprocess run.yaml --engine ray --ray-address 10.0.0.1:6379
    """
    from genrec_adapters.preprocess import PrepareOptions
    from genrec_plugins.cli.table import print_json, print_table
    from genrec_plugins.config import load_run, parse_overrides
    from genrec_plugins.training.reporter import Console
    from genrec_plugins.training.run import prepare_run
    from genrec_registry import explain

    run = load_run(run_file, parse_overrides(set_))
    data = {
        "on_error": on_error,
        "storage": storage,
        "shard_rows": shard_rows,
        "threads": threads,
        "engine": engine,
        "ray_address": ray_address,
        "part_mib": part_mib,
    }
    options = explain(PrepareOptions, data, where="options")
    with Console() as console:
        prepared = prepare_run(run, out, options, console)
    manifest = prepared.manifest
    if manifest.rows_skipped:
        typer.echo(f"{manifest.rows_skipped:,} bad rows were left out, the first of them:", err=True)
        for example in manifest.skipped_examples:
            typer.echo(f"  {example}", err=True)
    splits = {name: {"rows": split.rows, "label_mean": split.label_mean} for name, split in manifest.splits.items()}
    if json_:
        print_json(
            {
                "directory": str(prepared.directory),
                "reused": prepared.reused,
                "rows_read": manifest.rows_read,
                "rows_skipped": manifest.rows_skipped,
                "splits": splits,
                "table_rows": {feature.name: feature.num_embeddings for feature in prepared.sparse_features},
            }
        )
        return
    rows = [
        (name, f"{s['rows']:,}", "" if s["label_mean"] is None else f"{s['label_mean']:.4f}")
        for name, s in splits.items()
    ]
    print_table(["split", "rows", "label mean"], rows, title=f"{prepared.directory}")
    total = sum(feature.num_embeddings for feature in prepared.sparse_features)
    typer.echo(f"{len(prepared.fields)} fields, {total:,} table rows")
