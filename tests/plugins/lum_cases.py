"""Small behaviour data with something to learn, and small models, for the tests of pre-training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrec_adapters.behaviour.histories import Catalogue, Vocabulary
from genrec_plugins.lum.batches import SequenceBatch
from genrec_plugins.lum.config import InfoNCEObjective, LoadedLum, parse_lum
from genrec_plugins.lum.infonce import InfoNCEModel
from genrec_registry import EncoderContext, default_registry, parse_component

SMALL = {"type": "lum", "hidden": 16, "num_heads": 2, "num_layers": 1}


def write_ratings(path: Path, users: int = 40, items: int = 24, seed: int = 0) -> Path:
    """RecBole's atomic format. Liked items follow a cycle, disliked ones are random: what comes next can be learned."""
    rng = np.random.default_rng(seed)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(users):
        item, time = int(rng.integers(items)), 1000 + int(rng.integers(100))
        for _ in range(int(rng.integers(5, 30))):
            liked = rng.random() < 0.8
            item = (item + 1) % items if liked else item
            shown = item if liked else int(rng.integers(items))
            lines.append(f"u{user}\ti{shown}\t{5 if liked else 2}\t{time}")
            time += int(rng.integers(0, 3))  # several events of one user share a time
    path.mkdir(parents=True, exist_ok=True)
    (path / "small.inter").write_text("\n".join(lines) + "\n")
    return path


def write_lists(path: Path, users: int = 60, items: int = 12) -> Path:
    """User -> items JSON, in which item i is always followed by item i + 1."""
    rng = np.random.default_rng(1)
    data = {}
    for user in range(users):
        first, length = int(rng.integers(items)), int(rng.integers(3, 10))
        data[f"u{user:02}"] = [str((first + step) % items) for step in range(length)]
    path.write_text(json.dumps(data))
    return path


def run_of(dataset: dict[str, Any], **changes: Any) -> LoadedLum:
    """A small run; ``changes`` go over its sections."""
    train = {"epochs": 3, "max_events": 128, "lr": 0.01, "warmup_steps": 2, "threads": 1, "device": "cpu"}
    data: dict[str, Any] = {"dataset": dataset, "encoder": SMALL, "embedding_dim": 16, "max_length": 32}
    data |= {key: value for key, value in changes.items() if key != "train"}
    return parse_lum(data | {"train": train | changes.get("train", {})})


def make_model(
    objective: dict[str, Any] | None = None, *, conditions: dict[str, int] | None = None, items: int = 9, seed: int = 0
) -> InfoNCEModel:
    """A small model with weights large enough for logits to differ."""
    torch.manual_seed(seed)
    registry = default_registry()
    context = EncoderContext(
        embedding_dim=6,
        feature_dim=8,
        max_length=16,
        item_features=("item", "kind"),
        condition_features=tuple(conditions or {}),
    )
    kinds = (np.arange(items + 1) % 3).astype(np.int32)
    catalogue = Catalogue(
        items=Vocabulary.of([f"{item:02}" for item in range(items)]), features={"kind": kinds}, sizes={"kind": 3}
    )
    counts = torch.arange(items + 1)
    config = parse_component(registry, "encoder", {"type": "lum", "hidden": 8, "num_heads": 2})
    encoder = registry.create("encoder", config, context)
    return InfoNCEModel(
        encoder,
        catalogue,
        conditions or {},
        InfoNCEObjective(**(objective or {})),
        feature_dim=8,
        counts=counts,
        table_init_std=0.5,
    )


def make_batch_of(lengths: list[int], *, items: int = 9, conditions: dict[str, int] | None = None) -> SequenceBatch:
    """Random events of rows of these lengths."""
    generator = torch.Generator().manual_seed(3)
    total = sum(lengths)
    return SequenceBatch(
        users=torch.arange(len(lengths)),
        offsets=torch.tensor([0, *np.cumsum(lengths)]),
        items=torch.randint(1, items + 1, (total,), generator=generator),
        conditions={name: torch.randint(0, n, (total,), generator=generator) for name, n in (conditions or {}).items()},
        times=torch.arange(total),
        labels=torch.randint(0, 2, (total,), generator=generator),
    )
