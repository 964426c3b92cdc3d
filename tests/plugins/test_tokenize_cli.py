"""``genrec tokenize``: from files of items to directories, IDs and reports; and what a user can get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec_adapters.item_codes import ItemCodes
from genrec_plugins.cli import main
from genrec_plugins.tokenizers import pipeline
from genrec_plugins.tokenizers.fit_config import parse_tokenize
from genrec_plugins.tokenizers.items import read_items
from genrec_registry import ConfigError, DataError
from tests.plugins.item_cases import rows, write_index, write_items

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "amazon"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main.run(["tokenize", *words])
    return int(stopped.value.code or 0)


def fit(out: str = "sid", *more: str, items: str = "items.parquet") -> None:
    if not Path(items).exists():
        write_items(items)
    assert run("fit", "--items", items, "--out", out, "--set", "tokenizer.sizes=[4, 4]", *more) == 0


def test_a_file_of_items_becomes_ids_and_a_table(capsys):
    fit()
    out = capsys.readouterr().out
    assert "60 items have IDs: sid" in out
    assert "neighbours sharing length 1" in out
    codes = ItemCodes.read("sid")
    assert sorted(codes.items) == sorted(f"i{n}" for n in range(60))
    assert len(np.unique(codes.codes, axis=0)) == 60  # a suffix tells items apart
    # the four themes are the four codes of the first level
    first = {(int(item[1:]) % 4, int(code)) for item, code in zip(codes.items, codes.codes[:, 0], strict=True)}
    assert len(first) == 4
    assert json.loads(Path("sid/quality.json").read_text())["items"] == 60
    assert np.load("sid/embeddings.npy").shape[0] == 60
    assert not [path.name for path in Path().iterdir() if path.name.startswith(".")]


def test_equal_seeds_give_equal_ids():
    fit("one")
    fit("two")
    assert ItemCodes.read("one").codes.tolist() == ItemCodes.read("two").codes.tolist()


@pytest.mark.parametrize("tokenizer", ["rq-kmeans", "opq", "random", "hash"])
@pytest.mark.parametrize("collisions", ["suffix", "knn-cap", "none"])
def test_tokenizers_and_collision_policies_go_together(tokenizer, collisions):
    fit("sid", "--tokenizer", tokenizer, "--collisions", collisions, "--set", "tokenizer.sizes=[8, 8]")
    codes = ItemCodes.read("sid")
    assert codes.codes.shape == (60, 3 if collisions == "suffix" else 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[1, 2]", "holds a JSON list"),
        ("a.json", b"{broken", "a.json"),
        ("a.jsonl", b'{"item": "a"}\n{broken\n', "cannot be read"),
        ("a.json.gz", b"no gzip", "cannot be read"),
        ("a.parquet", b"no parquet", "cannot be read"),
        ("a.json", b'[{"id": "a"}]', "expected 'item' among them"),
        ("a.json", b'[{"item": "a"}, {"item": null}]', "1 rows have no item id"),
        ("a.json", b'[{"item": "a"}, {"item": "a"}]', "item 'a' stands twice"),
        ("a.json", b"[]", "a.json"),
        ("a.json", b"", "a.json"),
    ],
)
def test_bad_files_are_told(name, content, message, capsys):
    Path(name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_items(name)
    assert run("fit", "--items", name, "--out", "sid") == 4
    assert name in capsys.readouterr().err
    assert not Path("sid").exists()


CONFIG = """
items: items.parquet
content:
  - {type: tfidf, dim: 16, min_items: 1}
  - {type: tfidf, words: 1, weight: 0.5}
tokenizer: {type: rq-kmeans, sizes: [4, 4], seed: 1}
collisions: {type: knn-cap, cap: 9}
"""


def test_a_config_is_read_and_overridden(capsys):
    write_items("items.parquet")
    Path("sid.yaml").write_text(CONFIG)
    assert run("fit", "sid.yaml", "--out", "sid", "--set", "tokenizer.seed=2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["items"] == 60
    manifest = json.loads(Path("sid/tokenizer.json").read_text())
    assert manifest["config"]["seed"] == 2
    assert manifest["collisions"] == {"type": "knn-cap", "cap": 9}
    assert [one["weight"] for one in json.loads(Path("sid/content.json").read_text())["sources"]] == [1.0, 0.5]
    assert run("fit", "sid.yaml", "--out", "hash", "--tokenizer", "hash", "--content", "tfidf") == 0
    assert json.loads(Path("hash/tokenizer.json").read_text())["config"]["type"] == "hash"
    assert len(json.loads(Path("hash/content.json").read_text())["sources"]) == 1
    Path("sid.yaml").write_text(CONFIG.replace("cap: 9", "capp: 9"))
    capsys.readouterr()
    assert run("fit", "sid.yaml", "--out", "sid") == 2
    assert capsys.readouterr().err.startswith("sid.yaml:7:29: unknown key 'collisions.capp', did you mean 'cap'?")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["fit", "--out", "sid"], 2, "found neither 'items' nor 'dataset'"),
        (["fit", "--items", "items.parquet", "--out", "sid", "-t", "rq-kmean"], 2, "did you mean 'rq-kmeans'?"),
        (["fit", "--items", "items.parquet", "--out", "sid", "-c", "tfid"], 2, "tfidf"),
        (["fit", "--items", "items.parquet", "--out", "sid", "--collisions", "knn"], 2, "did you mean 'knn-cap'?"),
        (["fit", "--items", "absent.parquet", "--out", "sid"], 4, "absent.parquet: does not exist"),
        (["fit", "--items", "items.parquet", "--out", "sid"], 4, "a codebook cannot be larger than the catalogue"),
        (["fit", "--items", "items.parquet", "--out", "sid", "-c", "co-occurrence"], 2, "needs events"),
        (["fit", "--items", "items.parquet", "--out", "full"], 4, "full: exists and is no tokenizer"),
        (["fit", "--items", "items.parquet", "--out", "file"], 4, "file: exists and is no tokenizer"),
        (["encode", "absent", "--items", "items.parquet", "--out", "c.parquet"], 4, "absent: is no fitted tokenizer"),
        (["report", "absent"], 4, "absent: does not exist"),
        (["report", "full"], 4, "full: is no fitted tokenizer"),
    ],
)
def test_mistakes_are_one_sentence(words, code, message, capsys):
    write_items("items.parquet", stop=20)
    Path("full").mkdir()
    Path("full/mine.txt").write_text("keep me")
    Path("file").write_text("keep me")
    assert run(*words) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert Path("full/mine.txt").read_text() == Path("file").read_text() == "keep me"


def test_empty_text_names_the_item(capsys):
    pl.DataFrame([*rows(), {"item": "odd", "text": " ", "categories": []}]).write_parquet("items.parquet")
    assert run("fit", "--items", "items.parquet", "--out", "sid", "--set", "tokenizer.sizes=[4, 4]") == 4
    assert "item 'odd': has no text" in capsys.readouterr().err
    fit("sid", "--set", "content={type: tfidf, empty: zeros}")
    assert "odd" in ItemCodes.read("sid").items


def test_a_failed_fit_leaves_the_old_tokenizer(monkeypatch, capsys):
    fit()
    before = ItemCodes.read("sid").codes.tolist()

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline.FittedContent, "save", broken)
    capsys.readouterr()
    assert run("fit", "--items", "items.parquet", "--out", "sid", "--set", "tokenizer.sizes=[2, 2]") == 4
    assert "sid: cannot be written (No space left on device)" in capsys.readouterr().err
    assert ItemCodes.read("sid").codes.tolist() == before
    assert sorted(path.name for path in Path().iterdir()) == ["items.parquet", "sid"]


def write_events(path: str, change_last: bool = False) -> None:
    generator = np.random.default_rng(0)
    users = {}
    for user in range(40):
        history = [f"i{4 * int(n) + user % 4}" for n in generator.integers(0, 15, 8)]
        users[f"u{user}"] = [*history[:-2], "i0", "i1"] if change_last else history
    Path(path).write_text(json.dumps(users))


def test_co_occurrence_sees_training_events_only(capsys):
    config = {"content": "co-occurrence", "tokenizer": {"type": "rq-kmeans", "sizes": [4, 4]}}
    seen = {}
    for name, change in (("one", False), ("two", True)):
        write_events(f"{name}.json", change)
        data = config | {"dataset": {"type": "amazon-reviews", "path": f"{name}.json"}}
        catalogue = pipeline.load_items(parse_tokenize(data))
        assert catalogue.train is not None
        assert catalogue.vocabulary is not None
        seen[name] = [catalogue.vocabulary.values[row] for row in catalogue.train.items]
    assert seen["one"] == seen["two"]  # they differ in each user's last two events only
    users = json.loads(Path("one.json").read_text())
    assert seen["one"] == [item for user in sorted(users) for item in users[user][:-2]]
    Path("sid.yaml").write_text(json.dumps(config | {"dataset": {"type": "amazon-reviews", "path": "one.json"}}))
    assert run("fit", "sid.yaml", "--out", "sid") == 0
    items, vectors = ItemCodes.read("sid").items, np.load("sid/embeddings.npy")
    near = vectors @ vectors.T - 2 * np.eye(len(items))
    for item, best, seen_together in zip(items, near.argmax(axis=1), near.max(axis=1), strict=True):
        # users stay with a theme, so that its items are near each other
        assert seen_together < 0.1 or int(item[1:]) % 4 == int(items[best][1:]) % 4
    assert (near.max(axis=1) > 0.1).mean() > 0.9
    capsys.readouterr()
    assert run("fit", "sid.yaml", "--out", "sid", "--set", "content=[tfidf]") == 4
    assert "has no text" in capsys.readouterr().err


def test_a_dataset_gives_the_items_of_its_events_or_all(capsys):
    write_events("events.json")
    meta = {f"i{n}": {"title": row["text"]} for n, row in enumerate(rows(stop=80))}
    Path("meta.json").write_text(json.dumps(meta))
    data = {
        "dataset": {"type": "amazon-reviews", "path": "events.json", "meta": "meta.json"},
        "tokenizer": {"type": "rq-kmeans", "sizes": [4, 4]},
    }
    of_events = pipeline.load_items(parse_tokenize(data)).items
    events = {item for history in json.loads(Path("events.json").read_text()).values() for item in history}
    assert of_events["item"].to_list() == sorted(events)
    assert len(pipeline.load_items(parse_tokenize(data | {"catalogue": "all"})).items) == 80
    Path("sid.yaml").write_text(json.dumps(data))
    assert run("fit", "sid.yaml", "--out", "sid") == 0
    with pytest.raises(ConfigError, match="found both 'items' and 'dataset'"):
        parse_tokenize(data | {"items": "x.parquet"})
    with pytest.raises(ConfigError, match="criteo"):
        parse_tokenize(data | {"dataset": {"type": "criteo-kaggle", "path": "x"}})


def test_new_items_get_ids_and_known_ones_keep_theirs(capsys):
    fit()
    capsys.readouterr()
    write_items("new.parquet", 50, 70)
    assert run("encode", "sid", "--items", "new.parquet", "--out", "sub/codes.parquet") == 0
    assert capsys.readouterr().out.strip() == "sub/codes.parquet: 20 items, 10 of them new"
    old, found = ItemCodes.read("sid"), ItemCodes.read("sub/codes.parquet")
    assert found.sizes == old.sizes
    known = [f"i{n}" for n in range(50, 60)]
    assert found.of(known).tolist() == old.of(known).tolist()
    theme = {int(item[1:]) % 4: int(code) for item, code in zip(old.items, old.codes[:, 0], strict=True)}
    for n in range(60, 70):
        code = found.of([f"i{n}"])[0]
        assert code[0] == theme[n % 4]
        assert not old.items_of(code[None])[0]  # its own suffix
    assert len(ItemCodes.read("sid").items) == 60


def test_encoding_does_not_depend_on_the_chunks(tmp_path):
    fit()
    write_items("new.parquet", 40, 120)
    for size in (1, 7, 1000):
        pipeline.encode_file(Path("sid"), Path("new.parquet"), Path(f"{size}.parquet"), rows=size)
    frames = [pl.read_parquet(f"{size}.parquet") for size in (1, 7, 1000)]
    assert frames[0].equals(frames[1])
    assert frames[1].equals(frames[2])


def test_remembered_items_keep_their_ids(capsys):
    fit()
    write_items("a.parquet", 60, 70)
    write_items("b.parquet", 65, 80)
    assert run("encode", "sid", "--items", "a.parquet", "--out", "a.codes.parquet", "--remember") == 0
    assert len(ItemCodes.read("sid").items) == 70
    assert run("encode", "sid", "--items", "b.parquet", "--out", "b.codes.parquet", "--json") == 0
    assert json.loads(capsys.readouterr().out.split("new\n")[-1])["new"] == 10
    a, b = ItemCodes.read("a.codes.parquet"), ItemCodes.read("b.codes.parquet")
    shared = [f"i{n}" for n in range(65, 70)]
    assert a.of(shared).tolist() == b.of(shared).tolist()
    everything = np.concatenate([ItemCodes.read("sid").codes, b.codes[5:]])
    assert len(np.unique(everything, axis=0)) == 80
    assert run("report", "sid") == 0  # with the embeddings of the fit


def test_a_table_of_embeddings_is_encoded_from_another_table(capsys):
    vectors = np.random.default_rng(0).normal(size=(70, 4)).tolist()
    pl.DataFrame({"item": [f"i{n}" for n in range(60)], "embedding": vectors[:60]}).write_parquet("old.parquet")
    pl.DataFrame({"item": [f"i{n}" for n in range(60, 70)], "embedding": vectors[60:]}).write_parquet("new.parquet")
    fit("sid", "--set", "content={type: table, path: old.parquet}")
    write_items("more.parquet", 60, 70)
    capsys.readouterr()
    assert run("encode", "sid", "--items", "more.parquet", "--out", "c.parquet") == 4
    assert "is not in the table of embeddings" in capsys.readouterr().err
    assert not Path("c.parquet").exists()
    assert run("encode", "sid", "--items", "more.parquet", "--out", "c.parquet", "--table", "new.parquet") == 0
    assert len(ItemCodes.read("c.parquet").items) == 10


def test_embeddings_are_written_once_for_several_tokenizers(capsys):
    write_items("items.parquet")
    words = ["--items", "items.parquet", "--content", "tfidf", "--set", "content.dim=8"]
    assert run("embed", *words, "--out", "e.parquet") == 0
    assert capsys.readouterr().out.strip() == "e.parquet: 60 items, width 8"
    fit("from-table", "--set", "content={type: table, path: e.parquet}")
    fit("direct", "--set", "content={type: tfidf, dim: 8}")
    assert ItemCodes.read("from-table").codes.tolist() == ItemCodes.read("direct").codes.tolist()


def test_an_item_that_comes_twice_is_told(capsys):
    fit()
    pl.concat([pl.DataFrame(rows(0, 3)), pl.DataFrame(rows(1, 2))]).write_parquet("twice.parquet")
    assert run("encode", "sid", "--items", "twice.parquet", "--out", "c.parquet") == 4
    assert "item 'i1' stands twice" in capsys.readouterr().err


def test_reports_stand_side_by_side_and_seeds_are_one_column(capsys):
    for seed in (1, 2, 3):
        fit(f"rq-{seed}", "--collisions", "none", "--set", f"tokenizer.seed={seed}")
    write_index("index.json.gz")
    capsys.readouterr()
    assert run("report", "rq-1", "rq-2", "rq-3", "--against", "index.json.gz", "--plot", "q.png") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["measure", "rq", "index"]
    assert "±" in out
    assert "neighbours: the 10 nearest by the embeddings of rq-1" in out
    assert Path("q.png").read_bytes()[1:4] == b"PNG"
    assert run("report", "rq-1", "index.json.gz", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    ours, published = data["rq-1"][0], data["index"][0]
    assert ours["levels"][0]["hit_rate"] > 2 * ours["levels"][0]["chance"] > 0
    assert abs(published["levels"][0]["hit_rate"] - published["levels"][0]["chance"]) < 0.1
    assert published["reconstruction_error"] is None
    assert 0 < ours["reconstruction_error"] < 1
    written = json.loads(Path("rq-1/quality.json").read_text())
    assert written == {**ours, "levels": written["levels"]}
    for one, other in zip(ours["levels"], written["levels"], strict=True):
        assert one == pytest.approx(other)


def test_reports_without_embeddings_say_so(capsys):
    fit("bare", "--no-embeddings")
    write_index("index.json.gz")
    fit("sid")
    capsys.readouterr()
    assert run("report", "bare", "--against", "index.json.gz") == 0
    found = capsys.readouterr()
    assert "neighbours are left out" in found.err
    assert "neighbours" not in found.out
    assert run("report", "bare", "--by", "sid") == 0
    assert "by the embeddings of sid" in capsys.readouterr().out
    assert run("report", "sid", "--by", "bare") == 2
    assert "--by bare: keeps no embeddings" in capsys.readouterr().err
    Path("other").mkdir()
    fit("other/sid", "--set", "tokenizer.sizes=[2, 2]")
    assert run("report", "sid", "other/sid") == 2
    assert "two sets of codes are called 'sid'" in capsys.readouterr().err


def test_office_products_are_fitted_from_their_titles(capsys):
    path = DATA / "office_products.item.json.gz"
    if not path.exists():
        pytest.skip(f"real rows are absent: {path}")
    words = ["--set", "content={type: tfidf, columns: [title], words: 1, dim: 32}"]
    words += ["--set", "tokenizer.iterations=5", "--set", "tokenizer.sizes=[64, 64, 64]", "--json"]
    assert run("fit", "--items", str(path), "--out", "sid", *words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["items"] == 3459
    for level in report["levels"][:2]:
        assert level["hit_rate"] > 10 * level["chance"]
