"""Configs: the tag added to a plugin's model, discriminated unions, digests."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, create_model

from genrec_registry import (
    Config,
    ConfigError,
    PluginError,
    Registry,
    config_union,
    digest,
    explain,
    parse_component,
    tagged_config,
)


@pytest.fixture
def registry(make_plugin, make_record, other_config):
    registry = Registry(entry_points=[])
    registry.register(make_plugin(make_record("wide", aliases=("broad",))), distribution="acme")
    registry.register(make_plugin(make_record("deep", config=other_config)), distribution="zeta")
    return registry


def _holder(registry: Registry) -> type[BaseModel]:
    union, failures = config_union(registry, "interaction")
    assert failures == []
    return create_model("Holder", __base__=Config, part=(union, ...))


@pytest.mark.parametrize(
    ("tag", "fields"),
    [("wide", {"width": 8}), ("broad", {"width": 8}), ("acme/wide", {}), ("deep", {"depth": 3}), ("zeta/deep", {})],
)
def test_union_accepts_names_aliases_and_qualified_names(registry, tag, fields):
    part: Any = _holder(registry).model_validate({"part": {"type": tag, **fields}}).part  # type: ignore[attr-defined]
    assert part.type == tag
    for key, value in fields.items():
        assert getattr(part, key) == value
    assert isinstance(part, registry.get("interaction", tag).record.config)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "wied"}, "'part.type' is 'wied', did you mean 'wide'?"),
        ({"width": 8}, "'part' needs the key 'type'; known: broad, deep, wide"),
        ({"type": "wide", "depth": 3}, "unknown key 'part.depth'"),
        ({"type": "deep", "dept": 3}, "unknown key 'part.dept', did you mean 'depth'?"),
        ({"type": "wide", "width": "x"}, "'part.width': input should be a valid integer"),
        ("wide", "'part': input should be a valid dictionary"),
    ],
)
def test_union_explains_what_is_wrong(registry, part, message):
    with pytest.raises(ConfigError) as caught:
        explain(_holder(registry), {"part": part})
    assert message in str(caught.value)


def test_a_union_of_one_still_checks_the_tag(make_plugin, make_record):
    registry = Registry(entry_points=[])
    registry.register(make_plugin(make_record("wide")))
    holder = _holder(registry)
    assert holder.model_validate({"part": {"type": "wide"}})
    with pytest.raises(ConfigError, match=r"part\.type"):
        explain(holder, {"part": {"type": "deep"}})


def test_clashing_bare_names_are_left_out_of_the_union(registry, make_plugin, make_record):
    registry.register(make_plugin(make_record("wide")), distribution="other")
    holder = _holder(registry)
    for tag in ("acme/wide", "other/wide", "broad"):
        holder.model_validate({"part": {"type": tag}})
    with pytest.raises(ConfigError, match=r"'part\.type' is 'wide'"):
        explain(holder, {"part": {"type": "wide"}})


def test_broken_configs_are_left_out_and_reported(registry, make_plugin, make_record):
    class Reserved(Config):
        type: str = "mine"

    registry.register(
        make_plugin(
            make_record("a-missing", config="no_such_module_anywhere:Config"),
            make_record("b-attribute", config="json:Config"),
            make_record("c-reserved", config=Reserved),
            make_record("d-not-pydantic", config=dict),
        ),
        distribution="bad",
        name="main",
    )
    union, failures = config_union(registry, "interaction")
    holder = create_model("Holder", __base__=Config, part=(union, ...))
    assert holder.model_validate({"part": {"type": "deep"}})
    assert [failure.plugin for failure in failures] == ["bad:main"] * 4
    for failure, reason in zip(
        failures,
        ["cannot be imported", "has no attribute 'Config'", "'type' is reserved", "is not a pydantic model"],
        strict=True,
    ):
        assert reason in failure.reason


def test_no_usable_component_is_a_config_error(make_plugin, make_record):
    with pytest.raises(ConfigError, match="no usable interaction is installed; run 'genrec plugins doctor'"):
        config_union(Registry(entry_points=[]), "interaction")


def test_a_wrong_preference_is_named_and_not_taken_for_broken_configs(make_plugin, make_record):
    registry = Registry(entry_points=[], prefer={"interaction/wide": "nobody"})
    registry.register(make_plugin(make_record("wide")), distribution="acme")
    with pytest.raises(PluginError, match="'interaction/wide' is to come from 'nobody', but it is offered by acme"):
        config_union(registry, "interaction")


def test_tagged_config_keeps_the_authors_class(registry):
    component = registry.get("interaction", "wide")
    model = tagged_config(registry, component)
    assert issubclass(model, component.record.load_config())
    assert model().type == "wide"  # type: ignore[attr-defined]
    assert model.model_json_schema()["properties"]["type"]["enum"] == ["wide", "broad", "acme/wide"]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("wied", PluginError, "unknown interaction 'wied', did you mean 'wide'"),
        (3, ConfigError, "interaction: found 3, expected a name or a mapping with the key 'type'"),
        ({"width": 1}, ConfigError, "expected a name or a mapping"),
        ({"type": 5}, ConfigError, "expected a name or a mapping"),
        ({"type": "wide", "widht": 1}, ConfigError, "interaction wide: unknown key 'widht', did you mean 'width'"),
    ],
)
def test_parse_component_errors(registry, data, error, message):
    with pytest.raises(error) as caught:
        parse_component(registry, "interaction", data)
    assert message in str(caught.value)


def test_parse_component_shapes(registry):
    by_name = parse_component(registry, "interaction", "broad")
    assert by_name.width == 4
    assert digest(parse_component(registry, "interaction", {"type": "broad"})) == digest(by_name)
    assert parse_component(registry, "interaction", by_name) is by_name


def test_configs_are_frozen_closed_and_finite(registry):
    config = parse_component(registry, "interaction", "wide")
    with pytest.raises(ValueError, match="frozen"):
        config.width = 5

    class Rate(Config):
        rate: float

    for bad in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="finite"):
            explain(Rate, {"rate": bad})


def test_digest_depends_on_values_only(registry):
    first = parse_component(registry, "interaction", {"type": "wide", "width": 4})
    assert digest(first) == digest(parse_component(registry, "interaction", "wide"))
    assert digest(first) != digest(parse_component(registry, "interaction", {"type": "wide", "width": 5}))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len(digest(first)) == 64
