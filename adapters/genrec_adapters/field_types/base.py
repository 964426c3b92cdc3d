"""What the built-in field types share: the fitted field, and fitters made of one accumulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from genrec_registry import FieldSpec, FieldState


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted field that is plain data: implements ``FittedField``.

    The expressions are built once, with whatever they look values up in, and used for every chunk.

    Args:
        spec: what the field asks of the model.
        expressions: one for each feature of the spec, in its order.
        field_state: what builds it again.
    """

    spec: FieldSpec
    expressions: tuple[pl.Expr, ...]
    field_state: FieldState

    def encode(self) -> Sequence[pl.Expr]:
        """The expressions, aliased to the features' names."""
        names = [*(sparse.name for sparse in self.spec.sparse), *(dense.name for dense in self.spec.dense)]
        return [expr.alias(name) for expr, name in zip(self.expressions, names, strict=True)]

    def state(self) -> FieldState:
        """JSON facts and tables for ``FieldType.restore``."""
        return self.field_state


class NothingToFit:
    """Fitter of a field that learns nothing from the data.

    Args:
        restore: the field type's ``restore``.
    """

    def __init__(self, restore: Callable[[FieldState], Fitted]) -> None:
        self._restore = restore

    def update(self, chunk: pl.DataFrame) -> None:
        """Look at nothing."""

    def partial(self) -> FieldState:
        """Nothing."""
        return FieldState()

    def absorb(self, partial: FieldState) -> None:
        """Take nothing."""

    def finish(self) -> Fitted:
        """The field, restored from an empty state."""
        return self._restore(FieldState())
