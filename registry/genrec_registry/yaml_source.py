"""Read YAML and explain what is wrong with it: file, line, column, key, and the nearest valid key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
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
        positions: dict[KeyPath, tuple[int, int]] = {}
        if node is not None:
            _record_positions(node, (), positions, name)
        data = loader.construct_document(node) if node is not None else {}
    except (yaml.MarkedYAMLError, yaml.reader.ReaderError) as error:
        raise ConfigError(_yaml_problem(error, name)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: is not usable YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}:1:1: found {type(data).__name__}, expected a mapping of keys at the top level")
    return YamlSource(name, data, positions)


def _yaml_problem(error: yaml.YAMLError, name: str) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{place}: is not valid YAML: {problem}"


def _record_positions(node: yaml.Node, path: KeyPath, into: dict[KeyPath, tuple[int, int]], name: str) -> None:
    into.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            place = (key.start_mark.line + 1, key.start_mark.column + 1)
            if here in into:
                raise ConfigError(
                    f"{name}:{place[0]}:{place[1]}: key '{key.value}' stands twice (first in line {into[here][0]}); "
                    "keep one of the two"
                )
            into[here] = place
            _record_positions(value, here, into, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _record_positions(value, (*path, index), into, name)


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
        known = _known_keys(model, detail["loc"][:-1])
        return f"{place}: unknown key '{dotted}'{did_you_mean(key, known)}"
    if kind == "missing":
        return f"{place}: key '{dotted}' is missing; add it"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        context = detail.get("ctx") or {}
        expected = [name.strip(" '") for name in str(context.get("expected_tags", "")).split(",") if name.strip()]
        if kind == "union_tag_not_found":
            return f"{place}: '{dotted}' needs the key 'type'{did_you_mean('', expected)}"
        place = source.position((*path, "type")) if source else where
        bare = [name for name in expected if "/" not in name]
        return f"{place}: '{dotted}.type' is '{context.get('tag')}'{did_you_mean(str(context.get('tag')), bare)}"
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    found = "" if isinstance(detail["input"], (dict, list)) else f", found {detail['input']!r}"
    return f"{place}: '{dotted}': {message[:1].lower()}{message[1:]}{found}" if dotted else f"{place}: {message}{found}"


def _data_path(data: Any, location: Sequence[str | int]) -> Iterator[str | int]:
    """pydantic's ``loc`` without the union tags and validator names it puts between the user's keys."""
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(data, dict) and (part in data or last):
            yield part
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            yield part
            data = data[part]
        elif last and not (isinstance(data, dict) and data.get("type") == part):
            return


def _known_keys(model: type[BaseModel], location: Sequence[str | int]) -> Iterable[str]:
    """The keys that are valid at ``location``, following union tags."""
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
    return {key for candidate in current for key in candidate.model_fields}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
