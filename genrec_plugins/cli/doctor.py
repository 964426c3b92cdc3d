"""``genrec doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from genrec_plugins.cli.table import print_json
from genrec_registry import SetupError

if TYPE_CHECKING:
    from genrec_plugins.doctor import Finding


def doctor(
    probe: Annotated[bool, typer.Option(help="Import torchrec in a process of its own; takes seconds.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Say what is missing or mismatched in this installation.

    Each problem comes with the command that mends it. The exit code is 0 when all is well and 6 when something is not.

    Examples:
        genrec doctor
        genrec doctor --no-probe --json
    """
    from genrec_plugins import doctor as doctors

    findings = [*doctors.examine(probe=doctors.probe if probe else None), *_plugins()]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.level:<8} {finding.what}")
            if finding.mend:
                typer.echo(f"{'mend:':>8} {finding.mend}")
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(SetupError.exit_code)


def _plugins() -> Iterator[Finding]:
    from genrec_plugins.doctor import Finding

    try:
        from genrec_registry import default_registry

        registry = default_registry()
    except ImportError:  # a missing package is among the findings already
        return
    for failure in registry.failures:
        yield Finding("warning", f"plugin {failure.plugin} {failure.reason}", "genrec plugins doctor")
    if not registry.failures:
        yield Finding("ok", f"plugins: {len(list(registry))} components")
