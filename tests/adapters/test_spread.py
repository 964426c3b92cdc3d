"""Work spread over processes gives what one process gives, byte for byte; here in one process, piece by piece."""

from __future__ import annotations

import errno
import gzip
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess import PrepareOptions, prepare
from genrec_adapters.preprocess.jobs import Counts
from genrec_adapters.preprocess.spread import build_spread, here
from genrec_adapters.preprocess.tasks import plan_shards
from genrec_registry import DataError, GenrecError, default_registry
from tests.adapters.spread_cases import every_field, write_rows


def backwards(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Do the last piece first, and each one twice, as after a worker's death."""
    found = {}
    for place in reversed(range(len(items))):
        work(items[place])
        found[place] = work(items[place])
    return iter([found[place] for place in range(len(items))])


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Prepared]:
    """``prepare`` with the work spread, in parts of some bytes."""

    def run(
        config: Any, out: Path, *, size: int = 1 << 20, runner: Any = here, on_error: str = "stop", **more: Any
    ) -> Prepared:
        def build(root: Path, plan: Any, options: PrepareOptions, report: Any) -> None:
            build_spread(root, plan, options, report, runner)

        monkeypatch.setattr("genrec_adapters.preprocess.on_ray.build_on_ray", build)
        cut = "genrec_adapters.preprocess.spread.plan_units"
        original = __import__("genrec_adapters.preprocess.spread", fromlist=["plan_units"]).plan_units
        with monkeypatch.context() as patch:
            patch.setattr(cut, lambda plan, _: original(plan, size))
            options = PrepareOptions(engine="ray", on_error=on_error, **more.pop("options", {}))
            return prepare(config, out, options=options, **more)

    return run


def bytes_of(prepared: Prepared) -> dict[str, bytes]:
    """All files but the manifest, which names them with their digests."""
    files = [path for path in prepared.directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(prepared.directory)): path.read_bytes() for path in files}


@pytest.mark.parametrize("storage", ["arrow", "parquet"])
@pytest.mark.parametrize("runner", [here, backwards])
def test_every_field_type_is_fitted_alike(tmp_path: Path, spread: Any, storage: str, runner: Any) -> None:
    config, fields = write_rows(tmp_path / "t.parquet"), every_field(tmp_path)
    assert {field["type"] for field in fields.values()} == {
        one.name for one in default_registry().components("field-type")
    }
    options = {"storage": storage, "shard_rows": 700}
    local = prepare(config, tmp_path / "local", fields=fields, options=PrepareOptions(**options))
    for size in (20_000, 50_000, 1 << 30):
        found = spread(config, tmp_path / f"a{size}", fields=fields, size=size, runner=runner, options=options)
        assert found.manifest == local.manifest
        assert bytes_of(found) == bytes_of(local)


@pytest.mark.parametrize("split", ["random", "shuffled", "time"])
@pytest.mark.parametrize("size", [300_000, 5_000_000, 1 << 30])
def test_real_criteo(tmp_path: Path, criteo_sample: Path, spread: Any, split: str, size: int) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(b"".join(gzip.decompress(criteo_sample.read_bytes()).splitlines(keepends=True)[:9000]))
    config = {"type": "criteo-kaggle", "path": str(path)}
    options = {"shard_rows": 2000}
    local = prepare(config, tmp_path / "local", split=split, options=PrepareOptions(**options))
    found = spread(config, tmp_path / "spread", split=split, size=size, options=options)
    assert found.manifest == local.manifest
    found.verify()


def test_real_avazu_gzipped_and_several_files_of_a_split(tmp_path: Path, avazu_sample: Path, spread: Any) -> None:
    plain = tmp_path / "more.csv"
    plain.write_bytes(gzip.decompress(avazu_sample.read_bytes()))
    config = {"type": "avazu", "train": [str(avazu_sample), str(plain)], "valid": str(plain), "test": str(avazu_sample)}
    local = prepare(config, tmp_path / "local")
    found = spread(config, tmp_path / "spread", size=500_000)
    assert found.manifest == local.manifest
    assert found.rows("train") == 2 * found.rows("valid") == 28_154


def test_datasets_of_events_come_as_one_piece(tmp_path: Path, movielens_100k: Path, spread: Any) -> None:
    config = {"type": "movielens", "path": str(movielens_100k), "user_share": 0.1}
    local = prepare(config, tmp_path / "local")
    assert spread(config, tmp_path / "spread").manifest == local.manifest


LINES = ["1,a,2", "0,b,", "x,a,2", "1,a", "0,b,2,3", "", "1,a,z", "0,\0,1"]
FIELDS = {"c": {"type": "categorical"}, "n": {"type": "numeric-dense", "transform": "none"}}


def outcome(run: Callable[[], Prepared]) -> Any:
    """The manifest, or the error."""
    try:
        return run().manifest
    except GenrecError as error:
        return type(error), str(error)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.sampled_from(LINES), max_size=25),
    size=st.integers(1, 80),
    split=st.sampled_from(["random", "shuffled", "time"]),
    on_error=st.sampled_from(["stop", "skip"]),
    runner=st.sampled_from([here, backwards]),
)
def test_bad_rows_are_told_as_one_process_tells_them(
    tmp_path_factory: pytest.TempPathFactory,
    spread: Any,
    lines: list[str],
    size: int,
    split: str,
    on_error: Any,
    runner: Any,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "t.csv").write_text("\n".join(["y,c,n", "1,a,1", *lines, "1,b,1"]) + "\n")
    config = {"type": "csv", "path": str(folder / "t.csv"), "label": "y", "numbers": ["n"]}
    options = PrepareOptions(on_error=on_error)
    local = outcome(lambda: prepare(config, folder / "local", fields=FIELDS, split=split, options=options))
    if on_error == "stop" and runner is backwards:
        runner = here  # an error ends the pass
    found = outcome(
        lambda: spread(
            config, folder / "spread", fields=FIELDS, split=split, size=size, on_error=on_error, runner=runner
        )
    )
    assert found == local
    assert {path.name for path in folder.iterdir()} <= {"t.csv", "local", "spread"}, "nothing is left aside"


def test_a_field_type_that_cannot_be_merged_is_fitted_in_one_process(
    tmp_path: Path, spread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genrec_adapters.field_types.categorical import Categorical

    class Plain:
        """A fitter that can only do what it must."""

        def __init__(self, fitter: Any) -> None:
            self.update, self.finish = fitter.update, fitter.finish

    config = write_rows(tmp_path / "t.parquet")
    fields = {"short": {"type": "categorical", "min_count": 3}, "dense": {"type": "numeric-dense", "column": "number"}}
    local = prepare(config, tmp_path / "local", fields=fields)
    original = Categorical.fitter
    monkeypatch.setattr(Categorical, "fitter", lambda self: Plain(original(self)))
    assert spread(config, tmp_path / "spread", fields=fields, size=50_000).manifest == local.manifest


def test_input_that_changes_between_the_passes_is_told(tmp_path: Path, spread: Any) -> None:
    path = tmp_path / "t.csv"
    config = {"type": "csv", "path": str(path), "label": "y"}

    def write(rows: int) -> None:
        path.write_text("y,c\n" + "".join(f"{row % 2},v{row % 7}\n" for row in range(rows)))

    def meddling(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        if getattr(work, "func", work).__name__ == "encode":
            write(99)
        return map(work, items)

    write(100)
    with pytest.raises(DataError, match=r"99 rows and 0 bad ones, but 100|changed during the run"):
        spread(config, tmp_path / "out", runner=meddling)
    assert not (tmp_path / "out").exists()


def test_a_wrong_md5_is_told_before_rows_are_read(tmp_path: Path, avazu_sample: Path, spread: Any) -> None:
    config = {"type": "avazu", "preset": "avazu_x4_001", "train": str(avazu_sample)}
    with pytest.raises(DataError, match=r"has md5 [0-9a-f]{32}, expected de3a27264cdabf66adf09df82328ccaa"):
        spread(config, tmp_path / "out")


def test_a_full_disk_is_one_sentence(tmp_path: Path, spread: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("genrec_adapters.preprocess.tasks.pa.ipc.new_file", full)
    with pytest.raises(DataError, match="the disk is full; free some space"):
        spread(write_rows(tmp_path / "t.parquet"), tmp_path / "out", fields={"short": "categorical"})
    assert not (tmp_path / "out").exists()


def test_no_training_rows_and_clashing_features_are_told(tmp_path: Path, spread: Any) -> None:
    config = write_rows(tmp_path / "t.parquet", rows=50)
    fields = {"when": {"type": "timestamp", "format": "epoch-seconds", "parts": ["hour"]}, "when_hour": "categorical"}
    fields["when_hour"] = {"type": "categorical", "column": "short"}
    with pytest.raises(GenrecError, match="fields 'when' and 'when_hour' both make a feature 'when_hour'"):
        spread(config, tmp_path / "out", fields=fields, size=1000)
    lines = tmp_path / "t.csv"
    lines.write_text("y,c\nx,a\nx,b\n")
    with pytest.raises(DataError, match=r"no training rows \(0 usable, 2 skipped\)"):
        spread({"type": "csv", "path": str(lines), "label": "y"}, tmp_path / "out", on_error="skip")


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.tuples(*(st.integers(0, 9) for _ in range(3))), max_size=8), shard_rows=st.integers(1, 12))
def test_shards_have_every_row_once_and_in_order(counts: list[tuple[int, int, int]], shard_rows: int) -> None:
    plans = plan_shards(shard_rows, [Counts(splits=one) for one in counts])
    for split in range(3):
        own = [plan for plan in plans if plan.split == split]
        rows = [(unit, row) for plan in own for unit, start, stop in plan.pieces for row in range(start, stop)]
        assert rows == [(unit, row) for unit, one in enumerate(counts) for row in range(one[split])]
        sizes = [sum(stop - start for _, start, stop in plan.pieces) for plan in own]
        assert all(size == shard_rows for size in sizes[:-1])
        assert [plan.index for plan in own] == list(range(len(own)))


def test_rows_do_not_depend_on_the_engine_but_running_again_does_nothing(tmp_path: Path, spread: Any) -> None:
    config, fields = write_rows(tmp_path / "t.parquet"), {"short": {"type": "categorical"}}
    assert not prepare(config, tmp_path / "out", fields=fields).reused
    assert spread(config, tmp_path / "out", fields=fields).reused
    assert pl.read_parquet(tmp_path / "out" / "vocab" / "short.vocabulary.parquet").height
