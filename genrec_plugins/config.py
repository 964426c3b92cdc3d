"""A run's YAML: dataset, fields, model, training. Torch-free, so that a mistake is told in a fraction of a second."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, NonNegativeFloat, create_model, model_validator

from genrec_adapters.splits import SplitConfig
from genrec_plugins.training.settings import TorchRecTraining, TrainConfig
from genrec_registry import Config, ConfigError, Registry, config_union, default_registry, explain, read_yaml
from genrec_registry.sizes import Seed, Sizes, Width
from genrec_registry.yaml_source import YamlSource, parse_yaml


class PluginsConfig(Config):
    """How name clashes between plugins are settled, and which plugins are left out."""

    prefer: dict[str, str] = Field(
        default_factory=dict, description="'kind/name' or 'name' -> the distribution whose component is meant"
    )
    disable: list[str] = Field(default_factory=list, description="distributions or entry points to skip")


class ModelConfig(Config):
    """The DLRM: tables, dense part, sequence encoder, interaction, over arch.

    The fields ``interaction`` and ``encoder`` are added from the registry by :func:`run_config_model`.
    """

    embedding_dim: Width = Field(16, description="D, width of every table")
    embedding_init_std: NonNegativeFloat | None = Field(
        None, description="tables begin at N(0, std); null: TorchRec's uniform(-1/sqrt(rows), 1/sqrt(rows))"
    )
    dense: Literal["tokens", "mlp"] = Field(
        "tokens", description="tokens: one token a dense field; mlp: stock DLRM, one token for all dense fields"
    )
    dense_arch: Sizes = Field((400,), description="hidden layers of the dense arch ('mlp' only)")
    over_arch: Sizes = Field((400, 400), min_length=1, description="hidden layers over the interaction")
    dropout: float = Field(0.0, ge=0, lt=1, description="after each hidden layer of the over arch")
    encoder_dim: Width | None = Field(
        None, description="width of the encoder's user tokens, mapped to the tables' width where it differs; null: D"
    )
    encoder_feature_dim: Width | None = Field(
        None, description="E, width of the tables that the encoder reads; null: encoder_dim"
    )
    interaction: Any
    encoder: Any = None

    @model_validator(mode="after")
    def _widths_need_an_encoder(self) -> Self:
        if self.encoder is None and (self.encoder_dim or self.encoder_feature_dim):
            raise ValueError("encoder_dim and encoder_feature_dim go with an encoder; set 'encoder', or drop them")
        return self


class RunConfig(Config):
    """One run. The plugin-typed fields are filled in by :func:`run_config_model`."""

    seed: Seed = Field(1, description="seed of weights and of the order of rows")
    plugins: PluginsConfig = Field(default_factory=PluginsConfig)
    dataset: Any
    split: SplitConfig | None = Field(
        None, description="which rows are train, valid, test; null: the dataset's files, else random 80/10/10"
    )
    fields: dict[str, Any] | None = Field(
        None, description="pattern -> field type, as 'C{1..26}': {type: categorical}; null: the dataset's default"
    )
    model: ModelConfig
    train: TrainConfig = TorchRecTraining()


def run_config_model(registry: Registry) -> type[RunConfig]:
    """The run config with the discriminated unions of this registry's plugins in place.

    Args:
        registry: where datasets, field types and interactions come from.

    Example::

        >>> from genrec_registry import default_registry
        >>> sorted(run_config_model(default_registry()).model_fields)
        ['dataset', 'fields', 'model', 'plugins', 'seed', 'split', 'train']
    """
    datasets, _ = config_union(registry, "dataset")
    field_types, _ = config_union(registry, "field-type")
    interactions, _ = config_union(registry, "interaction")
    try:
        encoders: Any = config_union(registry, "encoder")[0] | None
    except ConfigError:  # none is installed, and a run without a history needs none
        encoders = None
    model = create_model(
        "ModelConfig",
        __base__=ModelConfig,
        __doc__=ModelConfig.__doc__,
        interaction=(interactions, Field(description="the interaction arch, by name")),
        encoder=(encoders, Field(default=None, description="the encoder of the field of type behaviour, by name")),
    )
    fields: Any = dict[str, field_types] | None  # type: ignore[valid-type]
    return create_model(
        "RunConfig",
        __base__=RunConfig,
        __doc__=RunConfig.__doc__,
        dataset=(datasets, Field(description="where the rows come from")),
        fields=(fields, RunConfig.model_fields["fields"]),
        model=(model, ...),
    )


@cache
def _default_model() -> type[RunConfig]:
    return run_config_model(default_registry())


class LoadedRun(BaseModel):
    """A validated run config together with the registry its names were looked up in."""

    model_config = {"arbitrary_types_allowed": True, "frozen": True}

    config: RunConfig
    registry: Registry


def load_run(path: str | Path, overrides: dict[str, str] | None = None) -> LoadedRun:
    """Read and validate a run's YAML.

    Args:
        path: the file.
        overrides: ``dotted.key -> YAML value`` set on top of the file, as ``{"train.batch_size": "1024"}``.

    Raises:
        ConfigError: something in the file is wrong; the message names line, column, key and the nearest valid one.
    """
    return parse_run(read_yaml(path), overrides)


def parse_run(source: YamlSource | str | Mapping[str, Any], overrides: dict[str, str] | None = None) -> LoadedRun:
    """Validate a run config given as YAML text or plain data; see :func:`load_run`.

    Example::

        >>> run = parse_run('''
        ... dataset: {type: criteo-kaggle, path: train.txt}
        ... model: {interaction: {type: fat, num_heads: 4}}
        ... ''')
        >>> run.config.model.interaction.num_heads
        4
    """
    if isinstance(source, str):
        source = parse_yaml(source)
    elif not isinstance(source, YamlSource):
        source = YamlSource("run", dict(source), {})
    # names become mappings first, so that a key inside `interaction: fat` can be set
    data = apply_overrides(_name_types(source.data), overrides)
    registry = registry_of(data, source.name)
    model = _default_model() if registry is default_registry() else run_config_model(registry)
    return LoadedRun(config=explain(model, _name_types(data), source=source), registry=registry)


def parse_overrides(pairs: Sequence[str] | None) -> dict[str, str]:
    """``["train.epochs=2"]`` to ``{"train.epochs": "2"}``.

    Raises:
        ConfigError: a pair has no ``=``.
    """
    overrides: dict[str, str] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair}: expected KEY=VALUE, as train.epochs=2")
        overrides[key.strip()] = value
    return overrides


def registry_of(data: Mapping[str, Any], name: str) -> Registry:
    """The registry that a file's ``plugins`` section asks for; the default one where there is none.

    Args:
        data: the file's data.
        name: of the file, for messages.
    """
    plugins = explain(PluginsConfig, data.get("plugins") or {}, source=None, where=f"{name}: plugins")
    if not (plugins.prefer or plugins.disable):
        return default_registry()
    disabled = [*plugins.disable, *os.environ.get("GENREC_DISABLE_PLUGINS", "").split(",")]
    return Registry(prefer=plugins.prefer, disabled=disabled)


def apply_overrides(data: Mapping[str, Any], overrides: dict[str, str] | None) -> dict[str, Any]:
    """A copy of a file's data with ``dotted.key -> YAML value`` set on top.

    Example::

        >>> apply_overrides({"train": {"epochs": 1, "lr": 0.1}}, {"train.epochs": "2"})
        {'train': {'epochs': 2, 'lr': 0.1}}

    Raises:
        ConfigError: a value is no YAML, or a key goes through something that is no mapping.
    """
    data = dict(data)
    for key, value in (overrides or {}).items():
        _set(data, key, parse_yaml(f"value: {value}", name=f"--set {key}").data["value"])
    return data


def _name_types(data: dict[str, Any]) -> dict[str, Any]:
    """Let ``interaction: fat`` stand for ``interaction: {type: fat}``, for every plugin-typed field."""
    data = dict(data)
    if isinstance(data.get("dataset"), str):
        data["dataset"] = {"type": data["dataset"]}
    model = data.get("model")
    if isinstance(model, dict):
        named = {key: {"type": model[key]} for key in ("interaction", "encoder") if isinstance(model.get(key), str)}
        data["model"] = {**model, **named}
    fields = data.get("fields")
    if isinstance(fields, dict):
        data["fields"] = {key: {"type": value} if isinstance(value, str) else value for key, value in fields.items()}
    train = data.get("train")
    if isinstance(train, str):
        data["train"] = {"preset": train}
    elif isinstance(train, dict) and "preset" not in train:
        data["train"] = {"preset": "torchrec", **train}
    return data


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        child = data.get(parent)
        if child is None:
            child = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"--set {key}: '{'.'.join(parents[: depth + 1])}' is not a mapping; name a key inside one"
            )
        data[parent] = child = dict(child)
        data = child
    data[last] = value
