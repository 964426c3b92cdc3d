"""A sharding plan from the ``train.sharding`` section, also for one process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.types import (
    KernelConfig,
    ParameterConstraints,
    PlannerError,
    PlannerErrorType,
    Topology,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ModuleSharder, ShardingEnv, ShardingPlan
from torchrec.modules.embedding_configs import BaseEmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from genrec_adapters.patterns import expand, is_pattern
from genrec_plugins.module_names import table_name
from genrec_plugins.training.ranks import ensure_process_group, local_world_size, on_every, on_first, world_size
from genrec_plugins.training.settings import ShardingConfig, TableSharding
from genrec_registry import ConfigError, did_you_mean

__all__ = ["Sharding", "ensure_process_group", "sharding_plan"]

_GB = 1 << 30


@dataclass(frozen=True)
class Sharding:
    """What ``DistributedModelParallel`` takes.

    Args:
        plan: where each table lies.
        sharders: of both kinds of collection.
        env: the process group.
        replicated: names of the parameters of data-parallel tables, which no fused optimizer updates.
        tables: the tables' configs.
    """

    plan: ShardingPlan
    sharders: list[ModuleSharder[nn.Module]]
    env: ShardingEnv
    replicated: frozenset[str]
    tables: tuple[BaseEmbeddingConfig, ...]

    def layout(self, *, rowwise: bool) -> dict[str, str]:
        """Table -> how it lies, where the state of its optimizer cannot be carried over to another layout.

        Args:
            rowwise: whether the optimizer keeps a number for a row: each piece of a row then has one.
        """
        found = {}
        for module_plan in self.plan.plan.values():
            for table, parameter in module_plan.items():
                pieces = (
                    len({tuple(shard.shard_offsets[1:]) for shard in parameter.sharding_spec.shards})
                    if (parameter.sharding_spec is not None)
                    else 1
                )
                if parameter.sharding_type == "data_parallel":
                    found[table.removeprefix("t_")] = "data_parallel"
                elif rowwise and pieces > 1:
                    found[table.removeprefix("t_")] = f"column_wise in {pieces} pieces"
        return found


def sharding_plan(
    model: nn.Module,
    device: torch.device,
    config: ShardingConfig | None = None,
    batch_size: int | None = None,
) -> Sharding:
    """Plan where the tables of a model lie.

    Every rank plans for itself (planning is a function of the model, the config and the number of ranks), and an error
    or another plan on one of them ends all of them before the first collective of the training.

    Args:
        model: holds EmbeddingBagCollections and EmbeddingCollections.
        device: where to train.
        config: the ``train.sharding`` section; every table ``table_wise`` with the fused kernel if None.
        batch_size: rows a rank and step, for the planner's estimates.

    Raises:
        ConfigError: a table is named that is not there, cannot be laid out as asked, or fits nowhere.
    """
    config = config or ShardingConfig()
    ensure_process_group(device)
    sharders: list[ModuleSharder[nn.Module]] = [EmbeddingBagCollectionSharder(), EmbeddingCollectionSharder()]
    with on_every("planning"):
        tables = _tables(model)
        asked = _per_table(config, [_short(table) for table in tables])
        constraints = {table.name: _constraints(table, asked[_short(table)], device) for table in tables}
        topology = _topology(device, config)
        planner = EmbeddingShardingPlanner(
            topology=topology, constraints=constraints, batch_size=batch_size, debug=False
        )
        try:
            with _calm():
                plan = planner.plan(model, sharders)
        except PlannerError as error:
            raise ConfigError(_sentence(error, tables, topology, device)) from error
    theirs = on_first(lambda: str(plan))
    with on_every("planning"):
        if str(plan) != theirs:
            raise ConfigError(
                "train.sharding: this process plans other places for the tables than the first does; use one file and "
                "one sort of machine, or set train.sharding.memory_gb"
            )
    group = dist.distributed_c10d._get_default_group()
    env = ShardingEnv.from_process_group(group)
    return Sharding(plan, sharders, env, _replicated(plan, model), tuple(tables))


def _tables(model: nn.Module) -> list[BaseEmbeddingConfig]:
    tables: list[BaseEmbeddingConfig] = []
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection):
            tables += module.embedding_bag_configs()
        elif isinstance(module, EmbeddingCollection):
            tables += module.embedding_configs()
    for table in tables:
        if table.embedding_dim % 4:
            raise ConfigError(
                f"table '{table.name}' has width {table.embedding_dim}, the fused kernels of preset 'torchrec' take "
                "multiples of 4; change model.embedding_dim (encoder_feature_dim, the interaction's pair_dim), or use "
                "preset 'bars'"
            )
    return tables


def _short(table: BaseEmbeddingConfig) -> str:
    """What a user calls a table: its feature, as in ``fields``."""
    return table.name.removeprefix("t_")


def _per_table(config: ShardingConfig, names: list[str]) -> Mapping[str, TableSharding]:
    found: dict[str, TableSharding] = dict.fromkeys(names, config)
    for pattern in sorted(config.tables, key=is_pattern, reverse=True):  # a name counts more than a pattern
        for name in expand(pattern):
            table = name if name in found else table_name(name).removeprefix("t_")
            if table not in found:
                raise ConfigError(f"train.sharding.tables: there is no table '{name}'{did_you_mean(name, names)}")
            found[table] = config.tables[pattern]
    return found


def _constraints(table: BaseEmbeddingConfig, asked: TableSharding, device: torch.device) -> ParameterConstraints:
    where = f"train.sharding: table '{_short(table)}'"
    if "row_wise" in asked.types and device.type == "cpu":
        raise ConfigError(f"{where} is row_wise, which TorchRec does on GPUs only; use table_wise or column_wise here")
    if asked.kernel != "fused" and device.type == "cpu":
        raise ConfigError(f"{where} has kernel {asked.kernel}, which is for GPUs; drop the key here")
    if asked.columns is not None and table.embedding_dim % min(asked.columns, table.embedding_dim):
        raise ConfigError(
            f"{where} has width {table.embedding_dim}, which columns: {asked.columns} does not divide; "
            "name a divisor that is a multiple of 4"
        )
    kernels = [kind for kind in ("dense", asked.kernel) if kind != "dense" or "data_parallel" in asked.types]
    columns = min(asked.columns, table.embedding_dim) if asked.columns is not None else None
    return ParameterConstraints(
        sharding_types=list(asked.types),
        compute_kernels=kernels,
        min_partition=columns,
        # FBGEMM's default maps an id beyond the table to row 0 and goes on; the check itself runs either way
        bounds_check_mode=BoundsCheckMode.FATAL,
    )


def _topology(device: torch.device, config: ShardingConfig) -> Topology:
    if config.memory_gb is not None:
        memory = int(config.memory_gb * _GB)
    elif device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // local_world_size()
    limits = {"hbm_cap_bytes": memory} if device.type == "cuda" else {"ddr_cap_bytes": memory}
    return TopologyFactory.create_topology(
        TrainerConfig(world_size=world_size(), local_world_size=local_world_size(), **limits),
        kernel_config=KernelConfig(compute_device=device.type),
    )


@contextmanager
def _calm() -> Iterator[None]:
    """Keep the planner's warnings back: it misses a place for each table that has none, being data-parallel."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def _sentence(error: PlannerError, tables: list[BaseEmbeddingConfig], topology: Topology, device: torch.device) -> str:
    storage = topology.devices[0].storage
    memory = (storage.hbm if device.type == "cuda" else storage.ddr) / _GB
    largest = max(tables, key=lambda table: table.num_embeddings * table.embedding_dim)
    size = largest.num_embeddings * largest.embedding_dim * 4 / _GB
    facts = (
        f"'{_short(largest)}', the largest table, has {size:.3g} GB of weights, and each of {world_size()} processes "
        f"{memory:.3g} GB"
    )
    if error.error_type == PlannerErrorType.INSUFFICIENT_STORAGE or "partition failed" in str(error):
        return (
            f"train.sharding: the tables and their optimizer's state do not fit: {facts}; use more processes, cut "
            "large tables (type: column_wise), or raise train.sharding.memory_gb if there is more"
        )
    reason = str(error).strip().splitlines()[0].strip().rstrip(".")
    return f"train.sharding: TorchRec's planner finds no plan ({reason}); {facts}; allow other types"


def _replicated(plan: ShardingPlan, model: nn.Module) -> frozenset[str]:
    found = set()
    for path, module_plan in plan.plan.items():
        bags = isinstance(model.get_submodule(path), EmbeddingBagCollection)
        for table, parameter in module_plan.items():
            if parameter.sharding_type == "data_parallel":
                found.add(f"{path}.{'embedding_bags' if bags else 'embeddings'}.{table}.weight")
    return frozenset(found)
