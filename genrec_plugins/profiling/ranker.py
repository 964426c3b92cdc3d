"""A whole ranker on random ids: tables, interaction and over arch, stepped as ``genrec train`` steps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.datasets.utils import Batch
from torchrec.models.dlrm import DLRMTrain
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.models import build_dlrm
from genrec_plugins.profiling.subjects import Shape, Subject, Way
from genrec_plugins.training.optimizers import make_recipe
from genrec_registry import FieldSpec, SparseFeature


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of a ranker.

    Args:
        rows: of all tables together, shared out evenly.
        over_arch: hidden layers over the interaction.
    """

    rows: int = 100_000
    over_arch: Sequence[int] = (400, 400)


def table_fields(fields: int, rows: int) -> tuple[FieldSpec, ...]:
    """One-hot fields with a table each.

    Args:
        fields: how many.
        rows: of all tables together; each has two at least.

    Example::

        >>> [field.sparse[0].num_embeddings for field in table_fields(3, 10)]
        [4, 3, 3]
    """
    sizes = [max(2, rows // fields + (index < rows % fields)) for index in range(fields)]
    return tuple(
        FieldSpec(name=f"C{index}", type="categorical", sparse=(SparseFeature(name=f"C{index}", num_embeddings=size),))
        for index, size in enumerate(sizes)
    )


def random_batch(fields: Sequence[FieldSpec], batch_size: int, seed: int = 0) -> Batch:
    """A batch of one id a field, drawn evenly, and labels.

    Example::

        >>> random_batch(table_fields(2, 10), 3).sparse_features.keys()
        ['C0', 'C1']
    """
    generator = torch.Generator().manual_seed(seed)
    features = [feature for field in fields for feature in field.sparse]
    ids = [torch.randint(feature.num_embeddings, (batch_size,), generator=generator) for feature in features]
    sparse = KeyedJaggedTensor(
        keys=[feature.name for feature in features],
        values=torch.cat(ids).int(),
        lengths=torch.ones(len(features) * batch_size, dtype=torch.int32),
        stride=batch_size,
    )
    labels = torch.randint(2, (batch_size,), generator=generator)
    return Batch(dense_features=torch.empty(batch_size, 0), sparse_features=sparse, labels=labels)


def random_run(interaction: Mapping[str, Any], shape: Shape, tables: Tables, train: Mapping[str, Any]) -> LoadedRun:
    """The config of such a run; its dataset is never read.

    Args:
        interaction: the tagged config.
        shape: D and B.
        tables: the over arch.
        train: keys of the ``train`` section.
    """
    return parse_run(
        {
            "dataset": {"type": "criteo-kaggle", "path": "random"},
            "model": {
                "embedding_dim": shape.embedding_dim,
                "over_arch": list(tables.over_arch),
                "interaction": dict(interaction),
            },
            "train": {"preset": "torchrec", "batch_size": shape.batch_size, **train},
        }
    )


def ranker_subject(
    name: str,
    shape: Shape | None = None,
    way: Way | None = None,
    options: Mapping[str, Any] | None = None,
    tables: Tables | None = None,
) -> Subject:
    """A ranker whose step is a whole training step: look-ups, forward, backward, fused tables, Adam.

    Args:
        name: of the interaction.
        shape: of a batch; every token is looked up in a table of its own.
        way: how it runs.
        options: of the interaction.
        tables: the rest of the model.

    Example::

        >>> subject = ranker_subject("dot", Shape(batch_size=4, fields=3, embedding_dim=8), tables=Tables(rows=30))
        >>> subject.forward().shape, subject.step() is None
        (torch.Size([4]), True)
    """
    shape, way, tables = shape or Shape(), way or Way(), tables or Tables()
    device = torch.device(way.device)
    run = random_run({"type": name, **(options or {})}, shape, tables, {"device": way.device, "compile": way.compiled})
    fields = table_fields(shape.fields, tables.rows)
    model = build_dlrm(run.config.model, fields, run.registry)
    recipe = make_recipe(DLRMTrain(model), run.config.train, device)
    batch: Any = random_batch(fields, shape.batch_size)
    batch = batch if device.type == "cpu" else batch.to(device)
    trained: nn.Module = recipe.model.train()

    def both() -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=way.dtype == "bf16"):
            loss, (_, logits, _) = trained(batch)
        return loss, logits

    def step() -> None:
        recipe.optimizer.zero_grad()
        both()[0].backward()
        recipe.optimizer.step()

    return Subject(
        name=name,
        kind="interaction",
        part="ranker",
        rows=shape.batch_size,
        events=0,
        module=model,
        forward=lambda: both()[1],
        step=step,
        clear=recipe.optimizer.zero_grad,
    )
