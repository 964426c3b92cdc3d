"""Fitted tokenizers: IDs of the catalogue and of new items, on the way through a directory, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from genrec_adapters.item_codes import ItemCodes
from genrec_plugins.tokenizers.fitted import FittedTokenizer, encode_chunks, fit_tokenizer, load_tokenizer
from genrec_registry import ConfigError, DataError, PluginError
from tests.plugins.tokenizer_cases import clusters, items

TOKENIZERS = {
    "rq-kmeans": {"sizes": [8, 4]},
    "balanced": {"type": "rq-kmeans", "sizes": [8, 4], "balanced": True},
    "rq-vae": {"sizes": [8, 4], "hidden_sizes": [16], "latent_dim": 4, "epochs": 2},
    "opq": {"sizes": [8, 4]},
    "fsq": {"levels": [[4, 2], [4]], "hidden_sizes": [16], "epochs": 2},
    "hash": {"sizes": [8, 4]},
    "random": {"sizes": [8, 4]},
}
COLLISIONS = ("suffix", {"type": "knn-cap", "cap": 9}, "none")
VECTORS, NAMES = clusters(200, width=6), items(200)


def fit(name: str = "rq-kmeans", collisions=COLLISIONS[0], count: int = 150) -> FittedTokenizer:
    return fit_tokenizer({"type": name, **TOKENIZERS[name]}, VECTORS[:count], NAMES[:count], collisions)


@pytest.mark.parametrize("collisions", COLLISIONS, ids=str)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_same_ids_after_a_reload(name, collisions, tmp_path):
    fitted = fit(name, collisions)
    fitted.save(tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert loaded.config.model_dump() == fitted.config.model_dump()
    assert loaded.collisions == fitted.collisions
    assert loaded.item_codes.items == fitted.item_codes.items == tuple(NAMES[:150])
    assert np.array_equal(loaded.item_codes.codes, fitted.item_codes.codes)
    assert loaded.sizes == fitted.sizes
    # New items too, bit for bit, some of them on paths that are full by then.
    assert np.array_equal(loaded.encode_new(VECTORS, NAMES), fitted.encode_new(VECTORS, NAMES))
    before, after = (those.reconstruct(fitted.item_codes.codes) for those in (fitted, loaded))
    assert (before is None) == (after is None) == (name in ("hash", "random"))
    assert before is None or np.array_equal(before, after)


def test_known_items_keep_their_ids_and_new_ones_are_remembered():
    fitted = fit()
    before = fitted.item_codes.of(NAMES[:150])
    assert np.array_equal(fitted.encode_new(-VECTORS[:150], NAMES[:150]), before)  # whatever their embedding says now
    assert fitted.item_codes.of(["item-150"]).tolist() == [[-1, -1, -1]]
    mixed = ["item-3", "item-150", "item-7", "item-150", "item-151"]
    found = fitted.encode_new(VECTORS[[3, 150, 7, 160, 151]], mixed)
    assert np.array_equal(found[[0, 2]], before[[3, 7]])
    assert np.array_equal(found[1], found[3])  # an id that comes twice counts as it came first
    own, other = fitted.tokenizer.encode(VECTORS[[150, 160]], ["item-150", "item-160"])
    assert found[1, :2].tolist() == own.tolist() != other.tolist()
    assert np.array_equal(fitted.item_codes.of(mixed), found)
    assert fitted.item_codes.items == (*NAMES[:150], "item-150", "item-151")
    assert len(np.unique(fitted.item_codes.codes, axis=0)) == 152
    assert np.array_equal(fitted.item_codes.codes[:150], before)


@pytest.mark.parametrize("collisions", COLLISIONS, ids=str)
def test_one_by_one_or_all_at_once(collisions):
    together, one_by_one, chunked = fit(collisions=collisions), fit(collisions=collisions), fit(collisions=collisions)
    expected = together.encode_new(VECTORS[150:], NAMES[150:])
    singles = [one_by_one.encode_new(VECTORS[row : row + 1], NAMES[row : row + 1]) for row in range(150, 200)]
    assert np.array_equal(np.concatenate(singles), expected)
    assert np.array_equal(np.concatenate(list(encode_chunks(chunked, VECTORS[150:], NAMES[150:], rows=7))), expected)
    assert one_by_one.item_codes.items == together.item_codes.items
    assert np.array_equal(one_by_one.item_codes.codes, together.item_codes.codes)


def test_suffix_makes_ids_unique_and_knn_cap_keeps_its_cap():
    assert len(np.unique(fit(collisions="suffix").item_codes.codes, axis=0)) == 150
    for name in ("rq-kmeans", "rq-vae", "opq", "fsq", "hash"):
        _, shared = np.unique(fit(name, {"type": "knn-cap", "cap": 6}).item_codes.codes, axis=0, return_counts=True)
        assert shared.max() == 6
    _, shared = np.unique(fit(collisions="none").item_codes.codes, axis=0, return_counts=True)
    assert shared.max() > 9


def test_knn_cap_costs_little_error():
    """Items that move go to codes that stand for something near."""
    errors = {}
    for collisions in ("none", {"type": "knn-cap", "cap": 6}):
        fitted = fit(collisions=collisions)
        vectors = fitted.reconstruct(fitted.item_codes.codes)
        errors[str(collisions)] = np.square(vectors - VECTORS[:150]).sum(axis=1).mean()
    plain, capped = errors.values()
    random = np.square(vectors[::-1] - VECTORS[:150]).sum(axis=1).mean()
    assert plain < capped < plain + 0.3 * (random - plain)


def test_the_directory_is_read_by_others(tmp_path):
    fitted = fit()
    fitted.save(tmp_path / "here")
    codes = ItemCodes.read(tmp_path / "here")
    assert (codes.items, codes.sizes) == (fitted.item_codes.items, fitted.sizes)
    assert np.array_equal(codes.codes, fitted.item_codes.codes)
    manifest = json.loads((tmp_path / "here" / "tokenizer.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["sizes"]) == ("genrec-tokenizer", 1, list(fitted.sizes))
    assert manifest["config"]["type"] == "rq-kmeans"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]


def test_saving_replaces_a_tokenizer_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "here"
    fit("hash").save(target)
    fit("opq").save(target)
    assert load_tokenizer(target).config.type == "opq"
    other = tmp_path / "notes"
    other.mkdir()
    (other / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="exists and is no tokenizer"):
        fit().save(other)
    assert [path.name for path in other.iterdir()] == ["mine.txt"]
    # What cannot be written leaves the old one, and nothing beside it.
    fitted = fit()

    def full(directory):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fitted.tokenizer, "save", full)
    with pytest.raises(DataError, match=r"cannot be written.*No space left"):
        fitted.save(target)
    assert load_tokenizer(target).config.type == "opq"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "notes"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no fitted tokenizer.*its format is another"),
        ({"version": 2}, "format version 2, this program reads 1"),
        ({"sizes": [8, 4]}, "codes have shape|tokenizer.json says|codes of sizes"),
        ({"items": 3}, "holds 150 items .* says 3"),
        ({"config": {"type": "rq-kmeans", "sizes": [8, 5]}}, "holds arrays of shapes"),
        ({"config": {"type": "gone"}}, "unknown tokenizer 'gone'"),
        ({"collisions": {"type": "knn-cap"}}, "codes of sizes"),
    ],
)
def test_a_damaged_directory_is_a_sentence(change, message, tmp_path):
    fit().save(tmp_path / "here")
    path = tmp_path / "here" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((DataError, PluginError), match=message):
        load_tokenizer(tmp_path / "here")


def test_missing_files_are_a_sentence(tmp_path):
    with pytest.raises(DataError, match=r"is no fitted tokenizer.*name what 'genrec tokenize fit' wrote"):
        load_tokenizer(tmp_path)
    fit().save(tmp_path / "here")
    pl.DataFrame({"item": ["a"]}).write_parquet(tmp_path / "here" / "codes.parquet")
    with pytest.raises(DataError, match="holds no item codes"):
        load_tokenizer(tmp_path / "here")
    (tmp_path / "here" / "model" / "tokenizer.safetensors").unlink()
    with pytest.raises(DataError, match="is no saved tokenizer"):
        load_tokenizer(tmp_path / "here")


def test_bad_catalogues_are_a_sentence():
    spoilt = VECTORS.copy()
    spoilt[4, 1] = np.nan
    config = {"type": "rq-kmeans", "sizes": [8, 300]}
    for vectors, names, message in (
        (spoilt, NAMES, "item 'item-4': its embedding holds nan in column 1"),
        (VECTORS, [*NAMES[:-1], "item-9"], "item 'item-9' stands twice"),
        (VECTORS, NAMES, "level 2 has 300 codes for 200 items.*sizes of at most 200"),
        (VECTORS[:0], [], "there are no items"),
        (VECTORS, NAMES[:-1], r"shape \(200, 6\) for 199 items"),
        (VECTORS.astype(np.int64), NAMES, "embeddings are int64, expected floats"),
        (VECTORS, [7, *NAMES[1:]], "item id 7 is a int, expected text"),
    ):
        with pytest.raises(DataError, match=message):
            fit_tokenizer(config, vectors, names)
    with pytest.raises(DataError, match="width 5, the tokenizer was fitted on width 6"):
        fit().encode_new(VECTORS[:, :5], NAMES)
    with pytest.raises(DataError, match="item 'item-4'"):
        fit().encode_new(spoilt, NAMES)
    with pytest.raises(ConfigError, match="did you mean 'balanced'"):
        fit_tokenizer({"type": "rq-kmeans", "balancd": True}, VECTORS, NAMES)


def test_a_failed_call_gives_no_ids_away():
    fitted = fit(collisions={"type": "knn-cap", "cap": 5})  # 160 places, 10 of them free
    with pytest.raises(DataError, match="all 32 IDs have 5 items"):
        fitted.encode_new(VECTORS[150:], NAMES[150:])
    assert len(fitted.item_codes.items) == 150
    assert len(fitted.encode_new(VECTORS[150:160], NAMES[150:160])) == 10
