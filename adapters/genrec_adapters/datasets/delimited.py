"""Delimited text to chunks: a vectorised path for sound blocks, a careful one that finds the bad rows of the others.

A block of lines is checked in bulk: separators are counted with numpy on the raw bytes, polars parses and casts, the
label is compared with 0 and 1. Only where a check fails is the block looked at again, first line by line
(structure), then column by column (values), to say which row and column is at fault.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import polars as pl

from genrec_adapters.datasets.blocks import StreamFault, count_byte, count_lines, read_blocks, read_part_blocks
from genrec_adapters.datasets.parts import Part
from genrec_registry.contracts import ErrorPolicy
from genrec_registry.errors import DataError, did_you_mean

_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_SHOWN = 40
_Type = type[pl.DataType]


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """How the lines of a file are to be read.

    Args:
        label: label column; comes first in the chunks, as Int8. Empty for a table without one.
        features: feature columns, in the order of the chunks.
        names: all columns in file order, for a file without header; None where the first line has the names.
        separator: one character.
        quote: quote character, or None.
        integers: columns to read as Int64.
        floats: columns to read as Float64.
        null_values: words that mean missing, beside the empty string.
        renames: header name -> column name.
        required: columns whose missing values make a bad row; floats among them must be finite.
        normalise: what to do to a block of lines first, for separators of several bytes and for other encodings; it
            must keep the lines.
        row: name of a further column with the row's number in the file, for checks that come after; empty for none.
    """

    label: str
    features: tuple[str, ...]
    names: tuple[str, ...] | None = None
    separator: str = ","
    quote: str | None = None
    integers: frozenset[str] = frozenset()
    floats: frozenset[str] = frozenset()
    null_values: tuple[str, ...] = ()
    renames: Mapping[str, str] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    normalise: Callable[[bytes], bytes] | None = None
    row: str = ""

    @property
    def kept(self) -> tuple[str, ...]:
        """Columns of the chunks, in order."""
        return (self.label, *self.features) if self.label else self.features


def scan_text(
    path: str,
    layout: TextFormat,
    policy: ErrorPolicy,
    *,
    start: int = 0,
    stop: int | None = None,
    part: Part | None = None,
    before: int = 0,
) -> Iterator[pl.DataFrame]:
    """Chunks of rows ``start .. stop`` of a delimited file, in file order.

    Args:
        path: a plain or gzipped file.
        layout: how to read it.
        policy: takes the bad rows.
        start: rows to leave out at the beginning.
        stop: the row to stop before; None for all.
        part: a part of a plain file, in place of all of it; rows are still counted from the file's first one.
        before: rows before the part.

    Raises:
        DataError: the file cannot be read as this format, or a row is bad and the policy is to stop.
    """
    parser: _BlockParser | None = None
    row = before  # data rows seen so far
    blocks = read_blocks(path) if part is None else read_part_blocks(path, part.first, part.stop)
    try:
        for whole in blocks:
            block = whole.replace(b"\r\n", b"\n") if b"\r" in whole else whole
            block = layout.normalise(block) if layout.normalise else block
            if parser is None:
                names = layout.names
                if names is None and part is not None and part.first:
                    names = read_header(first_line(path), path, layout)
                elif names is None:
                    head, _, block = block.partition(b"\n")
                    names = read_header(head, path, layout)
                parser = _BlockParser(path, names, layout, policy)
            count = count_lines(block)
            first, last = max(start - row, 0), count if stop is None else min(stop - row, count)
            if first < last:
                if first or last < count:
                    block = b"".join(line + b"\n" for line in block.split(b"\n")[first:last])
                frame = parser.parse(block, row + first + 1)
                if frame.height:
                    yield frame
            row += count
            if stop is not None and row >= stop:
                return
    except StreamFault as fault:
        raise DataError(f"{path}: {fault} after row {row}, expected a complete file; download it again") from fault
    if row == 0 and part is None:
        what = "no rows" if parser is None else "a header but no rows"
        raise DataError(f"{path}: has {what}, expected at least one row; download it again")


def first_line(path: str) -> bytes:
    """The first line of a file, without its end.

    Raises:
        DataError: the file cannot be read.
        StreamFault: it is gzipped, and breaks off before its first line ends.
    """
    return next(read_blocks(path), b"").split(b"\n", 1)[0].rstrip(b"\r")


def count_rows(path: str) -> int:
    """Lines of a file without header, counted without parsing them.

    Raises:
        DataError: the file cannot be read.
    """
    rows = 0
    try:
        for block in read_blocks(path):
            rows += count_lines(block)
    except StreamFault as fault:
        raise DataError(f"{path}: {fault} after row {rows}, expected a complete file; download it again") from fault
    return rows


def read_header(line: bytes, path: str, layout: TextFormat, *, check: bool = True) -> tuple[str, ...]:
    """Column names of a header line.

    Args:
        line: the first line, without its end.
        path: for messages.
        layout: how to read it.
        check: whether the layout's columns must be there.

    Raises:
        DataError: the header is not text, has a name twice, or lacks a column that is to be read.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: header is not UTF-8 text (byte {error.start}), expected column names") from error
    if layout.quote and layout.quote in text:
        try:
            found = next(csv.reader([text], delimiter=layout.separator, quotechar=layout.quote))
        except csv.Error as error:
            raise DataError(f"{path}: the header's quotes cannot be read ({error}); mend the first line") from error
    else:
        found = text.split(layout.separator)
    names = tuple(layout.renames.get(name.strip(), name.strip()) for name in found)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: header has the column '{twice[0]}' twice, expected distinct names; rename one")
    for name in layout.kept if check else ():
        if name not in names:
            raise DataError(f"{path}: header has no column '{name}'{did_you_mean(name, names[:60])}")
    return names


#: with these bytes gzip, zlib and zstd data begin; polars would unpack a block of lines that begins so
_PACKED = (b"\x1f\x8b", b"x\x01", b"x^", b"x\x9c", b"x\xda", b"\x28\xb5\x2f\xfd")


class _BlockParser:
    """Parses blocks of lines of one file."""

    def __init__(self, path: str, names: Sequence[str], layout: TextFormat, policy: ErrorPolicy) -> None:
        self.path, self.names, self.layout, self.policy = path, tuple(names), layout, policy
        self.kept = list(layout.kept)
        self.separator, self.quote = layout.separator.encode(), (layout.quote or "").encode()
        types: dict[str, _Type] = dict.fromkeys(layout.integers, pl.Int64)
        types |= dict.fromkeys(layout.floats, pl.Float64)
        self.types = {name: types[name] for name in layout.features if name in types}
        self.text: dict[str, _Type] = dict.fromkeys(self.names, pl.String)

    def parse(self, block: bytes, first_row: int) -> pl.DataFrame:
        """Rows of a block whose first line is row ``first_row``."""
        quoted = bool(self.quote) and self.quote in block
        if not quoted and b"\0" not in block and self._is_regular(block):
            try:
                frame = self._read(block, self.text | self.types)
                label = self._label(frame)
                if all(column.null_count() == 0 for column in label) and not self._missing(frame):
                    return self._numbered(frame.with_columns(label), range(first_row, first_row + frame.height))
            except pl.exceptions.PolarsError:
                pass  # the careful path below says what is wrong
        if quoted:
            read = self._read_quoted(block)
            if read is not None:
                return self._check_values(read, range(first_row, first_row + read.height), {})
        return self._careful(block, first_row, quoted)

    def _is_regular(self, block: bytes) -> bool:
        """Whether every line has the right number of separators."""
        per_line = len(self.names) - 1
        if per_line and len(self.kept) == len(self.names):
            # Polars refuses a line with too many separators, but only if it reads all columns; then the sum tells
            # whether one has too few.
            return count_byte(block, self.separator[0]) == per_line * count_lines(block)
        data = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(data == 10)
        marks = np.flatnonzero(data == self.separator[0])
        if marks.size != per_line * ends.size:
            return False
        if per_line == 0:
            return bool((np.diff(ends, prepend=-1) > 1).all())
        table = marks.reshape(-1, per_line)
        return bool((table[:, -1] < ends).all() and (table[1:, 0] > ends[:-1]).all())

    def _read(self, block: bytes, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
        packed = block.startswith(_PACKED)
        frame = pl.read_csv(
            b"\n" + block if packed else block,
            has_header=False,
            skip_rows=int(packed),
            schema=schema,
            columns=[index for index, name in enumerate(self.names) if name in set(self.kept)],
            separator=self.layout.separator,
            quote_char=None,
            null_values=list(self.layout.null_values) or None,
        )
        # Polars gives some 24 pieces a block, and every expression after would go through them one by one.
        return frame.select(self.kept).rechunk()

    def _read_quoted(self, block: bytes) -> pl.DataFrame | None:
        """A block with quotes in it; None if something is wrong with some line's structure."""
        if b"\0" in block:
            return None
        try:
            lines = block.decode().split("\n")[:-1]
            rows = list(csv.reader(lines, delimiter=self.layout.separator, quotechar=self.layout.quote, strict=True))
        except (UnicodeDecodeError, csv.Error):
            return None
        # A quote that is left open swallows the lines that follow, so that there are fewer rows than lines.
        if len(rows) != len(lines) or any(len(row) != len(self.names) for row in rows):
            return None
        return self._frame(rows)

    def _frame(self, rows: Sequence[Sequence[str]]) -> pl.DataFrame:
        """Text columns of parsed rows, empty values as null."""
        columns = dict(zip(self.names, zip(*rows, strict=True), strict=True)) if rows else {}
        text = [pl.Series(name, columns.get(name, ()), dtype=pl.String) for name in self.kept]
        missing = ["", *self.layout.null_values]
        return pl.DataFrame(text).with_columns(pl.when(~pl.all().is_in(missing)).then(pl.all()))

    def _label(self, frame: pl.DataFrame) -> list[pl.Series]:
        """The label column as 0, 1 or null; nothing where the table has none."""
        names = [self.layout.label] if self.layout.label else []
        return [frame[name].replace_strict(_LABELS, default=None, return_dtype=pl.Int8) for name in names]

    def _numbered(self, frame: pl.DataFrame, rows: Sequence[int]) -> pl.DataFrame:
        row = self.layout.row
        return frame.with_columns(pl.Series(row, rows, dtype=pl.Int64)) if row else frame

    def _missing(self, frame: pl.DataFrame) -> bool:
        """Whether a required value is missing, or not finite."""
        return any(bool(_is_missing(frame[name]).any()) for name in self.layout.required)

    def _careful(self, block: bytes, first_row: int, quoted: bool) -> pl.DataFrame:
        faults: dict[int, tuple[str, str]] = {}
        sound: list[bytes] = []
        values: list[list[str]] = []
        rows: list[int] = []
        for row, line in enumerate(block.split(b"\n")[:-1], first_row):
            fault = self._line_fault(line, values if quoted else None)
            if fault:
                faults[row] = fault
            else:
                sound.append(line)
                rows.append(row)
        if quoted:
            frame = self._frame(values)
        elif sound:
            try:
                frame = self._read(b"\n".join(sound) + b"\n", self.text)
            except pl.exceptions.PolarsError as error:
                self._give_up(first_row, error)
        else:
            frame = pl.DataFrame(schema=self.text).select(self.kept)
        if frame.height != len(rows):
            self._give_up(first_row, f"{frame.height} rows parsed of {len(rows)}")
        return self._check_values(frame, rows, faults)

    def _give_up(self, row: int, error: object) -> NoReturn:
        raise DataError(f"{self.path}, near row {row}: cannot be parsed ({str(error).splitlines()[0]})")

    def _line_fault(self, line: bytes, values: list[list[str]] | None) -> tuple[str, str] | None:
        """What is wrong with a line's structure; a sound quoted line's values are appended to ``values``."""
        width = len(self.names)
        if not line:
            return self.names[0], f"the line is empty, expected {width} columns"
        fields = line.split(self.separator)
        if b"\0" in line:
            return self._column(fields, b"\0"), "found a NUL byte, expected text (the file looks binary or damaged)"
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            column = self._column(fields, line[error.start : error.start + 1])
            return column, f"byte 0x{line[error.start]:02x} is not UTF-8, expected text (binary or damaged file?)"
        if values is None:
            if len(fields) != width:
                return self._width_fault(len(fields))
            return None
        try:
            parsed = next(csv.reader([text], delimiter=self.layout.separator, quotechar=self.layout.quote, strict=True))
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                return self.names[0], "a quoted value does not end on its line; line breaks in values need Parquet"
            return self.names[0], f"the quotes cannot be read ({error})"
        if len(parsed) != width:
            return self._width_fault(len(parsed))
        values.append(parsed)
        return None

    def _width_fault(self, found: int) -> tuple[str, str]:
        width = len(self.names)
        column = self.names[min(found, width - 1)] if found < width else self.names[-1]
        return column, f"found {found} column{'s' * (found != 1)}, expected {width}"

    def _column(self, fields: Sequence[bytes], wanted: bytes) -> str:
        index = next((index for index, value in enumerate(fields) if wanted in value), 0)
        return self.names[min(index, len(self.names) - 1)]

    def _check_values(
        self, frame: pl.DataFrame, rows: Sequence[int], faults: dict[int, tuple[str, str]]
    ) -> pl.DataFrame:
        """Cast numbers and label; rows that do not cast are reported in order, with ``faults``, and left out."""
        columns = self._label(frame)
        found = {column.name: "0 or 1" for column in columns}
        masks = {column.name: column.is_null() for column in columns}
        for name, dtype in self.types.items():
            text = frame[name].str.strip_chars(" ").replace("", None)
            number = _to_number(text, dtype)
            masks[name] = number.is_null() & text.is_not_null()
            found[name] = "an integer" if dtype == pl.Int64 else "a number"
            columns.append(number)
        numbers = {column.name: column for column in columns}
        for name in (name for name in self.layout.features if name in self.layout.required):
            missing = _is_missing(numbers.get(name, frame[name]))
            masks[name] = masks[name] | missing if name in masks else missing
            found.setdefault(name, "a value")
        bad = pl.Series([False]).new_from_index(0, frame.height)
        for mask in masks.values():
            bad = bad | mask
        for index in bad.arg_true().to_list():
            column = next(name for name in masks if masks[name][index])
            value = frame[column][index]
            shown = repr(value[:_SHOWN]) if value else "an empty value"
            faults[rows[index]] = (column, f"found {shown}, expected {found[column]}")
        for row in sorted(faults):
            self.policy.bad_row(self.path, row, *faults[row])
        return self._numbered(frame.with_columns(columns), rows).filter(~bad)


def _is_missing(column: pl.Series) -> pl.Series:
    return ~column.is_finite().fill_null(False) if column.dtype == pl.Float64 else column.is_null()


def _to_number(text: pl.Series, dtype: type[pl.DataType]) -> pl.Series:
    """Cast text; an integer may be written with a decimal point (``3.0``), as pandas does for columns with gaps."""
    number = text.cast(dtype, strict=False)
    if dtype == pl.Int64 and number.null_count() > text.null_count():
        decimal = text.cast(pl.Float64, strict=False)
        whole = decimal.is_finite() & (decimal == decimal.floor()) & (decimal.abs() < 2**53)
        return number.zip_with(number.is_not_null() | ~whole.fill_null(False), decimal.cast(pl.Int64, strict=False))
    return number
