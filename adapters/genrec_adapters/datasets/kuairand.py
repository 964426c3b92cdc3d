"""KuaiRand: videos shown in the feeds of Kuaishou, and what users did with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import polars as pl

from genrec_adapters.datasets.behaviour_base import BehaviourTable
from genrec_adapters.datasets.behaviour_configs import KuaiRandConfig
from genrec_adapters.datasets.delimited import TextFormat, scan_text
from genrec_adapters.datasets.files import find_files, natural_key
from genrec_adapters.datasets.row_checks import ROW, sound_rows
from genrec_registry.contracts import ColumnKind, ErrorPolicy
from genrec_registry.errors import DataError

# From the rarest to the most common: an event's action is the first of these that happened, or "skip".
_SIGNALS = ("is_hate", "is_forward", "is_comment", "is_follow", "is_like", "long_view", "is_click")
_LOG = TextFormat(
    label="",
    features=("user_id", "video_id", "time_ms", *_SIGNALS, "tab"),
    integers=frozenset({"time_ms", *_SIGNALS}),
    required=frozenset({"user_id", "video_id", "time_ms", *_SIGNALS}),
    quote='"',
    row=ROW,
)
_VIDEO = ("author_id", "video_type", "upload_dt", "upload_type", "video_duration", "music_id", "music_type", "tag")
_VIDEOS = TextFormat(label="", features=("video_id", *_VIDEO), quote='"', required=frozenset({"video_id"}))
_USER: Mapping[str, ColumnKind] = {
    "user_active_degree": "string",
    "is_lowactive_period": "string",
    "is_live_streamer": "string",
    "is_video_author": "string",
    "follow_user_num_range": "string",
    "fans_user_num_range": "string",
    "friend_user_num_range": "string",
    "register_days_range": "string",
    **{f"onehot_feat{index}": "string" for index in range(18)},
}
_USERS = TextFormat(label="", features=("user_id", *_USER), quote='"', required=frozenset({"user_id"}))


class KuaiRand(BehaviourTable):
    """Exposures with the feedback of ``log_*.csv``, and the videos' and users' features beside them.

    The label is one of the feedback signals. Conditions are ``action`` (the strongest signal, ``skip`` where there was
    none) and ``tab`` (the page the video was shown on), which is known before the outcome and so is a column of the
    row as well. The statistics of videos are not read: they were counted over the whole period, its end included.

    Args:
        config: see :class:`~genrec_adapters.datasets.behaviour_configs.KuaiRandConfig`.

    Example::

        >>> KuaiRand(KuaiRandConfig(path="KuaiRand-Pure/data", label="long_view")).conditions
        ('action', 'tab')
    """

    def __init__(self, config: KuaiRandConfig) -> None:
        super().__init__(config)
        self.config = config

    @cached_property
    def _files(self) -> list[str]:
        path = self.config.path
        folder = Path(path).expanduser() if isinstance(path, str) else None
        if folder is None or not folder.is_dir():
            return find_files(path, key="dataset.path")
        patterns = ["log_standard_*.csv*", *(["log_random_*.csv*"] if self.config.random_exposure else [])]
        found = [str(file) for pattern in patterns for file in folder.glob(pattern)]
        if not found:
            raise DataError(
                f"{path}: has no log_standard_*.csv, expected the folder 'data' of the unpacked KuaiRand; mend "
                "dataset.path"
            )
        return sorted(found, key=natural_key)

    @cached_property
    def _beside(self) -> tuple[list[str], list[str]]:
        """The files of videos and of users in the logs' folder; several where 27K is in parts."""
        folder = Path(self._files[0]).parent
        videos, users = (
            sorted((str(file) for file in folder.glob(pattern)), key=natural_key)
            for pattern in ("video_features_basic*.csv*", "user_features*.csv*")
        )
        return videos, users

    @property
    def conditions(self) -> tuple[str, ...]:
        """Action and tab."""
        return ("action", "tab")

    @property
    def context(self) -> Mapping[str, ColumnKind]:
        """The tab."""
        return {"tab": "string"}

    @property
    def item_side(self) -> Mapping[str, ColumnKind]:
        """Author, kind, upload date and kind, duration (milliseconds), music and tags, where the file is there."""
        side: dict[str, ColumnKind] = dict.fromkeys(_VIDEO[:-1], "string")
        return {**side, "video_duration": "number", "tags": "list"} if self._beside[0] else {}

    @property
    def user_side(self) -> Mapping[str, ColumnKind]:
        """Activity, ranges of counts, and the eighteen encrypted features, where the file is there."""
        return _USER if self._beside[1] else {}

    categories = "tags"

    def event_files(self) -> Sequence[str]:
        """The log files, in order of their names."""
        return self._files

    def side_files(self) -> Sequence[str]:
        """The files of videos and users beside them."""
        return [*self._beside[0], *self._beside[1]]

    def read_events(self, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks of exposures, in file order."""
        action = pl.coalesce(
            *(pl.when(pl.col(name) == 1).then(pl.lit(name.removeprefix("is_"))) for name in _SIGNALS), pl.lit("skip")
        )
        label = self.config.label
        for path in self._files:
            for chunk in scan_text(path, _LOG, policy):
                good = pl.col(label).is_in([0, 1])
                sound = sound_rows(chunk, good, policy, path=path, column=label, expected="0 or 1")
                yield sound.select(
                    pl.col("user_id").alias("user"),
                    pl.col("video_id").alias("item"),
                    (pl.col("time_ms") // 1000).alias("time"),
                    action.alias("action"),
                    pl.col("tab").fill_null(""),
                    pl.col(label).cast(pl.Int8).alias("label"),
                )

    def read_items(self, policy: ErrorPolicy) -> pl.DataFrame:
        """Item, no text, categories (the tags), and the videos' features as text."""
        files = self._beside[0]
        if not files:
            return super().read_items(policy)
        frame = pl.concat([chunk for path in files for chunk in scan_text(path, _VIDEOS, policy)])
        tags = pl.col("tag").fill_null("").str.split(",").list.eval(pl.element().filter(pl.element() != ""))
        return frame.select(
            pl.col("video_id").alias("item"), pl.lit("").alias("text"), tags.alias("categories"), *_VIDEO[:-1]
        )

    def read_users(self, policy: ErrorPolicy) -> pl.DataFrame:
        """User and the users' features as text."""
        files = self._beside[1]
        if not files:
            return super().read_users(policy)
        frame = pl.concat([chunk for path in files for chunk in scan_text(path, _USERS, policy)])
        return frame.rename({"user_id": "user"})
