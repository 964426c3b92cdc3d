"""Semantic IDs inside TorchRec models: against loops, traced, on the meta device, sharded, beside the field type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from genrec_adapters.code_ngrams import CodeNgrams, ItemNgrams
from genrec_adapters.item_codes import ItemCodes
from genrec_plugins.models.swap import swap_interaction
from genrec_plugins.testing.build_checks import materialize_like_dmp
from genrec_plugins.tokenizers.module import SemanticIdEmbedding, use_semantic_ids
from genrec_registry import ModelError, default_registry, parse_component

B, D, ITEMS = 6, 4, 30
NAMES = ("", *(f"i{n}" for n in range(1, ITEMS)))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def codes() -> ItemCodes:
    """Codes of all items but the last five, which are new."""
    drawn = np.random.default_rng(0).integers(0, 4, (ITEMS - 6, 3)).astype(np.int32)
    return ItemCodes(items=NAMES[1:-5], codes=drawn, sizes=(4, 4, 4))


def ngrams(**options) -> ItemNgrams:
    return ItemNgrams.of(codes(), NAMES, **options)


def tables(pooling: PoolingType = PoolingType.SUM) -> list[EmbeddingBagConfig]:
    """A hashed item table that two features share, between two others."""
    return [
        EmbeddingBagConfig(name="t_c", embedding_dim=D, num_embeddings=7, feature_names=["c"]),
        EmbeddingBagConfig(
            name="t_item", embedding_dim=D, num_embeddings=500, feature_names=["item", "past"], pooling=pooling
        ),
        EmbeddingBagConfig(name="t_d", embedding_dim=D, num_embeddings=9, feature_names=["d"]),
    ]


def batch(rows: int = B, seed: int = 0) -> KeyedJaggedTensor:
    """Keys in another order than the tables', one too many, bags of 0 to 3 past items, ids also of new items."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.ones(5, rows, dtype=torch.int64)
    lengths[2] = torch.randint(0, 4, (rows,), generator=generator)
    limits = (ITEMS, 7, ITEMS, 3, 9)
    values = [
        torch.randint(limit, (int(n),), generator=generator)
        for limit, n in zip(limits, lengths.sum(dim=1), strict=True)
    ]
    return KeyedJaggedTensor(
        keys=["item", "c", "past", "unused", "d"], values=torch.cat(values), lengths=lengths.flatten()
    )


@pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN])
@pytest.mark.parametrize("options", [{}, {"kind": "level"}, {"depth": 2}, {"num_buckets": 5}], ids=str)
def test_each_bag_is_the_pool_of_its_items_ngrams(options, pooling):
    table, data = ngrams(**options), batch()
    embedding = SemanticIdEmbedding(tables(pooling), {"t_item": table})
    weight = embedding.embedding_bag_collection.embedding_bags["t_item"].weight
    assert weight.shape == (table.num_ids, D)
    found = embedding(data)
    for feature in ("item", "past"):
        for row, items in enumerate(data[feature].to_dense()):
            vectors = [weight[gram] for item in items.tolist() for gram in table.ids[item]]
            expected = torch.stack(vectors).sum(dim=0) if vectors else torch.zeros(D)
            if pooling is PoolingType.MEAN and vectors:
                expected = expected / len(vectors)
            torch.testing.assert_close(found[feature][row], expected)


def test_the_other_tables_and_the_order_are_those_of_a_plain_collection():
    plain = EmbeddingBagCollection(tables=tables())
    embedding = SemanticIdEmbedding(tables(), {"t_item": ngrams()})
    for name in ("t_c", "t_d"):
        embedding.embedding_bag_collection.embedding_bags[name].load_state_dict(plain.embedding_bags[name].state_dict())
    found, expected = embedding(batch()), plain(batch())
    assert (found.keys(), found.length_per_key()) == (expected.keys(), expected.length_per_key())
    for feature in ("c", "d"):
        assert torch.equal(found[feature], expected[feature])


def test_new_items_and_ids_outside_the_catalogue_share_the_unknown_row():
    embedding = SemanticIdEmbedding(tables(), {"t_item": ngrams()})
    items = torch.tensor([ITEMS - 1, ITEMS - 2, 0, ITEMS, 10_000, -1])
    data = KeyedJaggedTensor(
        keys=["item", "past", "c", "d"],
        values=torch.cat([items, torch.zeros(18, dtype=torch.int64)]),
        lengths=torch.ones(24, dtype=torch.int64),
    )
    found = embedding(data)["item"]
    unknown = embedding.embedding_bag_collection.embedding_bags["t_item"].weight[0]
    torch.testing.assert_close(found, (3 * unknown).expand(6, D))


def test_items_that_share_a_prefix_learn_together():
    embedding = SemanticIdEmbedding(tables(), {"t_item": ngrams()})
    ids = ngrams().ids
    first = next(item for item in range(1, ITEMS - 5) if (ids[item + 1 :, 0] == ids[item, 0]).any())
    alike = first + 1 + int(np.flatnonzero(ids[first + 1 :, 0] == ids[first, 0])[0])
    apart = next(item for item in range(1, ITEMS - 5) if ids[item, 0] != ids[first, 0])

    def vector(item: int) -> torch.Tensor:
        values = torch.tensor([item, 0, 0])
        data = KeyedJaggedTensor(keys=["item", "c", "d", "past"], values=values, lengths=torch.tensor([1, 1, 1, 0]))
        return embedding(data)["item"]

    before = {item: vector(item).detach() for item in (alike, apart)}
    vector(first).sum().backward()
    torch.optim.SGD(embedding.parameters(), lr=0.1).step()
    assert not torch.equal(vector(alike), before[alike])
    assert torch.equal(vector(apart), before[apart])


def test_int32_ids_stay_int32():
    data = batch()
    narrow = KeyedJaggedTensor(keys=data.keys(), values=data.values().int(), lengths=data.lengths().int())
    embedding = SemanticIdEmbedding(tables(), {"t_item": ngrams()})
    assert torch.equal(embedding(narrow).values(), embedding(data).values())


@pytest.mark.parametrize("script", [False, True])
def test_traces_as_a_collection_does(script):
    embedding = SemanticIdEmbedding(tables(), {"t_item": ngrams()}).eval()
    traced = torch.fx.symbolic_trace(embedding)
    module = torch.jit.script(traced) if script else traced
    for rows in (B, 1, 9):
        data = batch(rows, seed=rows)
        assert torch.equal(module(data).values(), embedding(data).values())


def dlrm(**options) -> DLRM:
    return DLRM(EmbeddingBagCollection(tables=tables(), **options), 3, [8, D], [8, 1], options.get("device"))


def test_replaces_the_item_table_of_a_dlrm():
    model = dlrm()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names, dense = list(model.sparse_arch.sparse_feature_names), torch.randn(B, 3)
    with torch.no_grad():
        stock = model(dense, batch())
    assert use_semantic_ids(model, {"t_item": ngrams()}) is model
    assert model.sparse_arch.sparse_feature_names == names
    after = model.state_dict()
    for name, value in before.items():
        if "t_item" not in name:
            inner = name.replace("embedding_bag_collection.", "embedding_bag_collection.embedding_bag_collection.")
            assert torch.equal(after[inner], value), name
    with torch.no_grad():
        changed = model(dense, batch())
    assert changed.shape == (B, 1)
    assert not torch.equal(changed, stock)
    swap_interaction(model, "fat", {"num_heads": 2})
    loss, _ = DLRMTrain(model)(_Batch(dense, batch()))
    loss.backward()
    table = model.sparse_arch.embedding_bag_collection.embedding_bag_collection.embedding_bags["t_item"]
    assert table.weight.grad.abs().sum() > 0


class _Batch:
    def __init__(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> None:
        self.dense_features, self.sparse_features, self.labels = dense, sparse, torch.ones(len(dense))


def test_a_table_keeps_its_own_initialisation_and_gets_torchrecs_for_its_new_rows():
    own = EmbeddingBagConfig(
        name="t_item", embedding_dim=D, num_embeddings=500, feature_names=["item"], init_fn=nn.init.ones_
    )
    for table, check in (
        (own, lambda weight: bool((weight == 1).all())),
        (tables()[1], lambda weight: float(weight.detach().abs().max()) > 500**-0.5),
    ):
        embedding = SemanticIdEmbedding([table], {"t_item": ngrams()})
        assert check(embedding.embedding_bag_collection.embedding_bags["t_item"].weight)


def test_codes_survive_the_meta_device_and_the_state_dict():
    with torch.device("meta"):
        meta = SemanticIdEmbedding(tables(), {"t_item": ngrams()}, device="meta")
    assert meta.embedding_bag_collection.embedding_bags["t_item"].weight.is_meta
    embedding = materialize_like_dmp(meta)
    assert embedding.ngrams.lookups[0].ids.tolist() == ngrams().ids.tolist()
    assert torch.isfinite(embedding(batch()).values()).all()
    other = SemanticIdEmbedding(tables(), {"t_item": ngrams(kind="level", num_buckets=None)})
    wider = SemanticIdEmbedding(tables(), {"t_item": ngrams()})
    wider.ngrams.lookups[0].ids.zero_()
    wider.load_state_dict(embedding.state_dict())
    assert torch.equal(wider(batch()).values(), embedding(batch()).values())
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(embedding.state_dict())


def test_wrong_uses_are_told():
    with pytest.raises(ModelError, match=r"there is no table 'item', did you mean 't_item'\?"):
        SemanticIdEmbedding(tables(), {"item": ngrams()})
    with pytest.raises(ModelError, match="expected a torchrec DLRM"):
        use_semantic_ids(nn.Linear(1, 1), {})  # type: ignore[type-var]
    model = use_semantic_ids(dlrm(), {"t_item": ngrams()})
    with pytest.raises(ModelError, match="call it once, right after the DLRM is built"):
        use_semantic_ids(model, {"t_item": ngrams()})
    from torch.distributed.optim import _apply_optimizer_in_backward

    late = dlrm()
    _apply_optimizer_in_backward(torch.optim.SGD, late.sparse_arch.parameters(), {"lr": 0.1})
    with pytest.raises(ModelError, match="too late"):
        use_semantic_ids(late, {"t_item": ngrams()})


def test_the_field_type_and_the_module_give_one_item_the_same_rows(tmp_path):
    letters = "abc"
    index = {
        item: [f"<{letter}_{code}>" for letter, code in zip(letters, row, strict=True)]
        for item, row in zip(codes().items, codes().codes.tolist(), strict=True)
    }
    (tmp_path / "index.json").write_text(json.dumps(index))
    registry = default_registry()
    config = parse_component(
        registry, "field-type", {"type": "semantic-id", "codes": str(tmp_path / "index.json"), "num_buckets": 12}
    )
    fitted = registry.create("field-type", config, "item").fitter().finish()
    encoded = pl.DataFrame({"item": NAMES}).select(fitted.encode())["item"].to_list()
    read = ItemCodes.read(tmp_path / "index.json")
    assert encoded == ItemNgrams.of(read, NAMES, num_buckets=12).ids.tolist()
    assert fitted.spec.sparse[0].num_embeddings == CodeNgrams.of(read, num_buckets=12).num_ids


def waves(weight: torch.Tensor) -> torch.Tensor:
    """The same start on every rank, whoever holds the table."""
    with torch.no_grad():
        return weight.copy_(torch.arange(weight.numel()).view_as(weight).sin())


class Pooled(nn.Module):
    """What DMP wraps: all pooled vectors of a batch."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        made = [replace(table, init_fn=waves) for table in tables()]
        self.embedding = SemanticIdEmbedding(made, {"t_item": ngrams()}, device)

    def forward(self, features: KeyedJaggedTensor) -> torch.Tensor:
        return self.embedding(features).values()


RANK = """
import sys
from datetime import timedelta
import torch, torch.distributed as dist
torch.set_num_threads(1)
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.datasets.utils import Batch
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder, ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from genrec_plugins.training.launch import end
from torchrec.distributed.types import ShardingEnv
from torchrec.models.dlrm import DLRMTrain
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
sys.path.insert(0, sys.argv[3])
import test_semantic_id_module as t

rank, cpu, meta = int(sys.argv[1]), torch.device("cpu"), torch.device("meta")
store = dist.FileStore(sys.argv[2] + "/rendezvous", 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=120))


def shard(model):
    tables = [name.split(".")[-2] for name, _ in model.named_parameters() if "embedding_bags" in name]
    plan = EmbeddingShardingPlanner(
        topology=Topology(world_size=2, local_world_size=2, compute_device="cpu"), batch_size=t.B,
        constraints={table: ParameterConstraints(sharding_types=["table_wise"]) for table in tables},
    ).plan(model, [EmbeddingBagCollectionSharder()])
    held = [p for name, p in model.named_parameters() if "embedding_bags" in name]
    _apply_optimizer_in_backward(torch.optim.SGD, held, {"lr": 0.1})
    dmp = DistributedModelParallel(model, env=ShardingEnv.from_process_group(dist.group.WORLD), device=cpu,
                                   plan=plan, sharders=[EmbeddingBagCollectionSharder()])
    assert any(isinstance(m, ShardedEmbeddingBagCollection) for m in dmp.modules())
    assert dmp.fused_optimizer.params, "the plan was not table_wise"
    return dmp


# 1. two ranks look up, and learn, what one process does
with meta:
    pooled = t.Pooled(meta)
sharded = shard(pooled)
alone, data = t.Pooled(cpu), [t.batch(seed=n) for n in range(2)]
target = [torch.arange(float(t.B * 16)).view(t.B, 16).cos() * (n + 1) for n in range(2)]
torch.testing.assert_close(sharded(data[rank]), alone(data[rank]))
(sharded(data[rank]) * target[rank]).sum().backward()
(sum((alone(data[n]) * target[n]).sum() for n in range(2)) / 2).backward()
torch.optim.SGD(alone.parameters(), 0.1).step()
torch.testing.assert_close(sharded(data[rank]), alone(data[rank]))

# 2. a DLRM with them goes through TorchRec's pipeline, which looks up a batch ahead
with meta:
    model = DLRMTrain(t.use_semantic_ids(t.dlrm(device=meta), {"t_item": t.ngrams()}))
dmp = shard(model)
lookup = next(m for m in dmp.modules() if isinstance(m, t.SemanticIdEmbedding)).ngrams.lookups[0]
assert lookup.ids.tolist() == t.ngrams().ids.tolist(), "the codes were lost"
dense = dict(in_backward_optimizer_filter(dmp.named_parameters()))
optimizer = CombinedOptimizer([dmp.fused_optimizer, KeyedOptimizerWrapper(dense, lambda p: torch.optim.Adam(p, 0.01))])
pipeline = TrainPipelineSparseDist(dmp, optimizer, cpu, pipeline_postproc=True)
rows = iter([Batch(torch.randn(t.B, 3), t.batch(seed=n), torch.ones(t.B, dtype=torch.int32)) for n in range(4)])
losses = [float(pipeline.progress(rows)[0].detach()) for _ in range(4)]
assert all(loss == loss for loss in losses), losses
assert pipeline._pipelined_modules, "the tables are not looked up a batch ahead"
dist.barrier()
dist.destroy_process_group()
end()
"""


@pytest.mark.distributed
def test_trains_sharded_on_two_ranks(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    paths = [path for path in sys.path if path]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, str(script)]
    here = str(Path(__file__).parent)
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path), here],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)
