"""A plain TorchRec training script: DLRM, DLRMTrain, DistributedModelParallel, TrainPipelineSparseDist.

    python examples/dlrm_torchrec.py
    python examples/dlrm_torchrec.py --criteo train.txt.gz --num-embeddings 100000
    torchrun --nproc-per-node 2 examples/dlrm_torchrec.py

``dlrm_fat.py`` is this script with FAT in place of DLRM's dot products: two lines more.
"""

import argparse
import gzip
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.datasets.utils import Batch
from torchrec.distributed import DistributedModelParallel, TrainPipelineSparseDist
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.optim import CombinedOptimizer, KeyedOptimizerWrapper, RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.optimizers import in_backward_optimizer_filter

NUM_DENSE = 13
SPARSE = [f"cat_{index}" for index in range(26)]


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="DLRM on Criteo rows, or on rows with a planted signal.")
    parser.add_argument("--criteo", type=Path, help="train.txt of the Kaggle challenge, .gz too")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=512, help="of each rank")
    parser.add_argument("--num-embeddings", type=int, default=100, help="rows of each of the 26 tables")
    parser.add_argument("--embedding-dim", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def to_batch(dense: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> Batch:
    """``[B, 13]`` floats, ``[B, 26]`` ids and ``[B]`` labels as TorchRec's batch."""
    lengths = torch.ones(ids.numel(), dtype=torch.int32)
    return Batch(dense, KeyedJaggedTensor(keys=SPARSE, values=ids.T.flatten(), lengths=lengths), labels)


def planted_batches(args: argparse.Namespace, rank: int) -> Iterator[Batch]:
    """Rows whose ids have a weight each; the label is drawn from the logistic of their sum."""
    weights = torch.randn(args.num_embeddings, len(SPARSE), generator=torch.Generator().manual_seed(args.seed))
    draw = torch.Generator().manual_seed(args.seed + 1 + rank)
    for _ in range(args.steps):
        ids = torch.randint(args.num_embeddings, (args.batch_size, len(SPARSE)), generator=draw)
        chance = torch.sigmoid(0.5 * weights.gather(0, ids).sum(dim=1))
        dense = torch.rand(args.batch_size, NUM_DENSE, generator=draw)
        yield to_batch(dense, ids, torch.bernoulli(chance, generator=draw))


def criteo_batches(args: argparse.Namespace, rank: int, ranks: int) -> Iterator[Batch]:
    """Rows of Criteo's file, each rank its own batches: numbers as ln(x + 4), categories modulo the table's rows."""
    reader = gzip.open if args.criteo.suffix == ".gz" else open
    with reader(args.criteo, "rt") as lines:
        rows = (line.rstrip("\n").split("\t") for line in lines)
        batches = iter(lambda: list(itertools.islice(rows, args.batch_size)), [])
        for values in itertools.islice(batches, rank, args.steps * ranks, ranks):
            dense = torch.tensor([[max(float(x or 0), -3.0) for x in row[1:14]] for row in values])
            ids = torch.tensor([[int(x or "0", 16) % args.num_embeddings for x in row[14:]] for row in values])
            yield to_batch((dense + 4).log(), ids, torch.tensor([float(row[0]) for row in values]))


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, and return this rank's loss of each step."""
    args = parse_args(arguments)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    backend = "nccl" if cuda else "gloo"
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(args.seed)

    tables = [
        EmbeddingBagConfig(
            name=f"t_{name}",
            embedding_dim=args.embedding_dim,
            num_embeddings=args.num_embeddings,
            feature_names=[name],
        )
        for name in SPARSE
    ]
    dlrm = DLRM(
        embedding_bag_collection=EmbeddingBagCollection(tables=tables, device=torch.device("meta")),
        dense_in_features=NUM_DENSE,
        dense_arch_layer_sizes=[64, args.embedding_dim],
        over_arch_layer_sizes=[128, 64, 1],
        dense_device=device,
    )
    model = DLRMTrain(dlrm)

    apply_optimizer_in_backward(
        RowWiseAdagrad, dlrm.sparse_arch.parameters(), {"lr": 10 * args.learning_rate, "eps": 1e-8}
    )
    sharders = [EmbeddingBagCollectionSharder()]
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=ranks, compute_device=device.type),
        batch_size=args.batch_size,
        constraints={table.name: ParameterConstraints(sharding_types=["table_wise"]) for table in tables},
    )
    sharded = DistributedModelParallel(
        module=model,
        device=device,
        plan=planner.collective_plan(model, sharders, dist.GroupMember.WORLD),
        sharders=sharders,
    )
    dense = dict(in_backward_optimizer_filter(sharded.named_parameters()))
    optimizer = CombinedOptimizer(
        [
            sharded.fused_optimizer,
            KeyedOptimizerWrapper(dense, lambda parameters: torch.optim.Adam(parameters, lr=args.learning_rate)),
        ]
    )

    batches = criteo_batches(args, rank, ranks) if args.criteo else planted_batches(args, rank)
    pipeline = TrainPipelineSparseDist(sharded, optimizer, device)
    losses: list[float] = []
    while True:
        try:
            loss, _, _ = pipeline.progress(batches)
        except StopIteration:
            break
        losses.append(float(loss))
        if rank == 0 and len(losses) % 10 == 0:
            print(f"step {len(losses):4}  logloss of the last ten {sum(losses[-10:]) / 10:.4f}")
    dist.destroy_process_group()
    return losses


if __name__ == "__main__":
    main()
