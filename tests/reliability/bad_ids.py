"""A rank that looks up an id beyond its table: ``python -m tests.reliability.bad_ids JOB.json``, once a rank."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(job: dict[str, Any]) -> None:
    """Look up, write what came of it, and leave without a word to the others."""
    from genrec_plugins.cli.logs import load_torchrec

    load_torchrec()
    import torch

    from genrec_adapters.prepared import Prepared
    from genrec_plugins.config import parse_run
    from genrec_plugins.training.ranks import ensure_process_group, rank
    from genrec_plugins.training.trainer import Trainer

    torch.set_num_threads(1)
    ensure_process_group(torch.device("cpu"))
    run = parse_run(job["config"])
    trainer = Trainer(run.config, Prepared.open(job["prepared"]), run.registry)
    batch = next(iter(trainer.loader))
    trainer.recipe.model(batch)  # sound ids are looked up
    found = {"sound": True, "error": "", "looked_up": False}
    if rank() == 0:
        batch.sparse_features[job["feature"]].values()[0] = job["id"]
    try:
        trainer.recipe.model(batch)
        found["looked_up"] = True
    except RuntimeError as error:
        found["error"] = str(error)
    Path(job["out"], f"rank{rank()}.json").write_text(json.dumps(found))
    os._exit(0)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
