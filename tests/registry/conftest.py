"""Fake distributions: entry points as importlib.metadata makes them, over modules that live in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest

from genrec_registry import Config, InteractionRecord, hookimpl


class FakeDistribution(metadata.Distribution):
    """A pip package that exists only as its two metadata files."""

    def __init__(self, name: str, version: str, entry_points: Mapping[str, str]) -> None:
        listed = "".join(f"{key} = {value}\n" for key, value in entry_points.items())
        self._files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "entry_points.txt": f"[genrec.plugins]\n{listed}",
        }

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


class WidthConfig(Config):
    """A config with one field."""

    width: int = 4


class OtherConfig(Config):
    """A config with another field."""

    depth: int = 2


def build(*args: Any) -> tuple[Any, ...]:
    """A factory that shows what it was given."""
    return args


def record(name: str, *, aliases: tuple[str, ...] = (), **changes: Any) -> InteractionRecord:
    fields: dict[str, Any] = {"config": WidthConfig, "factory": build, "summary": f"Summary of {name}"} | changes
    return InteractionRecord(name=name, aliases=aliases, **fields)


def offering(*records: Any, **attributes: Any) -> ModuleType:
    """A plugin module whose interactions hook gives these records."""
    module = ModuleType("fake_plugin")

    @hookimpl
    def genrec_interactions() -> Any:
        return records

    module.genrec_interactions = genrec_interactions  # type: ignore[attr-defined]
    for key, value in attributes.items():
        setattr(module, key, value)
    return module


@pytest.fixture
def make_record() -> Callable[..., InteractionRecord]:
    return record


@pytest.fixture
def make_plugin() -> Callable[..., ModuleType]:
    return offering


@pytest.fixture
def other_config() -> type[Config]:
    return OtherConfig


@pytest.fixture
def distribution(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[metadata.EntryPoint]]:
    """``distribution(name, plugin, ...)``: the entry points of a pip package with these plugin modules."""

    def make(name: str, *plugins: Any, version: str = "1.2", **named: Any) -> list[metadata.EntryPoint]:
        targets = {}
        for key, plugin in [*((f"main{i}" if i else "main", p) for i, p in enumerate(plugins)), *named.items()]:
            if isinstance(plugin, str):
                targets[key] = plugin
                continue
            path = f"fake_{name.replace('-', '_')}_{key}"
            module = plugin if isinstance(plugin, ModuleType) else ModuleType(path)
            if not isinstance(plugin, ModuleType):
                module.plugin = plugin  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, path, module)
            targets[key] = path if isinstance(plugin, ModuleType) else f"{path}:plugin"
        return list(FakeDistribution(name, version, targets).entry_points)

    return make
