"""Damage to bytes and to JSON, drawn by hypothesis: what editors, disks, other programs and attackers do to files."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

#: what readers stumble over, beside random bytes
FRAGMENTS: tuple[bytes, ...] = (
    b"\n",
    b"\r\n",
    b"\r",
    b"\n\n",
    b"\0",
    b'"',
    b'""',
    b'"\n',
    b"'",
    b",",
    b"\t",
    b"::",
    b"|",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    "\u2028".encode(),
    "é".encode(),
    b"nan",
    b"inf",
    b"-",
    b"1e999",
    b"9" * 25,
    b"-9223372036854775809",
    b"1.5",
    b" ",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\\",
    b"\\ud800",
    b"null",
    b"true",
    b"[" * 3000,
)
JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "\ud800",
    [],
    {},
    [1],
    ["a"],
    {"a": 1},
    [[]],
    [None],
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes, *, most: int = 3) -> bytes:
    """Bytes after up to ``most`` edits: replaced, inserted, removed, doubled, cut."""
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.integers(0, len(data)))
        end = min(len(data), place + draw(st.sampled_from([0, 0, 1, 1, 2, 5, 40])))
        kind = draw(st.sampled_from(["put", "put", "put", "flip", "flip", "remove", "double", "cut", "line"]))
        if kind == "put":
            what = draw(st.one_of(st.sampled_from(FRAGMENTS), st.binary(min_size=1, max_size=3)))
            data = data[:place] + what + data[end:]
        elif kind == "flip":  # the length stays
            data = data[:place] + draw(st.binary(min_size=end - place, max_size=end - place)) + data[end:]
        elif kind == "remove":
            data = data[:place] + data[end:]
        elif kind == "double":
            data = data[:end] + data[place:]
        elif kind == "cut":
            data = data[:place]
        else:
            lines = data.split(b"\n")
            chosen = draw(st.integers(0, len(lines) - 1))
            lines[chosen : chosen + 1] = [lines[chosen]] * draw(st.sampled_from([0, 2]))
            data = b"\n".join(lines)
    return data


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, as a path of keys and indices."""
    yield before
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*before, key))


@st.composite
def changed(draw: st.DrawFn, value: Any, *, most: int = 2, junk: Sequence[Any] = JUNK) -> Any:
    """A JSON value with some of its parts replaced, removed, renamed, or put at another's place."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        every = list(places(value))
        path = draw(st.sampled_from(every))
        part = value
        for key in path:
            part = part[key]
        kind = draw(st.sampled_from(["junk", "junk", "remove", "other", "extra", "number"]))
        new = copy.deepcopy(draw(st.sampled_from(junk)))
        if kind == "other":
            new = value
            for key in draw(st.sampled_from(every)):
                new = new[key]
            new = copy.deepcopy(new)
        elif kind == "number" and isinstance(part, int | float):
            new = part + draw(st.sampled_from([-1, 1, 10]))
        elif kind == "extra" and isinstance(part, dict):
            new = {**part, draw(st.sampled_from(["x", "type", "", "path"])): new}
        if not path:
            value = new
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        if kind == "remove":
            del holder[path[-1]]
        else:
            holder[path[-1]] = new
    return value


def as_json(value: Any) -> bytes:
    """JSON text; lone surrogates and NaN as Python writes them."""
    return json.dumps(value).encode()
