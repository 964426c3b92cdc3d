"""A TorchRec DLRM from a config: tables from the fields, tokens of floats and of the history, interaction by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.models.dlrm import DLRM, DenseArch, SparseArch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from genrec_plugins.models.behaviour_arch import (
    BehaviourArch,
    behaviour_field,
    build_behaviour_arch,
    create_encoder,
    user_token_names,
)
from genrec_plugins.models.dense_tokens import DenseTokens, dense_token_names
from genrec_plugins.models.dynamic_ids import DynamicIds, DynamicTable, dynamic_tables
from genrec_plugins.models.over_arch import DropoutOverArch
from genrec_plugins.module_names import table_name
from genrec_plugins.room import check_room
from genrec_registry import ConfigError, FieldSpec, InteractionContext, ModelError, Registry, SparseFeature, resolve

#: parts of a DLRM -> where a run's file says how large they are
_KEYS = {
    "sparse_arch": "the fields' tables, rows x model.embedding_dim",
    "dense_arch": "the dense fields and model.dense_arch",
    "behaviour_arch": "model.encoder and its tables",
    "inter_arch": "model.interaction",
    "over_arch": "model.over_arch",
}


class FieldDLRM(DLRM):
    """A DLRM whose dense features are fields too: one token for each, not one MLP token for all of them.

    A subclass, so that TorchRec's ``DLRMTrain``, DMP and tools that look for a DLRM take it. Attributes and
    state-dict keys are DLRM's: ``sparse_arch``, ``dense_arch`` (None without dense fields), ``inter_arch``,
    ``over_arch``, and with a history ``behaviour_arch``. ``inter_arch`` gets the first token as ``dense_features`` and
    the others as ``sparse_features``: dense tokens, then those of the tables, then the user tokens.

    Args:
        embedding_bag_collection: the tables, all of one width D.
        dense_tokens: ``[B, W] -> [B, F_dense, D]``, or None.
        inter_arch: any interaction over ``F_dense + F`` tokens.
        over_arch: ``[B, inter_arch.out_features] -> [B, 1]``.
        token_names: names of the tokens in their order.
        behaviour_arch: ``KJT -> [B, N, D]`` user tokens, or None.
        dynamic: the tables whose rows are given out in training.
    """

    def __init__(
        self,
        embedding_bag_collection: EmbeddingBagCollection,
        dense_tokens: nn.Module | None,
        inter_arch: nn.Module,
        over_arch: nn.Module,
        token_names: Sequence[str],
        behaviour_arch: BehaviourArch | None = None,
        dynamic: Sequence[DynamicTable] = (),
    ) -> None:
        nn.Module.__init__(self)  # DLRM's own __init__ would build a stock interaction and over arch first
        self._cuda_graph_enabled = False
        self.sparse_arch = SparseArch(embedding_bag_collection)
        self.dense_arch = dense_tokens
        self.inter_arch = inter_arch
        self.over_arch = over_arch
        self.behaviour_arch = behaviour_arch
        self.dynamic_ids = DynamicIds(dynamic, self.sparse_arch) if dynamic else None
        self.token_names = tuple(token_names)

    def forward(self, dense_features: Tensor, sparse_features: KeyedJaggedTensor) -> Tensor:
        """Logits ``[B, 1]`` from ``[B, W]`` floats and a KJT."""
        tokens = self.looked_up(sparse_features)
        if self.dense_arch is not None:
            tokens = torch.cat([self.dense_arch(dense_features), tokens], dim=1)
        return self.over_arch(self.inter_arch(dense_features=tokens[:, 0], sparse_features=tokens[:, 1:]))

    def looked_up(self, sparse_features: KeyedJaggedTensor) -> Tensor:
        """Tokens of the tables and of the history, ``[B, F + N, D]``."""
        if self.dynamic_ids is not None:
            sparse_features = self.dynamic_ids(sparse_features)
        tokens = self.sparse_arch(sparse_features)
        if self.behaviour_arch is None:
            return tokens
        return torch.cat([tokens, self.behaviour_arch(sparse_features)], dim=1)

    def tables(self) -> list[nn.Parameter]:
        """All tables: those of the fields, then those of the history."""
        tables = list(self.sparse_arch.embedding_bag_collection.parameters())
        return tables if self.behaviour_arch is None else [*tables, *self.behaviour_arch.tables()]

    def trained_tables(self) -> list[nn.Parameter]:
        """The tables that training changes."""
        arch = self.behaviour_arch
        frozen = {id(table) for table in arch.tables()} if arch is not None and arch.tables_frozen else set()
        return [table for table in self.tables() if id(table) not in frozen]


class StockDLRM(FieldDLRM):
    """A DLRM of the stock shape, where one MLP turns all dense features into token 0; the forward is TorchRec's."""

    def forward(self, dense_features: Tensor, sparse_features: KeyedJaggedTensor) -> Tensor:
        """Logits ``[B, 1]`` from ``[B, W]`` floats and a KJT."""
        if self.dense_arch is None or (self.behaviour_arch is None and self.dynamic_ids is None):
            return DLRM.forward(self, dense_features, sparse_features)
        dense, others = self.dense_arch(dense_features), self.looked_up(sparse_features)
        return self.over_arch(self.inter_arch(dense_features=dense, sparse_features=others))


def embedding_tables(
    fields: Sequence[FieldSpec], embedding_dim: int, init_std: float | None = None
) -> list[EmbeddingBagConfig]:
    """The pooled tables the fields ask for, in order of first use; features of one table stand together.

    Args:
        fields: the fields.
        embedding_dim: D.
        init_std: tables begin at N(0, init_std); TorchRec's uniform rule if None.

    Raises:
        ModelError: two features share a table and disagree on its rows or pooling.

    Example::

        >>> fields = [FieldSpec(name="C1", type="categorical", sparse=(SparseFeature(name="C1", num_embeddings=7),))]
        >>> [(table.name, table.num_embeddings) for table in embedding_tables(fields, 4)]
        [('t_C1', 7)]
    """
    tables: dict[str, list[SparseFeature]] = {}
    for field in fields:
        for feature in field.sparse:
            if feature.pooling == "none":
                continue
            tables.setdefault(feature.table or feature.name, []).append(feature)
    init_fn = partial(nn.init.normal_, std=init_std) if init_std is not None else None
    configs = []
    for name, features in tables.items():
        facts = {(feature.num_embeddings, feature.pooling, feature.dynamic is None) for feature in features}
        if len(facts) > 1:
            sharers = ", ".join(f"'{feature.name}'" for feature in features)
            raise ModelError(
                f"table '{name}' is shared by {sharers}, which disagree on (rows, pooling, fixed ids): "
                f"{sorted(facts)}; give them the same settings, or tables of their own"
            )
        configs.append(
            EmbeddingBagConfig(
                name=table_name(name),
                embedding_dim=embedding_dim,
                num_embeddings=features[0].num_embeddings,
                feature_names=[feature.name for feature in features],
                pooling=PoolingType.MEAN if features[0].pooling == "mean" else PoolingType.SUM,
                init_fn=init_fn,
            )
        )
    return configs


def build_dlrm(
    config: Any,
    fields: Sequence[FieldSpec],
    registry: Registry,
    device: torch.device | str = "cpu",
    table_device: torch.device | str | None = None,
) -> FieldDLRM:
    """Build the model of a run.

    Args:
        config: the ``model`` section (:class:`genrec_plugins.config.ModelConfig`).
        fields: the fitted fields of the prepared data.
        registry: where the interaction and the token modules come from.
        device: where the parameters are made; ``"meta"`` makes none.
        table_device: where those of the tables are made; ``device`` if None.

    Returns:
        A :class:`FieldDLRM`, whose ``token_names`` are the fields the interaction sees.

    Raises:
        ConfigError: the model section does not go with the fields, or the model takes more memory than there is.
    """
    device = torch.device(device)
    table_device = device if table_device is None else torch.device(table_device)
    if device.type != "meta":
        check_room(
            partial(build_dlrm, config, fields, registry, "meta"),
            "model",
            keys=_KEYS,
            skip=lambda model: model.tables() if table_device.type == "meta" else (),
        )
    sparse_names = [
        name for table in embedding_tables(fields, 1) for name in table.feature_names
    ]  # table order is what SparseArch gives, not field order
    if not sparse_names:
        raise ConfigError("model: no field has an embedding table; a DLRM needs at least one, add a categorical field")
    history = behaviour_field(config.encoder, fields)
    dense_names = dense_token_names(fields)
    if config.dense == "mlp" and not dense_names:
        raise ConfigError("model.dense is 'mlp' but no field is dense; declare numeric-dense fields or drop the key")
    token_names = ["dense", *sparse_names] if config.dense == "mlp" else [*dense_names, *sparse_names]
    encoder: nn.Module | None = None
    if history is not None:
        with device:
            encoder = create_encoder(config, history, registry)
        token_names += user_token_names(history.name, encoder)
    wanted = required_embedding_dim(registry, config.interaction, len(token_names))
    embedding_dim = config.embedding_dim if wanted is None else wanted

    with device:
        ebc = EmbeddingBagCollection(
            tables=embedding_tables(fields, embedding_dim, config.embedding_init_std), device=table_device
        )
        dense_arch: nn.Module | None = None
        if config.dense == "mlp":
            width = sum(feature.width for field in fields for feature in field.dense)
            dense_arch = DenseArch(width, [*config.dense_arch, embedding_dim], device=device)
        elif dense_names:
            dense_arch = DenseTokens(fields, embedding_dim, registry)
        behaviour_arch: BehaviourArch | None = None
        if history is not None and encoder is not None:
            behaviour_arch = build_behaviour_arch(config, history, encoder, embedding_dim, table_device)
        context = InteractionContext(embedding_dim=embedding_dim, token_names=tuple(token_names))
        inter_arch = registry.create("interaction", config.interaction, context)
        over_arch = DropoutOverArch(inter_arch.out_features, [*config.over_arch, 1], config.dropout, device=device)
    shape = StockDLRM if config.dense == "mlp" else FieldDLRM
    dynamic = dynamic_tables(fields)
    return shape(ebc, dense_arch, inter_arch, over_arch, token_names, behaviour_arch, dynamic)


def required_embedding_dim(registry: Registry, interaction: Any, num_tokens: int) -> int | None:
    """The table width that an interaction with field-pair embeddings needs; None where any width will do.

    Args:
        registry: where the interaction's record is.
        interaction: its tagged config.
        num_tokens: F + 1.
    """
    rule = getattr(registry.get("interaction", interaction.type).record, "embedding_dim", None)
    return None if rule is None else int(resolve(rule)(interaction, num_tokens))


def check_embedding_dim(registry: Registry, interaction: Any, context: InteractionContext) -> None:
    """Refuse tables of another width than the interaction needs.

    Raises:
        ModelError: the widths differ.
    """
    wanted = required_embedding_dim(registry, interaction, context.num_tokens)
    if wanted not in (None, context.embedding_dim):
        raise ModelError(
            f"'{interaction.type}' needs embedding_dim {wanted} for {context.num_tokens} tokens, this DLRM's tables "
            f"have {context.embedding_dim}; build the tables with that width"
        )
