"""The table of items of a pre-training run: damaged columns are told when the run is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from genrec_plugins.lum.run import LumRun
from genrec_registry import DataError
from tests.plugins.lum_cases import write_ratings
from tests.reliability import cases

DAMAGES: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "no counts": lambda frame: frame.rename({"train_events": "rain_events"}),
    "counts of text": lambda frame: frame.with_columns(train_events=pl.lit("x")),
    "counts of nothing": lambda frame: frame.with_columns(train_events=pl.lit(None, pl.Int64)),
    "counts below 0": lambda frame: frame.with_columns(train_events=pl.lit(-1, pl.Int64)),
    "no items": lambda frame: frame.rename({"item": "tem"}),
    "items of numbers": lambda frame: frame.with_columns(item=pl.lit(1)),
    "items of nothing": lambda frame: frame.with_columns(item=pl.lit(None, pl.String)),
    "no rows": lambda frame: frame.head(0),
    "a row too few": lambda frame: frame.head(-1),
    "features of nothing": lambda frame: frame.with_columns(first_category=pl.lit(None, pl.Int32)),
    "a feature beyond its table": lambda frame: frame.with_columns(first_category=pl.lit(10**6, pl.Int32)),
    "a feature below 0": lambda frame: frame.with_columns(first_category=pl.lit(-1, pl.Int32)),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lum")
    config = cases.lum_config(write_ratings(folder / "ratings", users=12, items=8))
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    lines = [header, *(f"i{item}\tt\t1999\tc{item % 3}" for item in range(8))]
    (folder / "ratings" / "small.item").write_text("\n".join(lines) + "\n")
    cases.pretrain(config | {"items": {"features": ["first_category"]}}, folder / "run")
    LumRun.open(folder / "run").model()
    return folder / "run"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told(damage: str, run: Path) -> None:
    path = run / "catalogue.parquet"
    sound = path.read_bytes()
    try:
        DAMAGES[damage](pl.read_parquet(path)).write_parquet(path)
        with pytest.raises(DataError, match="is not the directory of a pre-training run") as error:
            LumRun.open(run)
    finally:
        path.unlink()
        path.write_bytes(sound)
    assert "\n" not in str(error.value)
