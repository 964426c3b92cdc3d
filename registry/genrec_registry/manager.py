"""Find plugins, keep the broken ones apart, and look components up by name.

- Every hook implementation runs in its own ``try``: one broken plugin never hides the others.
- ``dist/name`` names one component for certain. A bare name offered by two third-party distributions is an error
  naming both, until ``prefer`` settles it; a built-in is shadowed only by ``prefer``.
- ``GENREC_DISABLE_PLUGINS`` (comma-separated distributions or entry points) skips plugins;
  ``GENREC_STRICT_PLUGINS=1`` raises at the first broken one.
"""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import pluggy
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from genrec_registry.errors import PluginError, did_you_mean
from genrec_registry.hookspecs import ENTRY_POINT_GROUP, PLUGIN_API_VERSION, PROJECT, HookSpecs
from genrec_registry.records import KINDS, RECORD_TYPES, Record

BUILTIN_DISTRIBUTION = "genrec-plugins"
_HOOKS = {record.hook: record for record in RECORD_TYPES}


@dataclass(frozen=True, kw_only=True)
class Component:
    """A record together with where it came from.

    Args:
        record: what the plugin offered.
        distribution: name of the pip package.
        version: its version.
        plugin: the entry point's name.
    """

    record: Record
    distribution: str
    version: str
    plugin: str

    @property
    def name(self) -> str:
        """The bare name."""
        return self.record.name

    @property
    def qualified_name(self) -> str:
        """``distribution/name``, unambiguous."""
        return f"{self.distribution}/{self.record.name}"

    @property
    def names(self) -> tuple[str, ...]:
        """Bare name and aliases."""
        return (self.record.name, *self.record.aliases)

    @property
    def builtin(self) -> bool:
        """Whether it ships with genrec-plugins."""
        return self.distribution == BUILTIN_DISTRIBUTION


@dataclass(frozen=True, kw_only=True)
class PluginFailure:
    """A plugin, or one hook of it, that could not be used.

    Args:
        plugin: ``distribution:entry-point``.
        reason: one sentence.
        traceback: the traceback as text, or the empty string.
    """

    plugin: str
    reason: str
    traceback: str = ""


def _canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


class Registry:
    """Every component that the installed plugins offer.

    Args:
        prefer: ``kind/name -> distribution`` (or ``name -> distribution`` for all kinds) settling name clashes.
        entry_points: plugins to load; those installed under ``genrec.plugins`` if None.
        disabled: distributions or entry-point names to skip; from ``GENREC_DISABLE_PLUGINS`` if None.
        strict: raise at the first broken plugin; from ``GENREC_STRICT_PLUGINS`` if None.

    Raises:
        PluginError: in strict mode, a plugin is broken.

    Example::

        >>> registry = Registry()
        >>> registry.get("interaction", "fat").qualified_name
        'genrec-plugins/fat'
    """

    def __init__(
        self,
        *,
        prefer: Mapping[str, str] | None = None,
        entry_points: Iterable[metadata.EntryPoint] | None = None,
        disabled: Iterable[str] | None = None,
        strict: bool | None = None,
    ) -> None:
        if disabled is None:
            disabled = os.environ.get("GENREC_DISABLE_PLUGINS", "").split(",")
        if strict is None:
            strict = os.environ.get("GENREC_STRICT_PLUGINS", "").lower() in ("1", "true", "yes", "on")
        if entry_points is None:
            entry_points = metadata.entry_points(group=ENTRY_POINT_GROUP)
        self.prefer = {key: _canonical(value) for key, value in (prefer or {}).items()}
        self.strict = strict
        self.failures: list[PluginFailure] = []
        self.disabled: list[str] = []
        self._components: dict[str, list[Component]] = {kind: [] for kind in KINDS}
        self._plugins = pluggy.PluginManager(PROJECT)
        self._plugins.add_hookspecs(HookSpecs)
        skip = {_canonical(name) for name in disabled if name.strip()}
        for entry_point in sorted(entry_points, key=_load_order):
            distribution, version = _origin(entry_point)
            plugin = f"{distribution}:{entry_point.name}"
            if skip & {_canonical(distribution), _canonical(entry_point.name), _canonical(plugin)}:
                self.disabled.append(plugin)
                continue
            try:
                loaded = entry_point.load()
            except (Exception, SystemExit) as error:  # a plugin may raise anything at import
                self._fail(plugin, f"cannot be imported: {type(error).__name__}: {error}", error)
                continue
            self.register(loaded, distribution=distribution, version=version, name=entry_point.name)

    def register(self, plugin: object, *, distribution: str = "local", version: str = "", name: str = "") -> None:
        """Add a plugin object by hand (notebooks, tests); installed plugins are found by themselves.

        Args:
            plugin: a module or object with ``@hookimpl`` functions.
            distribution: the name it goes by in ``dist/name``.
            version: shown by ``genrec plugins list``.
            name: the entry point's name; the plugin's own name if empty.

        Raises:
            PluginError: in strict mode, the plugin is broken.
        """
        distribution = _canonical(distribution)
        name = name or str(getattr(plugin, "__name__", type(plugin).__name__))
        label = f"{distribution}:{name}"
        problem = self._incompatibility(plugin)
        if problem:
            self._fail(label, problem)
            return
        try:
            self._plugins.register(plugin, name=label)
        except Exception as error:  # pluggy leaves a half-registered plugin behind
            if self._plugins.get_plugin(label) is not None:
                self._plugins.unregister(name=label)
            self._fail(label, f"cannot be registered: {error}", error)
            return
        for hook, record_type in _HOOKS.items():
            for implementation in getattr(self._plugins.hook, hook).get_hookimpls():
                if implementation.plugin_name != label:
                    continue
                try:
                    records = list(implementation.function() or ())  # drains generators inside the try
                except Exception as error:  # a plugin may raise anything
                    self._fail(label, f"{hook} raised {type(error).__name__}: {error}", error)
                    continue
                for record in records:
                    if isinstance(record, record_type):
                        self._add(Component(record=record, distribution=distribution, version=version, plugin=name))
                    else:
                        self._fail(
                            label,
                            f"{hook} gave a {type(record).__name__}, expected {record_type.__name__}; "
                            f"return {record_type.__name__} objects from this hook",
                        )

    def _add(self, component: Component) -> None:
        siblings = self._components[component.record.kind]
        taken = {name for other in siblings if other.distribution == component.distribution for name in other.names}
        twice = sorted(taken & set(component.names))
        if twice:
            label = f"{component.distribution}:{component.plugin}"
            self._fail(label, f"offers the {component.record.kind} '{twice[0]}' twice; rename one of the two")
            return
        siblings.append(component)

    def _incompatibility(self, plugin: object) -> str:
        """Why this plugin must not be registered, or the empty string."""
        needs = getattr(plugin, "GENREC_PLUGIN_API", None)
        if needs is not None:
            try:
                accepted = SpecifierSet(str(needs)).contains(PLUGIN_API_VERSION)
            except InvalidSpecifier:
                return f"GENREC_PLUGIN_API = {needs!r} is not a version specifier; write it like '>=1.0,<2'"
            if not accepted:
                return (
                    f"needs plugin API {needs}, this genrec-plugins has {PLUGIN_API_VERSION}; "
                    "install a version of the plugin or of genrec-plugins that fits"
                )
        for attribute in dir(plugin):
            try:
                options = self._plugins.parse_hookimpl_opts(plugin, attribute)
            except Exception:  # an attribute may be a property that raises
                continue
            if options is None:
                if attribute in _HOOKS:
                    return f"has '{attribute}' without the marker; write @hookimpl above it"
                continue
            hook = options.get("specname") or attribute
            if hook not in _HOOKS:
                return f"implements an unknown hook '{hook}'{did_you_mean(hook, _HOOKS)}"
        return ""

    def _fail(self, plugin: str, reason: str, error: BaseException | None = None) -> None:
        text = "".join(traceback.format_exception(error)) if error is not None else ""
        if self.strict:
            raise PluginError(f"plugin {plugin} {reason}") from error
        self.failures.append(PluginFailure(plugin=plugin, reason=reason, traceback=text))

    def components(self, kind: str) -> tuple[Component, ...]:
        """All components of a kind, built-ins first, then by name.

        Raises:
            PluginError: there is no such kind.
        """
        if kind not in self._components:
            raise PluginError(f"unknown kind '{kind}'{did_you_mean(kind, KINDS)}")
        return tuple(sorted(self._components[kind], key=lambda c: (not c.builtin, c.name, c.distribution)))

    def __iter__(self) -> Iterator[Component]:
        for kind in KINDS:
            yield from self.components(kind)

    def get(self, kind: str, name: str) -> Component:
        """The component that ``name`` (bare, alias, or ``dist/name``) stands for.

        Raises:
            PluginError: there is none (the message has the nearest name), or two distributions offer it.
        """
        distribution, slash, bare = name.rpartition("/")
        candidates = [c for c in self.components(kind) if bare in c.names]
        if slash:
            candidates = [c for c in candidates if c.distribution == _canonical(distribution)]
        else:
            candidates = self._settle(kind, bare, candidates)
        if not candidates:
            raise PluginError(f"unknown {kind} '{name}'{did_you_mean(name, self.names(kind))}")
        if len(candidates) > 1:
            both = " and ".join(f"'{c.qualified_name}'" for c in candidates)
            raise PluginError(
                f"{kind} '{name}' is offered by {both}; write one of these, "
                f"or set plugins.prefer: {{{kind}/{bare}: {candidates[0].distribution}}}"
            )
        return candidates[0]

    def _settle(self, kind: str, bare: str, candidates: list[Component]) -> list[Component]:
        narrow = f"{kind}/{bare}" in self.prefer
        wanted = self.prefer.get(f"{kind}/{bare}" if narrow else bare)
        if wanted is not None:
            chosen = [c for c in candidates if c.distribution == wanted]
            meant_elsewhere = not narrow and any(bare in c.names and c.distribution == wanted for c in self)
            if candidates and not chosen and not meant_elsewhere:
                offered = ", ".join(c.distribution for c in candidates)
                raise PluginError(
                    f"plugins.prefer names '{wanted}' for {kind} '{bare}', "
                    f"but it is offered by {offered}; name one of these"
                )
            if chosen:
                return chosen
        return [c for c in candidates if c.builtin] or candidates

    def check_prefer(self) -> None:
        """Check that every preference names a component that is there.

        Raises:
            PluginError: one does not; the message has the nearest name.
        """
        for key, distribution in self.prefer.items():
            kind, slash, bare = key.rpartition("/")
            if slash and kind not in KINDS:
                raise PluginError(f"plugins.prefer: '{key}' names an unknown kind '{kind}'{did_you_mean(kind, KINDS)}")
            named = [c for c in (self.components(kind) if slash else self) if bare in c.names]
            if not any(c.distribution == distribution for c in named):
                offered = sorted({c.distribution for c in named})
                raise PluginError(
                    f"plugins.prefer: '{key}' is to come from '{distribution}', but "
                    + (f"it is offered by {', '.join(offered)}; name one of these" if offered else "nothing offers it")
                )

    def names(self, kind: str) -> list[str]:
        """Every name that :meth:`get` accepts for this kind without ambiguity, bare and qualified."""
        accepted: list[str] = []
        for component in self.components(kind):
            accepted.append(component.qualified_name)
            for bare in component.names:
                settled = self._settle(kind, bare, [c for c in self.components(kind) if bare in c.names])
                if settled == [component]:
                    accepted.append(bare)
        return accepted

    def create(self, kind: str, config: Any, *args: Any) -> Any:
        """Build a component from a config whose ``type`` names it (see :mod:`genrec_registry.config`).

        Args:
            kind: the kind of component.
            config: a tagged config object.
            args: what the kind's factory takes beside the config.
        """
        component = self.get(kind, config.type)
        if component.record.status == "deprecated":
            message = f"{kind} '{component.qualified_name}' is deprecated: {component.record.summary}"
            warnings.warn(message, FutureWarning, stacklevel=2)
        factory = component.record.load_factory()
        return factory(*args, config) if kind == "field-type" else factory(config, *args)


def _load_order(entry_point: metadata.EntryPoint) -> tuple[bool, str, str]:
    distribution, _ = _origin(entry_point)
    return (distribution != BUILTIN_DISTRIBUTION, distribution, entry_point.name)


def _origin(entry_point: metadata.EntryPoint) -> tuple[str, str]:
    dist = entry_point.dist
    if dist is None:
        return "local", ""
    return _canonical(dist.metadata["Name"]), dist.version


@cache
def default_registry() -> Registry:
    """The registry of the installed plugins, built once a process."""
    return Registry()
