"""FuxiCTR's training step, for :class:`genrec_plugins.benchmarks.speed.other_python.OtherPython`.

Run by a Python that has FuxiCTR: ``fuxictr_step.py ROWS.PARQUET SIZES.JSON dcn|autoint BATCH_SIZE EMBEDDING_DIM
OPTIONS.JSON``. The package has no ``model_zoo``; here its embedding, cross network, attention and MLP layers stand in
the order of our model, under its ``BaseModel``: its loss, its Adam over everything, its clip, its step. Batches lie
ready in memory. One thread; seconds are the processor's.
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
    """Answer with the version and the parameters, then with the seconds of each pass."""
    rows, sizes_file, kind, batch_size, width, options_file = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what FuxiCTR prints is no answer
    warnings.filterwarnings("ignore")
    import fuxictr
    import polars as pl
    import torch
    from fuxictr.features import FeatureMap

    logging.disable()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes: dict[str, int] = json.loads(Path(sizes_file).read_text())
    options: dict[str, Any] = json.loads(Path(options_file).read_text())
    feature_map = FeatureMap("criteo", str(Path(rows).parent))
    feature_map.features.update(
        {name: {"type": "categorical", "source": "", "vocab_size": size} for name, size in sizes.items()}
    )
    feature_map.labels = ["label"]
    feature_map.num_fields = len(sizes)
    feature_map.set_column_index()
    data = {
        name: torch.from_numpy(column.to_numpy().copy()) for name, column in pl.read_parquet(rows).to_dict().items()
    }
    step = int(batch_size)
    batches = [
        {name: column[start : start + step] for name, column in data.items()}
        for start in range(0, len(data["label"]), step)
    ]
    with tempfile.TemporaryDirectory() as folder:
        model = _model(kind, feature_map, int(width), options, folder)
        model.train()
        model._max_gradient_norm = 10.0
        facts = {"version": fuxictr.__version__, "parameters": sum(one.numel() for one in model.parameters())}
        print(json.dumps(facts), file=answers, flush=True)
        for _ in sys.stdin:
            began, clock = time.process_time(), time.perf_counter()
            for batch in batches:
                loss = model.train_step(batch).item()
            spent = {"seconds": time.process_time() - began, "clock": time.perf_counter() - clock}
            print(json.dumps(spent | {"loss": loss}), file=answers, flush=True)


def _model(kind: str, feature_map: Any, width: int, options: dict[str, Any], folder: str) -> Any:
    from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block, ScaledDotProductAttention
    from fuxictr.pytorch.models import BaseModel
    from torch import Tensor, nn

    class Attention(nn.Module):
        """AutoInt's layer around FuxiCTR's attention."""

        def __init__(self, in_features: int, heads: int, head_width: int) -> None:
            super().__init__()
            self.heads, self.out = heads, heads * head_width
            self.query, self.key, self.value, self.residual = (
                nn.Linear(in_features, self.out, bias=False) for _ in range(4)
            )
            self.attention = ScaledDotProductAttention()

        def forward(self, tokens: Tensor) -> Tensor:
            split = [
                linear(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
                for linear in (self.query, self.key, self.value)
            ]
            mixed, _ = self.attention(*split)
            return (mixed.transpose(1, 2).flatten(2) + self.residual(tokens)).relu()

    class Model(BaseModel):
        """Embedding, interaction, MLP, as in our run."""

        def __init__(self) -> None:
            super().__init__(
                feature_map, model_root=folder, metrics=["AUC"], verbose=0, embedding_regularizer=options.get("l2")
            )
            fields = len(feature_map.features)
            self.embedding_layer = FeatureEmbedding(feature_map, width)
            if kind == "dcn":
                self.interaction = CrossNetV2(fields * width, options["num_layers"])
                out = fields * width
            else:
                heads, head_width = options["num_heads"], options["attention_dim"]
                widths = [width] + [heads * head_width] * (options["num_layers"] - 1)
                self.interaction = nn.Sequential(*(Attention(one, heads, head_width) for one in widths))
                out = fields * heads * head_width
            self.mlp = MLP_Block(input_dim=out, output_dim=1, hidden_units=options["over_arch"])
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: Any) -> dict[str, Tensor]:
            embedded = self.embedding_layer(self.get_inputs(inputs), flatten_emb=kind == "dcn")
            found = self.interaction(embedded)
            return {"y_pred": self.output_activation(self.mlp(found.flatten(1)))}

    return Model()


if __name__ == "__main__":
    main()
