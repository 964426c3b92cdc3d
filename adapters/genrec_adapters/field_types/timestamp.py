"""``timestamp``: hour, weekday, weekend and cyclic features of a moment."""

from __future__ import annotations

import math
from collections.abc import Mapping

import polars as pl

from genrec_adapters.field_types.base import Fitted, NothingToFit
from genrec_adapters.field_types.columns import number, text
from genrec_adapters.field_types.configs import TimestampConfig
from genrec_registry import DenseFeature, FieldFitter, FieldSpec, FieldState, SparseFeature
from genrec_registry.contracts import ColumnKind

_NUM_EMBEDDINGS = {"hour": 25, "weekday": 8, "weekend": 3}
_YEAR_1_MS, _YEAR_10000_MS = -62_135_596_800_000, 253_402_300_800_000
_SECONDS_A_DAY = 86_400


class Timestamp:
    """Calendar parts of a moment: implements ``FieldType``.

    Features are called ``{name}_{part}``. Ids: 0 is missing or unreadable; hours 0 to 23 have ids 1 to 24; Monday to
    Sunday have 1 to 7; a working day has 1, Saturday and Sunday have 2. ``cyclic`` has four floats: sine and cosine of
    the time of day, then of the time of the week from Monday 0:00; all four are zero if the moment is missing.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.TimestampConfig`.

    Example::

        >>> field = Timestamp("time", TimestampConfig(column="hour", format="yymmddhh"))
        >>> rows = pl.DataFrame({"hour": ["14102123", "14102500", "x"]})
        >>> rows.select(field.fitter().finish().encode()).rows()
        [(24, 2, 1), (1, 6, 2), (0, 0, 0)]
    """

    def __init__(self, name: str, config: TimestampConfig) -> None:
        self.name = name
        self.config = config
        self.column = config.column or name

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """The one column."""
        return {self.column: "number" if self.config.format.startswith("epoch") else "string"}

    def fitter(self) -> FieldFitter:
        """Learns nothing."""
        return NothingToFit(self.restore)

    def restore(self, state: FieldState) -> Fitted:
        """The field; it has no state."""
        moment = self._moment()
        names = [part for part in self.config.parts if part != "cyclic"]
        expressions = [_id(moment, part) for part in names]
        dense: tuple[DenseFeature, ...] = ()
        if "cyclic" in self.config.parts:
            dense = (DenseFeature(name=f"{self.name}_cyclic", width=4),)
            expressions.append(_cyclic(moment))
        sparse = tuple(
            SparseFeature(name=f"{self.name}_{part}", num_embeddings=_NUM_EMBEDDINGS[part]) for part in names
        )
        return Fitted(
            spec=FieldSpec(name=self.name, type="timestamp", sparse=sparse, dense=dense),
            expressions=tuple(expressions),
            field_state=state,
        )

    def _moment(self) -> pl.Expr:
        """Local wall clock as Datetime; null if missing, unreadable or outside the years 1 to 9999."""
        if self.config.format == "yymmddhh":
            # A column of numbers has lost the zero of the years 2000 to 2009; the parser wants minutes.
            return (text(self.column).str.zfill(8) + "00").str.to_datetime("%y%m%d%H%M", strict=False)
        if self.config.format == "iso":
            clock = text(self.column).str.slice(0, 19).str.replace("T", " ", literal=True)
            return pl.coalesce(
                clock.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False),
                clock.str.to_datetime("%Y-%m-%d %H:%M", strict=False),
                clock.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
            )
        factor = 1000 if self.config.format == "epoch-seconds" else 1
        local = (number(self.column) * factor + self.config.utc_offset_hours * 3_600_000).floor()
        valid = pl.when((local >= _YEAR_1_MS) & (local < _YEAR_10000_MS)).then(local)
        return valid.cast(pl.Int64, strict=False).cast(pl.Datetime("ms"))


def _id(moment: pl.Expr, part: str) -> pl.Expr:
    if part == "hour":
        value = moment.dt.hour().cast(pl.Int32) + 1
    elif part == "weekday":
        value = moment.dt.weekday().cast(pl.Int32)
    else:
        value = (moment.dt.weekday() > 5).cast(pl.Int32) + 1
    return value.fill_null(0)


def _cyclic(moment: pl.Expr) -> pl.Expr:
    day = (moment.dt.hour().cast(pl.Float64) * 3600 + moment.dt.minute() * 60.0 + moment.dt.second()) / _SECONDS_A_DAY
    week = (moment.dt.weekday() - 1 + day) / 7
    waves = [function(turn) for turn in (day * math.tau, week * math.tau) for function in (pl.Expr.sin, pl.Expr.cos)]
    return pl.concat_arr([wave.cast(pl.Float32).fill_null(0.0) for wave in waves])
