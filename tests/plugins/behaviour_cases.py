"""A table of rows with histories, a tiny encoder, and runs of both, for the tests of DLRMs that read a history."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from genrec_plugins.config import LoadedRun, _name_types, run_config_model
from genrec_registry import Config, EncoderContext, EncoderRecord, Registry, explain, hookimpl, parse_yaml

ROWS = 600
TORCHREC = "{preset: torchrec, batch_size: 50, epochs: 2, embedding_lr: 0.1, dense_lr: 0.01, threads: 1}"
BARS = "{preset: bars, batch_size: 50, epochs: 2, lr: 0.01, threads: 1}"


class TinyConfig(Config):
    """The tiny encoder's one setting."""

    tokens: int = 2


class Tiny(nn.Module):
    """User tokens: the mean item, seen through one matrix a token, times the target."""

    def __init__(self, config: TinyConfig, context: EncoderContext) -> None:
        super().__init__()
        self.context = context
        self.num_user_tokens = config.tokens
        features = len(context.item_features) + len(context.condition_features)
        self.weight = nn.Parameter(torch.empty(features * context.feature_dim, config.tokens * context.embedding_dim))
        self.dropout = nn.Dropout(0.1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)

    def forward(self, events: dict[str, JaggedTensor], target: dict[str, Tensor]) -> Tensor:
        names = [*self.context.item_features, *self.context.condition_features]
        values = torch.cat([events[name].values() for name in names], dim=1)
        lengths = events[names[0]].lengths()
        owners = torch.repeat_interleave(torch.arange(len(lengths)), lengths, output_size=len(values))
        total = torch.zeros(len(lengths), values.shape[1]).index_add(0, owners, values)
        mean = total / lengths.clamp(min=1).unsqueeze(1)
        tokens = (self.dropout(mean) @ self.weight).unflatten(1, (self.num_user_tokens, -1))
        wide = target[names[0]].unsqueeze(1)
        return tokens * wide if wide.shape[2] == tokens.shape[2] else tokens


def tiny_registry() -> Registry:
    """The built-in components and the tiny encoder."""
    module = ModuleType("tiny")

    @hookimpl
    def genrec_encoders() -> list[EncoderRecord]:
        return [EncoderRecord(name="tiny", config=TinyConfig, factory=Tiny, summary="", capabilities=frozenset())]

    module.genrec_encoders = genrec_encoders
    registry = Registry()
    registry.register(module, distribution="tests", name="tiny")
    return registry


REGISTRY = tiny_registry()
RUN_CONFIG = run_config_model(REGISTRY)


def write_table(path: Path) -> Path:
    """Rows whose label says whether most of the history is of the target's kind (odd or even)."""
    source = np.random.default_rng(0)
    target = source.integers(0, 10, ROWS)
    kind = source.integers(0, 2, ROWS)
    histories = [
        [
            f"i{2 * item + (kind[row] ^ (source.random() < 0.1))}"
            for item in source.integers(0, 5, source.integers(0, 8))
        ]
        for row in range(ROWS)
    ]
    label = ((target % 2 == kind) ^ (source.random(ROWS) < 0.05)).astype(int)
    pl.DataFrame(
        {
            "label": label,
            "item": [f"i{item}" for item in target],
            "x": source.normal(size=ROWS),
            "history_item": histories,
            "history_action": [[("view", "buy")[place % 2] for place in range(len(items))] for items in histories],
        }
    ).write_parquet(path)
    return path
    return path


def make_run(table: Path, train: str = TORCHREC, model: str = "encoder: tiny") -> LoadedRun:
    fat = "" if "interaction" in model else ", interaction: {type: fat, num_heads: 2}"
    data = parse_yaml(
        f"""
seed: 3
dataset: {{type: parquet, path: {table}, label: label}}
split: {{type: shuffled, seed: 1, train: 0.7, valid: 0.15, test: 0.15}}
fields:
  target: {{type: categorical, column: item}}
  x: {{type: numeric-dense}}
  past: {{type: behaviour, conditions: [history_action], max_length: 5}}
model: {{embedding_dim: 8, over_arch: [16], {model}{fat}}}
train: {train}
"""
    ).data
    return LoadedRun(config=explain(RUN_CONFIG, _name_types(data)), registry=REGISTRY)
