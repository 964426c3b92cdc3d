"""The batch loader: every row once an epoch, the same order on resume, and TorchRec's own KeyedJaggedTensor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.datasets.utils import Batch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess import PrepareOptions, prepare
from genrec_adapters.rows import Ragged
from genrec_registry import ConfigError, DataError

torch.set_num_threads(1)
ROWS = 103
ONE_HOT = {"a": {"type": "categorical"}, "n": {"type": "numeric-dense", "transform": "none"}, "b": "categorical"}
MIXED = {**ONE_HOT, "l": {"type": "multi-hot", "max_length": 4}, "z": {"type": "vector", "width": 3}}


def make(folder: Path, fields: dict[str, Any], storage: Any = "arrow", shard_rows: int = 17) -> Prepared:
    """Prepared data whose row i has id i + 1 in feature ``a`` (``v`` + i is the i-th most frequent value)."""
    index = range(ROWS)
    frame = pl.DataFrame(
        {
            "y": [i % 3 == 0 for i in index],
            "a": [f"v{i:03d}" for i in index],
            "b": [f"w{i % 7}" for i in index],
            "n": [i / 2 for i in index],
            "l": [[f"x{j}" for j in range(i % 6)] for i in index],
            "z": [[float(i), 0.5, float(-i)] for i in index],
        }
    )
    frame.write_parquet(folder / "rows.parquet")
    config = {"type": "parquet", "train": str(folder / "rows.parquet"), "label": "y"}
    return prepare(
        config, folder / "out", fields=fields, options=PrepareOptions(storage=storage, shard_rows=shard_rows)
    )


@pytest.fixture(scope="module")
def one_hot(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make(tmp_path_factory.mktemp("one_hot"), ONE_HOT)


@pytest.fixture(scope="module", params=["arrow", "parquet"])
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make(tmp_path_factory.mktemp("mixed"), MIXED, request.param)


def row_ids(batches: Iterator[Batch] | BatchLoader) -> list[list[int]]:
    """Which rows each batch has."""
    return [(batch.sparse_features["a"].values() - 1).tolist() for batch in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


@settings(max_examples=60, deadline=None)
@given(
    batch_size=st.integers(1, 120),
    buffer_rows=st.integers(1, 120),
    world_size=st.integers(1, 5),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_every_row_once_an_epoch(
    one_hot: Prepared, batch_size: int, buffer_rows: int, world_size: int, epoch: int, shuffle: bool
) -> None:
    seen: list[int] = []
    lengths = set()
    for rank in range(world_size):
        loader = BatchLoader(
            one_hot, "train", batch_size, shuffle=shuffle, buffer_rows=buffer_rows, rank=rank, world_size=world_size
        )
        loader.set_epoch(epoch)
        batches = row_ids(loader)
        assert len(batches) == len(loader)
        lengths.add(len(batches))
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert 1 <= len(batches[-1]) <= batch_size + 1
        seen += flat(batches)
    assert sorted(seen) == list(range(ROWS))
    assert len(lengths) == 1, "ranks with unequal numbers of batches hang collective operations"


@pytest.mark.parametrize("world_size", [1, 3])
def test_drop_last_gives_full_batches_only(one_hot: Prepared, world_size: int) -> None:
    for rank in range(world_size):
        loader = BatchLoader(one_hot, "train", 10, shuffle=True, drop_last=True, rank=rank, world_size=world_size)
        batches = row_ids(loader)
        assert [len(batch) for batch in batches] == [10] * (ROWS // world_size // 10)
    assert row_ids(BatchLoader(one_hot, "train", 200, drop_last=True)) == []


def test_file_order_without_shuffle(one_hot: Prepared) -> None:
    assert flat(row_ids(BatchLoader(one_hot, "train", 10))) == list(range(ROWS))


@pytest.mark.parametrize("buffer_rows", [20, 1000])
def test_order_depends_on_seed_and_epoch_alone(one_hot: Prepared, buffer_rows: int) -> None:
    def order(seed: int, epoch: int, batch_size: int = 10) -> list[int]:
        loader = BatchLoader(one_hot, "train", batch_size, shuffle=True, seed=seed, buffer_rows=buffer_rows)
        loader.set_epoch(epoch)
        return flat(row_ids(loader))

    assert order(1, 0) == order(1, 0) == order(1, 0, batch_size=7)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert order(1, 0) != list(range(ROWS))


@pytest.mark.parametrize("buffer_rows", [20, 40, 1000])
@pytest.mark.parametrize("rank", [0, 1])
def test_resume_continues_with_the_same_batches(one_hot: Prepared, buffer_rows: int, rank: int) -> None:
    def loader() -> BatchLoader:
        made = BatchLoader(one_hot, "train", 9, shuffle=True, seed=5, buffer_rows=buffer_rows, rank=rank, world_size=2)
        made.set_epoch(3)
        return made

    whole = row_ids(loader())
    for done in range(len(whole) + 1):
        resumed = loader().skip(done)
        assert row_ids(resumed) == whole[done:]
        assert row_ids(resumed) == whole, "only the first iteration skips"
    with pytest.raises(ConfigError, match=f"cannot skip {len(whole) + 1} batches"):
        loader().skip(len(whole) + 1)


def test_two_iterations_at_once_do_not_disturb_each_other(one_hot: Prepared) -> None:
    loader = BatchLoader(one_hot, "train", 10, shuffle=True, buffer_rows=20)
    pairs = list(zip(loader, loader, strict=True))
    assert row_ids(iter([left for left, _ in pairs])) == row_ids(iter([right for _, right in pairs]))


def slow_kjt(prepared: Prepared, rows: list[int]) -> KeyedJaggedTensor:
    """The tensor TorchRec builds from lists of ids, nothing precomputed."""
    read = pl.read_ipc if prepared.manifest.storage == "arrow" else pl.read_parquet
    table = pl.concat([read(path) for path in prepared.shard_paths("train")])[rows]
    keys = [feature.name for feature in prepared.sparse_features]
    ids = [value if isinstance(value, list) else [value] for key in keys for value in table[key].to_list()]
    return KeyedJaggedTensor.from_lengths_sync(
        keys=keys,
        values=torch.tensor([one for row in ids for one in row], dtype=torch.int32),
        lengths=torch.tensor([len(row) for row in ids], dtype=torch.int32),
    )


@pytest.mark.parametrize("batch_size", [1, 10, 50])
@pytest.mark.parametrize("kind", ["one_hot", "mixed"])
def test_fast_tensor_equals_the_slow_one(kind: str, batch_size: int, one_hot: Prepared, mixed: Prepared) -> None:
    prepared = one_hot if kind == "one_hot" else mixed
    for batch in BatchLoader(prepared, "train", batch_size, shuffle=True, buffer_rows=40):
        fast = batch.sparse_features
        rows = (fast["a"].values() - 1).tolist()
        slow = slow_kjt(prepared, rows)
        assert fast.keys() == slow.keys()
        assert fast.stride() == slow.stride() == len(rows)
        for part in ("values", "lengths", "offsets"):
            left, right = getattr(fast, part)(), getattr(slow, part)()
            assert left.dtype == right.dtype == torch.int32
            assert torch.equal(left, right), part
        assert fast.length_per_key() == slow.length_per_key()
        assert fast.offset_per_key() == slow.offset_per_key()
        halves = zip(fast.split([1, len(fast.keys()) - 1]), slow.split([1, len(fast.keys()) - 1]), strict=True)
        assert all(torch.equal(left.values(), right.values()) for left, right in halves)
        assert torch.equal(fast.permute([1, 0]).values(), slow.permute([1, 0]).values())


def test_dense_features_and_labels(mixed: Prepared) -> None:
    assert [(feature.name, feature.width) for feature in mixed.dense_features] == [("n", 2), ("z", 3)]
    for batch in BatchLoader(mixed, "train", 10, shuffle=True):
        rows = batch.sparse_features["a"].values().numpy() - 1
        wanted = np.stack([rows / 2, rows * 0, rows, rows * 0 + 0.5, -rows], axis=1).astype(np.float32)
        assert torch.equal(batch.dense_features, torch.from_numpy(wanted))
        assert torch.equal(batch.labels, torch.from_numpy((rows % 3 == 0).astype(np.float32)))


def test_torchrec_takes_the_batch(mixed: Prepared) -> None:
    tables = [
        EmbeddingBagConfig(name=f.name, embedding_dim=4, num_embeddings=f.num_embeddings, feature_names=[f.name])
        for f in mixed.sparse_features
    ]
    collection = EmbeddingBagCollection(tables=tables)
    for batch in BatchLoader(mixed, "train", 50):
        rows = (batch.sparse_features["a"].values() - 1).tolist()
        found = collection(batch.sparse_features).values()
        assert torch.equal(found, collection(slow_kjt(mixed, rows)).values())
        found.sum().backward()


def test_dense_only(tmp_path: Path) -> None:
    prepared = make(tmp_path, {"n": {"type": "numeric-dense"}})
    batch = next(iter(BatchLoader(prepared, "train", 10)))
    assert batch.sparse_features.keys() == []
    assert batch.dense_features.shape == (10, 2)


def test_out_of_range_ids_name_the_feature(tmp_path: Path) -> None:
    """FBGEMM would look up row 0 without a word."""
    prepared = make(tmp_path, ONE_HOT, shard_rows=1000)
    path = prepared.shard_paths("train")[0]
    table = pl.read_ipc(path.read_bytes())
    table = table.with_columns(pl.lit(8, dtype=pl.Int32).alias("b")).to_arrow(compat_level=pl.CompatLevel.oldest())
    path.unlink()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"feature 'b' has ids 8\.\.8, expected 0\.\.7"):
        next(iter(BatchLoader(prepared, "train", 10)))


def test_damaged_shard(tmp_path: Path) -> None:
    prepared = make(tmp_path, ONE_HOT, shard_rows=1000)
    prepared.shard_paths("train")[0].write_bytes(b"not arrow")
    with pytest.raises(DataError, match=r"part-00000\.arrow: cannot be read"):
        next(iter(BatchLoader(prepared, "train", 10)))


def test_arguments(one_hot: Prepared) -> None:
    with pytest.raises(ConfigError, match=r"rank is 2, expected 0\.\.1"):
        BatchLoader(one_hot, "train", 10, rank=2, world_size=2)
    with pytest.raises(ConfigError, match="batch_size 0"):
        BatchLoader(one_hot, "train", 0)
    with pytest.raises(DataError, match=f"has {ROWS} rows for 200 ranks"):
        BatchLoader(one_hot, "train", 1, world_size=200)
    assert list(BatchLoader(one_hot, "test", 10)) == []


@settings(max_examples=50, deadline=None)
@given(lists=st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=12), data=st.data())
def test_ragged_take_equals_a_loop(lists: list[list[int]], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=12))
    offsets = np.cumsum([0, *map(len, lists)])
    ragged = Ragged(np.array([one for row in lists for one in row], dtype=np.int32), offsets)
    taken = ragged.take(np.array(index, dtype=np.int64))
    assert taken.values.tolist() == [one for row in index for one in lists[row]]
    assert taken.lengths.tolist() == [len(lists[row]) for row in index]
