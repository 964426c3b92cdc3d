"""FuxiCTR's preprocessing of a Criteo CSV, for :class:`genrec_plugins.benchmarks.speed.other_python.OtherPython`.

Run by a Python that has FuxiCTR, and not ours: ``fuxictr_preprocess.py ROWS.CSV FOLDER MIN_COUNT ray|plain``. The
fields are those of its ``datasets/criteo.py`` and of BARS: logarithmic buckets of I1..I13 as categories, C1..C26, one
minimum count for all. ``ray`` is FuxiCTR as it is; ``plain`` calls its fit and transform as it does, but in this
process, without the copying and scheduling of Ray Data.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

_BATCH = 100_000  # as FuxiCTR's own transform
_COLUMNS: list[dict[str, Any]] = [
    {
        "name": [f"I{index}" for index in range(1, 14)],
        "active": True,
        "dtype": "float",
        "type": "categorical",
        "preprocess": "convert_to_bucket",
        "fill_na": 0,
    },
    {
        "name": [f"C{index}" for index in range(1, 27)],
        "active": True,
        "dtype": "str",
        "type": "categorical",
        "fill_na": "",
    },
]


def _plain_transform(encoder: Any, frame: Any, split: str = "train", block_size: int = 0) -> None:
    table = frame.collect()
    parts = []
    for start in range(0, table.height, _BATCH):
        batch = {column.name: column.to_numpy() for column in table[start : start + _BATCH]}
        parts.append(encoder.transform(batch))
    import numpy as np
    import pandas as pd

    together = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    together.to_parquet(Path(encoder.data_dir) / f"{split}.parquet")


def main() -> None:
    """Answer with the version, then with the seconds of each run."""
    rows, folder, min_count, how = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what FuxiCTR and Ray print is no answer
    warnings.filterwarnings("ignore")
    import fuxictr
    from fuxictr.datasets.criteo import CustomizedFeatureProcessor
    from fuxictr.preprocess import build_dataset as module

    logging.disable()
    build: Any = sys.modules["fuxictr.preprocess.build_dataset"]
    if how == "ray":
        build.init_ray()
    else:
        build.transform = _plain_transform
    print(json.dumps({"version": fuxictr.__version__}), file=answers, flush=True)
    for _ in sys.stdin:
        shutil.rmtree(folder, ignore_errors=True)
        began, used = time.perf_counter(), time.process_time()
        encoder = CustomizedFeatureProcessor(
            feature_cols=_COLUMNS, label_col={"name": "label", "dtype": "float"}, dataset_id="criteo", data_root=folder
        )
        module(encoder, train_data=rows, min_categr_count=int(min_count))
        found = {
            "seconds": time.perf_counter() - began,
            "cpu": time.process_time() - used,
            "tables": {name: spec["vocab_size"] for name, spec in encoder.feature_map.features.items()},
        }
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
