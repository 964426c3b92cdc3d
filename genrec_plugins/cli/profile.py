"""``genrec profile``: what interactions and encoders cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from genrec_registry import Registry

KINDS = ("interaction", "encoder")


def profile(
    components: Annotated[
        str, typer.Argument(help="Names, comma-separated; 'interactions', 'encoders' or 'all' for the installed ones.")
    ] = "all",
    batch_size: Annotated[int, typer.Option(min=1, help="B, rows of a call.")] = 1024,
    fields: Annotated[int, typer.Option(min=2, help="F, tokens of a row.")] = 39,
    embedding_dim: Annotated[int, typer.Option(min=1, help="D, width of a token.")] = 16,
    length: Annotated[int, typer.Option(min=1, help="L, events of the longest history.")] = 50,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="COMPONENT.KEY=VALUE, as fat.num_layers=2; may be repeated.")
    ] = None,
    ranker: Annotated[
        bool, typer.Option("--ranker", help="Interactions inside a ranker: look-ups, over arch and optimizers too.")
    ] = False,
    table_rows: Annotated[int, typer.Option(min=2, help="Rows of all its tables together.")] = 100_000,
    forward_only: Annotated[bool, typer.Option("--forward-only", help="Leave the backward out.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Through torch.compile (needs a C++ compiler).")] = False,
    dtype: Annotated[Literal["fp32", "bf16"], typer.Option(help="bf16: autocast.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's default.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls, of which the fastest counts.")] = 5,
    peak: Annotated[
        float | None, typer.Option("--peak-flops", help="FLOP/s of the device [default: datasheet, or measured].")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write roofline and MFU here (.svg, .png, .pdf).")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a trace of one call here (.json or .json.gz), for Perfetto.")
    ] = None,
) -> None:
    """Measure MFU, FLOPs, arithmetic intensity, operators launched, rows/s and peak memory on random input.

    An interaction gets F tokens of B rows; an encoder B histories of 1 to L events, and gives the state before each
    event where it can (pre-training), else user tokens. Without --ranker each runs alone, forward and backward.

    Examples:

        genrec profile fat,dcn,dot --batch-size 4096

        genrec profile encoders --length 200 --json

        genrec profile interactions --ranker --table-rows 1000000 --plot profile.svg

        genrec profile fat --embedding-dim 64 --set fat.num_layers=2 --trace fat.json.gz
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.profiling.asked import asked_for, options_of
    from genrec_registry import ConfigError, default_registry

    registry: Registry = default_registry()
    wanted = asked_for(components, registry)
    if ranker:
        wanted = [(kind, name) for kind, name in wanted if kind == "interaction" or components != "all"]
        if any(kind == "encoder" for kind, _ in wanted):
            raise ConfigError("--ranker takes interactions; an encoder runs alone, leave --ranker out for it")
    options = options_of(set_, wanted, registry)
    if plot is not None:
        from genrec_plugins.profiling.plot import check_plot_path

        check_plot_path(plot)
    load_torchrec()

    import torch

    from genrec_plugins.cli.table import print_json, print_table
    from genrec_plugins.profiling.peaks import Peak
    from genrec_plugins.profiling.run import profile_all
    from genrec_plugins.profiling.subjects import Shape, Way
    from genrec_plugins.training.trainer import pick_device

    if threads:
        torch.set_num_threads(threads)
    shape = Shape(batch_size=batch_size, fields=fields, embedding_dim=embedding_dim, length=length)
    way = Way(device=str(pick_device(device)), dtype=dtype, compiled=compiled)
    limit = Peak(way.device, dtype, peak)
    found, left_out = profile_all(
        wanted,
        registry,
        shape,
        way,
        options=options,
        table_rows=table_rows if ranker else None,
        peak=limit,
        backward=not forward_only,
        repeats=repeats,
        trace=trace,
        tell=lambda text: typer.echo(text, err=True),
    )
    used = torch.get_num_threads()
    where = f"{way.device}, {dtype}, {used} thread{'s' * (used > 1)}{', compiled' if compiled else ''}"
    what = "forward" if forward_only else "training step" if ranker else "forward + backward"
    title = (
        f"B {batch_size}, F {fields}, D {embedding_dim}, L {length}; {what}; {where}; "
        f"peak {limit.flops / 1e9:,.0f} GFLOP/s ({limit.source})"
    )
    if plot is not None:
        from genrec_plugins.profiling.plot import plot_profiles

        plot_profiles(found, plot, title)
    if json_:
        facts: dict[str, Any] = {
            "shape": vars(shape),
            "where": where,
            "peak_flops": limit.flops,
            "peak_from": limit.source,
        }
        print_json(facts | {"profiles": [one.as_dict() for one in found], "left_out": left_out})
    else:
        rows = [one.cells() for one in found]
        print_table(list(rows[0]), [list(row.values()) for row in rows], title=title)
