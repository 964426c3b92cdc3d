"""One rank of the two-rank check, run as ``python -m genrec_plugins.testing.worker FOLDER RANK``.

The ranks stay in step: whatever can fail alone (import, build, planning) happens before a collective, and both agree
on its outcome; a rank that fails later ends, and the parent starts a new pair for the remaining interactions.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.datasets.utils import Batch
from torchrec.distributed import DistributedModelParallel, TrainPipelineSparseDist
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ModuleSharder, ShardingEnv, ShardingPlan
from torchrec.models.dlrm import DLRM, DLRMTrain, OverArch
from torchrec.optim import CombinedOptimizer, KeyedOptimizerWrapper, RowWiseAdagrad
from torchrec.optim.optimizers import in_backward_optimizer_filter

from genrec_plugins.testing.encoders_worker import build_encoder_model, encoder_batches
from genrec_plugins.training.launch import end
from genrec_registry import InteractionContext

WORLD_SIZE = 2
BATCH_SIZE = 64
STEPS = 16
ROWS = 32
NUM_DENSE = 3


def find(reference: dict[str, str]) -> Any:
    """The class or function a parent's reference names; from its file where its module cannot be imported."""
    name = reference["module"]
    if name in sys.modules:
        module = sys.modules[name]
    else:
        try:
            module = importlib.import_module(name)
        except ImportError:
            spec = importlib.util.spec_from_file_location(name, reference["file"])
            if spec is None or spec.loader is None:
                raise
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
    return reduce(getattr, reference["qualname"].split("."), module)


def build_model(case: dict[str, Any]) -> nn.Module:
    """A trainable model on the meta device: a DLRM with the case's interaction, or tables with its encoder."""
    config = None
    if case["config"] is not None:
        config = find(case["config"]["class"]).model_validate(case["config"]["data"])
    factory: Callable[[Any, Any], nn.Module] = find(case["factory"])
    if case["kind"] == "encoder":
        return build_encoder_model(lambda context: factory(config, context), case["context"])
    context = InteractionContext(
        embedding_dim=case["context"]["embedding_dim"], token_names=tuple(case["context"]["token_names"])
    )
    meta = torch.device("meta")
    width = context.embedding_dim
    tables = [
        EmbeddingBagConfig(name=f"t_{name}", embedding_dim=width, num_embeddings=ROWS, feature_names=[name])
        for name in context.token_names[1:]
    ]
    with meta:
        dlrm = DLRM(EmbeddingBagCollection(tables=tables, device=meta), NUM_DENSE, [8, width], [8, 1], meta)
        dlrm.inter_arch = factory(config, context)
        dlrm.over_arch = OverArch(dlrm.inter_arch.out_features, [16, 1], meta)
    return DLRMTrain(dlrm)


def table_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The tables' weights by name of the table."""
    collections = (".embedding_bags.", ".embeddings.")
    return {
        name.split(".")[-2]: parameter
        for name, parameter in model.named_parameters()
        if any(part in f".{name}" for part in collections)
    }


def sharders() -> list[ModuleSharder[nn.Module]]:
    """Of both kinds of collections."""
    return [EmbeddingBagCollectionSharder(), EmbeddingCollectionSharder()]


def plan(model: nn.Module, batch_size: int = BATCH_SIZE) -> ShardingPlan:
    """Every table ``table_wise``. Computed by each rank for itself: it is deterministic, and needs no collective."""
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=WORLD_SIZE, local_world_size=WORLD_SIZE, compute_device="cpu"),
        batch_size=batch_size,
        constraints={table: ParameterConstraints(sharding_types=["table_wise"]) for table in table_parameters(model)},
    )
    return planner.plan(model, sharders())


def batches(case: dict[str, Any], rank: int) -> Iterator[Batch]:
    """Two batches in turn, other ones on each rank."""
    if case["kind"] == "encoder":
        made = encoder_batches(case["context"], rank, BATCH_SIZE)
    else:
        made = interaction_batches(case["context"]["token_names"][1:], rank)
    return (made[step % 2] for step in range(STEPS))


def interaction_batches(features: list[str], rank: int) -> list[Batch]:
    """Batches whose label says in which half of its table the first id lies."""
    generator = torch.Generator().manual_seed(rank)
    made = []
    for _ in range(2):
        ids = torch.randint(ROWS, (len(features), BATCH_SIZE), generator=generator)
        made.append(
            Batch(
                dense_features=torch.randn(BATCH_SIZE, NUM_DENSE, generator=generator),
                sparse_features=KeyedJaggedTensor(
                    keys=features, values=ids.flatten(), lengths=torch.ones(ids.numel(), dtype=torch.int32)
                ),
                labels=(ids[0] < ROWS // 2).int(),
            )
        )
    return made


def train(model: nn.Module, sharding: ShardingPlan, case: dict[str, Any], rank: int) -> str:
    """Train and return what is wrong with the result, or the empty string."""
    device = torch.device("cpu")
    _apply_optimizer_in_backward(RowWiseAdagrad, list(table_parameters(model).values()), {"lr": 0.1})
    assert dist.group.WORLD is not None
    # In this mode torch fills uninitialised memory with NaN: a parameter that DMP materialises and nobody resets shows.
    torch.use_deterministic_algorithms(True, warn_only=True)
    dmp = DistributedModelParallel(
        module=model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=device,
        plan=sharding,
        sharders=sharders(),
    )
    torch.use_deterministic_algorithms(False)
    if not dmp.fused_optimizer.params:
        return "the tables got no fused optimizer: the plan was not table_wise"
    dense = dict(in_backward_optimizer_filter(dmp.named_parameters()))
    broken = [name for name, parameter in dense.items() if not torch.isfinite(parameter).all()]
    if broken:
        return (
            f"parameters {broken} are not finite after DMP materialised the meta-device model; "
            "check_meta_device says what to mend"
        )
    optimizer = CombinedOptimizer(
        [dmp.fused_optimizer, KeyedOptimizerWrapper(dense, lambda parameters: torch.optim.Adam(parameters, lr=0.01))]
    )
    pipeline = TrainPipelineSparseDist(dmp, optimizer, device)
    data = batches(case, rank)
    losses = torch.stack([pipeline.progress(data)[0].detach() for _ in range(STEPS)])
    # Both ranks must come to the same verdict, or one of them would leave the other waiting in a collective.
    dist.all_reduce(losses)
    losses /= WORLD_SIZE
    flat = torch.cat([parameter.detach().flatten() for parameter in dense.values()])
    gathered = [torch.empty_like(flat) for _ in range(WORLD_SIZE)]
    dist.all_gather(gathered, flat)
    first, last = float(losses[:2].mean()), float(losses[-2:].mean())
    if not torch.isfinite(losses).all():
        return f"the loss is not finite: {losses.tolist()}"
    if last >= first:
        return f"the loss does not fall over {STEPS} steps on two batches: {first:.4f} to {last:.4f}"
    apart = float((gathered[0] - gathered[1]).abs().max())
    if apart > 0:
        return f"dense parameters differ between the ranks by {apart:.2g}: a parameter is not trained data-parallel"
    return ""


def run_case(case: dict[str, Any], rank: int) -> tuple[str, bool]:
    """What is wrong with the case (or nothing), and whether the ranks are still in step."""
    problem, model, sharding = "", None, None
    try:
        torch.manual_seed(0)
        model = build_model(case)
        sharding = plan(model)
    except Exception:
        problem = f"cannot be built or planned\n{traceback.format_exc()}"
    failed = torch.tensor([bool(problem)], dtype=torch.int32)
    dist.all_reduce(failed)
    if failed.item():
        return problem or "the other rank could not build it", True
    assert model is not None
    assert sharding is not None
    try:
        return train(model, sharding, case, rank), True
    except Exception:
        return f"fails in training\n{traceback.format_exc()}", False


def main(folder: Path, rank: int) -> NoReturn:
    """Run every case of ``cases.json``; write a line of JSON for each; end this process."""
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    seconds = float(os.environ.get("GENREC_CONFORMANCE_TIMEOUT", "60"))
    store = dist.FileStore(str(folder / "rendezvous"), WORLD_SIZE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD_SIZE, timeout=timedelta(seconds=seconds))
    (folder / f"rank{rank}.started").touch()
    for case in json.loads((folder / "cases.json").read_text()):
        problem, in_step = run_case(case, rank)
        with (folder / f"rank{rank}.jsonl").open("a") as results:
            results.write(json.dumps({"key": case["key"], "problem": problem}) + "\n")
        if not in_step:
            end(1)
    dist.barrier()
    dist.destroy_process_group()
    end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
