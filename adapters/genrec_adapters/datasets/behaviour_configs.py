"""Configs of the datasets of users' events. Imports neither polars nor torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from genrec_adapters.datasets.configs import Paths
from genrec_registry.config import Config
from genrec_registry.sizes import Length

_ONE_OR_MANY = "a file, a folder, a glob pattern, or a list of these"
KuaiRandLabel = Literal["is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward"]
TaobaoAction = Literal["pv", "cart", "fav", "buy"]


class BehaviourConfig(Config):
    """How events become rows; what all datasets of events share.

    Example::

        >>> BehaviourConfig(max_history=20).history
        'all'
    """

    max_history: Length = Field(default=50, description="events listed in a row's history: the most recent ones")
    history: Literal["all", "positive"] = Field(
        default="all", description="which earlier events a row lists: all of them, or those with label 1"
    )
    history_side: tuple[str, ...] = Field(
        default=(),
        description="text columns of the items to list beside history_item, as history_<column>: what the items were",
    )
    negatives: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="rows with label 0 added for each event with label 1: items the user lacks",
    )
    negative_sampling: Literal["uniform", "popularity"] = Field(
        default="uniform",
        description="uniform: any item alike; popularity: as often as it occurs among all users' earlier events",
    )
    seed: int = Field(default=1, ge=0, lt=2**63, description="of the sampled negatives; another seed, other items")
    leave_one_out: bool = Field(
        default=False,
        description="bind each user's last event to test and the one before to valid, those with three events or more; "
        "for sources without a clock",
    )
    user_share: float = Field(
        default=1.0, gt=0, le=1, description="keep this share of the users, by a hash of their id; 1 keeps all"
    )


class RatingsConfig(BehaviourConfig):
    """What datasets of ratings share."""

    like_at: float = Field(default=4.0, description="a rating of this or more is a like: label 1")


class MovieLensConfig(RatingsConfig):
    """MovieLens as downloaded: 100K (also as RecBole's atomic files), 1M, 10M, 20M, 25M, 32M."""

    path: str = Field(description="the unpacked folder, or its file of ratings; items and users are read beside it")


class AmazonReviewsConfig(RatingsConfig):
    """Amazon reviews: user -> items JSON, reviews as JSON lines, or MiniOneRec's CSVs."""

    path: Paths | None = Field(default=None, description=f"events that the run splits: {_ONE_OR_MANY}")
    train: Paths | None = Field(default=None, description="MiniOneRec: the CSV of training rows, where there is one")
    valid: Paths | None = Field(default=None, description="MiniOneRec: the CSV of validation rows")
    test: Paths | None = Field(default=None, description="MiniOneRec: the CSV of test rows")
    meta: Paths | None = Field(
        default=None, description=f"the items' content, JSON lines or one JSON object: {_ONE_OR_MANY}"
    )

    @property
    def bound(self) -> bool:
        """Whether the files themselves carry the split."""
        return self.path is None

    @model_validator(mode="after")
    def _one_style(self) -> Self:
        parts = [self.train, self.valid, self.test]
        if self.path is not None and any(parts):
            raise ValueError("found both 'path' and 'train/valid/test', expected one of the two; remove the other")
        if self.path is None and not (self.valid and self.test):
            raise ValueError(
                "found neither 'path' nor 'valid' and 'test', expected the events to read; set dataset.path, or "
                "dataset.valid and dataset.test for MiniOneRec's published split"
            )
        return self


class TaobaoConfig(BehaviourConfig):
    """Taobao user behaviour (Tianchi): ``UserBehavior.csv``."""

    path: Paths = Field(description=f"UserBehavior.csv, plain or gzipped: {_ONE_OR_MANY}")
    positive: tuple[TaobaoAction, ...] = Field(
        default=("buy", "cart", "fav"), min_length=1, description="actions with label 1; the others have label 0"
    )


class KuaiRandConfig(BehaviourConfig):
    """KuaiRand (Pure, 1K, 27K): the ``data`` folder as unpacked, or its log files."""

    path: Paths = Field(description=f"the folder with the log_*.csv, or log files: {_ONE_OR_MANY}")
    label: KuaiRandLabel = Field(default="is_click", description="the feedback that is the label")
    random_exposure: bool = Field(
        default=False, description="of a folder, read log_random_* too: videos shown at random, in the same weeks"
    )
