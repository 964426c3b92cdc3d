"""Which components a command line names, and their options. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from genrec_registry import ConfigError, Registry, did_you_mean, parse_component

Kind = Literal["interaction", "encoder"]
_GROUPS: dict[str, tuple[Kind, ...]] = {
    "all": ("interaction", "encoder"),
    "interactions": ("interaction",),
    "encoders": ("encoder",),
}


def asked_for(text: str, registry: Registry) -> list[tuple[Kind, str]]:
    """``"fat,encoders"`` to pairs of kind and name, in that order, none twice.

    Args:
        text: names and groups, comma-separated.
        registry: the installed components.

    Raises:
        ConfigError: nothing is named, or a name is no interaction and no encoder.

    Example::

        >>> from genrec_registry import default_registry
        >>> asked_for("dcn, din", default_registry())
        [('interaction', 'dcn'), ('encoder', 'din')]
    """
    installed = {kind: registry.components(kind) for kind in _GROUPS["all"]}
    found: list[tuple[Kind, str]] = []
    for word in (part.strip() for part in text.split(",")):
        if word in _GROUPS:
            found += [(kind, component.name) for kind in _GROUPS[word] for component in installed[kind]]
            continue
        matches = [
            (kind, component.name)
            for kind, components in installed.items()
            for component in components
            if word in (*component.names, component.qualified_name)
        ]
        if not matches:
            known = [*_GROUPS, *(component.name for components in installed.values() for component in components)]
            raise ConfigError(f"'{word}' is no interaction and no encoder{did_you_mean(word, known)}")
        found += matches
    return list(dict.fromkeys(found))


def options_of(
    pairs: Sequence[str] | None, wanted: Sequence[tuple[Kind, str]], registry: Registry
) -> dict[str, dict[str, Any]]:
    """``["fat.num_layers=2"]`` to options by component, checked against its config.

    Args:
        pairs: of ``--set``.
        wanted: the components.
        registry: where their configs are.

    Raises:
        ConfigError: a component is not among the wanted, or an option is wrong.

    Example::

        >>> from genrec_registry import default_registry
        >>> options_of(["fat.num_layers=2"], [("interaction", "fat")], default_registry())
        {'fat': {'num_layers': 2}}
    """
    from genrec_plugins.config import apply_overrides, parse_overrides

    names = [name for _, name in wanted]
    overrides = parse_overrides(pairs)
    for key in overrides:
        name, _, option = key.partition(".")
        if name not in names or not option:
            raise ConfigError(
                f"--set {key}: expected COMPONENT.KEY of a component that runs{did_you_mean(name, names)}"
            )
    options: dict[str, dict[str, Any]] = apply_overrides({}, overrides)
    for kind, name in wanted:
        if name in options:
            parse_component(registry, kind, {"type": name, **options[name]})
    return options
