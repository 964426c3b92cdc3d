"""YAML: positions, what is refused and how it is said; nothing but ConfigError ever comes out."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, NonNegativeInt

from genrec_registry import Config, ConfigError, explain, parse_yaml, read_yaml


class Cat(Config):
    type: Literal["cat", "acme/cat"] = "cat"
    lives: NonNegativeInt = 9


class Dog(Config):
    type: Literal["dog"] = "dog"
    tricks: tuple[str, ...] = ()


Pet = Annotated[Cat | Dog, Field(discriminator="type")]


class Model(Config):
    embedding_dim: int = Field(default=16, gt=0)
    layers: tuple[int, ...] = ()
    pet: Pet = Cat()


class Run(Config):
    model: Model
    rate: float = 0.1
    pets: tuple[Pet, ...] = ()
    by_name: dict[str, Pet] = Field(default_factory=dict)
    mode: Literal["full", "hyper"] = "full"


def read(text: str) -> Run:
    source = parse_yaml(text, name="run.yaml")
    return explain(Run, source.data, source=source)


def refused(text: str) -> str:
    """The message that this YAML earns."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modell: {}\nmodel: {}", "run.yaml:1:1: unknown key 'modell', did you mean 'model'?"),
        ("model:\n  embeding_dim: 3", "run.yaml:2:3: unknown key 'model.embeding_dim', did you mean 'embedding_dim'?"),
        (
            "model:\n  embedding_dim: -3",
            "run.yaml:2:3: 'model.embedding_dim': input should be greater than 0, found -3",
        ),
        (
            "model: {layers: [1, two]}",
            "run.yaml:1:21: 'model.layers.1': input should be a valid integer, unable to parse string as an integer, "
            "found 'two'",
        ),
        ("model:\n  pet: {type: dogg}", "run.yaml:2:9: 'model.pet.type' is 'dogg', did you mean 'dog'?"),
        ("model:\n  pet: {type: zebra}", "run.yaml:2:9: 'model.pet.type' is 'zebra'; known: cat, dog"),
        ("model:\n  pet: {lives: 3}", "run.yaml:2:3: 'model.pet' needs the key 'type'; known: cat, dog"),
        (
            "model:\n  pet:\n    type: dog\n    trick: []",
            "run.yaml:4:5: unknown key 'model.pet.trick', did you mean 'tricks'?",
        ),
        (
            "model: {}\npets:\n- type: cat\n  live: 3",
            "run.yaml:4:3: unknown key 'pets.0.live', did you mean 'lives'?",
        ),
        (
            "model: {}\nby_name:\n  tom:\n    type: cat\n    tricks: []",
            "run.yaml:5:5: unknown key 'by_name.tom.tricks'; known: lives, type",
        ),
        ("rate: 0.1", "run.yaml:1:1: key 'model' is missing; add it"),
        ("", "run.yaml: key 'model' is missing; add it"),
        ("model: 3", "run.yaml:1:1: 'model': input should be a valid dictionary or instance of Model, found 3"),
        ("model: {}\nmode: ful", "run.yaml:2:1: 'mode': input should be 'full' or 'hyper', found 'ful'"),
        ("- 1\n- 2", "run.yaml:1:1: found list, expected a mapping of keys at the top level"),
        ("just text", "run.yaml:1:1: found str, expected a mapping of keys at the top level"),
        (
            "model: {}\nrate: 1\nmodel: {}",
            "run.yaml:3:1: key 'model' stands twice (first in line 1); keep one of the two",
        ),
        (
            "model:\n  layers: []\n  layers: []",
            "run.yaml:3:3: key 'layers' stands twice (first in line 2); keep one of the two",
        ),
        ("model: {}\nrate: .nan", "run.yaml:2:1: 'rate': input should be a finite number, found nan"),
        ("model: {}\nrate: 1e999", "run.yaml:2:1: 'rate': input should be a finite number, found inf"),
    ],
)
def test_messages(text, message):
    assert refused(text) == message


def test_every_problem_gets_its_line():
    lines = refused("model:\n  embedding_dim: 0\nrate: fast\nmod: 1").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["run.yaml:2:3", "run.yaml:3:1", "run.yaml:4:1"]


@pytest.mark.parametrize(
    "text",
    [
        "model: {",
        "model: [1, 2",
        "a: b: c",
        "\tmodel: 1",
        "model: *nowhere",
        "model: !!python/object/apply:os.system [ls]",
        "a: !!int ''",
        "a: !!float ''",
        "a: !!int x",
        "a: !!bool maybe",
        "a: !!timestamp soon",
        "a: 0001-99-99",
        "a: 2001-01-01 00:00:00 +99:99",
        "? [1, 2]\n: 3",
        "a: 1\n--- \nb: 2",
        "a: \x00",
        "a: \ud800",
        "[" * 5000,
        "a: &a [*a]\nmodel: *a",
        "<<: 3",
    ],
)
def test_bad_yaml_is_a_config_error(text):
    message = refused(text)
    assert message.startswith("run.yaml")
    assert len(message) < 500


def test_bad_yaml_says_where():
    assert refused("model:\n  layers: [1, 2\nrate: 1").startswith("run.yaml:3:5: is not valid YAML: ")


def test_aliases_work_and_nested_ones_take_no_time():
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30))
    assert "unknown key 'l29'" in refused(f"model: {{}}\nl0: &l0 [x]\n{levels}")
    source = parse_yaml("a: &a {x: 1}\nb:\n  <<: *a\n  y: 2\nc: *a")
    assert source.data == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}
    assert source.position(("c", "x")) == "<string>:5:1"


def test_unreadable_files(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: café".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not UTF-8 text \(byte 9\); expected a YAML file"):
        read_yaml(latin)
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        read_yaml(tmp_path)
    (tmp_path / "bom.yaml").write_bytes("model: {}".encode("utf-8-sig"))
    assert read_yaml(tmp_path / "bom.yaml").data == {"model": {}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2e3", -2e3),
        ("+1.5e-2", 0.015),
        ("1.e2", 100.0),
        ("1_000e1", 10_000.0),
        ("3", 3),
        ("0.5", 0.5),
        ("1e", "1e"),
        ("e3", "e3"),
        ("1e3x", "1e3x"),
        ("68fd1e64", "68fd1e64"),
        ("'1e-3'", "1e-3"),
        ("1.0.0", "1.0.0"),
    ],
)
def test_numbers(text, value):
    found = parse_yaml(f"a: {text}").data["a"]
    assert (found, type(found)) == (value, type(value))


def test_positions_of_nested_lists():
    source = parse_yaml("a:\n  - [1, 2]\n  - b: 3\n", name="f")
    assert source.position(("a", 0)) == "f:2:5"
    assert source.position(("a", 0, 1)) == "f:2:9"
    assert source.position(("a", 1, "b")) == "f:3:5"
    assert source.position(("a", 1, "b", "beyond")) == "f:3:5"
    assert source.position(()) == "f:1:1"


def test_messages_without_a_file_name_what_was_validated():
    with pytest.raises(ConfigError, match="model fat: unknown key 'layer', did you mean 'layers'"):
        explain(Model, {"layer": 3}, where="model fat")


_keys = ["model", "embedding_dim", "layers", "pet", "pets", "by_name", "type", "lives", "tricks", "rate", "mode"]
_words = st.sampled_from([*_keys, "cat", "dog", "acme/cat"])
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(_words, _values, max_size=4))
def test_fuzz_explain(data):
    try:
        explain(Run, data)
    except ConfigError as error:
        assert str(error).startswith("config: ")  # noqa: PT017
    else:
        Run.model_validate(data)


@settings(max_examples=300, deadline=None)
@given(st.lists(_words | st.sampled_from([*":-[]{}&*!|>?#,'\"%@\n", ": ", "\n  ", "- ", "<<", "!!int ", "1e3"])))
def test_fuzz_yaml_like_text(parts):
    _only_config_errors("".join(parts))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_fuzz_any_text(text):
    _only_config_errors(text)


def _only_config_errors(text: str) -> None:
    try:
        read(text)
    except ConfigError as error:
        assert str(error).startswith("run.yaml")  # noqa: PT017
