"""Dynamic ids: rows given out and taken back as a slow model says; training, resume and ranks around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.models.dynamic_ids import DynamicIds, DynamicTable
from genrec_plugins.training.launch import launch
from genrec_plugins.training.run import TrainedRun, prepare_run, train_run
from genrec_plugins.training.trainer import Trainer
from genrec_registry import ConfigError, DynamicRows
from tests.plugins.interrupt import Interrupt

ROWS = 900
TORCHREC = "{batch_size: 64, epochs: 2, embedding_lr: 0.1, dense_lr: 0.01, threads: 1, checkpoint_every: 3}"
BARS = "{preset: bars, batch_size: 64, epochs: 2, lr: 0.01, threads: 1}"
STATIC = "{type: categorical}"


def dynamic(rows: int = 100, eviction: str = "lru", interval: int = 1) -> str:
    return f"{{type: dynamic-id, rows: {rows}, eviction: {eviction}, interval: {interval}}}"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose label depends on 60 items, popular and rare."""
    source = np.random.default_rng(0)
    item = np.minimum(source.geometric(0.06, ROWS), 60)
    label = source.random(ROWS) < np.where(item % 2 == 0, 0.8, 0.2)
    path = tmp_path_factory.mktemp("table") / "rows.parquet"
    names = [f"item{i}" for i in item]
    other = source.integers(0, 4, ROWS)
    pl.DataFrame({"y": label.astype(int), "item": names, "other": [f"o{i}" for i in other]}).write_parquet(path)
    return path


def make_run(table: Path, field: str, train: str = TORCHREC) -> LoadedRun:
    return parse_run(
        f"""
seed: 3
dataset: {{type: parquet, path: {table}, label: y}}
split: {{type: shuffled, seed: 1, train: 0.7, valid: 0.15, test: 0.15}}
fields: {{item: {field}, other: {{type: categorical}}}}
model: {{embedding_dim: 8, embedding_init_std: 0, over_arch: [16], interaction: {{type: mlp}}}}
train: {train}
"""
    )


def prepared_for(run: LoadedRun, table: Path) -> Prepared:
    return prepare_run(run, table.parent / f"prepared-{run.config.fields['item'].type}-{run.config.train.preset}")


def batch(ids: list[int], other: int = 5) -> KeyedJaggedTensor:
    values = torch.tensor([*([other] * len(ids)), *ids])
    return KeyedJaggedTensor(["other", "item"], values=values, lengths=torch.ones_like(values, dtype=torch.int32))


def module(rows: int, eviction: str = "lru", interval: int = 1) -> DynamicIds:
    rule = DynamicRows(eviction=eviction, interval=interval)  # type: ignore[arg-type]
    return DynamicIds([DynamicTable(name="t_item", features=("item",), rows=rows, rule=rule)])


def rows_of(ids: DynamicIds, batch_: KeyedJaggedTensor) -> list[int]:
    """Rows of the items of a batch."""
    found = ids(batch_)
    assert found.values().dtype == torch.int32
    assert set(found["other"].values().tolist()) == {5}
    return found["item"].values().tolist()


def slow_lru(held: dict[int, int], seen: list[list[int]], time: int, size: int) -> dict[int, int]:
    """Which ids hold a row after batches, and when each was last seen: id -> time."""
    last = {id_: time - len(seen) + 1 + place for place, ids in enumerate(seen) for id_ in ids}
    counts = {id_: sum(ids.count(id_) for ids in seen) for id_ in last}
    old = [(-last.get(id_, then), 0, 0, id_) for id_, then in held.items()]
    new = [(-then, 1, -counts[id_], id_) for id_, then in last.items() if id_ not in held]
    return {id_: -then for then, _, _, id_ in sorted(old + new)[:size]}


@pytest.mark.parametrize("interval", [1, 3])
def test_lru_gives_rows_as_a_slow_model_does(interval: int) -> None:
    source = np.random.default_rng(interval)
    ids, held, waiting = module(9, interval=interval).train(), {}, []
    before: dict[int, int] = {}
    for time in range(1, 61):
        # batches of growing length: the first one must not bound what is remembered
        items = [int(item) for item in source.zipf(1.5, source.integers(1, 4 + time)) * 1_000_003]
        waiting.append(items)
        rows = rows_of(ids, batch(items))
        if time % interval == 0:
            held = slow_lru(held, waiting, time, 8)
            waiting = []
        now = dict(zip(items, rows, strict=True))
        assert {item for item in now if now[item] != 8} == set(items) & set(held)
        known = dict(zip(held, rows_of(ids.eval(), batch(list(held))), strict=True)) if held else {}
        ids.train()
        assert len(set(known.values())) == len(known), "each id has a row of its own"
        assert all(known[item] == row for item, row in before.items() if item in known), "an id keeps its row"
        before = known


@pytest.mark.parametrize("eviction", ["lru", "lfu", "distance-lfu"])
def test_an_id_seen_often_keeps_its_row_and_those_of_evicted_ids_are_used_again(eviction: str) -> None:
    ids = module(5, eviction).train()
    often = rows_of(ids, batch([7, 7, 7]))[0]
    given: set[int] = set()
    for step in range(30):
        found = rows_of(ids, batch([7, 7, 7, 100 + step]))
        assert found[:3] == [often] * 3
        given.add(found[3])
    if eviction == "lru":  # each new one got a row: those of the others are used again, the shared one never
        assert given == {0, 1, 2, 3} - {often}
    assert rows_of(ids.eval(), batch([7]))[0] == often


def test_evaluation_changes_nothing_and_unseen_ids_share_the_last_row() -> None:
    ids = module(6).train()
    rows_of(ids, batch([1, 2, 3]))
    before = {name: value.clone() for name, value in ids.state_dict().items()}
    ids.eval()
    known = rows_of(ids, batch([1, 2, 3]))
    assert rows_of(ids, batch([3, 8, 9, 2**63 - 2])) == [known[2], 5, 5, 5]
    assert 5 not in known
    assert all(torch.equal(value, before[name]) for name, value in ids.state_dict().items())
    assert ids.open_rows() == {"t_item": 2}


@pytest.mark.parametrize("train", [TORCHREC, BARS], ids=["torchrec", "bars"])
def test_equals_a_vocabulary_while_nothing_is_evicted(train: str, table: Path, tmp_path: Path) -> None:
    predictions = []
    size = prepared_for(make_run(table, STATIC, train), table).sparse_features[0].num_embeddings
    # as many rows, so that the layers after the tables draw the same weights: one for each value, and the shared one
    for name, field in (("static", STATIC), ("dynamic", dynamic(size))):
        run = make_run(table, field, train)
        prepared = prepared_for(run, table)
        train_run(run, tmp_path / name, prepared)
        predictions.append(TrainedRun.open(tmp_path / name).predict("test"))
    (labels, static), (same_labels, moving) = predictions
    assert np.array_equal(labels, same_labels)
    assert len(np.unique(static)) > 20
    # BARS adds up the squares of all rows, and of all gradients, which are in another order
    np.testing.assert_allclose(moving, static, rtol=1e-6 if train == BARS else 0)


@pytest.mark.parametrize("eviction", ["lru", "distance-lfu"])
def test_resumed_run_ends_as_an_unbroken_one(eviction: str, table: Path, tmp_path: Path) -> None:
    run = make_run(table, dynamic(rows=20, eviction=eviction, interval=5))
    prepared = prepared_for(run, table)
    train_run(run, tmp_path / "whole", prepared)
    for after in (8, 6):  # between two times of giving out rows, with ids waiting
        with pytest.raises(KeyboardInterrupt):
            train_run(run, tmp_path / "broken", prepared, Interrupt(after))
    train_run(run, tmp_path / "broken", prepared)
    whole, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert any("_mch_sorted_raw_ids" in name for name in whole)
    assert whole.keys() == broken.keys()
    for name, value in whole.items():
        assert torch.equal(value, broken[name]), name


def test_a_row_given_to_an_id_begins_at_the_shared_vector_without_optimizer_state(table: Path) -> None:
    run = make_run(table, dynamic(rows=6, eviction="lru"))
    prepared = prepared_for(run, table)
    trainer = Trainer(run.config, prepared, run.registry)
    trainer.fit()
    collection = trainer.model.sparse_arch.embedding_bag_collection
    weights = collection.state_dict()["embedding_bags.t_item.weight"].local_shards()[0].tensor
    states = trainer.recipe.optimizer.state_dict()["state"]
    (state,) = (value for name, value in states.items() if "t_item" in name)
    (sums,) = (value.local_shards()[0].tensor for value in state.values() if hasattr(value, "local_shards"))
    example = next(iter(BatchLoader(prepared, "train", 8)))
    dynamic_ids = trainer.model.dynamic_ids
    assert dynamic_ids is not None
    assert min(sums.abs().min(), weights.abs().min()) > 0
    ids = example.sparse_features["item"].values()
    values = example.sparse_features.values().clone()
    values[values.tolist().index(ids[0].item())] = 12345  # never seen
    features = KeyedJaggedTensor(
        example.sparse_features.keys(), values=values, lengths=example.sparse_features.lengths()
    )
    trainer.model.train()
    row = dynamic_ids(features)["item"].values()[0]
    assert row < 5
    assert torch.equal(weights[row], weights[5])
    assert sums[row] == 0 != sums[5]


def _train(run: str, directory: str, prepared: str) -> None:
    train_run(parse_run(run), directory, Prepared.open(prepared))


@pytest.mark.long
def test_ranks_share_their_ids(table: Path, tmp_path: Path) -> None:
    # 600 rows in batches of 60: each rank has a row in each batch
    run = make_run(table, dynamic(rows=20, interval=2), TORCHREC.replace("64", "60").replace("checkpoint_every: 3", ""))
    prepared = prepared_for(run, table)
    train_run(run, tmp_path / "one", prepared)
    text = run.config.model_dump_json()
    launch(2, _train, text, str(tmp_path / "two"), str(prepared.directory), max_restarts=0)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        if value.is_floating_point():
            torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(two[name], value), name


def test_mistakes_are_told(table: Path) -> None:
    for field, told in (("rows: 1", "rows"), ("rows: 9, eviction: oldest", "eviction"), ("interval: 3", "rows")):
        with pytest.raises(ConfigError, match=told):
            make_run(table, f"{{type: dynamic-id, {field}}}")
