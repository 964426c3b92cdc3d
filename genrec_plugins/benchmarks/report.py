"""A finished benchmark as Markdown, JSON, and one HTML page that opens from disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from genrec_plugins.benchmarks.bench import BenchResult, Row
from genrec_plugins.files import written_aside

COLUMNS = (
    "interaction", "test AUC", "test logloss", "valid AUC", "parameters", "dense parameters", "FLOPs/row", "operators",
    "rows/s", "MFU", "epochs",
)  # fmt: skip


def cells_of(row: Row) -> tuple[str, ...]:
    """A row's cells as text, in the order of ``COLUMNS``."""
    return (
        row.label,
        _spread(row.auc, row.auc_std, row.seeds),
        _spread(row.logloss, row.logloss_std, row.seeds),
        f"{row.valid_auc:.4f}",
        f"{row.parameters:,}",
        f"{row.dense_parameters:,}",
        f"{row.flops_per_row:,.0f}",
        f"{row.operators}",
        f"{row.rows_per_second:,.0f}",
        f"{row.mfu:.1%}",
        f"{row.epochs:g}",
    )


def _spread(mean: float, std: float, seeds: int) -> str:
    return f"{mean:.4f} ± {std:.4f}" if seeds > 1 else f"{mean:.4f}"


def table_rows(result: BenchResult) -> list[tuple[str, ...]]:
    """All rows, and the Bayes-optimal one where it is known."""
    rows = [cells_of(row) for row in result.rows]
    if result.bayes:
        best = ("(Bayes optimum)", f"{result.bayes['auc']:.4f}", f"{result.bayes['logloss']:.4f}")
        rows.append(best + ("",) * (len(COLUMNS) - len(best)))
    return rows


def markdown(result: BenchResult) -> str:
    """The table, with what it was measured on."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|--:" * (len(COLUMNS) - 1) + "|"]
    lines += ["| " + " | ".join(cells) + " |" for cells in table_rows(result)]
    return "\n".join([*lines, "", *protocol_lines(result)]) + "\n"


def protocol_lines(result: BenchResult) -> list[str]:
    """What a reader must know to repeat it."""
    protocol = result.protocol
    rows = ", ".join(f"{name} {count:,}" for name, count in protocol["rows"].items())
    train = protocol["train"]
    shared = {key: value for key, value in train.items() if key in ("preset", "epochs", "batch_size")}
    lines = [
        f"Rows: {rows}; split {json.dumps(protocol['split'])}; {protocol['fields']} fields, "
        f"{protocol['table_rows']:,} table rows.",
        f"Training: {json.dumps(shared)}; seeds {protocol['seeds']}; mean ± sample standard deviation over seeds.",
        f"MFU against the GEMM rate of the same run, {result.peak / 1e9:,.1f} GFLOP/s; "
        "rows/s is the median over seeds, training steps only.",
    ]
    for label, settings in protocol["settings"].items():
        if settings:
            lines.append(f"{label}: {json.dumps(settings)}")
    return lines


def write_report(result: BenchResult, out: Path, title: str) -> dict[str, Path]:
    """Write ``table.md``, ``result.json`` and ``index.html``.

    Args:
        result: the benchmark.
        out: directory.
        title: of the page.

    Raises:
        DataError: a file cannot be written.
    """
    import jinja2

    from genrec_plugins.benchmarks import plots

    heat_maps = {}
    for cell in result.cells:
        if cell.pair_table is not None and cell.label not in heat_maps:
            heat_maps[cell.label] = plots.pair_heat_map(cell.pair_table)
    template = (resources.files("genrec_plugins.benchmarks") / "templates" / "bench.html.j2").read_text()
    page = (
        jinja2.Environment(autoescape=True)
        .from_string(template)
        .render(
            title=title,
            columns=COLUMNS,
            rows=table_rows(result),
            protocol=protocol_lines(result),
            plots=[
                (
                    "AUC against dense parameters",
                    plots.auc_against(result.rows, "dense_parameters", "dense parameters"),
                ),
                (
                    "AUC against training time",
                    plots.auc_against(result.rows, "train_seconds", "seconds in training steps"),
                ),
                ("Calibration on test rows", plots.calibration(result.cells)),
                *((f"Field-pair modulation of {label}", svg) for label, svg in heat_maps.items()),
            ],
        )
    )
    data = {
        "protocol": result.protocol,
        "peak_flops": result.peak,
        "bayes": result.bayes,
        "rows": [asdict(row) for row in result.rows],
        "cells": [cell.as_dict() for cell in result.cells],
    }
    files = {
        out / "table.md": f"# {title}\n\n{markdown(result)}",
        out / "result.json": json.dumps(data, indent=1),
        out / "index.html": page,
    }
    for path, text in files.items():
        with written_aside(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return {path.suffix: path for path in files}
