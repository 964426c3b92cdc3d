"""Damaged configs and state files: a sentence of ours or success, never another exception."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import strategies as st

from genrec_adapters.item_codes import ItemCodes
from genrec_adapters.knowledge import KnowledgeStore
from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_adapters.raw import raw_batches
from genrec_plugins.config import parse_run
from genrec_plugins.lum.config import parse_lum
from genrec_plugins.lum.run import LumRun
from genrec_plugins.tokenizers.fit_config import parse_tokenize
from genrec_plugins.tokenizers.fitted import load_tokenizer
from genrec_plugins.training.run import TrainedRun
from genrec_registry import GenrecError, default_registry
from tests.plugins.lum_cases import write_ratings
from tests.reliability import cases
from tests.reliability.mutations import as_json, changed, damaged
from tests.reliability.test_fuzz_rows import fuzz

SHORT, LONG = 40, 2000

# -- configs ----------------------------------------------------------------------------------------------------------

RUN = cases.run_config(Path("rows.csv"))
RUN["fields"] |= {"c": {"type": "numeric-bucket", "method": "quantile"}, "I{1..3}": {"type": "multi-hot"}}
TOKENIZE: dict[str, Any] = {
    "items": "items.parquet",
    "content": {"type": "table", "path": "e.parquet"},
    "tokenizer": {"type": "rq-kmeans", "sizes": [4, 4]},
    "collisions": {"type": "suffix"},
}
PARSERS: dict[str, tuple[Callable[[str], Any], dict[str, Any]]] = {
    "run": (parse_run, RUN),
    "lum": (parse_lum, cases.lum_config(Path("ml"))),
    "tokenize": (parse_tokenize, TOKENIZE),
}


def configs_hold(name: str, examples: int) -> None:
    parse, sound = PARSERS[name]
    text = yaml.safe_dump(sound, sort_keys=False)
    parse(text)

    def check(data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            damage = data.draw(damaged(text.encode())).decode(errors="replace")
        else:
            damage = yaml.safe_dump(data.draw(changed(sound)), sort_keys=False)
        with suppress(GenrecError):
            parse(damage)

    fuzz(examples, check)


@pytest.mark.parametrize("name", PARSERS)
def test_configs(name: str) -> None:
    configs_hold(name, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("name", PARSERS)
def test_configs_long(name: str) -> None:
    configs_hold(name, LONG)


# -- state files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each directory that this program writes and reads."""
    folder = tmp_path_factory.mktemp("state")
    fields = {
        "a": {"type": "categorical", "min_count": 1},
        "b": {"type": "categorical", "mode": "hash", "num_buckets": 7},
        "x": {"type": "numeric-bucket", "method": "quantile", "num_buckets": 4},
    }
    config = cases.run_config(cases.write_table(folder / "rows.csv", rows=60), fields=fields)
    config["train"] |= {"epochs": 1, "checkpoint_every": 0}
    cases.prepare(config, folder / "prepared")
    cases.train(config, folder / "prepared", folder / "run")
    cases.save_tokenizer(folder / "tokenizer", 1)
    cases.write_store(folder / "store", 1)
    cases.pretrain(lum := cases.lum_config(write_ratings(folder / "ratings", users=12, items=8)), folder / "lum")
    assert lum
    index = {"i1": ["<a_1>", "<b_2>"], "i2": ["<a_0>", "<b_3>"]}
    (folder / "index").mkdir()
    (folder / "index" / "codes.json").write_text(json.dumps(index))
    return folder


def use_prepared(folder: Path) -> None:
    prepared = Prepared.open(folder)
    for split in ("train", "valid", "test"):
        for _ in BatchLoader(prepared, split, 16):  # type: ignore[arg-type]
            pass
    rows = {"type": "csv", "path": str(folder.parent / "raw.csv"), "label": "y", "numbers": ["x"]}
    for _ in raw_batches(prepared, rows, default_registry(), 2):
        pass
    prepared.verify()


def use_run(folder: Path) -> None:
    trained = TrainedRun.open(folder)
    trained.model()
    trained.predict("test")


def use_tokenizer(folder: Path) -> None:
    fitted = load_tokenizer(folder)
    fitted.encode_new(np.zeros((2, 4), np.float32), ["i1", "new"])
    ItemCodes.read(folder).of(["i1"])


def use_store(folder: Path) -> None:
    store = KnowledgeStore.open(folder)
    store.load(store.facts.queries)
    store.lookup(["u001", None, "?"], [10**6, None, 3], ["a", "b", "?"])


def use_lum(folder: Path) -> None:
    run = LumRun.open(folder)
    run.weights()
    run.model()


def use_index(folder: Path) -> None:
    ItemCodes.read(folder / "codes.json").of(["i1"])


#: directory, its file, and what is done with it
FILES: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "manifest": ("prepared", "manifest.json", use_prepared),
    "field": ("prepared", "vocab/x.json", use_prepared),
    "vocabulary": ("prepared", "vocab/a.*.parquet", use_prepared),
    "shard": ("prepared", "train/part-00000.arrow", use_prepared),
    "run": ("run", "run.json", use_run),
    "weights": ("run", "model.safetensors", use_run),
    "tokenizer": ("tokenizer", "tokenizer.json", use_tokenizer),
    "codes": ("tokenizer", "codes.parquet", use_tokenizer),
    "codebooks": ("tokenizer", "model/tokenizer.safetensors", use_tokenizer),
    "store": ("store", "manifest.json", use_store),
    "users": ("store", "users.parquet", use_store),
    "lum": ("lum", "run.json", use_lum),
    "conditions": ("lum", "conditions.json", use_lum),
    "catalogue": ("lum", "catalogue.parquet", use_lum),
    "index": ("index", "codes.json", use_index),
}


def state_holds(name: str, made: Path, folder: Path, examples: int) -> None:
    directory, pattern, use = FILES[name]
    here = folder / directory
    shutil.copytree(made / directory, here)
    (folder / "raw.csv").write_text("y,a,b,x\n0,a1,b1,0.5\n1,,z,\n")
    (path,) = here.glob(pattern)
    sound = path.read_bytes()
    use(here)

    def check(data: st.DataObject) -> None:
        damage = damage_of(data, sound, path.suffix)
        path.unlink()  # a new file: polars and arrow may have mapped the old one
        path.write_bytes(damage)
        with suppress(GenrecError):
            use(here)

    fuzz(examples, check)


def damage_of(data: st.DataObject, sound: bytes, suffix: str) -> bytes:
    if suffix != ".json" or data.draw(st.integers(0, 3)) == 0:
        return data.draw(damaged(sound))
    return as_json(data.draw(changed(json.loads(sound))))


@pytest.mark.parametrize("name", FILES)
def test_state_files(name: str, made: Path, tmp_path: Path) -> None:
    state_holds(name, made, tmp_path, SHORT // 2)


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_state_files_long(name: str, made: Path, tmp_path: Path) -> None:
    state_holds(name, made, tmp_path, LONG // 2)
