"""Prepared rows whose bytes were changed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from genrec_adapters.rows import load_rows
from genrec_registry import DataError, SparseFeature


def test_names_that_are_not_text_are_told(tmp_path: Path) -> None:
    table = pa.table({"__label__": pa.array([0, 1], pa.int8()), "abcd": pa.array([1, 0], pa.int32())})
    path = tmp_path / "part-00000.arrow"
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    feature = SparseFeature(name="abcd", num_embeddings=2)
    assert load_rows([path], [2], [feature], []).ids.tolist() == [[1], [0]]
    sound = path.read_bytes()
    assert sound.count(b"abcd") == 2  # in the head and in the footer, which is read
    path.unlink()
    path.write_bytes(sound.replace(b"abcd", b"\x80bcd"))
    with pytest.raises(DataError, match=r"part-00000.arrow: cannot be read \(.*can't decode.*\); run 'genrec"):
        load_rows([path], [2], [feature], [])
