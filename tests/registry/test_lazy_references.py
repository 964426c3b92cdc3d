"""``"module:attr"`` references."""

from __future__ import annotations

import math

import pytest

from genrec_registry import PluginError, resolve


def test_references_and_objects():
    assert resolve("math:pi") == math.pi
    assert resolve("os:path.join")("a", "b") == "a/b"
    assert resolve(len) is len


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("math", "'math' is not a reference; expected 'package.module:attribute'"),
        ("math:", "is not a reference"),
        (":pi", "is not a reference"),
        ("no_such_module_anywhere:x", "cannot be imported: No module named"),
        ("math:tau2", "module 'math' has no attribute 'tau2'"),
        ("os:path.no.such", "module 'os' has no attribute 'path.no.such'"),
    ],
)
def test_bad_references(reference, message):
    with pytest.raises(PluginError, match=message):
        resolve(reference)
