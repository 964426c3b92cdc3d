"""The tokenizers: each against the plain rule it stands for, and what it is chosen for."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genrec_plugins.tokenizers.baselines import HashCodes, RandomCodes
from genrec_plugins.tokenizers.configs import (
    HashConfig,
    OpqConfig,
    RandomConfig,
    RqKmeansConfig,
)
from genrec_plugins.tokenizers.fitted import encode_chunks
from genrec_plugins.tokenizers.kmeans import assign_priced, fit_balanced_kmeans, fit_kmeans
from genrec_plugins.tokenizers.nearest import nearest
from genrec_plugins.tokenizers.opq import Opq
from genrec_plugins.tokenizers.rq_kmeans import RqKmeans
from genrec_registry import ConfigError, DataError, ModelError, default_registry, parse_component
from tests.plugins.tokenizer_cases import clusters, error, items, perplexity, usage

torch.set_num_threads(1)
faiss.omp_set_num_threads(1)


# -- the nearest code --------------------------------------------------------------------------------------------------

_HALVES = st.integers(-4, 4).map(lambda number: number / 2)


@settings(max_examples=60, deadline=None)
@given(
    vectors=hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(3)), elements=_HALVES),
    codes=hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(3)), elements=_HALVES),
)
def test_nearest_is_the_first_of_the_nearest_codes(vectors, codes):
    distances = np.square(vectors[:, None].astype(np.float64) - codes[None]).sum(axis=2)
    assert nearest(vectors, codes).tolist() == distances.argmin(axis=1).tolist()
    assert [nearest(row[None], codes)[0] for row in vectors] == distances.argmin(axis=1).tolist()


def test_nearest_decides_what_float32_cannot_tell():
    """Two codes whose distances differ by less than rounding: alone and among others, the truly nearer one."""
    generator = np.random.default_rng(0)
    vectors = 100.0 * generator.standard_normal((3000, 96)).astype(np.float32)
    step = generator.standard_normal((3000, 96)).astype(np.float32)
    codes = generator.standard_normal((2, 96)).astype(np.float32)
    middle = (codes[0] + codes[1]) / 2
    across = (codes[1] - codes[0]) / np.linalg.norm(codes[1] - codes[0])
    vectors = middle + vectors - (vectors @ across)[:, None] * across + 1e-6 * step  # all but half way
    expected = np.square(vectors[:, None].astype(np.float64) - codes[None]).sum(axis=2).argmin(axis=1)
    assert 0.3 < expected.mean() < 0.7
    assert (faiss.knn(vectors, codes, 1)[1][:, 0] != expected).any()  # so the second look is needed
    assert (nearest(vectors, codes) == expected).all()
    assert (np.concatenate([nearest(row[None], codes) for row in vectors]) == expected).all()


# -- k-means and RQ-KMeans ---------------------------------------------------------------------------------------------


def test_rq_kmeans_is_faiss_kmeans_on_residuals():
    vectors = clusters()
    config = RqKmeansConfig(sizes=(32, 16, 8), tolerance=0.0, iterations=7, seed=3)
    tokenizer = RqKmeans(config)
    tokenizer.fit(vectors, items(len(vectors)))
    residual, by_hand = vectors, []
    for level, size in enumerate(config.sizes):
        kmeans = faiss.Kmeans(16, size, niter=7, seed=3 + level, min_points_per_centroid=1)
        kmeans.train(residual)
        _, found = kmeans.index.search(residual, 1)
        by_hand.append(found[:, 0])
        residual = residual - kmeans.centroids[found[:, 0]]
    codes = tokenizer.encode(vectors, items(len(vectors)))
    assert (codes == np.stack(by_hand, axis=1)).mean() > 0.999  # where two codes are equally near, faiss takes any
    np.testing.assert_allclose(vectors - tokenizer.reconstruct(codes), residual, atol=1e-4)


def test_every_level_lowers_the_error_and_seeds_differ():
    vectors, names = clusters(), items(2000)
    errors = []
    for levels in (1, 2, 3):
        tokenizer = RqKmeans(RqKmeansConfig(sizes=(16,) * levels))
        tokenizer.fit(vectors, names)
        errors.append(error(tokenizer.reconstruct(tokenizer.encode(vectors, names)), vectors))
    assert errors[0] > 1.1 * errors[1] > 1.2 * errors[2]
    other = RqKmeans(RqKmeansConfig(sizes=(16, 16, 16), seed=5))
    other.fit(vectors, names)
    assert (other.encode(vectors, names) != tokenizer.encode(vectors, names)).any()


def test_stopping_early_costs_little():
    vectors = clusters(5000)
    full, early = (fit_kmeans(vectors, 64, tolerance=tolerance) for tolerance in (0.0, 1e-3))
    errors = [error(codes[nearest(vectors, codes)], vectors) for codes in (full, early)]
    assert errors[0] < errors[1] < 1.02 * errors[0]


def test_balanced_codes_are_used_evenly_by_old_and_new_items():
    vectors = clusters(6000)
    old, new = vectors[:3000], vectors[3000:]
    codes, prices = fit_balanced_kmeans(old, 32)
    plain = fit_kmeans(old, 32)
    share = 3000 / 32
    counts = np.bincount(assign_priced(old, codes, prices), minlength=32)
    assert counts.max() < 1.15 * share
    assert np.bincount(nearest(old, plain), minlength=32).max() > 1.8 * share
    assert np.bincount(assign_priced(new, codes, prices), minlength=32).max() < 1.5 * share
    # Balance has a price in error, and it is far below that of an arbitrary even split.
    balanced = error(codes[assign_priced(old, codes, prices)], old)
    assert balanced < 1.35 * error(plain[nearest(old, plain)], old)


def test_balanced_assignment_is_close_to_the_best_one():
    """Against the exact solution of the transport problem, for the same codes."""
    from scipy.optimize import linear_sum_assignment

    vectors = clusters(480, width=6)
    codes, prices = fit_balanced_kmeans(vectors, 12)
    costs = np.square(vectors[:, None] - codes[None]).sum(axis=2)
    rows, seats = linear_sum_assignment(np.repeat(costs, 480 // 12, axis=1))
    best = costs[rows, seats // (480 // 12)].mean()
    found = costs[rows, assign_priced(vectors, codes, prices)].mean()
    assert found < 1.02 * best  # it may even be below: it is not held to the last item


def test_balanced_levels_of_rq_kmeans():
    vectors, names = clusters(), items(2000)
    found = {}
    for balanced in (False, True):
        tokenizer = RqKmeans(RqKmeansConfig(sizes=(32, 32, 32), balanced=balanced))
        tokenizer.fit(vectors, names)
        codes = tokenizer.encode(vectors, names)
        found[balanced] = [perplexity(codes[:, level], 32) for level in range(3)]
    assert min(found[True]) > 31.5
    assert all(even > plain for even, plain in zip(found[True], found[False], strict=True))


def test_items_that_are_all_equal_are_no_failure():
    for config in (RqKmeansConfig(sizes=(4, 4)), RqKmeansConfig(sizes=(4, 4), balanced=True)):
        tokenizer = RqKmeans(config)
        tokenizer.fit(np.ones((50, 3), np.float32), items(50))
        codes = tokenizer.encode(np.ones((50, 3), np.float32), items(50))
        assert len(np.unique(codes, axis=0)) == 1
        assert np.allclose(tokenizer.reconstruct(codes), 1.0, atol=1e-2)


# -- OPQ ---------------------------------------------------------------------------------------------------------------


def test_the_rotation_is_a_rotation_and_helps():
    generator = np.random.default_rng(0)
    mixed = (generator.standard_normal((3000, 12)) * np.geomspace(4, 0.1, 12)).astype(np.float32)
    names, errors = items(3000), []
    for rotation in (True, False):
        tokenizer = Opq(OpqConfig(sizes=(16, 16, 16), rotation=rotation))
        tokenizer.fit(mixed, names)
        errors.append(error(tokenizer.reconstruct(tokenizer.encode(mixed, names)), mixed))
        if rotation:
            matrix = tokenizer.arrays["rotation"]
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(12), atol=1e-4)
    assert errors[0] < 0.8 * errors[1]


# -- baselines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [HashCodes(HashConfig(sizes=(16, 8))), RandomCodes(RandomConfig(sizes=(16, 8)))])
def test_baselines_know_the_id_alone_and_spread_evenly(tokenizer):
    generator, names = np.random.default_rng(0), items(4000)
    vectors = generator.standard_normal((4000, 2)).astype(np.float32)
    tokenizer.fit(vectors, names)
    codes = tokenizer.encode(vectors, names)
    assert (tokenizer.encode(-vectors, names) == codes).all()
    pairs = np.bincount(codes[:, 0] * 8 + codes[:, 1], minlength=128)
    assert np.square(pairs - 4000 / 128).sum() / (4000 / 128) < 190  # chi-squared, 127 degrees: 190 is p < 0.001
    assert tokenizer.reconstruct(codes) is None


def test_random_codes_depend_on_the_seed():
    vectors, found = np.zeros((100, 1), np.float32), []
    for seed in (0, 1):
        tokenizer = RandomCodes(RandomConfig(sizes=(16, 16), seed=seed))
        tokenizer.fit(vectors, items(100))
        found.append(tokenizer.encode(vectors, items(100)))
    assert (found[0] != found[1]).mean() > 0.8
    assert (found[0][:, 0] != found[0][:, 1]).mean() > 0.8


def test_more_paths_than_a_hash_tells_apart_are_refused():
    with pytest.raises(ConfigError, match="more than a 64-bit hash"):
        parse_component(default_registry(), "tokenizer", {"type": "hash", "sizes": [65536] * 4})


# -- all of them -------------------------------------------------------------------------------------------------------


def test_encoding_streams(tmp_path):
    rows, width = 60_000, 64
    path = tmp_path / "embeddings.npy"
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
    for start in range(0, rows, 10_000):
        mapped[start : start + 10_000] = clusters(10_000, width, seed=start)
    mapped.flush()
    tokenizer, names = RqKmeans(RqKmeansConfig(sizes=(16, 16))), items(rows)
    tokenizer.fit(np.array(mapped[:2000]), names[:2000])
    embeddings = np.load(path, mmap_mode="r")
    tokenizer.encode(embeddings[:100], names[:100])
    tracemalloc.start()
    streamed = [codes[:, 0].sum() for codes in encode_chunks(tokenizer, embeddings, names, rows=2000)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * rows * width * 4
    assert sum(streamed) == tokenizer.encode(embeddings, names)[:, 0].sum()


def test_a_saved_tokenizer_of_another_config_is_refused(tmp_path):
    tokenizer = RqKmeans(RqKmeansConfig(sizes=(8, 4)))
    with pytest.raises(ModelError, match="not fitted"):
        tokenizer.save(str(tmp_path))
    tokenizer.fit(clusters(50), items(50))
    tokenizer.save(str(tmp_path))
    for other in (RqKmeans(RqKmeansConfig(sizes=(8, 5))), Opq(OpqConfig(sizes=(8, 4)))):
        with pytest.raises(DataError, match="holds arrays of shapes"):
            other.restore(str(tmp_path))
    (tmp_path / "tokenizer.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match="is no saved tokenizer"):
        tokenizer.restore(str(tmp_path))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_numbers_that_cannot_be_compared_name_their_item(bad):
    vectors = clusters(50)
    vectors[7, 3] = bad
    with pytest.raises(DataError, match=r"item 'item-7': its embedding holds .* in column 3"):
        RqKmeans(RqKmeansConfig(sizes=(4,))).fit(vectors, items(50))


def test_encoding_needs_no_torch(tmp_path):
    """A service that gives new items their IDs does not pay for torch."""
    code = (
        "import sys, numpy as np\n"
        "from genrec_plugins.tokenizers.fitted import fit_tokenizer\n"
        "vectors = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)\n"
        "for name in ('rq-kmeans', 'opq', 'hash'):\n"
        "    fit_tokenizer({'type': name, 'sizes': [8, 4]}, vectors, [str(row) for row in range(50)])\n"
        "from genrec_plugins.tokenizers import rq_vae, fsq\n"
        "print('torch' in sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout.split() == ["False"]


def test_the_speed_command_compares_like_with_like():
    import typer
    from typer.testing import CliRunner

    from genrec_plugins.benchmarks import tokenizer_speed

    app = typer.Typer()
    app.command()(tokenizer_speed.main)
    small = "--items 400 --width 8 --levels 2 --size 16 --iterations 5 --repeats 2 --stream 900 --rows 300 --json"
    result = CliRunner().invoke(app, [*small.split(), "--balanced"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    hand, same, ours, balanced = found["fit"]
    assert same["error"] == pytest.approx(hand["error"], rel=1e-3)  # the same codebooks, found the same way
    assert hand["error"] <= 1.01 * ours["error"] < 1.5 * balanced["error"]
    assert hand["ratio"] == hand["least"] == hand["most"] == 1.0
    assert [row["tokenizer"] for row in found["encode"]] == list(tokenizer_speed.STREAMED)
    assert all(row["items/s"] > 0 for row in found["encode"])


# -- real titles -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def office(amazon_data: Path) -> np.ndarray:
    """TF-IDF + SVD of the titles of Office Products."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    found = json.loads(gzip.decompress((amazon_data / "office_products.item.json.gz").read_bytes()))
    words = TfidfVectorizer(min_df=2, sublinear_tf=True).fit_transform([item["title"] for item in found.values()])
    return TruncatedSVD(64, random_state=0).fit_transform(words).astype(np.float32)


def test_office_titles_use_the_codebooks(office):
    names, sizes = items(len(office)), (128, 128)
    found = {}
    for name, options in {
        "rq-kmeans": {},
        "balanced": {"balanced": True},
        "rq-vae": {"epochs": 25, "hidden_sizes": [64], "latent_dim": 16},
    }.items():
        config = {"type": "rq-kmeans" if name == "balanced" else name, "sizes": sizes, **options}
        tokenizer = default_registry().create("tokenizer", parse_component(default_registry(), "tokenizer", config))
        tokenizer.fit(office, names)
        codes = tokenizer.encode(office, names)
        found[name] = [perplexity(codes[:, level], 128) for level in range(2)]
        assert min(usage(codes, sizes)) > 0.95 * 128
        assert error(tokenizer.reconstruct(codes), office) < 0.6 * error(office.mean(axis=0), office)
    assert min(found["balanced"]) > 120
    assert min(found["rq-vae"]) > 0.5 * min(found["rq-kmeans"])
