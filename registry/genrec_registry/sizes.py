"""Types of the numbers in configs that decide how large something becomes: each has a bound that nobody meets.

A run's file is written by hand, or comes with a run that somebody else trained, or is damaged. A number that is far too
large is to be one sentence with the key, and not a machine that fills its memory until the kernel ends the process.

Example::

    >>> from genrec_registry import Config, explain
    >>> class CrossConfig(Config):
    ...     num_layers: Layers = 3
    ...     width: Width | None = None
    >>> explain(CrossConfig, {"num_layers": 2**31}, where="interaction cross")
    Traceback (most recent call last):
    genrec_registry.errors.ConfigError: interaction cross: 'num_layers': input should be less than or equal to 1000, \
found 2147483648
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from annotated_types import Ge, Gt, Le, Lt, MaxLen

#: ids are 32-bit, and a few rows of a table have meanings of their own
MAX_IDS = 2**31 - 8

#: layers, blocks, levels: things that are made one after the other
Layers: TypeAlias = Annotated[int, Gt(0), Le(1000)]
#: width of a vector or a layer, number of heads, bases, tokens or experts
Width: TypeAlias = Annotated[int, Gt(0), Le(65_536)]
#: widths of layers, one after the other
Sizes: TypeAlias = Annotated[tuple[Width, ...], MaxLen(100)]
#: a width as a multiple of another
Ratio: TypeAlias = Annotated[float, Gt(0), Le(1000)]
#: events, ids or tokens of one row or one user
Length: TypeAlias = Annotated[int, Gt(0), Le(1_000_000)]
#: rows of a table, codes, buckets
Rows: TypeAlias = Annotated[int, Gt(0), Le(MAX_IDS)]
#: how many rows, steps or epochs; a number that takes no memory by itself
Count: TypeAlias = Annotated[int, Gt(0), Lt(2**31)]
#: the same where 0 has a meaning
CountOrZero: TypeAlias = Annotated[int, Ge(0), Lt(2**31)]
#: threads of a processor, 0 for a default
Threads: TypeAlias = Annotated[int, Ge(0), Le(4096)]
#: what random numbers begin at
Seed: TypeAlias = Annotated[int, Ge(0), Lt(2**63)]
