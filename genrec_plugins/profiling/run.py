"""Profiles of several components, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from genrec_plugins.profiling.asked import Kind
from genrec_plugins.profiling.measure import Profile, measure, write_trace
from genrec_plugins.profiling.peaks import Peak
from genrec_plugins.profiling.ranker import Tables, ranker_subject
from genrec_plugins.profiling.subjects import Shape, Subject, Way, component_subject
from genrec_plugins.training.memory import keep_freed_memory
from genrec_registry import ConfigError, GenrecError, ModelError, Registry


def profile_all(
    wanted: Sequence[tuple[Kind, str]],
    registry: Registry,
    shape: Shape,
    way: Way,
    *,
    peak: Peak,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    table_rows: int | None = None,
    backward: bool = True,
    repeats: int = 5,
    trace: Path | None = None,
    tell: Callable[[str], object] = lambda text: None,
) -> tuple[list[Profile], dict[str, str]]:
    """Measure components; one that does not take these sizes is left out, if it is not alone.

    Args:
        wanted: kinds and names.
        registry: where they come from.
        shape: of the input.
        way: how they run.
        peak: FLOP/s of the device; where it is measured, before each component and after the last.
        options: of components, by name.
        table_rows: put each into a ranker with tables of so many rows; None runs them alone.
        backward: whether the backward is included.
        repeats: timed calls.
        trace: where to write a trace; several components add their names to it.
        tell: told which one runs, and which is left out.

    Returns:
        The profiles, and why a component is left out, by name.

    Raises:
        GenrecError: no component is left.
    """
    keep_freed_memory()
    found: list[Profile] = []
    left_out: dict[str, str] = {}
    for kind, name in wanted:
        tell(f"{name} ...")
        torch.manual_seed(0)
        chosen = (options or {}).get(name)
        try:
            subject: Subject = (
                component_subject(kind, name, registry, shape, way, chosen)
                if table_rows is None
                else ranker_subject(name, shape, way, chosen, Tables(rows=table_rows))
            )
        except (ConfigError, ModelError) as error:
            if len(wanted) == 1:
                raise
            left_out[name] = str(error)
            tell(f"{name} is left out: {error}")
            continue
        peak.look()
        found.append(measure(subject, peak_flops=peak.flops, backward=backward, repeats=repeats, device=way.device))
        if trace is not None:
            write_trace(
                subject, _named(trace, name) if len(wanted) > 1 else trace, backward=backward, device=way.device
            )
    if not found:
        raise _none_left(left_out)
    peak.look()
    return [replace(one, peak_flops=peak.flops) for one in found], left_out


def _named(path: Path, name: str) -> Path:
    """``trace.json.gz`` to ``trace-fat.json.gz``."""
    stem, dot, ending = path.name.partition(".")
    return path.with_name(f"{stem}-{name.replace('/', '-')}{dot}{ending}")


def _none_left(left_out: Mapping[str, str]) -> GenrecError:
    return ModelError("; ".join(left_out.values()))
