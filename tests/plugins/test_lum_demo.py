"""The chain of ``genrec lum demo``: what each ranker knows, and that a second call finds everything done."""

from __future__ import annotations

import json

import pytest

from genrec_plugins.lum import demo
from genrec_plugins.lum.demo_configs import RANKERS, RATES, ranker_config
from genrec_registry import ConfigError
from tests.plugins.lum_cases import write_ratings


@pytest.fixture
def films(tmp_path):
    folder = write_ratings(tmp_path / "ml-100k")
    lines = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    lines += [f"i{index}\tFilm {index}\t{1990 + index % 5}\tDrama Comedy" for index in range(24)]
    (folder / "small.item").write_text("\n".join(lines) + "\n")
    return folder


def test_the_chain_once_and_again(films, tmp_path, monkeypatch):
    monkeypatch.setattr("genrec_plugins.lum.demo.RATES", {"fast": RATES["fast"]})
    names = ["fat", "fat+3lum", "fat+lum-frozen"]
    found = demo.run_demo(str(films), tmp_path / "out", rankers=names, epochs=1)
    assert {name: len(values) for name, values in found.rankers.items()} == dict.fromkeys(names, 1)
    assert {path.name for path in (tmp_path / "out").glob("lum-*")} == {
        "lum-1",
        "lum-1001",
        "lum-2001",
        "lum-encoder-1",
    }
    manifest = json.loads((tmp_path / "out" / "knowledge-1-x3" / "manifest.json").read_text())
    assert manifest["dim"] == 3 * 64
    warm = json.loads((tmp_path / "out" / "fat+lum-frozen-fast-1" / "demo-config.json").read_text())["train"][
        "warm_start"
    ]
    assert warm == {"encoder": str(tmp_path / "out" / "lum-encoder-1"), "freeze": True}
    columns, rows = found.table()
    assert columns[-1] == "against fat"
    assert [row[0] for row in rows[:3]] == names

    def never(*_args, **_options):
        raise AssertionError("was done before")

    for step in ("pretrain", "train_run", "query_run", "fit_directory"):
        monkeypatch.setattr(f"genrec_plugins.lum.demo.{step}", never)
    assert demo.run_demo(str(films), tmp_path / "out", rankers=names, epochs=1).rankers == found.rankers


def test_rankers_differ_in_what_they_know_alone():
    made = {
        name: ranker_config("ml", ranker, 1, RATES["slow"], store="s", pretrained="p")
        for name, ranker in RANKERS.items()
    }
    plain = made["fat"]
    for name, config in made.items():
        ranker = RANKERS[name]
        assert ("knowledge" in config["fields"]) == bool(ranker.lums), name
        assert ("behaviour" in config["fields"]) == bool(ranker.encoder), name
        assert ("warm_start" in config["train"]) == bool(ranker.warm_start), name
        for key in ("interaction", "embedding_dim", "over_arch", "dropout"):
            assert config["model"][key] == plain["model"][key], name
        assert {**config["train"], "warm_start": None} == {**plain["train"], "warm_start": None}, name


def test_an_unknown_ranker_is_told(tmp_path):
    with pytest.raises(ConfigError, match="unknown 'fat\\+dinn', did you mean 'fat\\+din'"):
        demo.run_demo("ml", tmp_path, rankers=["fat+dinn"])
