"""Files of items in all their forms, and what the commands about them load."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from genrec_plugins.tokenizers.items import read_items, stream_items
from tests.plugins.item_cases import rows


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_files_of_all_kinds_say_the_same():
    made = rows()
    for row in made:
        row["title"] = row["text"]
    expected = pl.DataFrame(made).select("item", "text", "categories", "title")
    expected.write_parquet("a.parquet")
    Path("a.json").write_text(json.dumps(made))
    Path("a.jsonl").write_text("\n".join(json.dumps(row) for row in made) + "\n\n")
    Path("b.jsonl.gz").write_bytes(gzip.compress(Path("a.jsonl").read_bytes()))
    for name in ("a.parquet", "a.json", "a.jsonl", "b.jsonl.gz"):
        assert read_items(name).equals(expected), name
    by_item = {row["item"]: {"title": row["text"], "categories": row["categories"]} for row in made}
    Path("map.json.gz").write_bytes(gzip.compress(json.dumps(by_item, indent=1).encode()))
    assert read_items("map.json.gz").select("item", "text", "categories").equals(expected.drop("title"))
    chunks = list(stream_items("a.parquet", rows=7))
    assert [len(chunk) for chunk in chunks] == [7] * 8 + [4]
    assert pl.concat(chunks).equals(expected)


def test_numbers_as_ids_and_missing_columns_are_read():
    pl.DataFrame({"item": [7, 8], "text": ["a", None], "price": [1.0, 2.0]}).write_parquet("n.parquet")
    items = read_items("n.parquet")
    assert items.rows() == [("7", "a", []), ("8", "", [])]
    pl.DataFrame({"item": ["a", "b"], "categories": ["x", None]}).write_parquet("c.parquet")
    assert read_items("c.parquet")["categories"].to_list() == [["x"], []]


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["encode", "--help"], ["report", "--help"]])
def test_help_loads_nothing_heavy(words):
    code = (
        "import sys\nfrom genrec_plugins.cli import main\n"
        f"try:\n    main.run(['tokenize', *{words!r}])\nexcept SystemExit as stopped:\n    code = stopped.code\n"
        "print(code, [m for m in ('numpy', 'torch', 'polars', 'sklearn', 'faiss', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Examples:" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "0 []"


def test_mistakes_in_a_config_load_nothing_heavy():
    code = (
        "import sys\nfrom genrec_plugins.cli import main\n"
        "try:\n    main.run(['tokenize', 'fit', '--out', 'x', '--items', 'y', '--set', 'tokenizer.size=[1]'])\n"
        "except SystemExit as stopped:\n    code = stopped.code\n"
        "print(code, [m for m in ('numpy', 'torch', 'polars', 'sklearn', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"
    assert "did you mean 'sizes'?" in done.stderr
