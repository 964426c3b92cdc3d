"""Semantic IDs inside a TorchRec model: an EmbeddingBagCollection whose item tables are looked up by code n-grams.

- takes the KJT of item ids that a hashed table takes, and returns the same KeyedTensor, so that nothing else changes
- the tables live in an ordinary EmbeddingBagCollection: DMP shards it, fused optimizers train it
- the items' n-grams are a buffer that is never on the meta device, since DMP would replace it by zeros
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torchrec.models.dlrm import DLRM, SparseArch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from genrec_adapters.code_ngrams import ItemNgrams
from genrec_registry import ModelError, did_you_mean

Model = TypeVar("Model", bound=DLRM)


class NgramLookup(nn.Module):
    """Item ids to the ids of their code n-grams.

    Args:
        ngrams: the items' n-grams; item 0 is the unknown one.

    Example::

        >>> import numpy as np
        >>> lookup = NgramLookup(ItemNgrams(ids=np.array([[0, 0], [1, 3], [1, 2]], np.int32), num_ids=4))
        >>> lookup(torch.tensor([2, 1, 99])).tolist()
        [1, 2, 1, 3, 0, 0]
    """

    ids: Tensor

    def __init__(self, ngrams: ItemNgrams) -> None:
        super().__init__()
        self.num_items, self.depth = ngrams.ids.shape
        # The device is named: under `with torch.device("meta")` the codes must stay real.
        self.register_buffer("ids", torch.tensor(ngrams.ids, dtype=torch.int32, device="cpu"))

    def forward(self, items: Tensor) -> Tensor:
        """Item ids ``[V]`` to n-gram ids ``[V * depth]``; an id outside the catalogue is the unknown item's."""
        known = (items >= 0) & (items < self.num_items)
        rows = torch.where(known, items, torch.zeros_like(items))
        return torch.index_select(self.ids, 0, rows).flatten().to(items.dtype)


class NgramFeatures(nn.Module):
    """A KJT of item ids to a KJT of n-gram ids; features without n-grams stay as they are.

    A module of its own, without tables inside, so that TorchRec's train pipelines run it a batch ahead when they are
    made with ``pipeline_postproc=True``.

    Args:
        tables: say which features there are, in which order, and in which table each is looked up.
        ngrams: by table name, the n-grams of every item id.

    Example::

        >>> import numpy as np
        >>> tables = [EmbeddingBagConfig(name="t_item", embedding_dim=4, num_embeddings=9, feature_names=["item"])]
        >>> ngrams = ItemNgrams(ids=np.array([[0, 0], [1, 3], [1, 2]], np.int32), num_ids=4)
        >>> items = KeyedJaggedTensor(keys=["item"], values=torch.tensor([2, 1]), lengths=torch.tensor([0, 2]))
        >>> NgramFeatures(tables, {"t_item": ngrams})(items)["item"].to_dense()
        [tensor([], dtype=torch.int64), tensor([1, 2, 1, 3])]
    """

    def __init__(self, tables: Sequence[EmbeddingBagConfig], ngrams: Mapping[str, ItemNgrams]) -> None:
        super().__init__()
        self.lookups = nn.ModuleList(NgramLookup(one) for one in ngrams.values())
        order = {name: index for index, name in enumerate(ngrams)}
        self._features = [name for table in tables for name in table.feature_names]
        self._lookup_of = [order.get(table.name, -1) for table in tables for _ in table.feature_names]

    def forward(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """B rows to B rows; an item's id becomes ``depth`` ids, so that lengths grow by that factor."""
        values, lengths = [], []
        for name, index in zip(self._features, self._lookup_of, strict=True):
            jagged = features[name]
            ids, length = jagged.values(), jagged.lengths()
            if index >= 0:
                lookup = self.lookups[index]
                ids, length = lookup(ids), length * lookup.depth
            values.append(ids)
            lengths.append(length)
        return KeyedJaggedTensor(keys=self._features, values=torch.cat(values), lengths=torch.cat(lengths))


class SemanticIdEmbedding(nn.Module):
    """Stands where an EmbeddingBagCollection stands; some of its tables hold code n-grams instead of items.

    An item's vector is the sum of the vectors of its n-grams (Zheng et al., arXiv 2504.02137, section 4). A bag of
    several items is pooled over all their n-grams, by the table's own rule.

    Args:
        tables: as for an EmbeddingBagCollection whose item tables are looked up by item id. The rows of the tables
            named in ``ngrams`` become those the n-grams need.
        ngrams: by table name, the n-grams of every item id.
        device: of the tables; ``"meta"`` makes none.

    Shapes:
        features: a KJT with the features of all tables, B rows each, item ids for the tables of ``ngrams``.
        output: KeyedTensor ``[B, sum of the features' widths]``, as an EmbeddingBagCollection gives.

    Raises:
        ModelError: ``ngrams`` names a table that is not there.

    Example::

        >>> import numpy as np
        >>> tables = [EmbeddingBagConfig(name="t_item", embedding_dim=4, num_embeddings=1000, feature_names=["item"])]
        >>> ngrams = ItemNgrams(ids=np.array([[0, 0], [1, 3], [1, 2]], np.int32), num_ids=4)
        >>> embedding = SemanticIdEmbedding(tables, {"t_item": ngrams})
        >>> items = KeyedJaggedTensor(keys=["item"], values=torch.tensor([2, 1, 1]), lengths=torch.tensor([1, 1, 1]))
        >>> embedding(items)["item"].shape, embedding.embedding_bag_configs()[0].num_embeddings
        (torch.Size([3, 4]), 4)
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        ngrams: Mapping[str, ItemNgrams],
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        names = [table.name for table in tables]
        for name in ngrams:
            if name not in names:
                raise ModelError(f"SemanticIdEmbedding: there is no table '{name}'{did_you_mean(name, names)}")
        self.embedding_bag_collection = EmbeddingBagCollection(
            tables=[
                _with_rows(table, ngrams[table.name].num_ids) if table.name in ngrams else table for table in tables
            ],
            device=torch.device(device) if device is not None else None,
        )
        self.ngrams = NgramFeatures(tables, ngrams)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """The tables as they are, with the rows of the n-grams; ``SparseArch`` reads widths and names from them."""
        configs: list[EmbeddingBagConfig] = self.embedding_bag_collection.embedding_bag_configs()
        return configs

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look up item ids by their n-grams, everything else as it is."""
        return self.embedding_bag_collection(self.ngrams(features))


def _with_rows(table: EmbeddingBagConfig, rows: int) -> EmbeddingBagConfig:
    """The table with other rows, and TorchRec's initialisation for that many where it had none of its own."""
    fn = table.init_fn
    default = isinstance(fn, partial) and fn.func is nn.init.uniform_
    return replace(table, num_embeddings=rows, init_fn=None if default else fn)


def use_semantic_ids(dlrm: Model, ngrams: Mapping[str, ItemNgrams]) -> Model:
    """Put semantic IDs in the place of a DLRM's item tables, before it is wrapped or optimised.

    The other tables, the dense arch, the interaction and the over arch keep their tensors; the model goes on taking
    the KJT of item ids.

    Args:
        dlrm: a ``DLRM`` or a subclass, not yet wrapped by DMP.
        ngrams: by table name, the n-grams of every item id.

    Returns:
        The same object.

    Raises:
        ModelError: it has no such table, or is sharded or optimised already.

    Example::

        >>> import numpy as np
        >>> tables = [EmbeddingBagConfig(name="t_item", embedding_dim=8, num_embeddings=1000, feature_names=["item"])]
        >>> dlrm = DLRM(EmbeddingBagCollection(tables=tables), dense_in_features=3, dense_arch_layer_sizes=[8],
        ...             over_arch_layer_sizes=[5, 1])
        >>> ngrams = ItemNgrams(ids=np.array([[0, 0], [1, 3], [1, 2]], np.int32), num_ids=4)
        >>> dlrm = use_semantic_ids(dlrm, {"t_item": ngrams})
        >>> items = KeyedJaggedTensor(keys=["item"], values=torch.tensor([2, 1]), lengths=torch.tensor([1, 1]))
        >>> dlrm(torch.randn(2, 3), items).shape
        torch.Size([2, 1])
    """
    if not isinstance(dlrm, DLRM):
        raise ModelError(f"use_semantic_ids: found {type(dlrm).__name__}, expected a torchrec DLRM that is not wrapped")
    old = dlrm.sparse_arch.embedding_bag_collection
    if not isinstance(old, EmbeddingBagCollection):
        raise ModelError(
            f"use_semantic_ids: the tables are a {type(old).__name__}, expected an EmbeddingBagCollection; "
            "call it once, right after the DLRM is built"
        )
    if any(hasattr(parameter, "_in_backward_optimizers") for parameter in old.parameters()):
        raise ModelError("use_semantic_ids: too late, an optimizer holds the tables; call it right after the build")
    new = SemanticIdEmbedding(old.embedding_bag_configs(), ngrams, old.device)
    for name, bag in old.embedding_bags.items():
        if name not in ngrams:
            new.embedding_bag_collection.embedding_bags[name] = bag
    dlrm.sparse_arch = SparseArch(new)
    return dlrm
