"""Train a run at several sizes of one key at a time, with several seeds; finished cells are kept.

What can be swept is a :class:`Subject`: a ranker's run file (:mod:`genrec_plugins.scaling.ranker`) or a LUM pretrain
file (:mod:`genrec_plugins.scaling.lum`). Another kind of run needs only another subject.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from genrec_plugins.benchmarks.store import keep, load_kept
from genrec_plugins.scaling.curve import Curve, fit_curve
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_registry import ConfigError, did_you_mean
from genrec_registry.yaml_source import parse_yaml

#: what a curve can be drawn over
SIZES = ("value", "parameters", "dense-parameters", "flops")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One key of the run file and the values it takes.

    Args:
        key: dotted.
        values: as YAML reads them.

    Example::

        >>> Axis.parse("model.interaction.num_layers=1, 2,4")
        Axis(key='model.interaction.num_layers', values=(1, 2, 4))
        >>> Axis.parse("model.over_arch=[64],[400, 400]").values
        ([64], [400, 400])
    """

    key: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``key=value,value,...``.

        Raises:
            ConfigError: it has another form, or a value comes twice.
        """
        key, equals, listed = text.partition("=")
        values = parse_yaml(f"value: [{listed}]", name=f"--axis {text}").data["value"] if equals else []
        if not key.strip() or not values:
            raise ConfigError(f"--axis {text}: expected KEY=VALUE,VALUE,..., as model.interaction.num_layers=1,2,4")
        if len({json.dumps(value) for value in values}) < len(values):
            raise ConfigError(f"--axis {text}: a value comes twice; name each once, more seeds are --seeds")
        return cls(key=key.strip(), values=tuple(values))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one run came to.

    Args:
        metrics: by name.
        parameters: all.
        dense_parameters: without the embedding tables.
        flops_per_row: of one forward, a row (ranker) or an event (sequence encoder).
        seconds: in training steps.
    """

    metrics: dict[str, float]
    parameters: int
    dense_parameters: int
    flops_per_row: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """One cell: a value of the axis, a seed, and what was measured."""

    value: Any
    seed: int
    measured: Measured


class Plan(Protocol):
    """One validated run."""

    def identity(self) -> str:
        """Digest of everything that shapes the result: config, seed, data."""

    def measure(self, reporter: Reporter) -> Measured:
        """Train it and evaluate it."""


class Subject(Protocol):
    """A kind of run that can be swept."""

    @property
    def metrics(self) -> Mapping[str, bool]:
        """Metrics it measures -> whether more is better; the first is the default."""

    def plan(self, setting: Mapping[str, Any], seed: int) -> Plan:
        """The run with dotted keys set.

        Raises:
            ConfigError: a key or value is wrong; found before anything is trained.
        """


@dataclass(frozen=True, kw_only=True)
class Swept:
    """One axis, measured.

    Args:
        axis: which.
        points: all cells, by value, then seed.
        metric: the metric that was fitted.
        rising: whether more of it is better.
        size: one of ``SIZES``.
        curve: the laws through metric over size.
    """

    axis: Axis
    points: tuple[Point, ...]
    metric: str
    rising: bool
    size: str
    curve: Curve

    @property
    def size_name(self) -> str:
        """Of the x axis."""
        return self.axis.key if self.size == "value" else self.size.replace("-", " ")


def run_sweep(
    subject: Subject,
    axes: Sequence[Axis],
    seeds: Sequence[int],
    out: Path,
    *,
    metric: str | None = None,
    size: str = "value",
    draws: int = 2000,
    reporter: Reporter | None = None,
) -> list[Swept]:
    """Train every value of every axis with every seed, everything else as in the run file, and fit the laws.

    Seeds run outermost, so that an interrupted sweep has whole curves of fewer seeds.

    Args:
        subject: what is trained.
        axes: one curve each.
        seeds: of weights and order.
        out: finished cells are kept in ``out/cells``; one that several axes share is trained once, and says the
            setting it was first trained for.
        metric: which metric to fit; the subject's first if None.
        size: what x is, one of ``SIZES``.
        draws: refits of the bootstrap.
        reporter: told of progress.

    Raises:
        ConfigError: metric, size, a key or a value is wrong; found before anything is trained.
    """
    reporter = reporter or Quiet()
    name = metric or next(iter(subject.metrics))
    if name not in subject.metrics:
        raise ConfigError(f"--metric is '{name}'{did_you_mean(name, subject.metrics)}")
    if size not in SIZES:
        raise ConfigError(f"--x is '{size}'{did_you_mean(size, SIZES)}")
    keys = [axis.key for axis in axes]
    for axis in axes:
        if keys.count(axis.key) > 1:
            raise ConfigError(f"--axis {axis.key} comes twice; give all its values in one")
        wrong = [value for value in axis.values if size == "value" and not _is_number(value)]
        if wrong:
            raise ConfigError(f"--axis {axis.key}: {wrong[0]!r} is no number to draw over; choose --x parameters")
    cells = [(axis, value, seed) for seed in seeds for axis in axes for value in axis.values]
    plans = [subject.plan({axis.key: value}, seed) for axis, value, seed in cells]
    points: dict[str, list[Point]] = {axis.key: [] for axis in axes}
    for number, ((axis, value, seed), plan) in enumerate(zip(cells, plans, strict=True), start=1):
        identity = plan.identity()
        path = out / "cells" / f"{identity[:20]}.json"
        measured = _load(path, identity)
        what = f"{axis.key}={value}, seed {seed} ({number} of {len(cells)})"
        if measured is None:
            reporter.message(what)
            measured = plan.measure(reporter)
            keep(path, identity, {"setting": {axis.key: value}, "seed": seed, "measured": asdict(measured)})
        else:
            reporter.message(f"{what}: kept from before")
        points[axis.key].append(Point(value=value, seed=seed, measured=measured))
    return [_swept(axis, points[axis.key], name, subject.metrics[name], size, draws) for axis in axes]


def _swept(axis: Axis, points: list[Point], metric: str, rising: bool, size: str, draws: int) -> Swept:
    ordered = sorted(points, key=lambda point: (axis.values.index(point.value), point.seed))
    found = Swept(
        axis=axis,
        points=tuple(ordered),
        metric=metric,
        rising=rising,
        size=size,
        curve=Curve(x=(), y=(), fits=(), says=()),
    )
    curve = fit_curve(
        [size_of(point, size) for point in ordered],
        [point.measured.metrics[metric] for point in ordered],
        metric=metric,
        size=found.size_name,
        rising=rising,
        draws=draws,
    )
    return Swept(axis=axis, points=found.points, metric=metric, rising=rising, size=size, curve=curve)


def size_of(point: Point, size: str) -> float:
    """A point's x.

    Args:
        point: the cell.
        size: one of ``SIZES``.
    """
    measured = point.measured
    found = {
        "parameters": measured.parameters,
        "dense-parameters": measured.dense_parameters,
        "flops": measured.flops_per_row,
    }
    return float(point.value if size == "value" else found[size])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _load(path: Path, identity: str) -> Measured | None:
    kept = load_kept(path, identity)
    try:
        return None if kept is None else Measured(**kept["measured"])
    except (KeyError, TypeError):
        return None  # of another version: train it again


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value).

    Example::

        >>> spread([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
