"""Checks of a field type's data side: spec, fitting in chunks, encoding row by row, hostile values, state."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

from genrec_plugins.testing.errors import ConformanceError
from genrec_plugins.testing.field_cases import (
    KINDS,
    FieldSubject,
    encode,
    expect_valid,
    feature_names,
    hostile_rows,
)
from genrec_registry import FieldSpec, FieldState, FittedField, MergeableFitter


def check_config(subject: FieldSubject) -> None:
    """The config survives JSON, and neither it nor the factory, where named by a string, imports torch.

    Args:
        subject: the field type.

    Raises:
        ConformanceError: it does not, or it does.

    Example::

        >>> from genrec_plugins.testing import field_subject
        >>> check_config(field_subject("categorical", {"column": "C1"}, pl.DataFrame({"C1": ["a"]})))
    """
    again = type(subject.config).model_validate_json(subject.config.model_dump_json())
    if again != subject.config:
        raise ConformanceError(f"the config changes when it is written as JSON and read back: {again!r}")
    for reference in (subject.record.config, subject.record.factory):
        if isinstance(reference, str) and _loads_torch(reference.partition(":")[0]):
            raise ConformanceError(
                f"importing '{reference}' imports torch: configs are validated and rows encoded before a model is "
                "wanted; put the token module into a file of its own"
            )


@functools.cache
def _loads_torch(module: str) -> bool:
    code = f"import sys, importlib; importlib.import_module({module!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


def check_spec(subject: FieldSubject) -> None:
    """The spec is complete, its feature names belong to the field, and the sample encodes to what it says.

    Args:
        subject: the field type.

    Raises:
        ConformanceError: something is amiss.

    Example::

        >>> from genrec_plugins.testing import field_subject
        >>> check_spec(field_subject("categorical", {"column": "C1"}, pl.DataFrame({"C1": ["a"]})))
    """
    _check_columns(subject)
    fitted = subject.fit()
    spec, record = fitted.spec, subject.record
    if spec.name != "field":
        raise ConformanceError(f"spec.name is '{spec.name}', the field was called 'field'")
    if spec.type.rpartition("/")[2] not in {record.name, *record.aliases}:
        raise ConformanceError(f"spec.type is '{spec.type}', the field type is called '{record.name}'")
    names, others = feature_names(spec), feature_names(subject.fit(name="other").spec)
    if not names:
        raise ConformanceError("the spec has no feature; a field contributes at least one token")
    if len(set(names)) != len(names) or set(names) & set(others):
        raise ConformanceError(
            f"feature names must be unique in a run, found {names}; begin them with the field's name"
        )
    for sparse in spec.sparse:
        if sparse.num_embeddings < 1 or sparse.max_length < 1:
            raise ConformanceError(f"'{sparse.name}': num_embeddings and max_length must be at least 1, found {sparse}")
    _check_behaviour(spec)
    for dense in spec.dense:
        if dense.width < 1 or dense.tokens < 1:
            raise ConformanceError(f"'{dense.name}': width and tokens must be at least 1, found {dense}")
        if json.loads(json.dumps(dict(dense.params))) != dict(dense.params):
            raise ConformanceError(f"'{dense.name}': params changes when it is written as JSON and read back")
    if spec.dense and record.token_module is None:
        raise ConformanceError("the spec has dense features, but the record has no token_module to make tokens of them")
    expect_valid(spec, encode(fitted, subject.sample))


def _check_behaviour(spec: FieldSpec) -> None:
    """Features are unpooled exactly where an encoder reads them, and a target shares its item feature's table."""
    sparse = {feature.name: feature for feature in spec.sparse}
    unpooled = {name for name, feature in sparse.items() if feature.pooling == "none"}
    read = set(spec.behaviour.features) if spec.behaviour is not None else set()
    if unpooled != read:
        raise ConformanceError(
            f"features with pooling 'none' are {sorted(unpooled)}, the behaviour names {sorted(read)}; "
            "they must be the same: an encoder reads them, and nothing else does"
        )
    if spec.behaviour is None:
        return
    behaviour = spec.behaviour
    if not behaviour.items or len(behaviour.targets) not in (0, len(behaviour.items)):
        raise ConformanceError("a behaviour has item features, and a target for each of them or for none")
    for event in (*behaviour.items, *behaviour.conditions):
        if not 1 < sparse[event].max_length <= behaviour.max_length:
            raise ConformanceError(
                f"'{event}' has max_length {sparse[event].max_length}, the behaviour {behaviour.max_length}"
            )
    for item, target in zip(behaviour.items, behaviour.targets, strict=False):
        tables = [sparse[name].table or name for name in (item, target)]
        if tables[0] != tables[1] or sparse[target].max_length != 1:
            raise ConformanceError(f"'{target}' must be one id a row of the table of '{item}', found tables {tables}")


def _check_columns(subject: FieldSubject) -> None:
    for column, kind in subject.build().columns.items():
        if kind not in KINDS:
            raise ConformanceError(f"column '{column}' has the kind {kind!r}, expected one of {', '.join(KINDS)}")
        if column not in subject.sample.columns:
            raise ConformanceError(
                f"the field reads the column '{column}', the sample has {', '.join(subject.sample.columns)}; "
                "name the columns in the config that you give the suite"
            )


def _cuts(sample: pl.DataFrame) -> Iterator[list[pl.DataFrame]]:
    yield [sample[:0], sample, sample[:0]]
    yield [sample[row : row + 1] for row in range(sample.height)]
    for seed in range(3):
        inner = sorted(random.Random(seed).choices(range(sample.height + 1), k=min(4, sample.height)))
        yield [sample[start:end] for start, end in zip([0, *inner], [*inner, sample.height], strict=True)]


def check_chunks(subject: FieldSubject) -> None:
    """What is fitted does not depend on how the rows were cut into chunks, nor on who counted which of them.

    Args:
        subject: the field type.

    Raises:
        ConformanceError: it does.

    Example::

        >>> from genrec_plugins.testing import field_subject
        >>> check_chunks(field_subject("categorical", {"column": "C1"}, pl.DataFrame({"C1": ["a", "b"]})))
    """
    whole = subject.fit()
    expected = encode(whole, subject.sample)
    for chunks in _cuts(subject.sample):
        cut = f"chunks of {[chunk.height for chunk in chunks][:20]} rows"
        ways = {cut: subject.fit(chunks)}
        merged = _merged(subject, chunks)
        if merged is not None:
            ways[f"{cut}, each counted by its own fitter and absorbed by another,"] = merged
        for how, fitted in ways.items():
            if fitted.spec != whole.spec:
                raise ConformanceError(f"{how} give the spec {fitted.spec}, one chunk gives {whole.spec}")
            _expect_same_state(fitted.state(), whole.state(), f"{how} give another state than one chunk")
            _expect_equal(encode(fitted, subject.sample), expected, f"{how} give other encodings than one chunk")


def _merged(subject: FieldSubject, chunks: list[pl.DataFrame]) -> FittedField | None:
    """The field fitted by a fitter for each chunk, absorbed last one first; None if fitters cannot be merged."""
    field = subject.build()
    whole = field.fitter()
    if not isinstance(whole, MergeableFitter):
        return None
    for chunk in reversed(chunks):
        one = field.fitter()
        one.update(chunk)
        assert isinstance(one, MergeableFitter)
        whole.absorb(one.partial())
    return whole.finish()


def check_rows(subject: FieldSubject) -> None:
    """A row's encoding depends on that row alone: not on its neighbours, its place, or the size of the chunk.

    Args:
        subject: the field type.

    Raises:
        ConformanceError: it depends on more.

    Example::

        >>> from genrec_plugins.testing import field_subject
        >>> check_rows(field_subject("categorical", {"column": "C1"}, pl.DataFrame({"C1": ["a", "b"]})))
    """
    fitted = subject.fit()
    columns = list(subject.build().columns)
    rows = pl.concat([subject.sample.select(columns), _hostile(subject)])
    expected = encode(fitted, rows)
    _expect_equal(encode(fitted, rows.reverse()).reverse(), expected, "encodings change with the order of the rows")
    _expect_equal(encode(fitted, rows[:0]), expected[:0], "no rows are encoded to columns of another type")
    for size in (1, 5):
        pieces = [encode(fitted, rows[start : start + size]) for start in range(0, rows.height, size)]
        _expect_equal(pl.concat(pieces), expected, f"encodings change when rows come {size} at a time")
    _expect_equal(encode(fitted, rows), expected, "encoding the same rows twice gives two results")


def check_hostile_values(subject: FieldSubject) -> None:
    """Missing, unknown and extreme values encode to something valid; a fit on nothing, or on such rows alone, works.

    Args:
        subject: the field type.

    Raises:
        ConformanceError: something raises, or is not valid.

    Example::

        >>> from genrec_plugins.testing import field_subject
        >>> check_hostile_values(field_subject("categorical", {"column": "C1"}, pl.DataFrame({"C1": ["a"]})))
    """
    columns = list(subject.build().columns)
    sample, hostile = subject.sample.select(columns), _hostile(subject)
    nulls = sample.clear(n=3)
    untyped = pl.DataFrame({column: [None, None] for column in columns})
    fits = {
        "the sample": [sample],
        "no chunk": [],
        "an empty chunk": [sample[:0]],
        "missing values": [nulls],
        "columns of nulls alone": [untyped],
        "hostile values": [hostile, sample],
    }
    for what, chunks in fits.items():
        try:
            fitted = subject.fit(chunks)
        except Exception as error:
            raise ConformanceError(f"fitting on {what} raises {type(error).__name__}: {error}") from error
        for rows in (sample, hostile, nulls, untyped):
            try:
                expect_valid(fitted.spec, encode(fitted, rows))
            except ConformanceError as error:
                raise ConformanceError(f"fitted on {what}: {error}") from error


def check_state(subject: FieldSubject, folder: Path) -> None:
    """The state survives JSON and Parquet, and a field restored from it is the same field.

    Args:
        subject: the field type.
        folder: an empty folder.

    Raises:
        ConformanceError: it does not, or is not.

    Example::

        >>> import tempfile
        >>> from genrec_plugins.testing import field_subject
        >>> subject = field_subject("categorical", {"column": "C1"}, pl.DataFrame({"C1": ["a"]}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     check_state(subject, Path(folder))
    """
    rows = pl.concat([subject.sample.select(list(subject.build().columns)), _hostile(subject)])
    for fitted in (subject.fit(), subject.fit([])):
        state = fitted.state()
        try:
            facts = json.loads(json.dumps(dict(state.json), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConformanceError(
                f"state().json cannot be written as JSON: {error}; use numbers, texts, lists"
            ) from error
        tables = {}
        for name, table in state.tables.items():
            table.write_parquet(folder / f"{name}.parquet")
            tables[name] = pl.read_parquet(folder / f"{name}.parquet")
        restored = subject.build().restore(FieldState(json=facts, tables=tables))
        if restored.spec != fitted.spec:
            raise ConformanceError(f"the restored field has the spec {restored.spec}, the fitted one {fitted.spec}")
        _expect_equal(encode(restored, rows), encode(fitted, rows), "the restored field encodes differently")
        _expect_same_state(restored.state(), state, "the restored field has another state than the fitted one")


def _hostile(subject: FieldSubject) -> pl.DataFrame:
    return hostile_rows(subject.build(), subject.sample)


def _expect_equal(found: pl.DataFrame, expected: pl.DataFrame, otherwise: str) -> None:
    try:
        assert_frame_equal(found, expected, check_exact=True)
    except AssertionError as error:
        raise ConformanceError(f"{otherwise}: {error}") from error


def _expect_same_state(found: FieldState, expected: FieldState, otherwise: str) -> None:
    if dict(found.json) != dict(expected.json):
        raise ConformanceError(f"{otherwise}: {dict(found.json)}, expected {dict(expected.json)}")
    if sorted(found.tables) != sorted(expected.tables):
        raise ConformanceError(f"{otherwise}: tables {sorted(found.tables)}, expected {sorted(expected.tables)}")
    for name, table in expected.tables.items():
        _expect_equal(found.tables[name], table, f"{otherwise} (table '{name}')")
