"""The files of the chain of ``genrec lum demo``: tokenizer, pre-trainings, and the rankers that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Ranker:
    """What a ranker knows of its user, beside FAT over item, year and genres.

    Args:
        encoder: over the row's history; None for no history.
        lums: pre-trained LUMs whose joint knowledge is a field.
        warm_start: whether the encoder begins at a pre-training, and stays there or not.
    """

    encoder: str | None = None
    lums: int = 0
    warm_start: Literal["frozen", "tuned"] | None = None


RANKERS: dict[str, Ranker] = {
    "fat": Ranker(),
    "fat+mean-pool": Ranker(encoder="mean-pool"),
    "fat+din": Ranker(encoder="din"),
    "fat+sasrec": Ranker(encoder="sasrec"),
    "fat+hstu": Ranker(encoder="hstu"),
    "fat+lum": Ranker(lums=1),
    "fat+3lum": Ranker(lums=3),
    "fat+mean-pool+lum": Ranker(encoder="mean-pool", lums=1),
    "fat+mean-pool+3lum": Ranker(encoder="mean-pool", lums=3),
    "fat+din+lum": Ranker(encoder="din", lums=1),
    "fat+lum-fresh": Ranker(encoder="lum"),
    "fat+lum-tuned": Ranker(encoder="lum", warm_start="tuned"),
    "fat+lum-frozen": Ranker(encoder="lum", warm_start="frozen"),
}
#: learning rates of the rankers; validation rows pick one for each model and seed
RATES: dict[str, dict[str, float]] = {
    "fast": {"embedding_lr": 0.05, "dense_lr": 1e-3},
    "slow": {"embedding_lr": 0.02, "dense_lr": 5e-4},
}


def lum_config(data: str, codes: str, seed: int, epochs: int) -> dict[str, Any]:
    """The pre-training file of the chain: InfoNCE and condition contrast, on the first 80 % of the time.

    Args:
        data: the MovieLens folder.
        codes: the tokenizer's directory.
        seed: of weights and order.
        epochs: passes over the training events.
    """
    return {
        "seed": seed,
        "dataset": {"type": "movielens", "path": data},
        "split": {"type": "time"},
        "items": {"features": ["categories", "year"], "codes": codes},
        "encoder": {"type": "lum", "hidden": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.3},
        "embedding_dim": 64,
        "max_length": 200,
        "objective": {"type": "info-nce", "temperature": 0.1, "full": True, "condition_contrast": 5.0},
        "evaluation": {"conditions": {"action": "like"}},
        "train": {
            "epochs": epochs,
            "max_events": 1024,
            "event_dropout": 0.6,
            "evaluate_every": epochs,
            "early_stop_patience": 0,
        },
    }


#: LUM as the encoder inside a ranker, where it is computed for every row
SMALL_LUM: dict[str, Any] = {"type": "lum", "hidden": 32, "num_layers": 1, "num_heads": 2, "dropout": 0.2}
#: events of a row that an encoder inside the ranker sees
ENCODER_EVENTS = 50


def encoder_config(data: str, seed: int, epochs: int) -> dict[str, Any]:
    """The pre-training file of the encoder that a ranker begins at.

    Args:
        data: the MovieLens folder.
        seed: of weights and order.
        epochs: passes over the training events.
    """
    config = lum_config(data, "", seed, epochs)
    return config | {
        "items": {},
        "encoder": SMALL_LUM,
        "embedding_dim": SMALL_LUM["hidden"],
        "max_length": ENCODER_EVENTS,
        "train": config["train"] | {"event_dropout": 0.4},
    }


def generative_config(data: str, codes: str, seed: int, epochs: int) -> dict[str, Any]:
    """The pre-training file of the generative LUM over the tokenizer's codes.

    Args:
        data: the MovieLens folder.
        codes: the tokenizer's directory.
        seed: of weights and order.
        epochs: passes over the training events.
    """
    return {
        **{key: value for key, value in lum_config(data, codes, seed, epochs).items() if key != "encoder"},
        "items": {},
        "objective": {"type": "semantic-id", "codes": codes, "hidden": 64, "layers": 2, "heads": 2, "dropout": 0.2},
        "evaluation": {"conditions": {"action": "like"}, "max_valid": 500},
    }


def ranker_config(
    data: str, ranker: Ranker, seed: int, rates: dict[str, float], *, store: str = "", pretrained: str = ""
) -> dict[str, Any]:
    """The run file of one ranker; all share fields, FAT, over arch and number of passes.

    Args:
        data: the MovieLens folder.
        ranker: what it knows.
        seed: of weights and order.
        rates: learning rates.
        store: the knowledge store, where ``ranker.lums``.
        pretrained: the run that the encoder begins at, where ``ranker.warm_start``.
    """
    fields: dict[str, Any] = {"item": "categorical", "year": "categorical", "genres": {"type": "multi-hot"}}
    model: dict[str, Any] = {"embedding_dim": 16, "interaction": "fat", "over_arch": [64], "dropout": 0.3}
    train: dict[str, Any] = {"preset": "torchrec", "batch_size": 512, "epochs": 3, **rates}
    if ranker.encoder:
        history = {"type": "behaviour", "item": "item", "history": "history_item", "conditions": ["history_action"]}
        fields["behaviour"] = history
        model["encoder"] = ranker.encoder
    if ranker.encoder == "lum":
        fields["behaviour"]["max_length"] = ENCODER_EVENTS
        model |= {"encoder": SMALL_LUM, "encoder_dim": SMALL_LUM["hidden"]}
    if ranker.lums:
        fields["knowledge"] = {"type": "lum-knowledge", "store": store}
    if ranker.warm_start:
        train["warm_start"] = {"encoder": pretrained, "freeze": ranker.warm_start == "frozen"}
    return {
        "seed": seed,
        "dataset": {"type": "movielens", "path": data},
        "split": {"type": "time"},
        "fields": fields,
        "model": model,
        "train": train,
    }


def tokenizer_config(data: str, items: int) -> dict[str, Any]:
    """The tokenizer's file: balanced residual k-means over text and the co-occurrence of training events.

    Args:
        data: the MovieLens folder.
        items: of the catalogue; 50 or more a code of the first level, and not more than 32 codes.
    """
    codes = max(2, min(32, items // 50))
    dim = min(32, max(2, items // 4))
    return {
        "dataset": {"type": "movielens", "path": data},
        "split": {"type": "time"},
        "content": [{"type": "tfidf", "dim": dim}, {"type": "co-occurrence", "dim": dim}],
        "tokenizer": {"type": "rq-kmeans", "sizes": [codes] * 3, "balanced": True},
        "collisions": "suffix",
    }
