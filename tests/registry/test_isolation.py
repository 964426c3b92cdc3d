"""A broken plugin is skipped, named and explained; the others keep working."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from genrec_registry import PLUGIN_API_VERSION, DatasetRecord, PluginError, Registry, hookimpl


def _names(registry: Registry) -> list[str]:
    return [component.qualified_name for component in registry.components("interaction")]


class RaisingHook:
    @hookimpl
    def genrec_interactions(self):
        raise ZeroDivisionError("no luck")


class RaisingGenerator:
    def __init__(self, record):
        self.record = record

    @hookimpl
    def genrec_interactions(self):
        yield self.record
        raise ZeroDivisionError("half way")


class MisspeltHook:
    @hookimpl
    def genrec_interaction(self):
        return []


class RenamedHook:
    """pluggy's ``specname`` lets a function have any name."""

    def __init__(self, record):
        self.record = record

    @hookimpl(specname="genrec_interactions")
    def my_parts(self):
        return [self.record]


class ForgottenMarker:
    def genrec_interactions(self):
        return []


class ExtraArgument:
    @hookimpl
    def genrec_interactions(self, registry):
        return []


class RaisingProperty:
    def __init__(self, record):
        self.record = record

    @property
    def trouble(self):
        raise RuntimeError("never look at me")

    @hookimpl
    def genrec_interactions(self):
        return [self.record]


@pytest.mark.parametrize("order", ["before", "after"])
def test_raising_hook_leaves_the_others(order, distribution, make_plugin, make_record):
    broken = distribution("a-broken" if order == "before" else "z-broken", RaisingHook())
    sound = distribution("m-sound", make_plugin(make_record("mine")))
    registry = Registry(entry_points=[*broken, *sound])
    assert _names(registry) == ["m-sound/mine"]
    [failure] = registry.failures
    assert failure.plugin == f"{'a' if order == 'before' else 'z'}-broken:main"
    assert failure.reason == "genrec_interactions raised ZeroDivisionError: no luck"
    assert "in genrec_interactions" in failure.traceback


def test_raising_generator_gives_nothing(distribution, make_plugin, make_record):
    registry = Registry(
        entry_points=[
            *distribution("a-broken", RaisingGenerator(make_record("half"))),
            *distribution("sound", make_plugin(make_record("whole"))),
        ]
    )
    assert _names(registry) == ["sound/whole"]
    assert "half way" in registry.failures[0].reason


def test_one_bad_hook_keeps_the_plugins_other_hooks(make_record):
    class Mixed(RaisingHook):
        @hookimpl
        def genrec_datasets(self):
            return [DatasetRecord(name="rows", config="a:B", factory="a:C", summary="Rows")]

    registry = Registry(entry_points=[])
    registry.register(Mixed(), distribution="mixed")
    assert [component.name for component in registry] == ["rows"]
    assert len(registry.failures) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import no_such_module_anywhere", "cannot be imported: ModuleNotFoundError"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit"),
        ("def broken(:", "cannot be imported: SyntaxError"),
    ],
)
def test_import_failure(body, reason, distribution, make_plugin, make_record, tmp_path, monkeypatch):
    (tmp_path / "bad_genrec_plugin.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bad_genrec_plugin", raising=False)
    broken = distribution("bad", "bad_genrec_plugin")
    sound = distribution("sound", make_plugin(make_record("mine")))
    registry = Registry(entry_points=[*broken, *sound])
    assert _names(registry) == ["sound/mine"]
    assert registry.failures[0].reason.startswith(reason)
    assert "bad_genrec_plugin" in registry.failures[0].traceback


def test_missing_attribute_of_an_entry_point(distribution):
    registry = Registry(entry_points=distribution("bad", "json:no_such_attribute"))
    assert "AttributeError" in registry.failures[0].reason


def test_misspelt_hook_is_refused_with_the_nearest_name(distribution):
    registry = Registry(entry_points=distribution("bad", MisspeltHook()))
    assert registry.failures[0].reason == (
        "implements an unknown hook 'genrec_interaction', did you mean 'genrec_interactions'?"
    )


def test_misspelt_specname_is_refused(distribution, make_record):
    class Bad:
        @hookimpl(specname="genrec_dataset")
        def anything(self):
            return []

    registry = Registry(entry_points=distribution("bad", Bad()))
    assert "unknown hook 'genrec_dataset'" in registry.failures[0].reason
    registry = Registry(entry_points=distribution("good", RenamedHook(make_record("mine"))))
    assert _names(registry) == ["good/mine"]


def test_forgotten_marker_is_refused(distribution):
    registry = Registry(entry_points=distribution("bad", ForgottenMarker()))
    assert registry.failures[0].reason == "has 'genrec_interactions' without the marker; write @hookimpl above it"


def test_wrong_hook_signature_leaves_nothing_behind(distribution, make_record):
    registry = Registry(entry_points=distribution("bad", ExtraArgument()))
    assert "cannot be registered" in registry.failures[0].reason
    assert "registry" in registry.failures[0].reason
    registry.register(RenamedHook(make_record("mine")), distribution="bad", name="main")  # the label is free again
    assert _names(registry) == ["bad/mine"]
    assert len(registry.failures) == 1


def test_raising_property_is_never_mistaken_for_a_hook(distribution, make_record):
    registry = Registry(entry_points=distribution("odd", RaisingProperty(make_record("mine"))))
    assert (_names(registry), registry.failures) == (["odd/mine"], [])


@pytest.mark.parametrize(
    ("needs", "fits"), [(">=1.0,<2", True), (f"=={PLUGIN_API_VERSION}", True), (">=2", False), ("<1", False)]
)
def test_plugin_api_version(needs, fits, distribution, make_plugin, make_record):
    registry = Registry(entry_points=distribution("acme", make_plugin(make_record("mine"), GENREC_PLUGIN_API=needs)))
    assert bool(_names(registry)) is fits
    if not fits:
        reason = registry.failures[0].reason
        assert f"needs plugin API {needs}, this genrec-plugins has {PLUGIN_API_VERSION}" in reason


def test_plugin_api_that_is_no_specifier(distribution, make_plugin, make_record):
    registry = Registry(entry_points=distribution("acme", make_plugin(make_record("mine"), GENREC_PLUGIN_API="one")))
    assert _names(registry) == []
    assert "is not a version specifier; write it like '>=1.0,<2'" in registry.failures[0].reason


@pytest.mark.parametrize("wrong", ["a string", DatasetRecord(name="rows", config="a:B", factory="a:C", summary="Rows")])
def test_wrong_record_type_is_reported_and_the_right_ones_kept(wrong, distribution, make_plugin, make_record):
    registry = Registry(entry_points=distribution("acme", make_plugin(wrong, make_record("mine"))))
    assert _names(registry) == ["acme/mine"]
    assert f"gave a {type(wrong).__name__}, expected InteractionRecord" in registry.failures[0].reason


def test_hook_that_returns_something_uniterable(distribution, make_plugin):
    plugin = SimpleNamespace(genrec_interactions=hookimpl(lambda: 3))
    registry = Registry(entry_points=distribution("acme", plugin))
    assert "TypeError" in registry.failures[0].reason


def test_hook_that_returns_none_offers_nothing(distribution):
    plugin = SimpleNamespace(genrec_interactions=hookimpl(lambda: None))
    registry = Registry(entry_points=distribution("acme", plugin))
    assert (list(registry), registry.failures) == ([], [])


@pytest.mark.parametrize("name", ["Mine", "my_part", "9lives", "", "mine-", "a/b", "a b"])
def test_record_names_are_kebab_case(name, make_record):
    with pytest.raises(PluginError, match="is not kebab-case"):
        make_record(name)
    with pytest.raises(PluginError, match="is not kebab-case"):
        make_record("sound", aliases=(name,))


def test_strict_mode_raises_at_the_first_broken_plugin(distribution, monkeypatch):
    broken = distribution("bad", RaisingHook())
    with pytest.raises(PluginError, match="plugin bad:main genrec_interactions raised ZeroDivisionError") as caught:
        Registry(entry_points=broken, strict=True)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    monkeypatch.setenv("GENREC_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError):
        Registry(entry_points=broken)
    monkeypatch.setenv("GENREC_STRICT_PLUGINS", "0")
    assert len(Registry(entry_points=broken).failures) == 1


@pytest.mark.parametrize("name", ["acme-genrec", "ACME_genrec", "second", "acme.genrec:second"])
def test_disable_by_distribution_entry_point_or_both(name, distribution, make_plugin, make_record, monkeypatch):
    entry_points = [
        *distribution("Acme_Genrec", first=make_plugin(make_record("one")), second=make_plugin(make_record("two"))),
        *distribution("other", make_plugin(make_record("three"))),
    ]
    monkeypatch.setenv("GENREC_DISABLE_PLUGINS", f" {name} ,")
    registry = Registry(entry_points=entry_points)
    whole = "second" not in name
    expected = ["other/three"] if whole else ["acme-genrec/one", "other/three"]
    assert sorted(_names(registry)) == expected
    assert registry.disabled == (["acme-genrec:first"] if whole else []) + ["acme-genrec:second"]


def test_a_disabled_plugin_is_not_even_imported(distribution):
    entry_points = distribution("bad", "no_such_module_anywhere")
    registry = Registry(entry_points=entry_points, disabled=["bad"])
    assert registry.failures == []
