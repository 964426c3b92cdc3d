"""A process group and a sharding plan, also for one process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import ShardingType
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.types import KernelConfig, ParameterConstraints, TopologyFactory, TrainerConfig
from torchrec.distributed.types import ModuleSharder, ShardingEnv, ShardingPlan
from torchrec.modules.embedding_configs import BaseEmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from genrec_registry import ConfigError


def ensure_process_group(device: torch.device) -> None:
    """Start a process group of this one process where there is none: DMP needs one even alone."""
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def sharding_plan(
    model: nn.Module, device: torch.device
) -> tuple[ShardingPlan, list[ModuleSharder[nn.Module]], ShardingEnv]:
    """Plan every table of the model ``table_wise`` with the fused kernel.

    Args:
        model: holds EmbeddingBagCollections and EmbeddingCollections.
        device: where to train.

    Returns:
        The plan, the sharders and the environment that ``DistributedModelParallel`` takes.

    Raises:
        ConfigError: a table has a width that FBGEMM's kernels do not take.
    """
    ensure_process_group(device)
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
    constraints = {
        table.name: ParameterConstraints(sharding_types=[ShardingType.TABLE_WISE.value], compute_kernels=["fused"])
        for table in tables
    }
    world_size = dist.get_world_size()
    topology = TopologyFactory.create_topology(
        TrainerConfig(world_size=world_size, local_world_size=world_size),
        kernel_config=KernelConfig(compute_device=device.type),
    )
    sharders: list[ModuleSharder[nn.Module]] = [EmbeddingBagCollectionSharder(), EmbeddingCollectionSharder()]
    plan = EmbeddingShardingPlanner(topology=topology, constraints=constraints).plan(model, sharders)
    process_group = dist.distributed_c10d._get_default_group()
    return plan, sharders, ShardingEnv.from_process_group(process_group)
