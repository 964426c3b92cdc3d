"""``genrec plugins list|show|doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec_plugins.cli.table import print_json, print_table

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from genrec_registry import Component, Registry

app = typer.Typer(
    help="""List, show and check the installed plugins.

    Examples:
        genrec plugins list --kind interaction
        genrec plugins show fat
        genrec plugins doctor
    """
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command("list")
def list_plugins(
    kind: Annotated[str, typer.Option("--kind", "-k", help="Only this kind, for example 'interaction'.")] = "",
    as_json: _Json = False,
) -> None:
    """List every component that the installed plugins offer.

    Examples:
        genrec plugins list
        genrec plugins list --kind field-type
        genrec plugins list --json
    """
    from genrec_registry import default_registry

    registry = default_registry()
    components = registry.components(kind) if kind else tuple(registry)
    rows = [_row(component) for component in components]
    if as_json:
        print_json(rows)
        return
    columns = ["kind", "name", "aliases", "origin", "status", "summary"]
    print_table(columns, [[", ".join(v) if isinstance(v, list) else v for v in row.values()] for row in rows])
    if registry.failures:
        count = len(registry.failures)
        typer.echo(f"{count} plugin problem{'s' * (count > 1)}; run 'genrec plugins doctor'", err=True)


def _row(component: Component) -> dict[str, Any]:
    record = component.record
    return {
        "kind": record.kind,
        "name": component.name,
        "aliases": list(record.aliases),
        "origin": f"{component.distribution} {component.version}".strip(),
        "status": record.status,
        "summary": record.summary,
    }


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="'name', 'kind/name' or 'distribution/name'.")],
    as_json: _Json = False,
) -> None:
    """Show a component: origin, factory, config fields.

    Examples:
        genrec plugins show fat
        genrec plugins show interaction/fat
        genrec plugins show genrec-plugins/fat --json
    """
    from genrec_registry import default_registry

    found = [_details(component) for component in find_components(default_registry(), name)]
    if as_json:
        print_json(found)
        return
    for number, details in enumerate(found):
        if number:
            typer.echo()
        fields = details.pop("fields")
        width = max(map(len, details))
        for key, value in details.items():
            text = ", ".join(value) if isinstance(value, list) else value
            if text:
                typer.echo(f"{key:<{width}}  {text}")
        typer.echo()
        if fields:
            print_table(["field", "type", "default", "description"], [list(field.values()) for field in fields])
        else:
            typer.echo("no config fields")


def find_components(registry: Registry, name: str) -> list[Component]:
    """The components that a name on the command line stands for, of every kind.

    Args:
        registry: where to look.
        name: bare name, alias, ``kind/name``, ``distribution/name`` or ``kind/distribution/name``.

    Raises:
        PluginError: there is none, or a bare name is offered by two distributions.

    Example::

        >>> from genrec_registry import default_registry
        >>> [component.qualified_name for component in find_components(default_registry(), "interaction/fat")]
        ['genrec-plugins/fat']
    """
    from genrec_registry import KINDS, PluginError, did_you_mean

    head, _, rest = name.partition("/")
    if head in KINDS and rest:
        return [registry.get(head, rest)]
    bare = name.rpartition("/")[2]
    kinds = [kind for kind in KINDS if any(bare in component.names for component in registry.components(kind))]
    found = []
    for kind in kinds:
        try:
            found.append(registry.get(kind, name))
        except PluginError:
            if kind == kinds[-1] and not found:
                raise
    if not found:
        known = [known for kind in KINDS for known in registry.names(kind)]
        raise PluginError(f"unknown component '{name}'{did_you_mean(name, [n for n in known if '/' not in n])}")
    return found


def _details(component: Component) -> dict[str, Any]:
    record = component.record
    model = record.load_config()
    return {
        "kind": record.kind,
        "name": component.name,
        "qualified name": component.qualified_name,
        "aliases": list(record.aliases),
        "summary": record.summary,
        "origin": f"{component.distribution} {component.version}".strip(),
        "entry point": component.plugin,
        "status": record.status,
        "since": record.since,
        "capabilities": sorted(record.capabilities),
        "config": _reference(record.config),
        "factory": _reference(record.factory),
        "fields": [_field(key, field) for key, field in model.model_fields.items()],
    }


def _reference(target: object) -> str:
    if isinstance(target, str):
        return target
    return f"{getattr(target, '__module__', '')}:{getattr(target, '__qualname__', repr(target))}"


def _field(key: str, field: FieldInfo) -> dict[str, str]:
    from genrec_plugins.cli.type_text import type_text

    return {
        "name": key,
        "type": type_text(field.annotation, field.metadata),
        "default": "required" if field.is_required() else _default(field.get_default(call_default_factory=True)),
        "description": field.description or "",
    }


def _default(value: Any) -> str:
    """As it would be written in YAML."""
    import json

    from pydantic_core import to_jsonable_python

    return value if isinstance(value, str) and value else json.dumps(to_jsonable_python(value), ensure_ascii=False)


@app.command()
def doctor(
    factories: Annotated[
        bool, typer.Option("--factories", help="Import every factory as well; this loads torch and takes seconds.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Check every plugin: failures, disabled ones, clashes.

    Each failure comes with its traceback, each clash with the way to settle it. The exit code is 1 if anything failed.

    Examples:
        genrec plugins doctor
        genrec plugins doctor --factories
        GENREC_DISABLE_PLUGINS=acme-genrec genrec plugins doctor
    """
    from genrec_registry import default_registry

    registry = default_registry()
    report = examine(registry, factories=factories)
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    if report["failed"]:
        raise typer.Exit(1)


def examine(registry: Registry, *, factories: bool = False) -> dict[str, Any]:
    """Everything that ``genrec plugins doctor`` says, as data.

    Args:
        registry: the plugins.
        factories: import the factories as well as the configs.

    Example::

        >>> from genrec_registry import Registry
        >>> examine(Registry(entry_points=[]))
        {'components': 0, 'failed': [], 'disabled': [], 'clashes': []}
    """
    import traceback

    from genrec_registry.config import tagged_config

    failed = [
        {"plugin": failure.plugin, "reason": failure.reason, "traceback": failure.traceback}
        for failure in registry.failures
    ]
    for component in registry:
        try:
            tagged_config(registry, component)
            if factories:
                component.record.load_factory()
        except Exception as error:  # a plugin's module may raise anything
            label = f"{component.distribution}:{component.plugin}"
            reason = f"{component.record.kind} '{component.name}' cannot be used: {error}"
            failed.append({"plugin": label, "reason": reason, "traceback": traceback.format_exc()})
    return {
        "components": len(list(registry)),
        "failed": failed,
        "disabled": list(registry.disabled),
        "clashes": list(_clashes(registry)),
    }


def _clashes(registry: Registry) -> Iterator[dict[str, Any]]:
    from genrec_registry import KINDS, PluginError

    for kind in KINDS:
        offers: dict[str, list[str]] = {}
        for component in registry.components(kind):
            for name in component.names:
                offers.setdefault(name, []).append(component.qualified_name)
        for name, offered_by in offers.items():
            if len(offered_by) < 2:
                continue
            try:
                chosen = registry.get(kind, name).qualified_name
                note = f"{kind} '{name}' means {chosen}; write a qualified name, or set plugins.prefer, to change that"
            except PluginError as error:
                chosen, note = "", str(error)
            yield {"kind": kind, "name": name, "offered_by": offered_by, "chosen": chosen, "note": note}


def _print_report(report: dict[str, Any]) -> None:
    for failure in report["failed"]:
        typer.echo(f"FAILED    {failure['plugin']}: {failure['reason']}")
        for line in failure["traceback"].rstrip().splitlines():
            typer.echo(f"          | {line}")
    for plugin in report["disabled"]:
        typer.echo(f"DISABLED  {plugin} (GENREC_DISABLE_PLUGINS)")
    for clash in report["clashes"]:
        typer.echo(f"CLASH     {clash['note']}")
    if not (report["failed"] or report["clashes"]):
        typer.echo(f"all plugins are in order: {report['components']} components")
