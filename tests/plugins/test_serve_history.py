"""One user's history encoded once for all candidates: the scores are those of whole rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic_core import to_json

from genrec_adapters.prepared import Prepared
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.serving.export import export_run
from genrec_plugins.serving.served import Served
from genrec_plugins.serving.shared_history import SharedHistory, shared_columns
from genrec_plugins.serving.wire import JSON, Asked, rows_of
from genrec_plugins.training.run import prepare_run, train_run
from tests.plugins.behaviour_cases import write_table
from tests.plugins.serve_cases import served
from tests.plugins.test_serve_http import run

USERS: list[dict[str, Any]] = [
    {"history_item": ["i1", "i3", "i5"], "history_action": ["view", "buy", "view"]},
    {"history_item": [], "history_action": []},
    {"history_item": None, "history_action": None},
    {"history_item": [f"i{n % 10}" for n in range(9)], "history_action": ["view"] * 9},
    {"history_item": ["new", None, "i2"], "history_action": ["view", "buy", "?"]},
]
CANDIDATES = [{"item": f"i{number}", "x": number / 5 - 1} for number in range(7)] + [{"item": None, "x": None}]


def run_of(folder: Path, encoder: str, more: str = "") -> LoadedRun:
    return parse_run(
        f"""
seed: 3
dataset: {{type: parquet, path: {folder}/rows.parquet, label: label}}
split: {{type: shuffled, seed: 1}}
fields:
  target: {{type: categorical, column: item}}
  x: {{type: numeric-dense}}
  past: {{type: behaviour, conditions: [history_action], max_length: 5}}
{more}
model: {{embedding_dim: 8, over_arch: [16], encoder: {encoder}, interaction: {{type: fat, num_heads: 2}}}}
train: {{batch_size: 100, epochs: 1, embedding_lr: 0.3, dense_lr: 0.02, threads: 1}}
"""
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    write_table(folder / "rows.parquet")
    return folder


@pytest.fixture(scope="module")
def prepared(folder: Path) -> Prepared:
    return prepare_run(run_of(folder, "sasrec"), folder / "prepared")


def opened(folder: Path, prepared: Prepared, encoder: str, name: str, tables: Any = "fp32") -> Served:
    if not (folder / name).exists():
        train_run(run_of(folder, encoder), folder / name, prepared)
    target = folder / f"{name}-{tables}"
    export_run(folder / name, target, tables=tables, formats=())
    return Served.open(target)


def asked_of(model: Served, user: dict[str, Any], shared: frozenset[str]) -> Asked:
    body = to_json({"user": user, "candidates": CANDIDATES})
    return rows_of(body, JSON, model.schema, max_rows=100, shared=shared)


def whole_rows(model: Served, users: list[dict[str, Any]]) -> Asked:
    rows = [user | candidate for user in users for candidate in CANDIDATES]
    return rows_of(to_json({"rows": rows}), JSON, model.schema, max_rows=100)


CASES = [("sasrec", "fp32"), ("sasrec", "int8"), ("{type: lum, hidden: 8, num_queries: 2}", "fp32"), ("hstu", "fp32")]


@pytest.mark.parametrize(("encoder", "tables"), CASES)
def test_candidates_score_as_whole_rows(folder: Path, prepared: Prepared, encoder: str, tables: str) -> None:
    model = opened(folder, prepared, encoder, encoder.strip("{").split(",")[0].replace("type: ", ""), tables)
    assert model.shared == {"history_item", "history_action"}
    expected = model.exported.score(whole_rows(model, USERS).table)
    assert len(set(expected.round(5).tolist())) > 20
    arch = model.exported.model.behaviour_arch
    assert isinstance(arch, SharedHistory)
    encoded: list[int] = []
    hook = arch.arch.encoder.register_forward_pre_hook(
        lambda module, given: encoded.append(len(next(iter(given[0].values())).lengths()))
    )
    # several users and whole rows in one batch
    asked = [asked_of(model, user, model.shared) for user in USERS] + [whole_rows(model, USERS[:2])]
    found = model.score(asked)
    assert np.abs(found - np.concatenate([expected, expected[: 2 * len(CANDIDATES)]])).max() <= 1e-6
    assert encoded == [len(USERS) + 2 * len(CANDIDATES)]
    # told of the candidate, a column of the history is the candidate's own
    split = [candidate | {"history_action": user["history_action"]} for user in USERS[:1] for candidate in CANDIDATES]
    body = to_json({"user": {"history_item": USERS[0]["history_item"]}, "candidates": split})
    own = rows_of(body, JSON, model.schema, max_rows=100, shared=model.shared)
    assert own.leader is None
    assert np.abs(model.score([own]) - expected[: len(CANDIDATES)]).max() <= 1e-6
    hook.remove()


def test_an_encoder_that_reads_the_target_goes_the_plain_way(folder: Path, prepared: Prepared) -> None:
    model = opened(folder, prepared, "din", "din")
    assert (model.shared, "reads the target" in model.history) == (frozenset(), True)
    expected = model.exported.score(whole_rows(model, USERS).table)
    found = model.score([asked_of(model, user, model.shared) for user in USERS])
    assert np.abs(found - expected).max() <= 1e-6

    async def main() -> None:
        async with served(model=model) as client:
            assert "reads the target" in (await client.get("/schema")).json()["history"]

    run(main())


def test_an_encoder_that_reads_the_target_later_falls_back(folder: Path, prepared: Prepared) -> None:
    """The trial at the start cannot meet every branch of a plugin's encoder."""
    model = opened(folder, prepared, "sasrec", "sasrec")
    expected = model.exported.score(whole_rows(model, USERS).table)
    arch = model.exported.model.behaviour_arch
    assert isinstance(arch, SharedHistory)
    met = []

    def peek(module: Any, given: Any) -> None:
        if len(given[0]["item"].values()) > 3:
            met.append(isinstance(given[1], dict))
            given[1]["item"]

    hook = arch.arch.encoder.register_forward_pre_hook(peek)
    found = model.score([asked_of(model, user, model.shared) for user in USERS])
    hook.remove()
    assert met == [False, True]
    assert np.abs(found - expected).max() <= 1e-6


def test_columns_that_something_else_reads_are_not_shared() -> None:
    past = {"type": "behaviour", "item": "item", "history": "seen", "attributes": {"kind": {"history": "kinds"}}}
    readers = {"item": ("past", "target"), "seen": ("past",), "kinds": ("past",)}
    assert shared_columns({"past": past}, readers) == {"seen", "kinds"}
    assert shared_columns({"past": past}, readers | {"kinds": ("past", "tags")}) == frozenset()
    assert shared_columns({"past": past | {"item": "seen"}}, readers) == frozenset()
    assert shared_columns({"tags": {"type": "multi-hot", "column": "seen"}}, readers) == frozenset()


def test_the_encoder_sees_training_rows_as_it_did(folder: Path, prepared: Prepared) -> None:
    """The export's own way is not changed by what the server puts in front of the encoder."""
    from genrec_plugins.serving.exported import Exported

    model = opened(folder, prepared, "sasrec", "sasrec")
    rows = pl.read_parquet(folder / "rows.parquet").head(100).drop("label").to_arrow()
    plain = Exported.open(folder / "sasrec-fp32").score(rows)
    assert (model.exported.score(rows) == plain).all()
