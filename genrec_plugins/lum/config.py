"""A pre-training run's YAML: events, split, encoder, objective, training. Torch-free.

See :mod:`genrec_plugins.config` for what a run of a ranker holds; names, unions and messages work the same way here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    create_model,
    model_validator,
)

from genrec_plugins.config import PluginsConfig, apply_overrides, registry_of
from genrec_registry import Config, ConfigError, Registry, config_union, default_registry, explain, read_yaml
from genrec_registry.sizes import MAX_IDS, Count, CountOrZero, Layers, Length, Seed, Threads, Width
from genrec_registry.yaml_source import YamlSource, parse_yaml


class LeaveOneOutSplit(Config):
    """The last event of a user tests, the second last validates, the others train."""

    type: Literal["leave-one-out"] = "leave-one-out"


class TimeSplit(Config):
    """Cut all users' events at two moments; each later event is predicted from what came before it in time."""

    type: Literal["time"] = "time"
    valid: float = Field(0.1, ge=0, lt=1, description="share of the events, in time order, that validate")
    test: float = Field(0.1, ge=0, lt=1, description="share of the events, the last ones, that test")

    @model_validator(mode="after")
    def _something_trains(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test is {self.valid + self.test:g}, expected less than 1; mend the shares")
        return self


class OfficialSplit(Config):
    """The dataset's own files of training, validation and test targets."""

    type: Literal["official"] = "official"


LumSplit = Annotated[LeaveOneOutSplit | TimeSplit | OfficialSplit, Field(discriminator="type")]


class ItemsConfig(Config):
    """What an item is, beside its own id."""

    features: tuple[str, ...] = Field(
        (), description="one-valued columns of the items: a column's name, first_category, or categories"
    )
    codes: str | None = Field(
        None, description="semantic IDs, which become the features sid_1..sid_L: a tokenizer's folder or an index file"
    )
    min_count: Count = Field(1, description="leave out events of items with fewer events than this")


class Negatives(Config):
    """What the true item is told apart from."""

    in_batch: bool = Field(True, description="the items of the batch, each once")
    sampled: int = Field(
        512, ge=0, le=1_000_000, description="further items drawn for each batch and shared by its events"
    )
    sampling: Literal["uniform", "popularity"] = Field(
        "uniform", description="probability of a drawn item: the same for all, or its share of the training events"
    )
    log_q: bool = Field(
        True, description="subtract log(expected occurrences among the negatives) from a negative's logit"
    )
    log_q_positive: bool = Field(
        False, description="correct the true item's logit as well, as Yi et al. 2019; with log_q only"
    )
    mask_history: bool = Field(False, description="other items of the same user are no negatives")

    @model_validator(mode="after")
    def _some_negatives(self) -> Self:
        if not self.in_batch and not self.sampled:
            raise ValueError("found in_batch: false and sampled: 0, expected negatives from one of them")
        if self.log_q_positive and not self.log_q:
            raise ValueError("'log_q_positive' goes with log_q: true; set that, or drop log_q_positive")
        return self


class InfoNCEObjective(Config):
    """Next-condition-item prediction against other items (lum.md, step 1)."""

    type: Literal["info-nce"] = "info-nce"
    similarity: Literal["cosine", "dot"] = Field("cosine", description="sim(state, item vector)")
    temperature: PositiveFloat = Field(0.05, description="tau, which divides the similarity")
    learn_temperature: bool = Field(False, description="tau is a parameter that begins at 'temperature'")
    full: bool = Field(False, description="softmax over the whole catalogue, exact; 'negatives' is not read")
    negatives: Negatives = Negatives()
    rivals: NonNegativeFloat = Field(
        0.0,
        description="weight of a second term, the true item against the same user's items under other conditions: "
        "what is liked against what is disliked, instead of what is met against what is not",
    )
    condition_contrast: NonNegativeFloat = Field(
        0.0,
        description="weight of a third term, the event's own condition against the other conditions the same item is "
        "asked for under: would the user like it? For encoders whose states depend on conditions",
    )
    loss_on: Literal["all", "positive"] = Field(
        "all", description="events that are predicted: all, or those with label 1; the others remain context"
    )


class SemanticIdObjective(Config):
    """Next-token prediction over semantic-ID codes by a transformer of its own; 'encoder' is not read."""

    type: Literal["semantic-id"] = "semantic-id"
    codes: str = Field(description="semantic IDs: a tokenizer's folder or an index file")
    hidden: Width = Field(128, description="width h of the transformer")
    layers: Layers = Field(4, description="blocks")
    heads: Width = Field(4, description="attention heads")
    dropout: float = Field(0.1, ge=0, lt=1, description="in the blocks and on the tokens")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the cross-entropy")
    tied: bool = Field(False, description="a level's head is its token table")
    user_buckets: int = Field(
        0, ge=0, le=MAX_IDS, description="rows of the table of hashed user tokens; 0: no user token"
    )
    last_only: bool = Field(False, description="loss on the last item of each history only")
    event_dropout: float = Field(0.0, ge=0, lt=1, description="share of history items hidden in training")
    beam_width: Width = Field(30, description="prefixes kept in generation")
    knowledge: NonNegativeFloat = Field(
        0.0,
        description="weight of a second loss, InfoNCE over the whole catalogue at the condition tokens, with which the "
        "same model answers queries; 0: it only generates",
    )
    temperature: PositiveFloat = Field(0.1, description="knowledge: tau, which divides the cosines")
    condition_contrast: NonNegativeFloat = Field(
        0.0, description="knowledge: weight of the event's own condition against the others the item is asked for under"
    )
    renormalise: bool = Field(
        True, description="loss and beams share probability among the codes that may follow; false: all of the codebook"
    )

    @model_validator(mode="after")
    def _contrast_needs_knowledge(self) -> Self:
        if self.condition_contrast and not self.knowledge:
            raise ValueError("'condition_contrast' goes with knowledge above 0; set that, or drop condition_contrast")
        return self

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}; change one of the two")
        return self


Objective = Annotated[InfoNCEObjective | SemanticIdObjective, Field(discriminator="type")]


class EvaluationConfig(Config):
    """Recall@K and NDCG@K over the whole catalogue."""

    exclude_seen: bool = Field(False, description="rank the items that are not in the history only")
    conditions: Literal["own"] | dict[str, str] = Field(
        "own",
        description="under which the target is asked for: its own, or fixed values as {action: like}; others unknown",
    )
    max_valid: CountOrZero = Field(
        0, description="validation questions while training, evenly over all; 0: all of them"
    )
    batch_events: Count = Field(32768, description="history events a forward")


class LumTraining(Config):
    """How a pre-training run is trained: AdamW, warm-up, cosine, early stop."""

    epochs: Count = Field(50, description="passes over the training events at most")
    max_events: Count = Field(4096, description="events a batch; users are packed until it is full")
    lr: PositiveFloat = Field(1e-3, description="AdamW's learning rate")
    table_lr: PositiveFloat | None = Field(None, description="learning rate of the embedding tables; null: lr")
    weight_decay: NonNegativeFloat = Field(0.01, description="AdamW's decay of matrices outside the tables")
    table_weight_decay: NonNegativeFloat = Field(0.0, description="AdamW's decay of the embedding tables")
    warmup_steps: CountOrZero = Field(100, description="steps over which the learning rate rises from zero")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="how the rate falls to zero")
    clip_grad_norm: NonNegativeFloat = Field(5.0, description="largest gradient norm; 0: no clipping")
    event_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the events left out of the histories, others at each epoch"
    )
    windows: Literal["last", "all"] = Field(
        "all", description="of users longer than max_length: their last events, or all, cut into windows"
    )
    early_stop_patience: CountOrZero = Field(
        5, description="stop after this many evaluations without a better NDCG@10 on valid; 0: never"
    )
    evaluate_every: Count = Field(1, description="epochs between evaluations on valid")
    checkpoint_every: CountOrZero = Field(0, description="steps between checkpoints inside an epoch; 0: epoch ends")
    keep_checkpoints: Count = Field(2, description="checkpoints kept, newest first")
    log_every: Count = Field(20, description="steps between TensorBoard points")
    device: str = Field("auto", description="auto, cpu or cuda")
    amp: Literal["none", "bf16"] = Field("none", description="autocast; bf16 pays on GPUs only")
    threads: Threads = Field(0, description="CPU threads of torch; 0: torch's default")
    peak_flops: PositiveFloat | None = Field(
        None, description="FLOP/s that MFU is measured against; null: the GEMM rate measured at the start"
    )


class LumConfig(Config):
    """One pre-training run. ``dataset`` and ``encoder`` are filled in by :func:`lum_config_model`."""

    seed: Seed = Field(1, description="seed of weights, of the order of users, and of negatives")
    plugins: PluginsConfig = Field(default_factory=PluginsConfig)
    dataset: Any
    split: LumSplit = LeaveOneOutSplit()
    items: ItemsConfig = ItemsConfig()
    conditions: tuple[str, ...] | None = Field(
        None, description="columns of the events that are condition tokens; null: all that the dataset names"
    )
    encoder: Any = None
    embedding_dim: Width = Field(64, description="D, width of states and item vectors")
    feature_dim: Width | None = Field(None, description="E, width of every table; null: embedding_dim")
    table_init_std: PositiveFloat = Field(0.02, description="tables begin at N(0, std)")
    max_length: Length = Field(256, description="events of the longest history a state sees")
    objective: Objective = InfoNCEObjective()
    evaluation: EvaluationConfig = EvaluationConfig()
    train: LumTraining = LumTraining()

    @model_validator(mode="after")
    def _encoder_is_there(self) -> Self:
        if isinstance(self.objective, InfoNCEObjective) and self.encoder is None:
            raise ValueError("key 'encoder' is missing; add it, as encoder: lum")
        return self


def lum_config_model(registry: Registry) -> type[LumConfig]:
    """The config with the unions of this registry's datasets with events and encoders that can be pre-trained.

    Args:
        registry: where components come from.
    """
    datasets, _ = config_union(registry, "dataset", capability="events")
    encoders, _ = config_union(registry, "encoder", capability="next-item")
    return create_model(
        "LumConfig",
        __base__=LumConfig,
        __doc__=LumConfig.__doc__,
        dataset=(datasets, Field(description="where the events come from")),
        encoder=(encoders | None, Field(None, description="the sequence encoder, by name")),
    )


@cache
def _default_model() -> type[LumConfig]:
    return lum_config_model(default_registry())


class LoadedLum(BaseModel):
    """A validated pre-training config together with the registry its names were looked up in."""

    model_config = {"arbitrary_types_allowed": True, "frozen": True}

    config: LumConfig
    registry: Registry


def load_lum(path: str | Path, overrides: dict[str, str] | None = None) -> LoadedLum:
    """Read and validate a pre-training run's YAML.

    Args:
        path: the file.
        overrides: ``dotted.key -> YAML value`` set on top of the file, as ``{"train.epochs": "3"}``.

    Raises:
        ConfigError: something in the file is wrong; the message names line, column, key and the nearest valid one.
    """
    return parse_lum(read_yaml(path), overrides)


def parse_lum(
    source: YamlSource | str | Mapping[str, Any],
    overrides: dict[str, str] | None = None,
    registry: Registry | None = None,
) -> LoadedLum:
    """Validate a pre-training config given as YAML text or plain data; see :func:`load_lum`.

    Args:
        source: YAML text, parsed YAML, or plain data.
        overrides: ``dotted.key -> YAML value`` set on top.
        registry: where components come from; what ``plugins`` says if None.

    Example::

        >>> run = parse_lum('''
        ... dataset: {type: movielens, path: ml-100k.inter}
        ... encoder: lum
        ... train: {epochs: 3}
        ... ''', {"objective.temperature": "0.1"})
        >>> run.config.encoder.type, run.config.train.epochs, run.config.objective.temperature
        ('lum', 3, 0.1)
    """
    if isinstance(source, str):
        source = parse_yaml(source)
    elif not isinstance(source, YamlSource):
        source = YamlSource("pre-training", dict(source), {})
    data = _name_types(source.data)
    for key, value in (overrides or {}).items():  # one by one: encoder=sasrec, then encoder.hidden=32
        data = _name_types(apply_overrides(data, {key: value}))
    if registry is None:
        registry = registry_of(data, source.name)
    _check_capability(registry, "dataset", "events", "gives no events", data, source)
    _check_capability(registry, "encoder", "next-item", "cannot be pre-trained", data, source)
    model = _default_model() if registry is default_registry() else lum_config_model(registry)
    return LoadedLum(config=explain(model, data, source=source), registry=registry)


def _name_types(data: Mapping[str, Any]) -> dict[str, Any]:
    """Let ``encoder: lum`` stand for ``encoder: {type: lum}``, and give the objective its default type."""
    data = dict(data)
    for key in ("dataset", "split", "encoder", "objective"):
        if isinstance(data.get(key), str):
            data[key] = {"type": data[key]}
    for key, default in (("split", "leave-one-out"), ("objective", "info-nce")):
        if isinstance(data.get(key), dict):
            data[key] = {"type": default} | data[key]
    return data


def _check_capability(
    registry: Registry, kind: str, capability: str, lack: str, data: Mapping[str, Any], source: YamlSource
) -> None:
    """Tell of a component that is there but of no use here, before the union calls its name unknown."""
    value = data.get(kind)
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in registry.names(kind):
        return
    if capability in registry.get(kind, name).record.capabilities:
        return
    able = [one.name for one in registry.components(kind) if capability in one.record.capabilities]
    place = source.position((kind, "type"))
    raise ConfigError(f"{place}: {kind} '{name}' {lack}; those that do: {', '.join(sorted(able)) or 'none installed'}")
