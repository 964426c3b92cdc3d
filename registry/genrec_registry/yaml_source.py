"""Read YAML and explain what is wrong with it: file, line, column, key, and the nearest valid key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from genrec_registry.errors import ConfigError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlSource:
    """Parsed YAML that remembers where each key stood.

    Args:
        name: file name for messages.
        data: plain Python data.
        positions: path of keys -> (line, column) of the key, both 1-based.

    Example::

        >>> source = parse_yaml("model:\\n  embedding_dim: 16\\n", name="run.yaml")
        >>> source.data, source.position(("model", "embedding_dim"))
        ({'model': {'embedding_dim': 16}}, 'run.yaml:2:3')
    """

    name: str
    data: Any
    positions: dict[KeyPath, tuple[int, int]]

    def position(self, path: Sequence[str | int]) -> str:
        """``file:line:column`` of the key at ``path``, or of its nearest parent that stands in the file."""
        for end in range(len(path), -1, -1):
            found = self.positions.get(tuple(path[:end]))
            if found:
                return f"{self.name}:{found[0]}:{found[1]}"
        return self.name


class _Loader(yaml.SafeLoader):
    """SafeLoader for which ``1e-3`` is a number, as users expect; YAML 1.1 makes it a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?([eE][-+]?\d+)$"),
    list("-+0123456789"),
)


def read_yaml(path: str | Path) -> YamlSource:
    """Read a YAML file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, has a key twice, or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); expected a YAML file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a YAML file") from error
    return parse_yaml(text, name=str(path))


def parse_yaml(text: str, *, name: str = "<string>") -> YamlSource:
    """Parse YAML text; see :func:`read_yaml`."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        positions = _positions(node, name) if node is not None else {}
        data = loader.construct_document(node) if node is not None else {}
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_problem(error, name)) from error
    except Exception as error:  # '!!int x' and the like raise whatever int(), datetime and dict look-ups raise
        raise ConfigError(f"{name}: is not usable YAML: {error or type(error).__name__}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}:1:1: found {type(data).__name__}, expected a mapping of keys at the top level")
    return YamlSource(name, data, positions)


def _yaml_problem(error: yaml.YAMLError, name: str) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{place}: is not valid YAML: {problem}"


def _positions(root: yaml.Node, name: str) -> dict[KeyPath, tuple[int, int]]:
    positions: dict[KeyPath, tuple[int, int]] = {(): (root.start_mark.line + 1, root.start_mark.column + 1)}
    visited: set[int] = set()  # an alias is not entered again: nested aliases would take for ever

    def place(path: KeyPath, node: yaml.Node) -> None:
        positions[path] = (node.start_mark.line + 1, node.start_mark.column + 1)

    def walk(node: yaml.Node, path: KeyPath) -> None:
        if id(node) in visited:
            return
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, str(key.value))
                if here in positions:
                    first = positions[here][0]
                    place(here, key)
                    raise ConfigError(
                        f"{YamlSource(name, None, positions).position(here)}: key '{key.value}' stands twice "
                        f"(first in line {first}); keep one of the two"
                    )
                place(here, key)
                walk(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                place((*path, index), value)
                walk(value, (*path, index))

    walk(root, ())
    return positions


def explain(model: type[Model], data: Any, *, source: YamlSource | None = None, where: str = "config") -> Model:
    """Validate ``data``; on failure say in one line for each problem where it is and what was expected.

    Args:
        model: the pydantic model.
        data: plain data.
        source: gives file, line and column; without it ``where`` stands in front of the key.
        where: what the data is, for messages without a file.

    Raises:
        ConfigError: the data does not fit the model.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain_one(model, data, detail, source, where) for detail in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _explain_one(model: type[BaseModel], data: Any, detail: ErrorDetails, source: YamlSource | None, where: str) -> str:
    path = tuple(_data_path(data, detail["loc"]))
    dotted = ".".join(str(part) for part in path)
    place = source.position(path) if source else where
    key = str(path[-1]) if path else ""
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = {key for candidate in _models_at(model, detail["loc"][:-1]) for key in candidate.model_fields}
        return f"{place}: unknown key '{dotted}'{did_you_mean(key, known)}"
    if kind == "missing":
        return f"{place}: key '{dotted}' is missing; add it"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        context = detail.get("ctx") or {}
        discriminator = str(context.get("discriminator", "type")).strip("'")
        bare = [tag for tag in _tags_at(model, detail["loc"], discriminator) if "/" not in tag]
        if kind == "union_tag_not_found":
            return f"{place}: '{dotted}' needs the key '{discriminator}'{did_you_mean('', bare)}"
        place = source.position((*path, discriminator)) if source else where
        tag = str(context.get("tag"))
        return f"{place}: '{dotted}.{discriminator}' is '{tag}'{did_you_mean(tag, bare)}"
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    found = "" if isinstance(detail["input"], (dict, list)) else f", found {detail['input']!r}"
    return f"{place}: '{dotted}': {message[:1].lower()}{message[1:]}{found}" if dotted else f"{place}: {message}{found}"


def _data_path(data: Any, location: Sequence[str | int]) -> Iterator[str | int]:
    """pydantic's ``loc`` without the union tags and validator names it puts between the user's keys."""
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(data, dict) and part not in data and part in data.values():
            continue  # the tag of a union
        if isinstance(data, dict) and (part in data or last):
            yield part
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            yield part
            data = data[part]


def _models_at(model: type[BaseModel], location: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at ``location``, following union tags."""
    current: list[type[BaseModel]] = [model]
    for part in location:
        following: list[type[BaseModel]] = []
        for candidate in current:
            if isinstance(part, str) and part in candidate.model_fields:
                following.extend(_models_in(candidate.model_fields[part].annotation))
            else:
                tag = candidate.model_fields.get("type")
                if tag is None or part in get_args(tag.annotation):
                    following.append(candidate)
        current = following or current
    return current


def _tags_at(model: type[BaseModel], location: Sequence[str | int], discriminator: str) -> list[str]:
    fields = [candidate.model_fields.get(discriminator) for candidate in _models_at(model, location)]
    return [str(tag) for field in fields if field is not None for tag in get_args(field.annotation)]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
