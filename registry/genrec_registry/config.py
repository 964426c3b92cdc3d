"""Typed configs: a base model for plugin authors, and discriminated unions built from the registry.

A plugin author writes only their own fields::

    class CrossConfig(Config):
        num_layers: PositiveInt = 3

The registry adds the tag: in a run's YAML ``interaction: {type: acme-cross, num_layers: 2}`` validates against
``CrossConfig`` with ``type`` fixed to the component's name. No config contains an import path.
"""

from __future__ import annotations

import hashlib
import json
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from genrec_registry.errors import ConfigError, PluginError
from genrec_registry.manager import Component, PluginFailure, Registry


class Config(BaseModel):
    """Base of every config: frozen, and an unknown key is an error.

    Example::

        >>> class Mine(Config):
        ...     width: int = 4
        >>> Mine(width=8)
        Mine(width=8)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def digest(config: BaseModel | dict[str, Any]) -> str:
    """SHA-256 (hex) of a config's canonical JSON; equal configs have equal digests."""
    data = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def tagged_config(registry: Registry, component: Component) -> type[BaseModel]:
    """The component's config model with the tag ``type`` added.

    Args:
        registry: decides which bare names stand for this component.
        component: the component.

    Raises:
        PluginError: the config cannot be imported or is not a pydantic model.
    """
    model = component.record.load_config()
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise PluginError(f"{component.qualified_name}: config {model!r} is not a pydantic model class")
    if "type" in model.model_fields:
        raise PluginError(f"{component.qualified_name}: config field 'type' is reserved for the tag; rename it")
    kind = component.record.kind
    accepted = registry.names(kind)
    names = [name for name in (*component.names, component.qualified_name) if name in accepted]
    tag: Any = Literal[tuple(names)]
    return create_model(
        model.__name__,
        __base__=model,
        __doc__=f"{component.record.summary}\n\n{model.__doc__ or ''}",
        type=(tag, Field(default=names[0], description=f"{kind} component")),
    )


def config_union(registry: Registry, kind: str, *, capability: str | None = None) -> tuple[Any, list[PluginFailure]]:
    """An annotated discriminated union over every usable config of a kind, for use as a pydantic field type.

    Args:
        registry: where the components come from.
        kind: which kind.
        capability: leave out components without it; None takes all.

    Returns:
        The union, and the components left out because their config is broken.

    Raises:
        ConfigError: no component of this kind is usable.
        PluginError: a preference of the registry names nothing that is there.
    """
    registry.check_prefer()  # else every component would seem broken
    models: list[Any] = []
    failures: list[PluginFailure] = []
    for component in registry.components(kind):
        if capability is not None and capability not in component.record.capabilities:
            continue
        try:
            models.append(tagged_config(registry, component))
        except Exception as error:  # a plugin's config module may raise anything
            label = f"{component.distribution}:{component.plugin}"
            failures.append(PluginFailure(plugin=label, reason=f"{component.name}: {error}"))
    if not models:
        wanted = f" with the capability '{capability}'" if capability else ""
        raise ConfigError(f"no usable {kind}{wanted} is installed; run 'genrec plugins doctor'")
    if len(models) == 1:
        return models[0], failures
    return Annotated[reduce(or_, models), Field(discriminator="type")], failures


def parse_component(registry: Registry, kind: str, data: Any) -> Any:
    """Validate one component's config: a name, ``{"type": name, ...}``, or a tagged config object.

    Args:
        registry: where the components come from.
        kind: which kind.
        data: what the user wrote.

    Raises:
        PluginError: the name is unknown or ambiguous.
        ConfigError: a field is wrong; the message names it and the nearest valid one.

    Example::

        >>> from genrec_registry import default_registry
        >>> parse_component(default_registry(), "interaction", "dot").type
        'dot'
    """
    from genrec_registry.yaml_source import explain

    if isinstance(data, BaseModel):
        return data
    if isinstance(data, str):
        data = {"type": data}
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise ConfigError(f"{kind}: found {data!r}, expected a name or a mapping with the key 'type'")
    model = tagged_config(registry, registry.get(kind, data["type"]))
    return explain(model, data, where=f"{kind} {data['type']}")
