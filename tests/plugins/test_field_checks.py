"""The field-type checks fail on field types that break the contract, each for its own reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from genrec_plugins.testing import ConformanceError, field_checks, field_subject, field_token_checks, field_type_suite
from genrec_registry import Config, DenseFeature, FieldSpec, FieldState, FieldTypeRecord, SparseFeature

ROWS = pl.DataFrame({"x": [1.0, 2.0, None, 4.0, 2.0, 7.0]})


class NoOptions(Config):
    """Nothing to choose."""


class Broken:
    """A sparse field type, right in all things but those that a subclass breaks; fitted field and fitter at once."""

    feature = SparseFeature(name="field", num_embeddings=10)
    type = "broken"

    def __init__(self, name: str, config: NoOptions) -> None:
        self.name = name
        self.largest = 0

    @property
    def columns(self) -> Mapping[str, Any]:
        return {"x": "number"}

    @property
    def spec(self) -> FieldSpec:
        feature = SparseFeature(name=self.name, num_embeddings=self.feature.num_embeddings)
        return FieldSpec(name=self.name, type=self.type, sparse=(feature,))

    def fitter(self) -> Broken:
        return self

    def update(self, chunk: pl.DataFrame) -> None:
        column = chunk["x"].cast(pl.Float64)
        self.largest = max(self.largest, int(column.is_not_null().any()))

    def finish(self) -> Broken:
        return self

    def encode(self) -> Sequence[pl.Expr]:
        known = pl.col("x").cast(pl.Float64).is_between(0, 8).fill_null(False)
        return [(known.cast(pl.Int32) * self.largest).alias(self.name)]

    def state(self) -> FieldState:
        return FieldState(json={"largest": self.largest})

    def restore(self, state: FieldState) -> Broken:
        self.largest = state.json["largest"]
        return self


class ForgetsChunks(Broken):
    def update(self, chunk: pl.DataFrame) -> None:
        self.largest = chunk.height % 10


class CountsChunks(Broken):
    def update(self, chunk: pl.DataFrame) -> None:
        self.largest = min(self.largest + 1, 9)


class Ranks(Broken):
    def encode(self) -> Sequence[pl.Expr]:
        return [pl.col("x").cast(pl.Float64).rank("dense").fill_null(0).clip(0, 9).cast(pl.Int32).alias(self.name)]


class LooksBack(Broken):
    def encode(self) -> Sequence[pl.Expr]:
        return [pl.col("x").is_null().shift(1).fill_null(False).cast(pl.Int32).alias(self.name)]


class RaisesOnUnknown(Broken):
    def encode(self) -> Sequence[pl.Expr]:
        return [
            pl.col("x")
            .replace_strict({1.0: 1, 2.0: 2, 4.0: 3, 7.0: 4, None: 0}, return_dtype=pl.Int32)
            .alias(self.name)
        ]


class LeavesNulls(Broken):
    def encode(self) -> Sequence[pl.Expr]:
        return [pl.col("x").clip(0, 9).cast(pl.Int32, strict=False).alias(self.name)]


class OutOfRange(Broken):
    feature = SparseFeature(name="field", num_embeddings=1)


class WrongType(Broken):
    def encode(self) -> Sequence[pl.Expr]:
        return [pl.col("x").is_null().cast(pl.Int64).alias(self.name)]


class OneValueForAll(Broken):
    def encode(self) -> Sequence[pl.Expr]:
        return [pl.col("x").drop_nulls().is_not_null().cast(pl.Int32).alias(self.name)]


class SharedName(Broken):
    @property
    def spec(self) -> FieldSpec:
        return FieldSpec(name=self.name, type="broken", sparse=(SparseFeature(name="x", num_embeddings=2),))


class Misnamed(Broken):
    type = "something-else"


class DenseWithoutModule(Broken):
    @property
    def spec(self) -> FieldSpec:
        return FieldSpec(name=self.name, type="broken", dense=(DenseFeature(name=self.name),))


class ForgetsState(Broken):
    def restore(self, state: FieldState) -> Broken:
        return self


class StateWithoutJson(Broken):
    def state(self) -> FieldState:
        return FieldState(json={"largest": self.largest, "seen": {1, 2}})


class RaisesOnNothing(Broken):
    def finish(self) -> Broken:
        if not self.largest:
            raise ValueError("no rows")
        return self


def _record(factory: Callable[..., Any], token_module: Callable[..., Any] | None = None) -> FieldTypeRecord:
    return FieldTypeRecord(name="broken", config=NoOptions, factory=factory, summary="", token_module=token_module)


CHECKS = {
    "spec": field_checks.check_spec,
    "chunks": field_checks.check_chunks,
    "rows": field_checks.check_rows,
    "hostile": field_checks.check_hostile_values,
    "config": field_checks.check_config,
}


def test_the_base_of_the_broken_ones_is_sound(tmp_path: Path) -> None:
    subject = field_subject(_record(Broken), None, ROWS)
    for check in CHECKS.values():
        check(subject)
    field_checks.check_state(subject, tmp_path)


@pytest.mark.parametrize(
    ("factory", "check", "says"),
    [
        (ForgetsChunks, "chunks", "another state"),
        (CountsChunks, "chunks", "another state"),
        (Ranks, "rows", "rows come 1 at a time"),
        (LooksBack, "rows", "order of the rows"),
        (RaisesOnUnknown, "hostile", "encode raises"),
        (LeavesNulls, "spec", "nulls"),
        (OutOfRange, "spec", r"has the id 1, expected ids in \[0, 1\)"),
        (WrongType, "spec", "encoded as Int64, expected Int32"),
        (OneValueForAll, "spec", "encode raises|rows"),
        (SharedName, "spec", "unique in a run"),
        (Misnamed, "spec", "something-else"),
        (DenseWithoutModule, "spec", "no token_module"),
        (RaisesOnNothing, "hostile", "fitting on no chunk raises ValueError: no rows"),
    ],
)
def test_a_broken_field_type_is_found(factory: type[Broken], check: str, says: str) -> None:
    with pytest.raises(ConformanceError, match=says):
        CHECKS[check](field_subject(_record(factory), None, ROWS))


@pytest.mark.parametrize(("factory", "says"), [(ForgetsState, "restored"), (StateWithoutJson, "written as JSON")])
def test_a_broken_state_is_found(factory: type[Broken], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConformanceError, match=says):
        field_checks.check_state(field_subject(_record(factory), None, ROWS), tmp_path)


def test_a_config_beside_torch_is_found() -> None:
    record = FieldTypeRecord(
        name="broken", config=NoOptions, factory="genrec_adapters.field_types.tokens:AutoDis", summary=""
    )
    with pytest.raises(ConformanceError, match="imports torch"):
        field_checks.check_config(field_subject(record, None, ROWS))


def test_a_sample_without_the_column_is_explained() -> None:
    with pytest.raises(ConformanceError, match="reads the column 'x', the sample has y"):
        field_checks.check_spec(field_subject(_record(Broken), None, pl.DataFrame({"y": [1]})))


# -- token modules ----------------------------------------------------------------------------------------------------


class DenseField(Broken):
    @property
    def spec(self) -> FieldSpec:
        return FieldSpec(name=self.name, type="broken", dense=(DenseFeature(name=self.name),))

    def encode(self) -> Sequence[pl.Expr]:
        return [pl.col("x").is_null().cast(pl.Float32).alias(self.name)]


class Tokens(nn.Module):
    """A sound token module of features of width 1, that subclasses break."""

    def __init__(self, features: Sequence[DenseFeature], embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(features), embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def forward(self, dense):  # type: ignore[no-untyped-def]  # TorchScript reads the annotations that fx writes
        return dense[:, :, None] * self.weight


class Centred(Tokens):
    def forward(self, dense):  # type: ignore[no-untyped-def]
        return (dense - dense.mean(0))[:, :, None] * self.weight


class MixesFields(Tokens):
    def forward(self, dense):  # type: ignore[no-untyped-def]
        return dense.flip(1)[:, :, None] * self.weight


class Flat(Tokens):
    def forward(self, dense):  # type: ignore[no-untyped-def]
        return dense @ self.weight


class Unused(Tokens):
    def __init__(self, features: Sequence[DenseFeature], embedding_dim: int) -> None:
        super().__init__(features, embedding_dim)
        self.gate = nn.Parameter(torch.zeros(1))


class NoReset(nn.Module):
    def __init__(self, features: Sequence[DenseFeature], embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(features), embedding_dim))

    def forward(self, dense: Tensor) -> Tensor:
        return dense[:, :, None] * self.weight


class LostBuffer(Tokens):
    def __init__(self, features: Sequence[DenseFeature], embedding_dim: int) -> None:
        super().__init__(features, embedding_dim)
        self.register_buffer("scale", torch.full((1,), 2.0), persistent=False)

    def forward(self, dense):  # type: ignore[no-untyped-def]
        return dense[:, :, None] * self.weight * self.scale


class Branches(Tokens):
    def forward(self, dense):  # type: ignore[no-untyped-def]
        return dense[:, :, None] * (self.weight if dense.sum() > 0 else -self.weight)


TOKEN_CHECKS = {
    "shapes": field_token_checks.check_token_shapes,
    "independence": field_token_checks.check_token_independence,
    "gradients": field_token_checks.check_token_gradients,
    "builds": field_token_checks.check_token_builds,
    "traces": field_token_checks.check_token_traces,
}

TestSoundTokens = field_type_suite(_record(DenseField, Tokens), None, ROWS)


@pytest.mark.parametrize(
    ("module", "check", "says"),
    [
        (Centred, "independence", "other rows change"),
        (MixesFields, "independence", "second field's floats"),
        (Flat, "shapes", r"\[1, 8\], expected \[B, tokens, D\] = \[1, 2, 8\]"),
        (Unused, "gradients", "'gate' gets no gradient"),
        (NoReset, "builds", "'weight' holds uninitialised memory"),
        (LostBuffer, "builds", "loses a buffer"),
        (Branches, "traces", "cannot be traced"),
    ],
)
def test_a_broken_token_module_is_found(module: type[nn.Module], check: str, says: str) -> None:
    with pytest.raises(ConformanceError, match=says):
        TOKEN_CHECKS[check](field_subject(_record(DenseField, module), None, ROWS))
