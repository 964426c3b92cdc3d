"""A training step: our trainer against a TorchRec loop written by hand, and against FuxiCTR."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.datasets.utils import Batch
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingEnv
from torchrec.models.dlrm import DLRMTrain
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from genrec_adapters.datasets.criteo import criteo_fields
from genrec_adapters.loader import BatchLoader
from genrec_adapters.manifest import FieldEntry
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess import prepare
from genrec_plugins.benchmarks.speed.cpu import Stopwatch, one_thread
from genrec_plugins.benchmarks.speed.loader import write_parquet
from genrec_plugins.benchmarks.speed.options import Options, Raw
from genrec_plugins.benchmarks.speed.other_python import OtherPython
from genrec_plugins.benchmarks.speed.paired import Spent, Timed, race
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.models import build_dlrm
from genrec_plugins.training.reporter import Quiet
from genrec_plugins.training.trainer import Trainer

BATCH_SIZE = 4096
STEPS = 8
#: against FuxiCTR, whose steps take longer
FEW_STEPS = 4
EMBEDDING_DIM = 16
OVER_ARCH = (400, 400)
#: the same options on both sides; FuxiCTR's cross network is the full one
AGAINST_FUXICTR: dict[str, dict[str, Any]] = {
    "dcn": {"num_layers": 3, "low_rank_dim": "full"},
    "autoint": {"num_layers": 3, "num_heads": 2, "attention_dim": 32},
}
#: of Criteo_x4_001, the 45.8 million rows that BARS uses: LR has 910,709 parameters there
CRITEO_X4_ROWS = 910_708
#: all values of the 26 categories of Criteo's Kaggle file, which the public DLRM recipes have tables for
CRITEO_KAGGLE_ROWS = 33_762_577
_WAYS: dict[str, dict[str, Any]] = {
    "genrec Trainer, torchrec": {},
    "genrec Trainer, torchrec, amp: bf16": {"amp": "bf16"},
    "genrec Trainer, bars": {"preset": "bars", "embedding_l2": 0.0},
}
#: up to so many table rows all ways run; beyond, a dense Adam's states on both sides would not fit a usual machine
_MANY_ROWS = 10_000_000
#: copies of the tables beyond that: FuxiCTR's weights, gradient and two moments; ours, twice while DMP takes them over
_COPIES = 7
_CLOCK = "seconds of the processor, one thread"


def step(
    options: Options,
    interactions: Iterable[str] = ("dot", "dcn"),
    *,
    batch_size: int = BATCH_SIZE,
    steps: int = STEPS,
    epochs: int = 1,
) -> list[Timed]:
    """Our trainer, with its checks and reports, beside a bare loop on the same model and the same loader.

    Args:
        options: rows and turns.
        interactions: each a part of the table.
        batch_size: B.
        steps: of a pass.
        epochs: passes of a turn.
    """
    prepared = _prepared(options, batch_size * steps)
    found = []
    with one_thread():
        for name in interactions:
            run = _run({"type": name}, batch_size)
            trainer = TrainerLoop(run, prepared)
            bare = BareLoop(run, prepared)
            found += race(
                f"training step, {name}",
                {"genrec Trainer": _times(trainer, epochs), "TorchRec loop by hand": _times(bare, epochs)},
                amount=(steps - 1) * batch_size * epochs,
                unit="rows/s",
                turns=options.turns,
                notes=dict.fromkeys(("genrec Trainer", "TorchRec loop by hand"), _CLOCK),
            )
    return found


def step_fuxictr(
    options: Options,
    interactions: Mapping[str, Mapping[str, Any]] | None = None,
    table_rows: Sequence[int | None] = (None, CRITEO_X4_ROWS, CRITEO_KAGGLE_ROWS),
    *,
    batch_size: int = BATCH_SIZE,
    steps: int = FEW_STEPS,
) -> list[Timed]:
    """Our trainer beside FuxiCTR's step on the same model, rows and batches.

    FuxiCTR trains tables by a dense Adam; our recipe ``bars`` does so too, our recipe ``torchrec`` updates the rows of
    the batch alone. The products are the same on both sides, in fp32; the third way has ours in bf16, an option that
    FuxiCTR does not have. Ours reads its batches from its loader, FuxiCTR's lie ready.

    Args:
        options: rows, turns, and a Python with FuxiCTR.
        interactions: options by name.
        table_rows: rows of all tables together; None for those of the vocabulary of these few rows.
        batch_size: B.
        steps: of a pass.
    """
    if options.without_fuxictr("training step against FuxiCTR"):
        return []
    few = _prepared(options, batch_size * steps)
    rows = write_parquet(few, options.folder / "step.parquet")
    found = []
    for name, settings in (interactions or AGAINST_FUXICTR).items():
        for wanted in table_rows:
            if wanted is not None and not _fits(wanted, options):
                continue
            prepared = few if wanted is None else with_table_rows(few, wanted)
            tables = {feature.name: feature.num_embeddings for feature in prepared.sparse_features}
            files = options.folder / f"{name}-tables.json", options.folder / f"{name}-model.json"
            for file, facts in zip(files, (tables, {**settings, "over_arch": OVER_ARCH}), strict=True):
                file.write_text(json.dumps(facts))
            script = ("fuxictr_step.py", rows, files[0], name, batch_size, EMBEDDING_DIM, files[1])
            with one_thread(), OtherPython(str(options.fuxictr_python), *script) as other:
                ways: dict[str, Callable[[], Spent]] = {}
                for way, train in islice(_WAYS.items(), 1 if (wanted or 0) > _MANY_ROWS else None):
                    loop = TrainerLoop(_run({"type": name, **settings}, batch_size, train), prepared)
                    ways[way] = _scaled(loop, steps / (steps - 1))
                ways[f"FuxiCTR {other.facts['version']}"] = _turn(other)
                found += race(
                    f"training step, {name}, {sum(tables.values()):,} table rows",
                    ways,
                    amount=steps * batch_size,
                    unit="rows/s",
                    turns=options.turns,
                    notes=dict.fromkeys(ways, _CLOCK),
                )
    return found


def _fits(table_rows: int, options: Options) -> bool:
    """Whether there is memory for tables of so many rows on both sides; a note says so if not."""
    wanted, free = table_rows * EMBEDDING_DIM * 4 * _COPIES, psutil.virtual_memory().available
    if wanted > free:
        options.notes.append(
            f"training step against FuxiCTR: without {table_rows:,} table rows, which take {wanted / 1e9:.0f} GB "
            f"on both sides together; {free / 1e9:.0f} GB are free"
        )
    return wanted <= free


def with_table_rows(prepared: Prepared, total: int) -> Prepared:
    """The same rows with larger tables, as if they were the first of many.

    Args:
        prepared: the rows.
        total: rows of all tables together; each grows by the same factor.
    """
    factor = total / sum(feature.num_embeddings for feature in prepared.sparse_features)

    def larger(entry: FieldEntry) -> FieldEntry:
        sparse = tuple(
            replace(feature, num_embeddings=max(feature.num_embeddings, round(feature.num_embeddings * factor)))
            for feature in entry.spec.sparse
        )
        return entry.model_copy(update={"spec": replace(entry.spec, sparse=sparse)})

    fields = tuple(larger(entry) for entry in prepared.manifest.fields)
    return replace(prepared, manifest=prepared.manifest.model_copy(update={"fields": fields}))


class TrainerLoop(Quiet):
    """A pass of our trainer; what it spent from the end of the first step to that of the last.

    Args:
        run: the run; its dataset is not read.
        prepared: the rows.

    Attributes:
        losses: of all steps.
    """

    def __init__(self, run: LoadedRun, prepared: Prepared) -> None:
        self._began = Stopwatch()
        self._spent = Spent(cpu=0.0, clock=0.0)
        self.losses: list[float] = []
        self._first = True
        self._trainer = Trainer(run.config, prepared, run.registry, reporter=self)

    def step(self, *, loss: float, **_: Any) -> None:
        """Note the time."""
        if self._first:
            self._began, self._first = Stopwatch(), False
        self._spent = self._began.read()
        self.losses.append(loss)

    def __call__(self) -> Spent:
        """Train once over the rows."""
        self._first = True
        self._trainer.fit()
        return self._spent


class BareLoop:
    """What a TorchRec user writes: DMP, fused row-wise Adagrad on the tables, Adam on the rest, and a loop.

    Args:
        run: the run.
        prepared: the rows.

    Attributes:
        losses: of all steps.
    """

    def __init__(self, run: LoadedRun, prepared: Prepared) -> None:
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        config, device = run.config, torch.device("cpu")
        train: Any = config.train
        torch.manual_seed(config.seed)
        model = DLRMTrain(build_dlrm(config.model, prepared.fields, run.registry))
        collection = model.model.sparse_arch.embedding_bag_collection
        apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), {"lr": train.embedding_lr, "eps": 1e-8})
        constraints = {
            table.name: ParameterConstraints(sharding_types=["table_wise"], compute_kernels=["fused"])
            for table in collection.embedding_bag_configs()
        }
        sharders: list[Any] = [EmbeddingBagCollectionSharder()]
        topology = Topology(world_size=1, compute_device="cpu")
        plan = EmbeddingShardingPlanner(topology=topology, constraints=constraints).plan(model, sharders)
        group: Any = dist.group.WORLD
        env = ShardingEnv.from_process_group(group)
        self._model = DistributedModelParallel(model, env=env, device=device, plan=plan, sharders=sharders)
        dense = dict(in_backward_optimizer_filter(self._model.named_parameters()))
        adam = KeyedOptimizerWrapper(dense, lambda params: torch.optim.Adam(params, lr=train.dense_lr))
        self._optimizer = CombinedOptimizer([self._model.fused_optimizer, adam])
        self.losses: list[Tensor] = []
        self._loader = BatchLoader(prepared, "train", train.batch_size, shuffle=True, seed=config.seed)

    def __call__(self) -> Spent:
        """Train once over the rows."""
        self._model.train()
        began: Stopwatch | None = None
        spent = Spent(cpu=0.0, clock=0.0)
        batch: Batch
        for batch in self._loader:
            self._optimizer.zero_grad()
            loss, _ = self._model(batch)
            loss.backward()
            self._optimizer.step()
            began = began or Stopwatch()
            spent = began.read()
            self.losses.append(loss.detach())
        return spent


def _times(loop: Callable[[], Spent], epochs: int) -> Callable[[], Spent]:
    return lambda: sum((loop() for _ in range(epochs)), start=Spent(cpu=0.0, clock=0.0))


def _scaled(loop: Callable[[], Spent], factor: float) -> Callable[[], Spent]:
    return lambda: loop() * factor


def _turn(other: OtherPython) -> Callable[[], Spent]:
    return lambda: Spent(cpu=other.turn(), clock=other.facts["clock"])


def _prepared(options: Options, rows: int) -> Prepared:
    """So many rows of the raw file (again from the start where it is shorter), 39 ids each."""
    raw: Raw = options.raw
    path: Path = options.folder / f"step-{rows}.txt"
    folder = options.folder / f"step-{rows}"
    if not folder.exists():
        with raw.path.open("rb") as file, path.open("wb") as out:
            lines = chain.from_iterable(file for _ in repeat(None) if not file.seek(0))
            out.writelines(islice(lines, rows))
    dataset = {"type": "criteo-kaggle", "train": str(path)}
    return prepare(dataset, folder, fields=criteo_fields(min_count=1))


def _run(interaction: Mapping[str, Any], batch_size: int, train: Mapping[str, Any] | None = None) -> LoadedRun:
    return parse_run(
        {
            "dataset": {"type": "criteo-kaggle", "train": "train.txt"},
            "model": {
                "embedding_dim": EMBEDDING_DIM,
                "interaction": dict(interaction),
                "over_arch": list(OVER_ARCH),
            },
            "train": {"preset": "torchrec", "epochs": 1, "batch_size": batch_size, "threads": 1, **(train or {})},
        }
    )
