"""What a name stands for: bare names, aliases, ``dist/name``, clashes, ``prefer``."""

from __future__ import annotations

import pytest

from genrec_registry import PluginError, Registry

BUILTIN = "genrec-plugins"


@pytest.fixture
def three(distribution, make_plugin, make_record):
    """``fat`` from the built-ins, acme and zeta; ``cross`` from acme and zeta; ``solo`` from acme."""
    return [
        *distribution("zeta", make_plugin(make_record("fat"), make_record("cross")), version="0.3"),
        *distribution("acme", make_plugin(make_record("fat"), make_record("cross"), make_record("solo"))),
        *distribution(BUILTIN, make_plugin(make_record("fat", aliases=("field-aware",)))),
    ]


def test_bare_alias_and_qualified_names(three):
    registry = Registry(entry_points=three)
    for name in ("solo", "acme/solo", "Acme/solo"):
        assert registry.get("interaction", name).qualified_name == "acme/solo"
    assert registry.get("interaction", "field-aware").qualified_name == f"{BUILTIN}/fat"
    assert registry.get("interaction", f"{BUILTIN}/field-aware").qualified_name == f"{BUILTIN}/fat"
    assert registry.get("interaction", "zeta/cross").version == "0.3"
    assert registry.get("interaction", "zeta/cross").plugin == "main"


def test_two_third_parties_clash_and_prefer_settles(three):
    with pytest.raises(PluginError) as caught:
        Registry(entry_points=three).get("interaction", "cross")
    message = str(caught.value)
    assert "'acme/cross' and 'zeta/cross'" in message
    assert "plugins.prefer: {interaction/cross: acme}" in message
    for key in ("interaction/cross", "cross"):
        registry = Registry(entry_points=three, prefer={key: "Zeta"})
        assert registry.get("interaction", "cross").distribution == "zeta"


def test_the_narrower_prefer_wins(three):
    registry = Registry(entry_points=three, prefer={"cross": "acme", "interaction/cross": "zeta"})
    assert registry.get("interaction", "cross").distribution == "zeta"


def test_builtin_is_shadowed_only_by_prefer(three):
    assert Registry(entry_points=three).get("interaction", "fat").builtin
    registry = Registry(entry_points=three, prefer={"fat": "acme"})
    assert registry.get("interaction", "fat").distribution == "acme"
    assert registry.get("interaction", f"{BUILTIN}/fat").builtin


def test_prefer_for_a_distribution_that_does_not_offer_it(three):
    registry = Registry(entry_points=three, prefer={"fat": "nobody"})
    with pytest.raises(PluginError, match=r"names 'nobody' .* offered by genrec-plugins, acme, zeta"):
        registry.get("interaction", "fat")


@pytest.mark.parametrize(
    ("prefer", "message"),
    [
        ({"interactoin/fat": "acme"}, "unknown kind 'interactoin', did you mean 'interaction'"),
        ({"fatt": "acme"}, "'fatt' is to come from 'acme', but nothing offers it"),
        ({"encoder/fat": "acme"}, "'encoder/fat' is to come from 'acme', but nothing offers it"),
        ({"solo": "zeta"}, "'solo' is to come from 'zeta', but it is offered by acme"),
    ],
)
def test_check_prefer_names_what_is_wrong(prefer, message, three):
    with pytest.raises(PluginError, match=message):
        Registry(entry_points=three, prefer=prefer).check_prefer()
    Registry(entry_points=three, prefer={"fat": "acme", "interaction/cross": "zeta"}).check_prefer()


def test_prefer_by_bare_name_leaves_other_kinds_alone(distribution, make_plugin, make_record):
    from genrec_registry import EncoderRecord, hookimpl

    class Encoders:
        @hookimpl
        def genrec_encoders(self):
            return [EncoderRecord(name="fat", config="a:B", factory="a:C", summary="An encoder of that name")]

    entry_points = [
        *distribution(BUILTIN, Encoders(), make_plugin(make_record("fat"))),
        *distribution("acme", make_plugin(make_record("fat"))),
    ]
    registry = Registry(entry_points=entry_points, prefer={"fat": "acme"})
    assert registry.get("interaction", "fat").distribution == "acme"
    assert registry.get("encoder", "fat").builtin


def test_names_lists_exactly_what_get_accepts(three):
    registry = Registry(entry_points=three)
    names = registry.names("interaction")
    assert sorted(names) == sorted(
        [
            "fat",
            "field-aware",
            "solo",
            "acme/fat",
            "acme/cross",
            "acme/solo",
            "zeta/fat",
            "zeta/cross",
            f"{BUILTIN}/fat",
        ]
    )
    for name in names:
        registry.get("interaction", name)


def test_unknown_names_and_kinds_suggest_the_nearest(three):
    registry = Registry(entry_points=three)
    with pytest.raises(PluginError, match="unknown interaction 'sollo', did you mean 'solo'"):
        registry.get("interaction", "sollo")
    with pytest.raises(PluginError, match="unknown interaction 'acme/field-aware'"):
        registry.get("interaction", "acme/field-aware")
    with pytest.raises(PluginError, match="unknown kind 'interactoin', did you mean 'interaction'"):
        registry.components("interactoin")


def test_same_name_twice_within_a_distribution(distribution, make_plugin, make_record):
    entry_points = distribution(
        "acme",
        make_plugin(make_record("one"), make_record("one")),
        make_plugin(make_record("two", aliases=("one",)), make_record("three")),
    )
    registry = Registry(entry_points=entry_points)
    assert [c.name for c in registry.components("interaction")] == ["one", "three"]
    assert [failure.reason for failure in registry.failures] == [
        "offers the interaction 'one' twice; rename one of the two"
    ] * 2


def test_two_distributions_with_the_same_entry_point_name(distribution, make_plugin, make_record):
    entry_points = [
        *distribution("acme", plugin=make_plugin(make_record("from-acme"))),
        *distribution("zeta", plugin=make_plugin(make_record("from-zeta"))),
    ]
    registry = Registry(entry_points=entry_points)
    assert [c.name for c in registry.components("interaction")] == ["from-acme", "from-zeta"]
    assert registry.failures == []


def test_order_of_discovery_changes_nothing(three):
    listed = [c.qualified_name for c in Registry(entry_points=three)]
    assert listed == [c.qualified_name for c in Registry(entry_points=reversed(three))]
    assert listed[0] == f"{BUILTIN}/fat"


def test_registering_by_hand(make_plugin, make_record):
    registry = Registry(entry_points=[])
    registry.register(make_plugin(make_record("mine")))
    assert registry.get("interaction", "local/mine") is registry.get("interaction", "mine")


def test_create_calls_the_factory_and_warns_of_deprecation(make_plugin, make_record):
    from genrec_registry import parse_component

    registry = Registry(entry_points=[])
    registry.register(make_plugin(make_record("mine"), make_record("old", status="deprecated", summary="Use 'mine'")))
    config = parse_component(registry, "interaction", {"type": "mine", "width": 7})
    assert registry.create("interaction", config, "context") == (config, "context")
    with pytest.warns(FutureWarning, match="'local/old' is deprecated: Use 'mine'"):
        registry.create("interaction", parse_component(registry, "interaction", "old"), "context")


def test_create_gives_a_field_type_its_name_first():
    from genrec_registry import Config, FieldTypeRecord, hookimpl, parse_component

    class Plugin:
        @hookimpl
        def genrec_field_types(self):
            return [FieldTypeRecord(name="f", config=Config, factory=lambda name, config: name, summary="F")]

    registry = Registry(entry_points=[])
    registry.register(Plugin())
    assert registry.create("field-type", parse_component(registry, "field-type", "f"), "C1") == "C1"
