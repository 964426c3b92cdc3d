"""Ways of doing one thing, timed in turns: on a shared machine a ratio within a turn holds, a time does not."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


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
        cpu_us: microseconds of processor time a unit, all threads, in the median turn; None for a way that measured its
            own seconds. Of this a busy machine takes less than of the clock.
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

    def row(self) -> dict[str, Any]:
        """A row for :func:`genrec_plugins.cli.table.print_table`, numbers rounded."""
        found = asdict(self)
        found["rate"] = float(f"{self.rate:.4g}")
        found["cpu_us"] = None if self.cpu_us is None else float(f"{self.cpu_us:.3g}")
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
        ways: name -> does it once; the first is ours, which the others are compared with. A way that returns a float
            has measured its own seconds (another process, a part of the call); those count instead.
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
    seconds: dict[str, list[float]] = {name: [] for name in names}
    processor: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            began, used = time.perf_counter(), time.process_time()
            own = ways[name]()
            taken = own if isinstance(own, float) else time.perf_counter() - began
            if turn:
                seconds[name].append(taken)
                if not isinstance(own, float):
                    processor[name].append(time.process_time() - used)
    found = []
    for name in names:
        ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds[names[0]], strict=True)]
        found.append(
            Timed(
                part=part,
                what=name,
                unit=unit,
                rate=amount / statistics.median(seconds[name]),
                ratio=statistics.median(ratios),
                least=min(ratios),
                most=max(ratios),
                turns=turns,
                note=(notes or {}).get(name, ""),
                cpu_us=1e6 * statistics.median(processor[name]) / amount if processor[name] else None,
            )
        )
    return found
