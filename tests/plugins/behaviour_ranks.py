"""One rank of the two-rank test of a DLRM with a history: ``python behaviour_ranks.py FOLDER RANK``.

Reads ``run.json`` (model and train sections, prepared directory) in the folder, writes ``rank{RANK}.json``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torchrec.distributed import TrainPipelineSparseDist
from torchrec.models.dlrm import DLRMTrain

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_plugins.models import build_dlrm
from genrec_plugins.training.launch import end
from genrec_plugins.training.optimizers import TorchRecRecipe
from tests.plugins.behaviour_cases import REGISTRY, RUN_CONFIG


def main(folder: Path, rank: int) -> None:
    """Train under DMP and TrainPipelineSparseDist; write losses, dense weights and what was pipelined."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(str(folder / "rendezvous"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    facts = json.loads((folder / "run.json").read_text())
    config = RUN_CONFIG.model_validate(facts["config"])
    prepared = Prepared.open(facts["prepared"])
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = build_dlrm(config.model, prepared.fields, REGISTRY, device="meta")
    recipe = TorchRecRecipe(DLRMTrain(model), config.train, device)
    unpipelined: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: unpipelined.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("torchrec.distributed.train_pipeline").addHandler(handler)
    pipeline = TrainPipelineSparseDist(recipe.model, recipe.optimizer, device)
    losses = []
    for epoch in range(4):
        loader = BatchLoader(prepared, "train", 50, shuffle=True, rank=rank, world_size=2)
        loader.set_epoch(epoch)
        batches = iter(loader)
        for _ in range(len(loader)):
            losses.append(float(pipeline.progress(batches)[0].detach()))
    state = recipe.model.state_dict()
    dense = {
        name: value.detach().flatten().tolist()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and "embedding" not in name
    }
    owned = sorted(name for name, value in state.items() if hasattr(value, "local_shards") and value.local_shards())
    result = {
        "losses": losses,
        "dense": dense,
        "owned": owned,
        "pipelined": sorted(module.forward.name for module in pipeline._pipelined_modules),
        "messages": [message for message in unpipelined if "NOT be pipelined" in message],
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()
    end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
