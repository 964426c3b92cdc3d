"""Column patterns: ``C{1..26}`` and ``{site,app}_id`` stand for several columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product
from math import prod

from genrec_registry.errors import ConfigError, did_you_mean

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 100_000


def is_pattern(text: str) -> bool:
    """Whether ``text`` has a ``{...}`` group."""
    return _GROUP.search(text) is not None


def expand(pattern: str) -> list[str]:
    """The names a pattern stands for, in order.

    Args:
        pattern: literal text with any number of groups, each ``{1..26}`` (a range of integers) or ``{a,b,c}``.

    Raises:
        ConfigError: a group is empty, a range runs backwards, or a brace is left open.

    Example::

        >>> expand("C{1..3}")
        ['C1', 'C2', 'C3']
        >>> expand("{site,app}_{id,domain}")
        ['site_id', 'site_domain', 'app_id', 'app_domain']
        >>> expand("hour")
        ['hour']
    """
    parts = _GROUP.split(pattern)
    if any(brace in part for part in parts for brace in "{}"):
        raise ConfigError(f"pattern '{pattern}' has an unmatched brace; write it like 'C{{1..26}}' or '{{a,b}}_id'")
    choices = [[part] if index % 2 == 0 else _group(part, pattern) for index, part in enumerate(parts)]
    names = prod(map(len, choices))
    if names > _MOST:
        raise ConfigError(
            f"pattern '{_short(pattern)}' stands for {names} names, a huge number, expected at most {_MOST}; narrow it"
        )
    return ["".join(choice) for choice in product(*choices)]


def _group(body: str, pattern: str) -> list[str]:
    found = _RANGE.fullmatch(body)
    if found:
        first, last = (int(end) if len(end) < 20 else -1 for end in found.groups())
        if first < 0 or first > last or last - first >= _MOST:
            raise ConfigError(
                f"pattern '{_short(pattern)}': range {{{_short(body)}}} is empty or huge; write the lower bound first, "
                f"and at most {_MOST} numbers"
            )
        return [str(number) for number in range(first, last + 1)]
    names = [name.strip() for name in body.split(",")]
    if not all(names):
        raise ConfigError(
            f"pattern '{pattern}': group {{{body}}} has an empty choice; write it like {{a,b}} or {{1..9}}"
        )
    return names


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def select(patterns: Iterable[str], columns: Sequence[str], *, where: str) -> list[str]:
    """The columns that ``patterns`` name, each once, in the order of the patterns.

    Raises:
        ConfigError: a pattern names a column that is not in ``columns``.

    Example::

        >>> select(["b{1..2}", "a"], ["a", "b1", "b2"], where="dataset.columns")
        ['b1', 'b2', 'a']
    """
    known = set(columns)
    names = dict.fromkeys(name for pattern in patterns for name in expand(pattern))
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: there is no column '{name}'{did_you_mean(name, columns)}")
    return list(names)
