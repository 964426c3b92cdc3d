"""Begin a ranker's sequence encoder at pre-trained weights (LUM's post-training): frozen, or fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from genrec_adapters.behaviour.histories import Vocabulary
from genrec_adapters.prepared import Prepared
from genrec_plugins.lum.pretrained import Pretrained, read_pretrained
from genrec_plugins.models import FieldDLRM
from genrec_plugins.models.behaviour_arch import BehaviourArch, encoder_names
from genrec_plugins.training.settings import WarmStart
from genrec_registry import ConfigError, ModelError, Registry


@dataclass(frozen=True, kw_only=True)
class WarmStartReport:
    """What was taken over.

    Args:
        encoder: the pre-training run.
        digest: of its weights.
        trained_until: time of the last event they were trained on.
        parameters: encoder parameters that were loaded.
        fresh: encoder parameters that pre-training does not train; they begin anew, and are always trained.
        rows: feature -> rows of its table found in the run, and rows in all.
        frozen: what training leaves as it is.
    """

    encoder: str
    digest: str
    trained_until: int
    parameters: tuple[str, ...]
    fresh: tuple[str, ...]
    rows: Mapping[str, tuple[int, int]]
    frozen: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return asdict(self)

    def __str__(self) -> str:
        rows = ", ".join(f"{name} {found:,} of {total:,}" for name, (found, total) in self.rows.items())
        return (
            f"encoder from {self.encoder}: {len(self.parameters)} tensors; known values: {rows}; "
            f"frozen: {' and '.join(self.frozen) or 'nothing'}; trained on events until time {self.trained_until}, "
            "rows that validate and test must be later"
        )


def warm_start(model: FieldDLRM, config: WarmStart, prepared: Prepared, registry: Registry) -> WarmStartReport:
    """Load a pre-trained encoder and its tables into a model, before it is wrapped or optimised.

    Rows of the tables are matched by the values they stand for. A value that the run does not know gets the run's row
    of unknown values.

    Args:
        model: a model with a history.
        config: the section ``train.warm_start``.
        prepared: the rows it will be trained on; they have the vocabularies.
        registry: where components come from.

    Raises:
        ConfigError: the model has no encoder, or its values are hashed.
        DataError: ``config.encoder`` is no pre-training run.
        ModelError: encoder, features or widths differ, or the run knows none of the items.
    """
    arch = model.behaviour_arch
    if arch is None:
        raise ConfigError(
            "train.warm_start goes with a sequence encoder; set model.encoder and a field of type behaviour, or drop it"
        )
    pretrained = read_pretrained(config.encoder, registry)
    where = f"train.warm_start: {config.encoder}"
    _check_features(arch, pretrained, where)
    trained = _pretrained_parameters(arch, where)
    _load_encoder(arch.encoder, pretrained, trained, where)
    rows = _load_tables(arch, pretrained, prepared, where)
    tables = config.freeze if config.freeze_tables is None else config.freeze_tables
    arch.freeze(encoder=trained if config.freeze else (), tables=tables)
    return WarmStartReport(
        encoder=config.encoder,
        digest=pretrained.facts.digest,
        trained_until=pretrained.facts.trained_until,
        parameters=trained,
        fresh=tuple(name for name, _ in arch.encoder.named_parameters() if name not in trained),
        rows=rows,
        frozen=tuple(name for name, is_frozen in (("encoder", config.freeze), ("tables", tables)) if is_frozen),
    )


def _check_features(arch: BehaviourArch, pretrained: Pretrained, where: str) -> None:
    facts = pretrained.facts
    kinds = {
        "item features": (encoder_names(arch.field, arch.spec.items), facts.item_features, "attributes"),
        "conditions": (encoder_names(arch.field, arch.spec.conditions), facts.condition_features, "conditions"),
    }
    for kind, (ours, theirs, key) in kinds.items():
        if ours != tuple(theirs):
            raise ModelError(
                f"{where}: was trained on the {kind} {_listed(theirs)}, field '{arch.field}' has {_listed(ours)}; "
                f"declare the same in the same order under fields.{arch.field}.{key}"
            )
    widths = {
        "encoder_dim": (arch.encoder_dim, facts.embedding_dim),
        "encoder_feature_dim": (arch.feature_dim, facts.feature_dim),
    }
    wrong = [f"model.{key}: {wanted}" for key, (found, wanted) in widths.items() if found != wanted]
    if wrong:
        raise ModelError(f"{where}: has another width than the model; set {' and '.join(wrong)}")


def _listed(names: Any) -> str:
    return f"({', '.join(names)})" if names else "(none)"


def _pretrained_parameters(arch: BehaviourArch, where: str) -> tuple[str, ...]:
    """Names of the parameters that states, queries and item vectors depend on: those that pre-training trains."""
    encoder: Any = arch.encoder
    if not all(hasattr(encoder, name) for name in ("states", "query", "item_vectors")):
        raise ModelError(
            f"{where}: this model's encoder {type(encoder).__name__} cannot be pre-trained; set model.encoder to the "
            "run's own"
        )
    items = encoder_names(arch.field, arch.spec.items)
    conditions = encoder_names(arch.field, arch.spec.conditions)
    lengths = torch.tensor([2, 1])

    def draw(count: int) -> Tensor:
        return torch.rand(count, arch.feature_dim)

    events = {name: JaggedTensor(draw(3), lengths=lengths) for name in (*items, *conditions)}
    asked = {name: draw(2) for name in conditions}
    parameters = dict(encoder.named_parameters())
    if not parameters:
        return ()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        outputs = [
            encoder.states(events),
            encoder.query(events, torch.tensor([0, 1]), lengths, asked),
            encoder.item_vectors({name: draw(2) for name in items}),
        ]
        total = torch.stack([output.sum() for output in outputs]).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return tuple(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None)


@torch.no_grad()
def _load_encoder(encoder: nn.Module, pretrained: Pretrained, names: tuple[str, ...], where: str) -> None:
    ours = dict(encoder.named_parameters())
    for name in names:
        theirs = pretrained.encoder.get(name)
        if theirs is None or theirs.shape != ours[name].shape:
            found = "is missing there" if theirs is None else f"has the shape {list(theirs.shape)} there"
            raise ModelError(
                f"{where}: encoder weight '{name}' {found}, expected {list(ours[name].shape)}; give model.encoder the "
                f"options of that run (encoder '{pretrained.encoder_type}' in its run.json), and the field its "
                f"max_length ({pretrained.facts.max_length})"
            )
    for name in names:
        ours[name].copy_(pretrained.encoder[name])


@torch.no_grad()
def _load_tables(
    arch: BehaviourArch, pretrained: Pretrained, prepared: Prepared, where: str
) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    features = [*arch.spec.items, *arch.spec.conditions]
    vocabularies = _vocabularies(prepared, arch.field)
    tables = {
        feature: arch.embedding_collection.embeddings[config.name].weight
        for config in arch.embedding_collection.embedding_configs()
        for feature in config.feature_names
    }
    for feature, name in zip(features, encoder_names(arch.field, features), strict=True):
        values = vocabularies.get(name)
        table = tables[feature]
        if values is None or len(values) + 1 != len(table):
            raise ConfigError(
                f"{where}: the rows of '{feature}' have no values to find in that run; use mode 'vocabulary' in "
                f"fields.{arch.field}"
            )
        rows = Vocabulary(values=pretrained.values[name]).encode(values)
        table.copy_(pretrained.tables[name][torch.from_numpy(np.concatenate([[0], rows]).astype(np.int64))])
        found[name] = (int((rows > 0).sum()), len(values))
    first, (known, total) = next(iter(found.items()))
    if total and not known:
        raise ModelError(
            f"{where}: knows none of the {total:,} values of '{first}' (here '{vocabularies[first][0]}', there "
            f"'{pretrained.values[first][-1]}'); pre-train on the items of these rows"
        )
    return found


def _vocabularies(prepared: Prepared, field: str) -> dict[str, pl.Series]:
    """The values of each feature of a field in the order of their ids, from 1."""
    tables = prepared.field_state(field).tables
    return {name: table["value"] for name, table in tables.items() if "value" in table.columns}
