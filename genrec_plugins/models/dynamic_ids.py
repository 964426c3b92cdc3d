"""Hashed ids to table rows that are given out and taken back in training: TorchRec's managed collision (ZCH).

- TorchRec shards its ``ManagedCollisionEmbeddingBagCollection`` row-wise only, which needs GPUs. Here the managed
  collision modules stand, unsharded, before the collection of all tables, which is sharded as ever. Ranks show each
  other the ids of a batch, so that all hold the same state, that of one process.
- TorchRec leaves what becomes of the rows of evicted ids to be written. Here a row that is given to an id begins at
  the vector that ids without a row share, and its fused optimizer's state at zero.
- TorchRec's history buffer is as long as the first batch asks for, and what does not fit is dropped; here it grows.
- What TorchRec keeps outside its state dict is settled before a checkpoint: see :meth:`DynamicIds.settle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    LFU_EvictionPolicy,
    LRU_EvictionPolicy,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from genrec_plugins.module_names import table_name
from genrec_registry import DynamicRows, FieldSpec, ModelError

_POLICIES = {"lru": LRU_EvictionPolicy, "lfu": LFU_EvictionPolicy, "distance-lfu": DistanceLFU_EvictionPolicy}


@dataclass(frozen=True, kw_only=True)
class DynamicTable:
    """A table whose rows are given out.

    Args:
        name: of the EmbeddingBagConfig.
        features: that look it up.
        rows: of the table; the last is shared by ids without one.
        rule: how they are given out.
    """

    name: str
    features: tuple[str, ...]
    rows: int
    rule: DynamicRows


def dynamic_tables(fields: Sequence[FieldSpec]) -> list[DynamicTable]:
    """The tables of a model whose features have hashed ids.

    Raises:
        ModelError: a feature shares the table of another one with other rules.
    """
    tables: dict[str, DynamicTable] = {}
    for feature in (feature for field in fields for feature in field.sparse):
        if feature.dynamic is None:
            continue
        name = table_name(feature.table or feature.name)
        known = tables.get(name)
        if feature.pooling == "none" or (known is not None and known.rule != feature.dynamic):
            raise ModelError(
                f"dynamic feature '{feature.name}': its table '{name}' is read by an encoder or has other eviction "
                "settings elsewhere; give it a pooled table of its own"
            )
        features = (*(known.features if known else ()), feature.name)
        tables[name] = DynamicTable(name=name, features=features, rows=feature.num_embeddings, rule=feature.dynamic)
    return list(tables.values())


class _Table(MCHManagedCollisionModule):
    """TorchRec's module with a history that grows, and a state that can be loaded at any time."""

    _history_accumulator: Tensor

    def __init__(self, table: DynamicTable) -> None:
        super().__init__(
            zch_size=table.rows,
            device=torch.device("cpu"),
            eviction_policy=_POLICIES[table.rule.eviction](),
            eviction_interval=table.rule.interval,
            name=table.name,
        )
        self.features = table.features
        self.register_load_state_dict_post_hook(lambda module, _: module._start())

    def _start(self) -> None:
        """Go by what the buffers hold."""
        self._current_iter = -1  # TorchRec reads it from its buffer then
        self._current_history_buffer_offset = 0
        self._evicted = False

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for prefix, found in (("_mch_", self._mch_metadata), ("_history_", self._history_metadata)):
            for name in found:  # TorchRec's own references are to the tensors before the move
                found[name] = getattr(self, prefix + name)
        self._device = self._mch_sorted_raw_ids.device
        if self._input_history_buffer_size >= 0:
            self._history_accumulator = self._history_accumulator.to(self._device)
        return self

    def profile(self, features: dict[str, JaggedTensor]) -> dict[str, JaggedTensor]:
        """Remember the ids of a batch in training; give out rows when it is time."""
        if self.training and self._input_history_buffer_size >= 0:
            self._make_room(sum(feature.values().numel() for feature in features.values()))
        return super().profile(features)

    def _make_room(self, ids: int) -> None:
        missing = self._current_history_buffer_offset + ids - self._input_history_buffer_size
        if missing <= 0:
            return
        missing = max(missing, self._input_history_buffer_size)
        self._history_accumulator = torch.cat([self._history_accumulator, self._history_accumulator.new_zeros(missing)])
        for name, values in self._history_metadata.items():
            longer = torch.cat([values, values.new_zeros(missing)])
            setattr(self, f"_history_{name}", longer)
            self._history_metadata[name] = longer
        self._input_history_buffer_size += missing

    def settle(self) -> None:
        """Give out rows now if ids are waiting for that."""
        if self._current_history_buffer_offset:
            self._coalesce_history()
            self._last_eviction_iter = self._current_iter


class DynamicIds(nn.Module):
    """Puts rows in the place of hashed ids; in training also gives rows to new ids, taking those of old ones.

    In evaluation nothing changes. An id without a row gets the last one, which they all share.

    Args:
        tables: whose rows are given out; at least one.
        sparse_arch: has the collection of all tables as ``embedding_bag_collection``, sharded or not. It is referred
            to, and stays another module's.

    Example::

        >>> table = DynamicTable(name="t_item", features=("item",), rows=3, rule=DynamicRows())
        >>> ids = DynamicIds([table])
        >>> batch = KeyedJaggedTensor(["item"], values=torch.tensor([70, 80, 70]), lengths=torch.tensor([1, 1, 1]))
        >>> _ = ids.eval()
        >>> ids(batch).values().tolist()
        [2, 2, 2]
        >>> ids.train()(batch).values().tolist() == ids.eval()(batch).values().tolist()
        True
        >>> ids.open_rows(), ids.ids_with_rows()
        ({'t_item': 0}, {'t_item': [70, 80]})
    """

    def __init__(self, tables: Sequence[DynamicTable], sparse_arch: nn.Module | None = None) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({table.name: _Table(table) for table in tables})
        self._sparse_arch = (sparse_arch,)  # a tuple, so that it is no submodule

    def forward(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The batch with int32 rows for ids; ids of other features stay as they are."""
        values, starts = features.values().to(torch.int32), features.offset_per_key()
        places = {key: slice(*starts[index : index + 2]) for index, key in enumerate(features.keys())}
        for name, table in self._each():
            ids = torch.cat([features.values()[places[feature]] for feature in table.features]).long()
            if self.training:
                table.profile({name: _jagged(_of_all_ranks(ids))})
                self._begin_rows(name, table)
            rows = table.remap({name: _jagged(ids)})[name].values().to(torch.int32)
            first = 0
            for feature in table.features:
                place = places[feature]
                values[place] = rows[first : first + place.stop - place.start]
                first += place.stop - place.start
        return KeyedJaggedTensor(
            keys=features.keys(),
            values=values,
            weights=features.weights_or_none(),
            lengths=features.lengths(),
            offsets=features.offsets(),
            stride=features.stride(),
            length_per_key=features.length_per_key(),
            offset_per_key=starts,
        )

    def settle(self) -> None:
        """Give rows to the ids that wait for the next time, so that the state dict holds all there is to know.

        A run that is checkpointed and goes on, and one that is resumed from there, are then the same.
        """
        for name, table in self._each():
            table.settle()
            self._begin_rows(name, table)

    def open_rows(self) -> dict[str, int]:
        """Rows of each table that no id has had yet."""
        return {name: int(table.open_slots()) for name, table in self._each()}

    def ids_with_rows(self) -> dict[str, list[int]]:
        """The hashed ids of each table that have a row of their own."""
        found = {}
        for name, table in self._each():
            ids = table._mch_sorted_raw_ids[:-1]  # the last row is that of all other ids
            found[name] = ids[ids < torch.iinfo(torch.int64).max].tolist()
        return found

    def _each(self) -> list[tuple[str, _Table]]:
        return [(name, table) for name, table in self.tables.items() if isinstance(table, _Table)]

    @torch.no_grad()
    def _begin_rows(self, name: str, table: _Table) -> None:
        """Set the rows that were given out just now."""
        rows, (sparse_arch,) = table.evict(), self._sparse_arch
        if rows is None or not rows.numel() or sparse_arch is None:
            return
        collection: Any = sparse_arch.embedding_bag_collection
        shared = table.output_size() - 1
        for part in _local_parts(collection.state_dict()[f"embedding_bags.{name}.weight"]):
            if len(part) <= shared:
                raise ModelError(f"dynamic table '{name}' is cut by rows; give it another type in train.sharding")
            part[rows] = part[shared].clone()
        fused = getattr(collection, "fused_optimizer", None)
        if fused is None:
            return
        for key, state in fused.state_dict()["state"].items():
            if key == f"embedding_bags.{name}.weight":
                for part in (part for value in state.values() for part in _local_parts(value)):
                    if part.dim() and len(part) == table.output_size():
                        part[rows] = 0


def _jagged(ids: Tensor) -> JaggedTensor:
    return JaggedTensor(values=ids, lengths=torch.ones_like(ids))


def _local_parts(value: Any) -> list[Tensor]:
    """What this rank holds of a tensor; tables are not cut by rows where rows are given out."""
    if hasattr(value, "local_shards"):
        return [shard.tensor for shard in value.local_shards()]
    return [value] if isinstance(value, Tensor) else []


def _of_all_ranks(ids: Tensor) -> Tensor:
    """The ids of all ranks' parts of a batch."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return ids
    count = torch.tensor([ids.numel()], device=ids.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    padded = ids.new_zeros(int(torch.stack(counts).max()))
    padded[: ids.numel()] = ids
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(number)] for part, number in zip(parts, counts, strict=True)])


def settle(model: nn.Module) -> None:
    """Settle the dynamic ids of a model, wrapped or not; before its state is saved.

    Args:
        model: may have none.
    """
    for module in model.modules():
        if isinstance(module, DynamicIds):
            module.settle()
