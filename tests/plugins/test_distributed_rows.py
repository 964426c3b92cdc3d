"""The rows of N ranks: their batches together are the batches of one process, each row once."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess import PrepareOptions, prepare
from genrec_registry import ConfigError

SIZES = (1, 2, 3, 5, 16, 103)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Prepared]:
    """Prepared rows of several sizes; row i has id i + 1, and a list of i % 3 ids."""
    found = {}
    for rows in SIZES:
        folder = tmp_path_factory.mktemp(f"rows{rows}")
        frame = pl.DataFrame(
            {
                "y": [i % 2 for i in range(rows)],
                "a": [f"v{i:03d}" for i in range(rows)],
                "l": [[f"x{j}" for j in range(i % 3)] for i in range(rows)],
            }
        )
        frame.write_parquet(folder / "rows.parquet")
        config = {"type": "parquet", "train": str(folder / "rows.parquet"), "label": "y"}
        fields = {"a": {"type": "categorical"}, "l": {"type": "multi-hot", "max_length": 4}}
        found[rows] = prepare(config, folder / "out", fields=fields, options=PrepareOptions(shard_rows=17))
    return found


def rank_batches(loader: BatchLoader, first: int = 0) -> list[list[int]]:
    """The rows of each batch of a rank, fillers left out; every batch has a row, as a forward needs one."""
    found = []
    for index, batch in enumerate(loader.skip(first), start=first):
        rows = (batch.sparse_features["a"].values() - 1).tolist()
        assert len(rows) == max(1, loader.own_rows(index))
        found.append(rows[: loader.own_rows(index)])
    return found


@settings(max_examples=80, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    batch_size=st.integers(1, 120),
    world_size=st.integers(1, 5),
    buffer_rows=st.integers(1, 120),
    epoch=st.integers(0, 2),
    shuffle=st.booleans(),
    data=st.data(),
)
def test_ranks_together_have_the_batches_of_one_process(
    tables: dict[int, Prepared],
    size: int,
    batch_size: int,
    world_size: int,
    buffer_rows: int,
    epoch: int,
    shuffle: bool,
    data: st.DataObject,
) -> None:
    def loader(rank: int, ranks: int, cut: bool) -> BatchLoader:
        made = BatchLoader(
            tables[size], "train", batch_size, shuffle=shuffle, seed=7, buffer_rows=buffer_rows, rank=rank,
            world_size=ranks, cut=cut,
        )  # fmt: skip
        made.set_epoch(epoch)
        return made

    if batch_size < world_size:
        with pytest.raises(ConfigError, match="expected at least a row a rank"):
            loader(0, world_size, True)
        return
    alone = [(batch.sparse_features["a"].values() - 1).tolist() for batch in loader(0, 1, False)]
    first = data.draw(st.integers(0, len(alone)))
    ranks = [rank_batches(loader(rank, world_size, True), first) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {len(alone) - first}, "unequal numbers of batches hang the ranks"
    for index, whole in enumerate(alone[first:]):
        assert sorted(row for batches in ranks for row in batches[index]) == sorted(whole)
        assert loader(0, world_size, True).all_rows(first + index) == len(whole)
        sizes = [len(batches[index]) for batches in ranks]
        assert max(sizes) - min(sizes) <= 1


def test_rows_of_ranks_interleave_to_file_order(tables: dict[int, Prepared]) -> None:
    """What puts predictions back in row order: rank r has the rows r, r + N, ..."""
    together = np.full(103, -1)
    for rank in range(4):
        loader = BatchLoader(tables[103], "train", 20, rank=rank, world_size=4, cut=True)
        together[rank::4] = [row for batch in rank_batches(loader) for row in batch]
    assert together.tolist() == list(range(103))
