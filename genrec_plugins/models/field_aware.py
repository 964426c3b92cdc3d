"""A field-aware DLRM for batches as TorchRec's own datasets give them: every dense column a token of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from genrec_plugins.models.dense_tokens import DenseTokens
from genrec_plugins.models.dlrm import FieldDLRM, check_embedding_dim
from genrec_plugins.models.over_arch import DropoutOverArch
from genrec_registry import (
    DenseFeature,
    FieldSpec,
    InteractionContext,
    ModelError,
    Registry,
    default_registry,
    parse_component,
)


def field_aware_dlrm(
    embedding_bag_collection: EmbeddingBagCollection,
    dense_names: Sequence[str],
    over_arch_layer_sizes: Sequence[int],
    interaction: str | Any = "fat",
    config: Mapping[str, Any] | None = None,
    *,
    dropout: float = 0.0,
    dense_device: torch.device | None = None,
    registry: Registry | None = None,
) -> FieldDLRM:
    """Stand where ``DLRM(...)`` stood in a TorchRec script, without its dense arch.

    Stock DLRM turns all dense columns into one token. Field-aware interactions want one token for each: here column i
    of ``Batch.dense_features`` becomes token i by a linear map of its own, and the sparse features follow in table
    order. The dataset, its ``Batch`` and the rest of the script stay as they are.

    Args:
        embedding_bag_collection: the tables, all of one width D.
        dense_names: a name for each dense column, in order (TorchRec's ``DEFAULT_INT_NAMES`` for Criteo).
        over_arch_layer_sizes: as for DLRM; the last one is 1.
        interaction: a registered name, or a tagged config object.
        config: the interaction's settings, when it is given by name.
        dropout: after each hidden layer of the over arch.
        dense_device: where the parameters beside the tables are made.
        registry: where the name is looked up; the installed plugins if None.

    Raises:
        ModelError: the widths do not go together, or two tokens have one name.
        ConfigError: a setting is wrong.

    Example::

        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> tables = [EmbeddingBagConfig(name="t1", embedding_dim=8, num_embeddings=10, feature_names=["cat_0"])]
        >>> dlrm = field_aware_dlrm(EmbeddingBagCollection(tables=tables), ["int_0", "int_1"], [16, 1])
        >>> dlrm.token_names
        ('int_0', 'int_1', 'cat_0')
    """
    registry = registry or default_registry()
    tables = embedding_bag_collection.embedding_bag_configs()
    dims = {table.embedding_dim for table in tables}
    if len(dims) != 1:
        raise ModelError(f"field_aware_dlrm: tables have the widths {sorted(dims)}, expected one; give all the same")
    embedding_dim = dims.pop()
    token_names = (*dense_names, *(name for table in tables for name in table.feature_names))
    twice = sorted({name for name in token_names if token_names.count(name) > 1})
    if twice:
        raise ModelError(f"field_aware_dlrm: the name '{twice[0]}' stands for two tokens; rename one of them")
    settings: Any = interaction
    if isinstance(interaction, str):
        settings = parse_component(registry, "interaction", {"type": interaction, **(config or {})})
    context = InteractionContext(embedding_dim=embedding_dim, token_names=token_names)
    check_embedding_dim(registry, settings, context)
    fields = [FieldSpec(name=name, type="numeric-dense", dense=(DenseFeature(name=name),)) for name in dense_names]
    with dense_device or torch.device("cpu"):
        dense_arch = DenseTokens(fields, embedding_dim, registry) if fields else None
        inter_arch = registry.create("interaction", settings, context)
        over_arch = DropoutOverArch(inter_arch.out_features, list(over_arch_layer_sizes), dropout)
    return FieldDLRM(embedding_bag_collection, dense_arch, inter_arch, over_arch, token_names)
