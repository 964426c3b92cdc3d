"""The conformance kit over every registered tokenizer, and over tokenizers that break one rule each."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec_plugins.testing import ConformanceError, tokenizer_checks, tokenizer_subject, tokenizer_suite
from genrec_plugins.tokenizers.inputs import check_catalogue, check_embeddings
from genrec_registry import Config, DataError, PluginError, Registry, TokenizerRecord

torch.set_num_threads(1)

_SMALL = {
    "rq-kmeans": {"sizes": [16, 8]},
    "rq-vae": {"sizes": [16, 8], "hidden_sizes": [16], "latent_dim": 4, "epochs": 3},
    "opq": {"sizes": [16, 8]},
    "fsq": {"levels": [[4, 3], [5]], "hidden_sizes": [16], "epochs": 3},
    "hash": {"sizes": [16, 8]},
    "random": {"sizes": [16, 8]},
}
_VARIANTS = {
    "balanced": ("rq-kmeans", {"sizes": [16, 8], "balanced": True}),
    "one-level": ("rq-kmeans", {"sizes": [16]}),
    "one-code": ("rq-kmeans", {"sizes": [1, 4]}),
    "unequal": ("rq-kmeans", {"sizes": [8, 30, 100]}),
    "pq": ("opq", {"sizes": [5, 7, 3, 2, 2], "rotation": False}),  # 5 levels do not divide the width of 12
    "no-hidden": ("rq-vae", {"sizes": [16], "hidden_sizes": [], "latent_dim": 3, "epochs": 2, "restart_below": 0}),
}

# Every tokenizer of every installed plugin; one of whose sizes nothing is known here must do with its defaults.
for _component in Registry().components("tokenizer"):
    _name = f"Test{_component.name.title().replace('-', '')}"
    globals()[_name] = tokenizer_suite(_component.qualified_name, _SMALL.get(_component.name))
for _variant, (_tokenizer, _config) in _VARIANTS.items():
    globals()[f"Test{_variant.title().replace('-', '')}"] = tokenizer_suite(_tokenizer, _config)

_GRID = np.stack(np.meshgrid(*[np.arange(3.0)] * 4), axis=-1).reshape(-1, 4).astype(np.float32)
#: a grid of half steps has many items that are exactly as far from one code as from another
TestTies = tokenizer_suite("rq-kmeans", {"sizes": [8, 4]}, embeddings=_GRID)


# -- tokenizers that break one rule each -------------------------------------------------------------------------------


class SignConfig(Config):
    """Nothing to set."""


class Sign:
    """A correct tokenizer: the signs of the first two numbers, and the item's own scale."""

    codebook_sizes: tuple[int, ...] = (2, 2)

    def __init__(self, config: SignConfig | None = None) -> None:
        self.mean = np.zeros(0)

    def fit(self, embeddings, item_ids, side=None):
        check_catalogue(embeddings, item_ids, self.codebook_sizes)
        self.mean = embeddings.mean(axis=0)

    def encode(self, embeddings, item_ids):
        check_embeddings(embeddings, item_ids, len(self.mean))
        return (embeddings[:, :2] > self.mean[:2]).astype(np.int32)

    def reconstruct(self, codes):
        vectors = np.tile(self.mean, (len(codes), 1)).astype(np.float32)
        vectors[:, :2] += codes - 0.5
        return vectors.astype(np.float32)

    def save(self, directory):
        (Path(directory) / "sign.json").write_text(json.dumps(self.mean.tolist()))

    def restore(self, directory):
        self.mean = np.array(json.loads((Path(directory) / "sign.json").read_text()), dtype=np.float32)


class Int64(Sign):
    def encode(self, embeddings, item_ids):
        return super().encode(embeddings, item_ids).astype(np.int64)


class OutOfRange(Sign):
    def encode(self, embeddings, item_ids):
        return super().encode(embeddings, item_ids) + 1


class ListSizes(Sign):
    codebook_sizes = [2, 2]  # noqa: RUF012


class InPlace(Sign):
    def fit(self, embeddings, item_ids, side=None):
        super().fit(embeddings, item_ids)
        embeddings -= self.mean


class GlobalDraw(Sign):
    def fit(self, embeddings, item_ids, side=None):
        super().fit(embeddings, item_ids)
        self.mean = self.mean + np.random.standard_normal(len(self.mean)).astype(np.float32)


class BatchMean(Sign):
    """Compares an item with its batch."""

    def encode(self, embeddings, item_ids):
        if len(embeddings):
            embeddings = embeddings - embeddings.mean(axis=0) + self.mean
        return super().encode(embeddings, item_ids)


class Position(Sign):
    """Numbers the items as they come."""

    def encode(self, embeddings, item_ids):
        codes = super().encode(embeddings, item_ids)
        codes[:, 1] = np.arange(len(codes)) % 2
        return codes


class Pickles(Sign):
    def save(self, directory):
        super().save(directory)
        (Path(directory) / "model.bin").write_bytes(pickle.dumps(self.mean))


class PicklesInZip(Sign):
    def save(self, directory):
        super().save(directory)
        torch.save({"mean": torch.from_numpy(self.mean)}, Path(directory) / "model.weights")


class PicklesInNpz(Sign):
    def save(self, directory):
        super().save(directory)
        np.savez(Path(directory) / "model.npz", names=np.array(["a", None], dtype=object))


class ForgetsMean(Sign):
    def restore(self, directory):
        super().restore(directory)
        self.mean = np.zeros_like(self.mean)


class ForgetsEverything(Sign):
    def restore(self, directory):
        pass


class OnlyKnown(Sign):
    """A table of the items of the fit."""

    def fit(self, embeddings, item_ids, side=None):
        super().fit(embeddings, item_ids)
        self.known = set(item_ids)

    def encode(self, embeddings, item_ids):
        if unknown := set(item_ids) - self.known:
            raise KeyError(min(unknown))
        return super().encode(embeddings, item_ids)


class LearnsFromNew(Sign):
    def encode(self, embeddings, item_ids):
        codes = super().encode(embeddings, item_ids)
        if "item-159" in item_ids:
            self.mean = self.mean + 1.0
        return codes


class Doubles(Sign):
    def reconstruct(self, codes):
        return super().reconstruct(codes).astype(np.float64)


class ReconstructsTogether(Sign):
    def reconstruct(self, codes):
        return super().reconstruct(codes) + np.float32(len(codes))


class Careless(Sign):
    """Checks nothing."""

    def fit(self, embeddings, item_ids, side=None):
        self.mean = embeddings.mean(axis=0) if len(embeddings) else np.zeros(2, np.float32)

    def encode(self, embeddings, item_ids):
        return (embeddings[:, :2] > self.mean[:2]).astype(np.int32)


class ValueErrors(Sign):
    def fit(self, embeddings, item_ids, side=None):
        try:
            super().fit(embeddings, item_ids)
        except DataError as error:
            raise ValueError(str(error)) from error


class NamesNoItem(Sign):
    def fit(self, embeddings, item_ids, side=None):
        if not np.isfinite(embeddings).all():
            raise DataError("an embedding is not finite")
        super().fit(embeddings, item_ids)


class AnyWidth(Sign):
    def encode(self, embeddings, item_ids):
        check_embeddings(embeddings, item_ids)
        return (embeddings[:, :2] > self.mean[:2]).astype(np.int32)


class AnyCatalogue(Sign):
    def fit(self, embeddings, item_ids, side=None):
        check_catalogue(embeddings, item_ids, ())
        self.mean = embeddings.mean(axis=0)


def run_check(name: str, component: type[Sign], directory: Path) -> None:
    check = getattr(tokenizer_checks, f"check_{name}")
    subject = tokenizer_subject(component)
    check(subject, directory) if name == "save" else check(subject)


CHECKS = ("codes", "determinism", "item_alone", "save", "new_items", "reconstruct", "errors")


@pytest.mark.parametrize("check", CHECKS)
def test_a_correct_tokenizer_passes(check, tmp_path):
    run_check(check, Sign, tmp_path)


@pytest.mark.parametrize(
    ("component", "check", "message"),
    [
        (Int64, "codes", r"int64 \(120, 2\) for 120 items, expected int32"),
        (OutOfRange, "codes", r"code 2 of level . is not in \[0, 2\)"),
        (ListSizes, "codes", "expected a tuple of positive ints"),
        (InPlace, "codes", "in place; work on a copy"),
        (GlobalDraw, "determinism", "not from the global one"),
        (BatchMean, "item_alone", r"item-\d+ has codes .* one by one.*depend on the item alone"),
        (Position, "item_alone", "depend on the item alone"),
        (Pickles, "save", "a pickle, model.bin"),
        (PicklesInZip, "save", "a pickle, model.weights"),
        (PicklesInNpz, "save", "a pickle, model.npz"),
        (ForgetsMean, "save", r"\d+ items get other codes after a reload"),
        (ForgetsEverything, "save", "restore or encode raises"),
        (OnlyKnown, "new_items", "from its embedding or its id"),
        (LearnsFromNew, "new_items", "encode must not learn"),
        (Doubles, "reconstruct", r"float64 \(160, 12\), expected float32"),
        (ReconstructsTogether, "reconstruct", "with the rows beside it"),
        (Careless, "errors", "fit on no items is accepted"),
        (ValueErrors, "errors", "fit on no items raises ValueError"),
        (NamesNoItem, "errors", "does not name the item item-5"),
        (AnyWidth, "errors", "encode of embeddings of another width is accepted"),
        (AnyCatalogue, "errors", "fit on fewer items than a codebook has codes is accepted"),
    ],
)
def test_a_broken_tokenizer_fails_with_advice(component, check, message, tmp_path):
    with pytest.raises(ConformanceError, match=f"(?s){message}"):
        run_check(check, component, tmp_path)


RECORD = TokenizerRecord(name="sign", config=SignConfig, factory=Sign, summary="Signs")

# What a plugin author writes: a record or a class of their own.
TestRecord = tokenizer_suite(RECORD)
TestFactory = tokenizer_suite(Sign)


def test_the_subject_carries_config_and_catalogue():
    assert TestRecord.subject.name == "sign"
    assert len(TestRecord.subject.item_ids) == len(TestRecord.subject.embeddings) == 160
    with pytest.raises(PluginError, match="config object"):
        tokenizer_suite(Sign, {"sizes": [2]})
    with pytest.raises(PluginError, match="did you mean 'rq-kmeans'"):
        tokenizer_suite("rq-kmean")
