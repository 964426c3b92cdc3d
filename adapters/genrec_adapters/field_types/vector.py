"""``vector``: a list column of a fixed number of floats, such as a pre-trained embedding."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from genrec_adapters.field_types.base import Fitted, NothingToFit
from genrec_adapters.field_types.configs import VectorConfig
from genrec_registry import DenseFeature, FieldFitter, FieldSpec, FieldState
from genrec_registry.contracts import ColumnKind


class Vector:
    """A vector of floats: implements ``FieldType``.

    A row that is missing or has another length than ``width`` is the zero vector; a component that is missing or not
    finite is zero.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.VectorConfig`.

    Example::

        >>> field = Vector("image", VectorConfig(width=2, normalise=True))
        >>> rows = pl.DataFrame({"image": [[3.0, 4.0], [1.0], [0.0, None]]})
        >>> rows.select(field.fitter().finish().encode())["image"].cast(pl.List(pl.Float64)).list.eval(
        ...     pl.element().round(3)
        ... ).to_list()
        [[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]]
    """

    def __init__(self, name: str, config: VectorConfig) -> None:
        self.name = name
        self.config = config
        self.column = config.column or name

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """The one column."""
        return {self.column: "list"}

    def fitter(self) -> FieldFitter:
        """Learns nothing."""
        return NothingToFit(self.restore)

    def restore(self, state: FieldState) -> Fitted:
        """The field; it has no state."""
        width = self.config.width
        # Float32 first: what overflows it is infinite and becomes zero.
        value = pl.col(self.column).cast(pl.List(pl.Float32), strict=False)
        element = pl.element()
        value = value.list.eval(pl.when(element.is_finite()).then(element).otherwise(pl.lit(0.0, dtype=pl.Float32)))
        if self.config.normalise:
            largest = value.list.eval(pl.element().abs()).list.max()
            scaled = value / pl.when(largest > 0).then(largest).otherwise(1.0)  # so that squares do not overflow
            length = scaled.list.eval(pl.element().pow(2)).list.sum().sqrt()
            value = scaled / pl.when(length > 0).then(length).otherwise(1.0)
        zeros = pl.lit([0.0] * width, dtype=pl.List(pl.Float32))
        fits = pl.col(self.column).cast(pl.List(pl.Float32), strict=False).list.len() == width
        encoded = pl.when(fits).then(value.cast(pl.List(pl.Float32))).otherwise(zeros).list.to_array(width)
        return Fitted(
            spec=FieldSpec(name=self.name, type="vector", dense=(DenseFeature(name=self.name, width=width),)),
            expressions=(encoded,),
            field_state=state,
        )
