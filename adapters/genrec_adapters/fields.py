"""The ``fields`` section of a run: patterns to configured field types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genrec_adapters.patterns import expand, is_pattern
from genrec_registry.config import parse_component
from genrec_registry.contracts import ColumnKind, FieldType
from genrec_registry.errors import ConfigError, GenrecError, did_you_mean
from genrec_registry.manager import Registry


@dataclass(frozen=True, kw_only=True)
class Field:
    """One configured field.

    Args:
        name: field name.
        config: its tagged config.
        type: the field type, built for this name.
    """

    name: str
    config: Any
    type: FieldType


def expand_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """One entry a field, patterns expanded; a name written out replaces what a pattern says of it, in its place.

    Args:
        fields: pattern -> config.

    Raises:
        ConfigError: two patterns name the same field, or a pattern is malformed.

    Example::

        >>> expand_fields({"C{1..3}": "a", "C2": "b"})
        {'C1': 'a', 'C2': 'b', 'C3': 'a'}
    """
    expanded: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for pattern, config in fields.items():
        literal = not is_pattern(pattern)
        for name in expand(pattern):
            before = origin.get(name)
            if before is not None and literal == (not is_pattern(before)):
                raise ConfigError(
                    f"fields: '{before}' and '{pattern}' both name the field '{name}'; "
                    f"narrow one of the patterns, or write '{name}' out by itself"
                )
            if before is not None and not literal:
                continue
            expanded[name] = config
            origin[name] = pattern
    return expanded


def build_fields(fields: Mapping[str, Any], columns: Mapping[str, ColumnKind], registry: Registry) -> list[Field]:
    """Configured field types for the ``fields`` section, checked against the dataset's columns.

    Args:
        fields: pattern -> tagged config object, ``{"type": ...}`` mapping, or type name.
        columns: the dataset's raw feature columns and what they hold.
        registry: finds the field types.

    Raises:
        ConfigError: a field reads a column that is not there or holds something else, or a config is wrong.
        PluginError: a field type is unknown.
    """
    built: list[Field] = []
    parsed: dict[int, Any] = {}  # all names of a pattern have one config, and checking it takes 5 ms
    for name, written in expand_fields(fields).items():
        try:
            if id(written) not in parsed:
                parsed[id(written)] = parse_component(registry, "field-type", written)
            config = parsed[id(written)]
            field_type: FieldType = registry.create("field-type", config, name)
        except GenrecError as error:
            raise type(error)(f"fields.{name}: {error}") from error
        for column, kind in field_type.columns.items():
            _check_column(name, config.type, column, kind, columns)
        built.append(Field(name=name, config=config, type=field_type))
    if not built:
        raise ConfigError("fields: is empty, expected at least one field; leave the key out to get the dataset's own")
    return built


def _check_column(field: str, type_name: str, column: str, kind: ColumnKind, columns: Mapping[str, ColumnKind]) -> None:
    if column not in columns:
        raise ConfigError(f"fields.{field}: the dataset has no column '{column}'{did_you_mean(column, columns)}")
    found = columns[column]
    if found == kind or (found, kind) == ("number", "string"):
        return
    words: dict[ColumnKind, str] = {"string": "text", "number": "numbers", "list": "lists"}
    hint = (
        f"; list it under dataset.numbers if it holds numbers (csv), or {_OTHER}" if kind == "number" else f"; {_OTHER}"
    )
    raise ConfigError(
        f"fields.{field}: column '{column}' holds {words[found]}, but type '{type_name}' needs {words[kind]}{hint}"
    )


_OTHER = "choose a field type for such a column"
