"""Taobao user behaviour: 100 million actions of a million users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import polars as pl

from genrec_adapters.datasets.behaviour_base import BehaviourTable
from genrec_adapters.datasets.behaviour_configs import TaobaoConfig
from genrec_adapters.datasets.delimited import TextFormat, scan_text
from genrec_adapters.datasets.files import find_files
from genrec_adapters.datasets.row_checks import ROW, sound_rows
from genrec_registry.contracts import ColumnKind, ErrorPolicy

ACTIONS = ("pv", "cart", "fav", "buy")
# Tianchi, "User Behavior Data from Taobao for Recommendation": no header.
_NAMES = ("user_id", "item_id", "category_id", "behavior_type", "timestamp")
_LINES = TextFormat(
    label="", features=_NAMES, names=_NAMES, integers=frozenset({"timestamp"}), required=frozenset(_NAMES), row=ROW
)


class TaobaoUserBehavior(BehaviourTable):
    """Page views, carts, favourites and purchases: ``user, item, category, action, time``.

    The action is the condition, and makes the label: 1 for those of ``positive``. The item's category is known before
    it, and so is a column of the row.

    Args:
        config: see :class:`~genrec_adapters.datasets.behaviour_configs.TaobaoConfig`.

    Example::

        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        ...     _ = file.write("1,2268318,2520377,pv,1511544070\\n1,2333346,2520771,buy,1511561733\\n"), file.flush()
        ...     dataset = TaobaoUserBehavior(TaobaoConfig(path=file.name))
        ...     dataset.events().rows()
        [('1', '2268318', 1511544070, 'pv', 0), ('1', '2333346', 1511561733, 'buy', 1)]
        >>> dataset.items().rows()
        [('2268318', '', ['2520377'], '2520377'), ('2333346', '', ['2520771'], '2520771')]
    """

    def __init__(self, config: TaobaoConfig) -> None:
        super().__init__(config)
        self.config = config

    @property
    def item_side(self) -> Mapping[str, ColumnKind]:
        """The category."""
        return {"category": "string"}

    @cached_property
    def _files(self) -> list[str]:
        return find_files(self.config.path, key="dataset.path")

    def event_files(self) -> Sequence[str]:
        """The files as given."""
        return self._files

    def read_events(self, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks of actions, in file order."""
        action = pl.col("behavior_type")
        for path in self._files:
            for chunk in scan_text(path, _LINES, policy):
                known = action.is_in(ACTIONS)
                sound = sound_rows(chunk, known, policy, path=path, column="behavior_type", expected=", ".join(ACTIONS))
                yield sound.select(
                    pl.col("user_id").alias("user"),
                    pl.col("item_id").alias("item"),
                    pl.col("timestamp").alias("time"),
                    action.alias("action"),
                    pl.col("category_id").alias("category"),
                    action.is_in(self.config.positive).cast(pl.Int8).alias("label"),
                )

    @property
    def facts(self) -> Sequence[str]:
        """The category, which stands on each event."""
        return ["category"]

    def read_items(self, policy: ErrorPolicy) -> pl.DataFrame:
        """Item, no text, categories (the one), category: that of the item's first event in the order of users."""
        table = self.table(policy)
        pairs = pl.DataFrame({"code": table.item, "category": table.extra["category"]})
        first = pairs.unique("code", keep="first", maintain_order=True).sort("code")
        category = first["category"].cast(pl.String)
        return pl.DataFrame({"item": table.items.gather(first["code"]), "category": category}).select(
            "item",
            pl.lit("").alias("text"),
            pl.concat_list("category").alias("categories"),
            "category",
        )
