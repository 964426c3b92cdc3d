"""The field-type suite: one line in a plugin's tests runs every check of the contract against it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from genrec_plugins.testing import field_checks
from genrec_plugins.testing.field_cases import FieldSubject, Sample, field_subject
from genrec_registry import FieldTypeRecord, Registry


def field_type_suite(
    component: str | FieldTypeRecord,
    config: Mapping[str, Any] | BaseModel | None,
    sample: Sample,
    *,
    registry: Registry | None = None,
) -> type:
    """A class of pytest tests for one field type with one config.

    It checks the spec and what the expressions give; that a fit does not depend on how rows were cut into chunks, nor
    an encoding on the rows around it; missing, unknown and extreme values; the state's way through JSON and Parquet;
    and, for types with dense features, the token module: shapes, independence of rows and fields, gradients, meta
    device, state dict, torch.fx, TorchScript and torch.export.

    Args:
        component: the field type's name as in a run's YAML, or its record.
        config: its options; they name the columns of the sample.
        sample: some twenty typical rows, or a function that makes them. Few values in common with one another are few
            chances to find a mistake: let values repeat, and let some be missing.
        registry: where the name is looked up; the installed plugins if None.

    Returns:
        The class; bind it to a name that begins with ``Test`` in a test module.

    Example::

        >>> import polars as pl
        >>> rows = pl.DataFrame({"C1": ["a", "b", None, "a", ""] * 4})
        >>> TestCategorical = field_type_suite("categorical", {"column": "C1"}, rows)
    """

    @functools.cache
    def subject() -> FieldSubject:
        return field_subject(component, config, sample, registry=registry)

    @functools.cache
    def has_tokens() -> bool:
        return bool(subject().fit().spec.dense)

    class FieldTypeSuite:
        def test_config(self) -> None:
            field_checks.check_config(subject())

        def test_spec(self) -> None:
            field_checks.check_spec(subject())

        def test_chunks(self) -> None:
            field_checks.check_chunks(subject())

        def test_rows(self) -> None:
            field_checks.check_rows(subject())

        def test_hostile_values(self) -> None:
            field_checks.check_hostile_values(subject())

        def test_state(self, tmp_path: Path) -> None:
            field_checks.check_state(subject(), tmp_path)

        @pytest.mark.parametrize("check", ["shapes", "independence", "gradients", "builds", "traces"])
        def test_tokens(self, check: str) -> None:
            if not has_tokens():
                pytest.skip("the field type has no dense features")
            from genrec_plugins.testing import field_token_checks  # imports torch

            getattr(field_token_checks, f"check_token_{check}")(subject())

    name = component if isinstance(component, str) else component.name
    words = name.rpartition("/")[2].split("-")
    FieldTypeSuite.__name__ = FieldTypeSuite.__qualname__ = "Test" + "".join(word.title() for word in words)
    return FieldTypeSuite
