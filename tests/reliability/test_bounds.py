"""Every number of a config has bounds: a file that asks for a million layers gets a sentence, not all of the memory."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genrec_adapters.patterns import expand
from genrec_plugins.config import parse_run
from genrec_plugins.tokenizers.fit_config import parse_tokenize
from genrec_registry import Config, ConfigError

ROOT = Path(__file__).resolve().parents[2]
HOMES = {"registry": ROOT / "registry", "adapters": ROOT / "adapters", "plugins": ROOT}
PACKAGES = {"registry": "genrec_registry", "adapters": "genrec_adapters", "plugins": "genrec_plugins"}
LOW, HIGH = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}


def configs() -> list[type[Config]]:
    """Every config of the program: each class below ``Config`` in each module that has some."""
    found: dict[str, type[Config]] = {}
    for name, home in HOMES.items():
        for path in sorted((home / PACKAGES[name]).rglob("*.py")):
            if not re.search(r"^class \w+\(\w*Config\w*\):", path.read_text(), re.M) or "templates" in path.parts:
                continue
            module = importlib.import_module(".".join(path.relative_to(home).with_suffix("").parts))
            for value in vars(module).values():
                if isinstance(value, type) and issubclass(value, Config) and value.__module__ == module.__name__:
                    found[f"{value.__module__}.{value.__name__}"] = value
    return list(found.values())


def unbounded(node: Any, where: str = "") -> Iterator[str]:
    """Places of a JSON schema where a number that decides on a size, or a list of numbers, may be of any size."""
    if isinstance(node, list):
        for value in node:
            yield from unbounded(value, where)
    if not isinstance(node, dict):
        return
    kind, keys = node.get("type"), set(node)
    if (kind == "integer" or (kind == "number" and where.endswith("_ratio"))) and not (keys & LOW and keys & HIGH):
        yield where
    if kind == "array" and "maxItems" not in keys and node["items"].get("type") in ("integer", "array"):
        yield f"{where} (its length)"
    for key, value in node.items():
        if key in ("properties", "$defs"):
            for name, inner in value.items():
                yield from unbounded(inner, f"{where}.{name}".lstrip("."))
        elif key not in ("default", "examples"):
            yield from unbounded(value, where)


@pytest.mark.parametrize("config", configs(), ids=lambda config: f"{config.__module__}.{config.__name__}")
def test_numbers_have_bounds(config: type[Config]) -> None:
    assert sorted(unbounded(config.model_json_schema())) == []


def test_the_walk_sees_what_has_none() -> None:
    class Inner(Config):
        sizes: tuple[int, ...] = ()
        names: tuple[str, ...] = ()

    class Outer(Config):
        layers: int | None = None
        rate: float = 0.1
        ffn_ratio: float = 1.0
        inner: Inner = Inner()

    found = set(unbounded(Outer.model_json_schema()))
    assert found == {"layers", "ffn_ratio", "Inner.sizes", "Inner.sizes (its length)"}


def test_the_walk_sees_all_configs() -> None:
    names = {config.__name__ for config in configs()}
    assert {"FatConfig", "RunConfig", "TokenizeConfig", "UqaConfig", "ServeSettings", "PrepareOptions"} <= names
    assert len(names) > 80


RUN = """
dataset: {type: criteo-kaggle, path: train.txt}
model: {interaction: {type: fat, num_layers: 2}}
"""


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("model.interaction.num_layers", 2**31, "less than or equal to 1000, found 2147483648"),
        ("model.interaction.ffn_ratio", 1e30, "less than or equal to 1000, found 1e+30"),
        ("model.embedding_dim", 2**20, "less than or equal to 65536, found 1048576"),
        ("model.over_arch", [4] * 101, "at most 100 items"),
        ("seed", 2**63, "less than 9223372036854775808, found 9223372036854775808"),
        ("train.threads", 10**30, "less than or equal to 4096, found 1" + "0" * 30),
    ],
)
def test_one_sentence(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_run(RUN, {key: str(value)})
    assert sentence in str(error.value)
    assert key in str(error.value)
    assert "\n" not in str(error.value)


def test_codes_of_fsq() -> None:
    with pytest.raises(ConfigError, match=r"make 4294967296 codes of one level, expected at most 16777216"):
        parse_tokenize("{items: i.parquet, tokenizer: {type: fsq, levels: [[65536, 65536]]}}")


@pytest.mark.parametrize(
    "pattern", ["{1..99999}" * 6, "a{1..1000}b{1..1000}", "{1..2000000}", "{" + "9" * 5000 + "..1}"]
)
def test_patterns(pattern: str) -> None:
    with pytest.raises(ConfigError, match="huge"):
        expand(pattern)
