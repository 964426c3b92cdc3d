"""The YAML of ``genrec tokenize fit``: items, content, tokenizer, collisions. Imports neither numpy nor torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, create_model, model_validator

from genrec_plugins.config import PluginsConfig, apply_overrides, registry_of
from genrec_plugins.lum.config import LeaveOneOutSplit, LumSplit
from genrec_plugins.tokenizers.configs import CollisionsConfig, SuffixConfig
from genrec_plugins.tokenizers.content_config import ContentSource, TfidfSource
from genrec_registry import Config, Registry, config_union, default_registry, explain, read_yaml
from genrec_registry.yaml_source import YamlSource, parse_yaml


class TokenizeConfig(Config):
    """One fit of a tokenizer. ``dataset`` and ``tokenizer`` are filled in by :func:`tokenize_config_model`."""

    plugins: PluginsConfig = Field(default_factory=PluginsConfig)
    items: str | None = Field(
        None, description="file of the items: Parquet or JSON with item, text, categories, or JSON, item -> content"
    )
    dataset: Any = None
    catalogue: Literal["events", "all"] = Field(
        "events", description="of a dataset: the items that occur in its events, or also those that only have content"
    )
    split: LumSplit = Field(
        LeaveOneOutSplit(), description="of a dataset: which events 'co-occurrence' may learn from, the training ones"
    )
    content: tuple[ContentSource, ...] = Field(
        (TfidfSource(),), min_length=1, description="what an item's embedding is made of, side by side"
    )
    tokenizer: Any
    collisions: CollisionsConfig = SuffixConfig()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.items is None) == (self.dataset is None):
            found = "neither 'items' nor" if self.items is None else "both 'items' and"
            raise ValueError(f"found {found} 'dataset', expected one of the two")
        return self


def tokenize_config_model(registry: Registry) -> type[TokenizeConfig]:
    """The config with the unions of this registry's datasets with events and its tokenizers.

    Args:
        registry: where components come from.
    """
    datasets, _ = config_union(registry, "dataset", capability="events")
    tokenizers, _ = config_union(registry, "tokenizer")
    return create_model(
        "TokenizeConfig",
        __base__=TokenizeConfig,
        __doc__=TokenizeConfig.__doc__,
        dataset=(datasets | None, Field(None, description="where items and events come from")),
        tokenizer=(tokenizers, Field(description="the tokenizer, by name")),
    )


@cache
def _default_model() -> type[TokenizeConfig]:
    return tokenize_config_model(default_registry())


class LoadedTokenize(BaseModel):
    """A validated config together with the registry its names were looked up in."""

    model_config = {"arbitrary_types_allowed": True, "frozen": True}

    config: TokenizeConfig
    registry: Registry


def load_tokenize(path: str | Path, overrides: dict[str, str] | None = None) -> LoadedTokenize:
    """Read and validate a YAML file; see :func:`parse_tokenize`.

    Raises:
        ConfigError: something in the file is wrong; the message names line, column, key and the nearest valid one.
    """
    return parse_tokenize(read_yaml(path), overrides)


def parse_tokenize(
    source: YamlSource | str | Mapping[str, Any], overrides: dict[str, str] | None = None
) -> LoadedTokenize:
    """Validate a config given as YAML text or plain data; names stand for ``{type: name}``.

    Args:
        source: YAML text, parsed YAML, or plain data.
        overrides: ``dotted.key -> YAML value`` set on top; the content may be one source, as ``content.dim``.

    Example::

        >>> run = parse_tokenize('''
        ... items: items.parquet
        ... content: tfidf
        ... tokenizer: {type: rq-kmeans, sizes: [64, 64]}
        ... ''', {"content.dim": "32"})
        >>> run.config.content[0].dim, run.config.tokenizer.sizes, run.config.collisions.type
        (32, (64, 64), 'suffix')
    """
    if isinstance(source, str):
        source = parse_yaml(source)
    elif not isinstance(source, YamlSource):
        source = YamlSource("tokenize", dict(source), {})
    data = _name_types(apply_overrides(_name_types(source.data), overrides))
    content = data.get("content")
    if isinstance(content, dict):
        data["content"] = [content]
    elif isinstance(content, list):
        data["content"] = [_typed(one) for one in content]
    registry = registry_of(data, source.name)
    model = _default_model() if registry is default_registry() else tokenize_config_model(registry)
    return LoadedTokenize(config=explain(model, data, source=source), registry=registry)


def _typed(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _name_types(data: Mapping[str, Any]) -> dict[str, Any]:
    """Let ``tokenizer: fsq`` stand for ``tokenizer: {type: fsq}``, and give split and collisions their default type."""
    tagged = ("dataset", "split", "content", "tokenizer", "collisions")
    named = {key: _typed(value) if key in tagged else value for key, value in data.items()}
    for key, default in (("split", "leave-one-out"), ("collisions", "suffix"), ("content", "tfidf")):
        value = named.get(key)
        if isinstance(value, dict):
            named[key] = {"type": default} | value
    return named
