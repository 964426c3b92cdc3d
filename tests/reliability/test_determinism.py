"""The same seed gives the same bits: trained twice in processes of their own, prepared in other ways, on two threads.

Exempt, and so not tested: another machine, another version of torch or FBGEMM, a GPU (its scatter-adds are atomic, in
no fixed order), another number of threads or of ranks (sums are taken in another order: equal to rounding only).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.reliability import cases

PRESETS = {"torchrec": cases.TORCHREC, "bars": cases.BARS}


def trained(config: dict[str, Any], folder: Path, name: str) -> dict[str, bytes]:
    """Weights and metrics of a run in a process of its own."""
    out = folder / name
    found = faults.run(cases.train, config, folder / "prepared", out)
    assert not found.crash + found.sentence, found
    return {"weights": (out / "model.safetensors").read_bytes(), "metrics": repr(found.value).encode()}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_trains_the_same_weights(preset: str, threads: int, tmp_path: Path) -> None:
    table = cases.write_table(tmp_path / "rows.csv", rows=4000)
    config = cases.run_config(table, PRESETS[preset] | {"threads": threads, "batch_size": 1024, "epochs": 1})
    assert not faults.run(cases.prepare, config, tmp_path / "prepared").crash
    first, second = (trained(config, tmp_path, name) for name in ("first", "second"))
    assert first == second
    other = trained(config | {"seed": 4}, tmp_path, "other")
    assert other["weights"] != first["weights"], "the seed must matter, else nothing is tested here"


def test_the_same_seed_pretrains_the_same_weights(tmp_path: Path) -> None:
    from tests.plugins.lum_cases import write_ratings

    config = cases.lum_config(write_ratings(tmp_path / "ratings"))
    first, second = (faults.run(cases.pretrain, config, tmp_path / name).value for name in ("first", "second"))
    assert (first["digest"], first["test"]) == (second["digest"], second["test"])


def prepared_as(config: dict[str, Any], out: Path, options: dict[str, Any], block: int) -> list[list[Any]]:
    """The encoded rows of every split, prepared with these options in blocks of this many bytes."""
    import polars as pl

    from genrec_adapters.datasets import blocks
    from genrec_adapters.preprocess import PrepareOptions, prepare

    blocks.BLOCK_BYTES = block
    if block < 1 << 20:
        blocks.read_blocks.__defaults__ = (block,)  # type: ignore[attr-defined]
    prepared = prepare(
        config["dataset"], out, fields=config["fields"], split=config["split"], options=PrepareOptions(**options)
    )
    frames = []
    for split in ("train", "valid", "test"):
        paths = prepared.shard_paths(split)  # type: ignore[arg-type]
        frames.append([pl.concat([pl.read_ipc(path) for path in paths]).rows()] if paths else [])
    return [*frames, [entry.model_dump()["spec"] for entry in prepared.manifest.fields]]


@pytest.mark.parametrize(
    "split", [{"type": "shuffled", "seed": 1}, {"type": "random", "seed": 1}, {"type": "time"}], ids=lambda s: s["type"]
)
def test_rows_are_prepared_alike_whatever_the_threads_chunks_and_shards(split: dict[str, Any], tmp_path: Path) -> None:
    fields = {
        "a": {"type": "categorical", "min_count": 2},
        "b": {"type": "categorical", "mode": "hash", "num_buckets": 7},
        "x": {"type": "numeric-bucket", "method": "quantile"},
    }
    config = cases.run_config(cases.write_table(tmp_path / "rows.csv", rows=3000), fields=fields, split=split)
    ways: list[tuple[dict[str, Any], int]] = [
        ({"threads": 1}, 48 << 20),
        ({"threads": 4}, 48 << 20),
        ({"threads": 2, "cache_mib": 0}, 4096),
        ({"threads": 3, "shard_rows": 100}, 10_000),
    ]
    made = []
    for number, (options, block) in enumerate(ways):
        found = faults.run(prepared_as, config, tmp_path / str(number), options, block)
        assert not found.crash + found.sentence, found
        made.append(found.value)
    assert all(other == made[0] for other in made[1:])
    assert len(made[0][0][0]) > 2000
