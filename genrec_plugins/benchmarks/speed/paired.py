"""Ways of doing one thing, timed in turns: on a shared machine a ratio within a turn holds, a time does not."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a way measured of itself: a part of its call, or what another process took.

    Args:
        cpu: seconds of the processor, which the table's ratio is of.
        clock: seconds of the clock meanwhile.
    """

    cpu: float
    clock: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(cpu=self.cpu + other.cpu, clock=self.clock + other.clock)

    def __mul__(self, factor: float) -> Spent:
        return Spent(cpu=self.cpu * factor, clock=self.clock * factor)


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One way in the table.

    Args:
        part: what is measured, as ``preprocess``.
        what: the way, as ``FuxiCTR 2.3.10``.
        unit: of the rate, as ``rows/s``.
        rate: units a second in the median turn.
        ratio: rate of the first way over this way's, median of the turns: above 1 the first is faster.
        least: smallest ratio of a turn.
        most: largest ratio of a turn.
        turns: that were counted.
        note: anything the reader must know of this way.
        cpu_us: microseconds of processor time a unit, all threads, in the median turn; None for a way that told nothing
            but seconds. Of this a busy machine takes less than of the clock.
        clock: the median ratio by the clock, where ``ratio`` is by the processor's time; None where it is not.
    """

    part: str
    what: str
    unit: str
    rate: float
    ratio: float
    least: float
    most: float
    turns: int
    note: str = ""
    cpu_us: float | None = None
    clock: float | None = None

    def row(self) -> dict[str, Any]:
        """A row for :func:`genrec_plugins.cli.table.print_table`, numbers rounded."""
        found = asdict(self)
        found["rate"] = float(f"{self.rate:.4g}")
        found["cpu_us"] = None if self.cpu_us is None else float(f"{self.cpu_us:.3g}")
        found["clock"] = None if self.clock is None else round(self.clock, 3)
        return found | {key: round(found[key], 3) for key in ("ratio", "least", "most")}


def race(
    part: str,
    ways: Mapping[str, Callable[[], object]],
    *,
    amount: float,
    unit: str,
    turns: int = 5,
    notes: Mapping[str, str] | None = None,
) -> list[Timed]:
    """Run all ways in turn, each turn beginning with another one; a first turn warms up and is not counted.

    Args:
        part: what is measured.
        ways: name -> does it once; the first is ours, which the others are compared with. A way that returns a float or
            :class:`Spent` has measured its own seconds (another process, a part of the call); those count instead.
        amount: units that one call does.
        unit: of the rate.
        turns: that count.
        notes: name -> remark for the table.

    Example::

        >>> found = race("sum", {"small": lambda: 1.0, "large": lambda: 2.0}, amount=10, unit="sums/s", turns=3)
        >>> [(one.what, one.rate, one.ratio) for one in found]
        [('small', 10.0, 1.0), ('large', 5.0, 2.0)]
    """
    names = list(ways)
    told: dict[str, list[tuple[float, float | None, float | None]]] = {name: [] for name in names}
    for turn in range(turns + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            measured = _measured(ways[name])
            if turn:
                told[name].append(measured)
    columns = {name: tuple(zip(*turns_of, strict=True)) for name, turns_of in told.items()}
    ours = columns[names[0]]
    found = []
    for name in names:
        seconds, processor, clock = columns[name]
        ratios = _ratios(seconds, ours[0])
        by_clock = _ratios(clock, ours[2])
        found.append(
            Timed(
                part=part,
                what=name,
                unit=unit,
                rate=amount / statistics.median(seconds),
                ratio=statistics.median(ratios),
                least=min(ratios),
                most=max(ratios),
                turns=turns,
                note=(notes or {}).get(name, ""),
                cpu_us=None if None in processor else 1e6 * statistics.median(processor) / amount,
                clock=statistics.median(by_clock) if by_clock else None,
            )
        )
    return found


def _measured(way: Callable[[], object]) -> tuple[float, float | None, float | None]:
    """Seconds that count, of the processor, and of the clock where those that count are not."""
    began, used = time.perf_counter(), time.process_time()
    own = way()
    if isinstance(own, Spent):
        return own.cpu, own.cpu, own.clock
    if isinstance(own, float):
        return own, None, None
    return time.perf_counter() - began, time.process_time() - used, None


def _ratios(theirs: Sequence[float | None], ours: Sequence[float | None]) -> list[float]:
    """Turn by turn; nothing where one of the two told nothing."""
    return [their / our for their, our in zip(theirs, ours, strict=True) if their is not None and our is not None]
