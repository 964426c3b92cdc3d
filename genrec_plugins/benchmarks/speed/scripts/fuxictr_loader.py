"""FuxiCTR's loaders on encoded rows, for :class:`genrec_plugins.benchmarks.speed.other_python.OtherPython`.

Run by a Python that has FuxiCTR: ``fuxictr_loader.py ROWS.PARQUET parquet|npz files|epoch BATCH_SIZE``. ``parquet`` is
its default, on Ray Data; ``npz`` its loader on torch's. ``files`` builds the loader and goes through the rows once,
shuffled; ``epoch`` keeps the loader and goes through them again.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer with the version, then with the seconds of each turn."""
    rows, kind, what, batch_size = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what FuxiCTR and Ray print is no answer
    warnings.filterwarnings("ignore")
    import fuxictr
    import numpy as np
    import polars as pl
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader

    logging.disable()
    features = [name for name in pl.read_parquet_schema(rows) if name != "label"]
    feature_map = FeatureMap("criteo", str(Path(rows).parent))
    feature_map.features.update({name: {"type": "categorical", "source": "", "vocab_size": 1} for name in features})
    feature_map.labels = ["label"]
    feature_map.set_column_index()
    with tempfile.TemporaryDirectory() as folder:
        if kind == "npz":
            data, rows = pl.read_parquet(rows), f"{folder}/rows.npz"
            arrays: dict[str, Any] = {name: data[name].to_numpy() for name in data.columns}
            np.savez(rows, **arrays)

        def make() -> Any:
            loader, _ = RankDataLoader(
                feature_map, stage="train", train_data=rows, batch_size=int(batch_size), shuffle=True, data_format=kind
            )
            return loader

        if kind == "parquet":
            make()  # starts Ray
        kept = make() if what == "epoch" else None
        print(json.dumps({"version": fuxictr.__version__}), file=answers, flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            count = sum(len(batch["label"]) for batch in kept or make())
            found = {"seconds": time.perf_counter() - began, "rows": count}
            print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
