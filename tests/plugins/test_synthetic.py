"""Synthetic rows: their format, their truth, and that they are the same however they are made."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from genrec_plugins.cli import main
from genrec_plugins.synthetic import FORMATS, bayes_metrics, generate, rows, stream
from genrec_plugins.synthetic.bayes import BayesAccumulator
from genrec_plugins.synthetic.fields import AVAZU, CRITEO, Categorical
from genrec_plugins.synthetic.hashing import key_of, mix
from genrec_plugins.synthetic.planted import LATENT, MISSING, PlantedModel, sigmoid
from genrec_registry import DataError

BLOCK = rows.BLOCK


@pytest.fixture(scope="module")
def criteo(tmp_path_factory):
    """A Criteo file a little longer than a block, with the truth of each row."""
    return generate("criteo", BLOCK + 5_000, tmp_path_factory.mktemp("criteo") / "train.txt", with_truth=True)


@pytest.fixture(scope="module")
def avazu(tmp_path_factory):
    return generate("avazu", 30_000, tmp_path_factory.mktemp("avazu") / "train.csv", with_truth=True)


def _raw(done) -> pl.DataFrame:
    header = done.format == "avazu"
    frame = pl.read_csv(
        done.path, separator="," if header else "\t", has_header=header, infer_schema=False, quote_char=None
    )
    if not header:
        frame.columns = ["label", *(field.name for field in CRITEO.fields)]
    return frame


def test_criteo_rows_look_like_criteo(criteo):
    frame = _raw(criteo)
    assert frame.shape == (criteo.rows, 40)
    assert set(frame["label"].unique()) == {"0", "1"}
    for field in CRITEO.fields:
        column = frame[field.name]
        missing = getattr(field, "missing", 0.0)
        assert column.null_count() / len(column) == pytest.approx(missing, abs=0.02), field.name
        pattern = r"^[0-9a-f]{8}$" if isinstance(field, Categorical) else r"^-?[0-9]+$"
        assert column.drop_nulls().str.contains(pattern).all(), field.name
    numbers = frame["I5"].drop_nulls().cast(pl.Int64)
    assert numbers.mean() > 5 * numbers.median()  # a long tail
    assert frame["I2"].cast(pl.Int64).min() == -2


def test_avazu_rows_look_like_avazu(avazu):
    frame = _raw(avazu)
    names = (
        "id click hour C1 banner_pos site_id site_domain site_category app_id app_domain app_category device_id "
        "device_ip device_model device_type device_conn_type C14 C15 C16 C17 C18 C19 C20 C21"
    )
    assert frame.columns == names.split()
    assert frame.height == avazu.rows
    assert frame["id"].n_unique() == avazu.rows
    assert frame["id"].cast(pl.UInt64).null_count() == 0
    hours = frame["hour"].cast(pl.Int64)
    assert hours.is_sorted()
    assert (hours.min(), hours.max(), hours.n_unique()) == (14102100, 14103023, 240)
    assert frame["C20"].value_counts(normalize=True).filter(pl.col("C20") == "-1")["proportion"].item() > 0.4
    assert frame.null_count().sum_horizontal().item() == 0
    assert frame["site_id"].str.contains(r"^[0-9a-f]{8}$").all()


@pytest.mark.parametrize("name", FORMATS)
def test_click_rate_and_calibration(name, request):
    done = request.getfixturevalue(name)
    truth = pl.read_parquet(done.truth)
    assert truth["probability"].mean() == pytest.approx(FORMATS[name].ctr, abs=0.006)
    assert truth["label"].mean() == pytest.approx(truth["probability"].mean(), abs=0.01)
    high = truth.filter(pl.col("probability") > 0.5)
    assert high["label"].mean() == pytest.approx(high["probability"].mean(), abs=0.03)


@pytest.mark.parametrize("name", FORMATS)
def test_sidecar_has_the_exact_metrics_of_the_rows(name, request):
    done = request.getfixturevalue(name)
    truth = pl.read_parquet(done.truth)
    assert truth["label"].to_list() == _raw(done)["click" if name == "avazu" else "label"].cast(pl.Int8).to_list()
    facts = json.loads(done.sidecar.read_text())
    assert facts["rows"] == truth.height == done.rows
    assert facts["bayes"]["auc_method"] == "exact"
    assert facts["bayes"]["auc"] == pytest.approx(roc_auc_score(truth["label"], truth["probability"]), abs=1e-12)
    assert facts["bayes"]["logloss"] == pytest.approx(log_loss(truth["label"], truth["probability"]), abs=1e-9)
    assert 0.75 < facts["bayes"]["auc"] < 0.83
    assert facts["pairs"][0].keys() == {"first", "second", "strength"}
    assert facts["file"] == done.path.name
    assert not list(done.path.parent.glob("*.part"))


def test_same_seed_same_bytes_and_other_seed_other_rows(criteo, tmp_path):
    again = generate("criteo", criteo.rows, tmp_path / "again.txt")
    assert again.path.read_bytes() == criteo.path.read_bytes()
    assert again.bayes == criteo.bayes
    other = generate("criteo", 50, tmp_path / "other.txt", seed=1)
    assert other.path.read_bytes() != generate("criteo", 50, tmp_path / "first.txt").path.read_bytes()
    assert other.pairs == criteo.pairs  # the model is that of model_seed
    assert generate("criteo", 50, tmp_path / "model.txt", model_seed=1).pairs != criteo.pairs


def test_a_longer_criteo_file_begins_with_a_shorter(criteo, tmp_path):
    short = generate("criteo", 1_000, tmp_path / "short.txt")
    assert criteo.path.read_bytes().startswith(short.path.read_bytes())


@pytest.mark.parametrize("size", [1_024, 4_096])
def test_block_size_changes_nothing(size, criteo, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", size)
    monkeypatch.setattr(stream, "BLOCK", size)
    assert generate("criteo", 9_000, tmp_path / "small.txt").path.read_bytes() == b"".join(
        criteo.path.read_bytes().splitlines(keepends=True)[:9_000]
    )


def test_gzip_holds_the_same_rows_without_a_time_stamp(tmp_path):
    plain = generate("avazu", 500, tmp_path / "train.csv")
    packed = generate("avazu", 500, tmp_path / "train.csv.gz")
    assert gzip.decompress(packed.path.read_bytes()) == plain.path.read_bytes()
    assert packed.path.read_bytes()[4:8] == bytes(4)


def test_logits_equal_the_formula():
    """The vectorised logits against a loop over rows, fields and pairs."""
    model = PlantedModel(CRITEO, seed=3)
    source = rows.RowSource(CRITEO, seed=0, total=BLOCK)
    values = source.block(0, text=False).values
    model.calibrate(values)
    fast = model.logits(values)
    numeric = {field.name for field in CRITEO.fields if not isinstance(field, Categorical)}
    for row in range(40):
        main, latent = 0.0, {}
        for field in CRITEO.fields:
            value, key = int(values[field.name][row]), model._keys[field.name]
            weight = model.weights[field.name]
            if field.name in numeric:
                score = 0.0 if value == MISSING else value / 50.0
                main += weight * (score + 0.3 * score**2 - 0.5 * (value == MISSING))
                directions = [1 if int(mix(np.array([d], np.uint64), key)[0]) & 1 else -1 for d in range(LATENT)]
                latent[field.name] = [0 if value == MISSING else value * sign for sign in directions]
            else:
                bits = mix(np.array([value], dtype=np.int64).view(np.uint64), key)
                signed = [byte - 256 if byte > 127 else byte for byte in int(bits[0]).to_bytes(8, "little")]
                latent[field.name] = signed[:LATENT]
                main += weight * ((int(mix(bits, key)[0]) >> 56) - 127.5) / 74.0
        pair_sum = 0.0
        for pair, signs in zip(model.pairs, model._signs, strict=True):
            for d in range(LATENT):
                pair_sum += float(signs[d, 0]) * latent[pair.first][d] * latent[pair.second][d]
                assert abs(signs[d, 0]) == pair.strength
        slow = model.bias + model.main_scale * main + model.pair_scale * pair_sum
        assert fast[row] == pytest.approx(slow, abs=1e-9)


def test_a_linear_model_leaves_much_on_the_table(criteo):
    """One-hot logistic regression stays far below the best possible AUC; with the planted pairs crossed, it rises."""
    frame, truth = _raw(criteo), pl.read_parquet(criteo.truth)
    bucketed = frame.select(
        pl.col(f.name).fill_null("")
        if isinstance(f, Categorical)
        else (pl.col(f.name).cast(pl.Float64).clip(0) + 1).log().mul(2).round().cast(pl.String).fill_null("")
        for f in CRITEO.fields
    )
    crossed = bucketed.with_columns(
        pl.concat_str(pair.first, pair.second, separator="|").alias(f"cross{i}") for i, pair in enumerate(criteo.pairs)
    )
    half, scores = criteo.rows // 2, []
    for table in (bucketed, crossed):
        encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=5)
        features = encoder.fit_transform(table.to_numpy())
        model = LogisticRegression(C=0.05, max_iter=40).fit(features[:half], truth["label"][:half].to_numpy())
        scores.append(roc_auc_score(truth["label"][half:], model.predict_proba(features[half:])[:, 1]))
    best = roc_auc_score(truth["label"][half:], truth["probability"][half:])
    assert scores[0] < best - 0.08
    assert scores[0] + 0.02 < scores[1] < best


def test_zipf_ranks_cover_the_vocabulary_and_fall_off():
    uniform = np.linspace(0, 1, 200_001)[:-1]
    for exponent in (0.8, 1.0, 1.5):
        field = Categorical(name="x", vocabulary=50, exponent=exponent)
        counts = np.bincount(rows._zipf(uniform, field), minlength=50)
        assert len(counts) == 50
        assert (np.diff(counts) <= 1).all()
        expected = np.diff(np.arange(1, 52.0) ** (1 - exponent)) if exponent != 1 else np.diff(np.log(np.arange(1, 52)))
        assert counts / counts.sum() == pytest.approx(expected / expected.sum(), abs=1e-4)


def test_hashed_numbers_are_uniform_and_streams_independent():
    first = mix(np.arange(100_000, dtype=np.uint64), key_of("a"))
    second = mix(np.arange(100_000, dtype=np.uint64), key_of("b"))
    for bits in (first, second):
        assert np.bincount(bits >> np.uint64(60), minlength=16) == pytest.approx(np.full(16, 6_250), rel=0.06)
    correlation = np.corrcoef(first.astype(float), second.astype(float))[0, 1]
    assert abs(correlation) < 0.015


def test_sigmoid_does_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        assert sigmoid(np.array([-800.0, 0.0, 800.0])).tolist() == [0.0, 0.5, 1.0]


# -- Bayes metrics ----------------------------------------------------------------------------------------------------


def test_exact_auc_equals_sklearn_with_ties():
    rng = np.random.default_rng(0)
    probabilities = rng.integers(1, 20, size=3_000) / 20
    labels = rng.random(3_000) < probabilities
    found = bayes_metrics(labels, probabilities)
    assert found.auc == pytest.approx(roc_auc_score(labels, probabilities), abs=1e-12)
    assert found.logloss == pytest.approx(log_loss(labels, probabilities), abs=1e-12)
    rate = labels.mean()
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert found.normalized_entropy == pytest.approx(found.logloss / entropy)


def test_histogram_auc_stays_within_its_bound():
    rng = np.random.default_rng(1)
    probabilities = sigmoid(rng.normal(-1.2, 1.1, size=200_000))
    labels = rng.random(200_000) < probabilities
    exact = bayes_metrics(labels, probabilities)
    accumulator = BayesAccumulator(exact=False)
    for part in np.array_split(np.arange(200_000), 7):
        accumulator.update(labels[part], probabilities[part])
    coarse = accumulator.finish()
    assert coarse.auc_method == "histogram"
    assert abs(coarse.auc - exact.auc) <= coarse.auc_error_bound
    assert 0 < coarse.auc_error_bound < 1e-5
    assert coarse.logloss == pytest.approx(exact.logloss, abs=1e-12)


def test_one_class_has_no_auc():
    assert math.isnan(bayes_metrics([0, 0], [0.1, 0.2]).auc)


def test_large_files_use_the_histogram(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "EXACT_ROWS", 100)
    done = generate("avazu", 101, tmp_path / "train.csv")
    assert done.bayes.auc_method == "histogram"


# -- errors and the command -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("critoe", 10, "x"), "unknown format 'critoe', did you mean 'criteo'"),
        (("criteo", 0, "x"), "rows is 0, expected at least 1"),
        (("criteo", 10, "no/such/folder/x"), "cannot be written"),
    ],
)
def test_errors(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        generate(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_the_old_file(tmp_path):
    out = tmp_path / "train.csv"
    out.write_text("old")

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate("avazu", 10, out, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]
    assert out.read_text() == "old"


def test_command(tmp_path, capsys):
    out = tmp_path / "train.txt.gz"
    with pytest.raises(SystemExit) as caught:
        main.run(["generate", "criteo", "--rows", "300", "--out", str(out), "--with-truth", "--json"])
    assert not caught.value.code
    report = json.loads(capsys.readouterr().out)
    assert report["bayes"]["rows"] == 300
    assert report["files"] == [str(out), f"{out}.truth.json", f"{out}.truth.parquet"]
    with pytest.raises(SystemExit):
        main.run(["generate", "avazu", "-n", "300", "-o", str(tmp_path / "a.csv")])
    assert "best possible AUC 0." in capsys.readouterr().out


def test_formats_table_is_consistent():
    for layout in (CRITEO, AVAZU):
        names = [field.name for field in layout.fields]
        assert len(set(names)) == len(names)
        for field in layout.fields:
            if isinstance(field, Categorical):
                assert not field.levels or len(field.levels) == field.vocabulary
                assert math.gcd(rows._STRIDE, field.vocabulary) == 1, field.name
