"""Train for minutes or hours, with evaluations and checkpoints on the way, and see whether memory stays where it is.

::

    python -m genrec_plugins.benchmarks.soak --minutes 60 --out soak.json
    python -m genrec_plugins.benchmarks.soak --follow --minutes 60 --out soak.json

Rows are generated and prepared once, then trained on over and over; with ``--follow`` new ones arrive as files, and are
followed. Resident memory is sampled all the while; the first part is warm-up, and a line through the rest says how much
memory an hour costs.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec_plugins.benchmarks.arrivals import arrivals, arriving_rows
from genrec_plugins.benchmarks.memory_watch import Enough, Sample, Soaked, Watch, judge
from genrec_plugins.benchmarks.runner import run
from genrec_plugins.files import check_writable, written_aside

if TYPE_CHECKING:
    from genrec_plugins.models.dynamic_ids import DynamicIds
    from genrec_plugins.training.follow import Follower

_CRITEO = "criteo-kaggle"


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """What a followed stream came to.

    Args:
        files: taken.
        rows: in them.
        rowless: ids that had a row of a dynamic table when the stream began and have none at its end.
        open_rows: rows of the dynamic tables that no id has had; with none, every new id takes another's.
        full: full checkpoints in the run directory at the end.
        deltas: delta checkpoints there.
        auc: mean of the progressive validation over the last tenth of the files.
    """

    files: int
    rows: int
    rowless: int
    open_rows: int
    full: int
    deltas: int
    auc: float

    def __str__(self) -> str:
        return (
            f"{self.files:,} files, {self.rows:,} rows, AUC {self.auc:.4f} before training on them; {self.rowless:,} "
            f"ids of the beginning were evicted, {self.open_rows:,} rows are open; {self.full} full checkpoints and "
            f"{self.deltas} deltas are kept"
        )


def soak(watch: Watch, folder: Path, *, rows: int = 50_000, changes: dict[str, Any] | None = None) -> Soaked:
    """Train on generated rows until the watch ends it, epoch after epoch, with an evaluation and a checkpoint in each.

    Args:
        watch: takes the samples.
        folder: for rows, checkpoints and weights.
        rows: to generate.
        changes: over the ``train`` section.

    Raises:
        ConfigError: a setting is wrong, or there are too few samples.
    """
    from genrec_plugins.config import parse_run
    from genrec_plugins.synthetic import generate
    from genrec_plugins.training.run import prepare_run
    from genrec_plugins.training.trainer import Trainer

    generate("criteo", rows, folder / "train.txt")
    run = parse_run(
        {
            "dataset": {"type": _CRITEO, "path": str(folder / "train.txt")},
            "split": {"type": "shuffled"},
            "model": {"embedding_dim": 16, "over_arch": [64], "interaction": {"type": "fat", "num_heads": 2}},
            "train": {"batch_size": 512, "epochs": 1_000_000, "checkpoint_every": 50, **(changes or {})},
        }
    )
    with suppress(Enough):
        Trainer(run.config, prepare_run(run, folder / "prepared"), run.registry, folder / "run", watch).fit()
    return judge(watch.samples)


def soak_stream(
    watch: Watch, folder: Path, *, rows: int = 10_000, full_every: int = 10, changes: dict[str, Any] | None = None
) -> tuple[Soaked, Streamed]:
    """Follow files of new rows, as ``genrec train --follow`` does, until the watch ends it.

    Two fields have dynamic ids, more of them than their tables have rows; each file is scored, trained on, and followed
    by a checkpoint. Another process writes the files.

    Args:
        watch: takes the samples; the base is trained before it looks.
        folder: for rows, checkpoints and weights.
        rows: of a file.
        full_every: every so many checkpoints one is full.
        changes: over the ``train`` section.

    Raises:
        ConfigError: a setting is wrong, or there are too few samples.
    """
    from genrec_plugins.config import parse_run
    from genrec_plugins.training.follow import LOG, Follower, FollowOptions
    from genrec_plugins.training.run import prepare_run, train_run

    directory, incoming = folder / "run", folder / "incoming"
    arriving_rows(0, 2 * rows).write_parquet(folder / "base.parquet")
    run = parse_run(
        {
            "dataset": {"type": "parquet", "path": str(folder / "base.parquet"), "label": "y"},
            "split": {"type": "shuffled"},
            "fields": {
                "item": {"type": "dynamic-id", "rows": max(rows // 8, 8), "interval": 5},
                "ad": {"type": "dynamic-id", "rows": max(rows // 16, 8), "eviction": "distance-lfu", "interval": 10},
                "user": {"type": "categorical"},
                "x": {"type": "numeric-dense"},
            },
            "model": {"embedding_dim": 16, "over_arch": [64], "interaction": {"type": "fat", "num_heads": 2}},
            "train": {"batch_size": 512, "embedding_lr": 0.1, "dense_lr": 0.001, **(changes or {})},
        }
    )
    prepared = prepare_run(run, folder / "prepared")
    train_run(run, directory, prepared)
    options = FollowOptions(folder=incoming, poll=0.05, full_every=full_every)
    with arrivals(incoming, directory / LOG, rows):
        follower = Follower(run, directory, prepared, options, watch)
        first = _ids_with_rows(follower)
        with suppress(Enough):
            follower.follow()
    lines = [json.loads(line) for line in (directory / LOG).read_text().splitlines()]
    last = lines[-max(len(lines) // 10, 1) :]
    streamed = Streamed(
        files=len(lines),
        rows=sum(line["rows"] for line in lines),
        rowless=len(first - _ids_with_rows(follower)),
        open_rows=sum(sum(module.open_rows().values()) for module in _dynamic(follower)),
        full=len(list((directory / "stream").glob("step-*"))),
        deltas=len(list((directory / "stream").glob("delta-*"))),
        auc=sum(line["auc"] for line in last) / len(last),
    )
    return judge(watch.samples), streamed


def _dynamic(follower: Follower) -> list[DynamicIds]:
    from genrec_plugins.models.dynamic_ids import DynamicIds

    return [module for module in follower.trainer.recipe.model.modules() if isinstance(module, DynamicIds)]


def _ids_with_rows(follower: Follower) -> set[tuple[str, int]]:
    return {(name, one) for module in _dynamic(follower) for name, ids in module.ids_with_rows().items() for one in ids}


def main(
    minutes: Annotated[float, typer.Option(help="How long to train.")] = 60.0,
    follow: Annotated[bool, typer.Option("--follow", help="Train on files of new rows that keep arriving.")] = False,
    rows: Annotated[
        int | None, typer.Option(help="Rows to train on over and over [50000], or of a file [10000].")
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between two samples.")] = 10.0,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file with all samples.")] = None,
) -> None:
    """Train for minutes or hours and see whether memory stays where it is; exits with 1 if it does not.

    Examples:

        python -m genrec_plugins.benchmarks.soak --minutes 60 --out soak.json

        python -m genrec_plugins.benchmarks.soak --follow --minutes 60 --out soak.json
    """
    from genrec_plugins.cli.logs import load_torchrec

    if out is not None:
        check_writable(out)
    load_torchrec()
    streamed = None

    def tell(sample: Sample) -> None:
        typer.echo(
            f"{sample.seconds:7.0f} s  step {sample.step:,}  {sample.rss_mib:,.1f} MiB  {sample.tensors:,} tensors  "
            f"{sample.objects:,} objects",
            err=True,
        )

    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(minutes * 60, every, tell=tell)
        if follow:
            found, streamed = soak_stream(watch, Path(folder), rows=rows or 10_000, changes={"threads": threads})
        else:
            found = soak(watch, Path(folder), rows=rows or 50_000, changes={"threads": threads})
    if out is not None:
        with written_aside(out) as partial:
            partial.write_text(json.dumps(asdict(found) | (asdict(streamed) if streamed else {}), indent=1))
    if streamed is not None:
        typer.echo(str(streamed))
    typer.echo(
        f"{found.samples[-1].step:,} steps; after warm-up memory grew by {found.growth_mib:.1f} MiB "
        f"({found.slope_mib_per_hour:+.1f} MiB an hour; bound {found.bound_mib:.1f} MiB), live tensors by "
        f"{found.tensors:.0f}: {'steady' if found.steady else 'NOT steady'}"
    )
    raise typer.Exit(0 if found.steady else 1)


if __name__ == "__main__":
    run(main)
