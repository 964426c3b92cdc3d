"""Content of items whose text is no text: halves of UTF-16 pairs, and lists that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genrec_adapters.datasets.amazon_items import plain_text, read_meta
from genrec_registry import ErrorPolicy


@pytest.mark.parametrize("key", ["title", "description", "brand", "price"])
def test_half_pairs_are_replaced(key: str, tmp_path: Path) -> None:
    content = {"asin": "i1", "title": "T", key: "\ud800A"}
    (tmp_path / "meta.json").write_text(json.dumps(content) + "\n")
    frame = read_meta(str(tmp_path / "meta.json"), ErrorPolicy())
    assert frame["item"].to_list() == ["i1"]
    if key != "price":
        assert frame[key].to_list() == ["\ufffdA"]


@pytest.mark.parametrize("categories", ["\ud800A,B", ["\ud800A", "B"], [["\ud800A", "B"]]])
def test_half_pairs_in_categories(categories: Any, tmp_path: Path) -> None:
    content = {"asin": "i1", "title": "T", "categories": categories}
    (tmp_path / "meta.json").write_text(json.dumps(content) + "\n")
    frame = read_meta(str(tmp_path / "meta.json"), ErrorPolicy())
    assert frame["categories"].to_list() == [["\ufffdA", "B"]]


def test_half_pairs_in_ids_are_reported(tmp_path: Path) -> None:
    lines = [json.dumps({"asin": item, "title": "T"}) for item in ("i1", "\ud800")]
    (tmp_path / "meta.json").write_text("\n".join(lines) + "\n")
    policy = ErrorPolicy(on_error="skip")
    assert read_meta(str(tmp_path / "meta.json"), policy)["item"].to_list() == ["i1"]
    assert policy.skipped == 1


@pytest.mark.parametrize("text", ["[" + "-" * 100_000 + "1]", "[" * 500 + "]" * 500, "[" + "9" * 5000 + "]"])
def test_lists_that_cannot_be_read_are_text(text: str) -> None:
    assert plain_text(text)[:1] in ("-", "9", "")
