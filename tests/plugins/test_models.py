"""DLRMs from a config; interactions swapped into TorchRec's own; stock checkpoints loaded into the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchrec.models.dlrm import DLRM, DLRM_DCN, DLRM_Projection, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from genrec_plugins.config import parse_run
from genrec_plugins.models import (
    FieldDLRM,
    StockDLRM,
    build_dlrm,
    embedding_tables,
    field_aware_dlrm,
    load_stock_checkpoint,
)
from genrec_plugins.models import swap_interaction as swap
from genrec_registry import (
    ConfigError,
    DenseFeature,
    FieldSpec,
    ModelError,
    SparseFeature,
    default_registry,
)

D = 8


def tables() -> EmbeddingBagCollection:
    # table order is not key order: f2 stands in the first table
    return EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(name="t2", embedding_dim=D, num_embeddings=7, feature_names=["f2"]),
            EmbeddingBagConfig(name="t1", embedding_dim=D, num_embeddings=5, feature_names=["f1", "f3"]),
        ]
    )


class OwnDLRM(DLRM):
    """A user's subclass with an extra head."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, dense_features: torch.Tensor, sparse_features: KeyedJaggedTensor) -> torch.Tensor:
        return super().forward(dense_features, sparse_features) / self.temperature


def stock(kind: type[DLRM] = DLRM, over: tuple[int, ...] = (6, 4, 1)) -> DLRM:
    torch.manual_seed(0)
    arguments = {
        "embedding_bag_collection": tables(),
        "dense_in_features": 3,
        "dense_arch_layer_sizes": [10, D],
        "over_arch_layer_sizes": list(over),
    }
    if kind is DLRM_DCN:
        arguments |= {"dcn_num_layers": 2, "dcn_low_rank_dim": 4}
    if kind is DLRM_Projection:
        arguments |= {"interaction_branch1_layer_sizes": [16], "interaction_branch2_layer_sizes": [16]}
    return kind(**arguments)


def batch(rows: int = 4) -> tuple[torch.Tensor, KeyedJaggedTensor]:
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(0, 5, (3 * rows,), generator=generator)
    kjt = KeyedJaggedTensor(keys=["f1", "f2", "f3"], values=values, lengths=torch.ones(3 * rows, dtype=torch.int64))
    return torch.rand(rows, 3, generator=generator), kjt


@pytest.mark.parametrize("kind", [DLRM, DLRM_DCN, DLRM_Projection, OwnDLRM])
def test_swap_keeps_embeddings_and_dense_arch_bit_for_bit(kind: type[DLRM]) -> None:
    dlrm = stock(kind)
    before = {name: value.clone() for name, value in dlrm.state_dict().items()}
    swapped = swap(dlrm, "fat", {"num_heads": 2})
    assert swapped is dlrm
    assert type(swapped) is kind
    after = swapped.state_dict()
    kept = [name for name in before if name.startswith(("sparse_arch.", "dense_arch.", "temperature"))]
    assert len(kept) >= 6
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert swapped.inter_arch.context.token_names == ("dense", "f2", "f1", "f3"), "table order, not key order"
    assert [p._linear.out_features for p in swapped.over_arch.model[0]._mlp] == [6, 4]
    loss, _ = DLRMTrain(swapped)(_batch())
    loss.backward()
    assert all(parameter.grad is not None for parameter in swapped.parameters())


def _batch() -> object:
    from torchrec.datasets.utils import Batch

    dense, sparse = batch()
    return Batch(dense_features=dense, sparse_features=sparse, labels=torch.tensor([0.0, 1.0, 0.0, 1.0]))


def test_swapping_dot_for_dot_gives_the_stock_architecture() -> None:
    dlrm = stock()
    shapes = {name: value.shape for name, value in dlrm.state_dict().items()}
    swapped = swap(dlrm, "dot")
    swapped.load_state_dict(stock().state_dict())
    assert {name: value.shape for name, value in swapped.state_dict().items()} == shapes
    torch.testing.assert_close(swapped(*batch()), stock()(*batch()))


def test_swap_goes_on_to_further_swaps() -> None:
    dlrm = stock()
    for name in ("fat", "dcn", "mlp", "dot"):
        swap(dlrm, name)
        assert dlrm(*batch()).shape == (4, 1)


def test_swap_keeps_dropout_and_device_type_of_the_over_arch() -> None:
    dlrm = stock().double()
    dlrm.over_arch.model.insert(1, nn.Dropout(0.25))
    swap(dlrm, "mlp")
    assert dlrm.over_arch.model[1].p == 0.25
    assert {parameter.dtype for parameter in dlrm.over_arch.parameters()} == {torch.float64}


def test_swap_is_refused_once_an_optimizer_holds_the_parameters() -> None:
    dlrm = stock()
    optimizer = torch.optim.Adam(dlrm.parameters())
    with pytest.raises(ModelError, match=r"too late, an optimizer \(Adam\) holds its parameters"):
        swap(dlrm, "fat")
    del optimizer
    swap(dlrm, "fat")


def test_an_optimizer_of_the_tables_alone_is_no_obstacle() -> None:
    dlrm = stock()
    optimizer = torch.optim.SGD(dlrm.sparse_arch.parameters(), lr=0.1)
    swap(dlrm, "fat")
    assert optimizer.param_groups


def test_swap_is_refused_once_wrapped() -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    from torchrec.distributed.model_parallel import DistributedModelParallel

    from genrec_plugins.training.sharding import ensure_process_group, sharding_plan

    ensure_process_group(torch.device("cpu"))
    try:
        dlrm = stock()
        ddp = DistributedDataParallel(dlrm)
        with pytest.raises(ModelError, match="too late, it is wrapped by DistributedDataParallel"):
            swap(dlrm, "fat")
        with pytest.raises(ModelError, match="found DistributedDataParallel, expected a torchrec DLRM"):
            swap(ddp, "fat")
        train = DLRMTrain(stock())
        sharding = sharding_plan(train, torch.device("cpu"))
        dmp = DistributedModelParallel(
            train, env=sharding.env, device=torch.device("cpu"), plan=sharding.plan, sharders=sharding.sharders
        )
        with pytest.raises(ModelError, match=r"too late, .* is sharded already"):
            swap(dmp.module.model, "fat")
    finally:
        dist.destroy_process_group()


def test_swap_errors_name_what_to_do() -> None:
    with pytest.raises(ModelError, match="found Linear, expected a torchrec DLRM"):
        swap(nn.Linear(2, 2), "fat")
    with pytest.raises(ConfigError, match=r"unknown key 'num_head', did you mean 'num_heads'\?"):
        swap(stock(), "fat", {"num_head": 2})
    with pytest.raises(ModelError, match="'ffm' needs embedding_dim 16 for 4 tokens, this DLRM's tables have 8"):
        swap(stock(), "ffm", {"pair_dim": 4})


@pytest.mark.parametrize("form", ["safetensors", "torch", "mapping", "wrapped"])
def test_stock_checkpoint_keeps_what_fits_and_lists_the_rest(form: str, tmp_path: Path) -> None:
    trained = stock()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1.0)
    state = trained.state_dict()
    checkpoint: object = state
    if form == "safetensors":
        checkpoint = tmp_path / "stock.safetensors"
        save_file(state, checkpoint)
    elif form == "torch":
        checkpoint = tmp_path / "stock.pt"
        torch.save({"state_dict": state, "epoch": 3}, checkpoint)
    elif form == "wrapped":
        checkpoint = {f"module.model.{name}": value for name, value in state.items()}
    model = swap(stock(), "fat", {"num_heads": 2})
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_stock_checkpoint(model, checkpoint)
    now = model.state_dict()
    for name in report.loaded:
        assert torch.equal(now[name], state[name])
    assert {name.split(".")[0] for name in report.loaded} == {"sparse_arch", "dense_arch"}
    assert "shape [6, 14] in the checkpoint, [6, 32] in the model" in str(report)
    assert {name.split(".")[0] for name in report.missing} == {"inter_arch", "over_arch"}
    assert all(torch.equal(now[name], fresh[name]) for name in report.missing)


def test_unreadable_checkpoints_are_one_sentence(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pt"
    junk.write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match="is not a readable checkpoint"):
        load_stock_checkpoint(stock(), junk)
    with pytest.raises(ModelError, match="no such file"):
        load_stock_checkpoint(stock(), tmp_path / "absent.safetensors")
    with pytest.raises(ModelError, match="none of the 1 tensors fits"):
        load_stock_checkpoint(stock(), {"other": torch.zeros(1)})


FIELDS = (
    FieldSpec(name="C1", type="categorical", sparse=(SparseFeature(name="C1", num_embeddings=5),)),
    FieldSpec(name="I1", type="numeric-dense", dense=(DenseFeature(name="I1", width=2),)),
    FieldSpec(name="C2", type="categorical", sparse=(SparseFeature(name="C2", num_embeddings=9, table="ids"),)),
    FieldSpec(name="I2", type="numeric-dense", dense=(DenseFeature(name="I2", width=2),)),
    FieldSpec(
        name="H",
        type="multi-hot",
        sparse=(SparseFeature(name="H", num_embeddings=9, max_length=3, table="ids"),),
    ),
)


def model_config(text: str) -> object:
    return parse_run("dataset: {type: criteo-kaggle, path: x}\nmodel: {embedding_dim: 8, " + text + "}").config.model


def field_batch(rows: int = 4) -> tuple[torch.Tensor, KeyedJaggedTensor]:
    values = torch.tensor([0, 4, 2, 1, 8, 0, 3, 3, 1, 2, 5])
    lengths = torch.tensor([1, 1, 1, 1, 1, 1, 1, 1, 0, 2, 1, 0])
    return torch.randn(rows, 4), KeyedJaggedTensor(keys=["C1", "C2", "H"], values=values, lengths=lengths)


def test_each_dense_field_is_a_token_named_in_order() -> None:
    model = build_dlrm(model_config("interaction: {type: fat, num_heads: 2}"), FIELDS, default_registry())
    assert type(model) is FieldDLRM
    assert model.token_names == ("I1", "I2", "C1", "C2", "H")
    assert model.inter_arch.context.token_names == model.token_names
    assert model(*field_batch()).shape == (4, 1)


def test_dense_columns_reach_their_own_token() -> None:
    model = build_dlrm(model_config("interaction: mlp"), FIELDS, default_registry())
    dense, _ = field_batch()
    tokens = model.dense_arch(dense)
    dense[:, 2:] += 1  # I2's columns
    moved = (model.dense_arch(dense) - tokens).abs().sum(dim=(0, 2)) > 0
    assert moved.tolist() == [False, True]


def test_stock_shape_has_one_dense_token_and_torchrecs_forward() -> None:
    torch.manual_seed(0)
    config = model_config("dense: mlp, dense_arch: [5], over_arch: [6], interaction: dot")
    model = build_dlrm(config, FIELDS, default_registry())
    assert type(model) is StockDLRM
    assert model.token_names == ("dense", "C1", "C2", "H")
    reference = DLRM(
        embedding_bag_collection=EmbeddingBagCollection(tables=embedding_tables(FIELDS, 8)),
        dense_in_features=4,
        dense_arch_layer_sizes=[5, 8],
        over_arch_layer_sizes=[6, 1],
    )
    reference.load_state_dict(model.state_dict())
    inputs = field_batch()
    torch.testing.assert_close(model(*inputs), reference(*inputs))


def test_shared_tables_and_initial_spread() -> None:
    configs = embedding_tables(FIELDS, 4, init_std=0.5)
    assert [(table.name, table.feature_names) for table in configs] == [("t_C1", ["C1"]), ("t_ids", ["C2", "H"])]
    ebc = EmbeddingBagCollection(tables=[c for c in configs if c.name == "t_ids"])
    assert 0.2 < next(ebc.parameters()).std().item() < 0.8
    clash = FieldSpec(name="X", type="categorical", sparse=(SparseFeature(name="X", num_embeddings=3, table="ids"),))
    with pytest.raises(ModelError, match="table 'ids' is shared by 'C2', 'H', 'X', which disagree"):
        embedding_tables([*FIELDS, clash], 4)


def test_pair_embeddings_set_the_table_width() -> None:
    model = build_dlrm(model_config("interaction: {type: ffm, pair_dim: 2}"), FIELDS, default_registry())
    assert model.sparse_arch.D == 5 * 2


def test_model_section_must_go_with_the_fields() -> None:
    sparse_only = [FIELDS[0], FIELDS[2]]
    with pytest.raises(ConfigError, match="no field is dense"):
        build_dlrm(model_config("dense: mlp, interaction: dot"), sparse_only, default_registry())
    with pytest.raises(ConfigError, match="no field has an embedding table"):
        build_dlrm(model_config("interaction: dot"), [FIELDS[1]], default_registry())
    model = build_dlrm(model_config("interaction: dot"), sparse_only, default_registry())
    assert model.dense_arch is None
    assert model.token_names == ("C1", "C2")


def test_dropout_is_active_in_training_only() -> None:
    model = build_dlrm(model_config("dropout: 0.5, interaction: mlp"), FIELDS, default_registry())
    inputs = field_batch()
    assert not torch.equal(model.train()(*inputs), model.train()(*inputs))
    assert torch.equal(model.eval()(*inputs), model.eval()(*inputs))


def test_field_aware_dlrm_takes_torchrecs_own_batches() -> None:
    """The stock dataset of TorchRec's DLRM example, 13 dense columns and 26 sparse ones, unchanged."""
    from torchrec.datasets.criteo import DEFAULT_CAT_NAMES, DEFAULT_INT_NAMES
    from torchrec.datasets.random import RandomRecDataset

    names = list(DEFAULT_CAT_NAMES)
    batches = RandomRecDataset(
        keys=names, batch_size=6, hash_size=10, ids_per_feature=1, num_dense=len(DEFAULT_INT_NAMES), manual_seed=1
    )
    ebc = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(name=f"t_{name}", embedding_dim=D, num_embeddings=10, feature_names=[name])
            for name in names
        ]
    )
    dlrm = field_aware_dlrm(ebc, DEFAULT_INT_NAMES, [6, 1], "fat", {"num_heads": 2})
    assert dlrm.inter_arch.context.token_names == (*DEFAULT_INT_NAMES, *names)
    batch = next(iter(batches))
    loss, (_, logits, _) = DLRMTrain(dlrm)(batch)
    loss.backward()
    assert logits.shape == (6,)
    assert all(parameter.grad is not None for parameter in dlrm.parameters())
    before = dlrm.dense_arch(batch.dense_features)
    batch.dense_features[:, 4] += 1
    moved = (dlrm.dense_arch(batch.dense_features) - before).abs().sum(dim=(0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == [4], "a column reaches its own token only"


def test_field_aware_dlrm_explains_what_does_not_fit() -> None:
    with pytest.raises(ModelError, match="the name 'f1' stands for two tokens"):
        field_aware_dlrm(tables(), ["f1"], [4, 1])
    with pytest.raises(ModelError, match="'ffm' needs embedding_dim 16 for 4 tokens, this DLRM's tables have 8"):
        field_aware_dlrm(tables(), ["i1"], [4, 1], "ffm", {"pair_dim": 4})
    with pytest.raises(ConfigError, match="did you mean 'num_heads'"):
        field_aware_dlrm(tables(), ["i1"], [4, 1], "fat", {"num_head": 4})
    mixed = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(name="a", embedding_dim=4, num_embeddings=3, feature_names=["a"]),
            EmbeddingBagConfig(name="b", embedding_dim=8, num_embeddings=3, feature_names=["b"]),
        ]
    )
    with pytest.raises(ModelError, match=r"tables have the widths \[4, 8\]"):
        field_aware_dlrm(mixed, [], [4, 1])
