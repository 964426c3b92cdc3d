"""Stream rows to a file, with a sidecar that says what the best possible model would score on them."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrec_plugins.files import written_aside
from genrec_plugins.synthetic.bayes import EXACT_ROWS, BayesAccumulator, BayesMetrics
from genrec_plugins.synthetic.fields import FORMATS, Format
from genrec_plugins.synthetic.planted import Pair, PlantedModel, sigmoid
from genrec_plugins.synthetic.rows import BLOCK, RowSource
from genrec_registry import DataError, did_you_mean

#: raised whenever the rows of a given seed change
VERSION = 1
#: rows that calibrate the planted model; of a seed of their own, so that no file's length or seed moves the bias
_PILOT_SEED = "pilot"
_PILOT_ROWS = 16_384
_LABEL = {"criteo": "label", "avazu": "click"}


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What was written.

    Args:
        path: the data file.
        sidecar: JSON with these facts, beside it.
        truth: Parquet with ``label`` and ``probability`` of each row, in file order, or None.
        format: ``criteo`` or ``avazu``.
        rows: number of rows.
        seed: of the rows.
        model_seed: of the planted model.
        bayes: what the true probabilities score on these rows.
        pairs: the planted field pairs.
    """

    path: Path
    sidecar: Path
    truth: Path | None
    format: str
    rows: int
    seed: int
    model_seed: int
    bayes: BayesMetrics
    pairs: tuple[Pair, ...]


class _Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class _GzipSink:
    """One gzip member without a time stamp, so that equal rows give equal bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressor = zlib.compressobj(level=1, wbits=31)

    def write(self, data: bytes) -> None:
        self._file.write(self._compressor.compress(data))

    def finish(self) -> None:
        self._file.write(self._compressor.flush())


def generate(
    format: str,
    rows: int,
    out: str | Path,
    *,
    seed: int = 0,
    model_seed: int = 0,
    with_truth: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> Generated:
    """Write rows in a raw format; the same seeds give the same rows, and a longer Criteo file begins with a shorter.

    Memory is bounded: a few blocks of 16,384 rows, and 9 bytes a row up to four million rows for an exact AUC
    (beyond, a histogram whose error bound is in the sidecar).

    Args:
        format: ``criteo`` (TSV without header) or ``avazu`` (CSV with header).
        rows: how many.
        out: the file; gzipped if it ends in ``.gz``. The sidecar is ``OUT.truth.json``.
        seed: of the rows.
        model_seed: of the planted model: files with equal ones can serve as each other's test set.
        with_truth: also write ``OUT.truth.parquet``.
        progress: called with the number of rows after each block.

    Returns:
        The paths and the metrics of the true probabilities.

    Raises:
        DataError: the format is unknown, ``rows`` is not positive, or the file cannot be written.

    Example::

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = generate("avazu", 1000, f"{folder}/train.csv")
        ...     len(done.path.read_text().splitlines())
        1001
    """
    if format not in FORMATS:
        raise DataError(f"unknown format '{format}'{did_you_mean(format, FORMATS)}")
    if rows < 1:
        raise DataError(f"rows is {rows}, expected at least 1")
    out = Path(out)
    layout = FORMATS[format]
    model = PlantedModel(layout, seed=model_seed)
    pilot = RowSource(layout, seed=_PILOT_SEED, total=_PILOT_ROWS)
    model.calibrate(pilot.block(0, text=False, size=_PILOT_ROWS).values)
    sidecar = out.with_name(out.name + ".truth.json")
    truth = out.with_name(out.name + ".truth.parquet") if with_truth else None
    try:
        bayes = _write(layout, model, RowSource(layout, seed=seed, total=rows), out, truth, progress)
        done = Generated(
            path=out,
            sidecar=sidecar,
            truth=truth,
            format=format,
            rows=rows,
            seed=seed,
            model_seed=model_seed,
            bayes=bayes,
            pairs=model.pairs,
        )
        with written_aside(sidecar, instead="choose another file") as partial:
            partial.write_text(json.dumps(_facts(done), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error}); choose another file") from error
    return done


def _facts(done: Generated) -> dict[str, Any]:
    facts = asdict(done)
    del facts["path"], facts["sidecar"], facts["truth"]
    return {"generator": "genrec-plugins synthetic", "version": VERSION, "file": done.path.name, **facts}


def _write(
    layout: Format,
    model: PlantedModel,
    source: RowSource,
    out: Path,
    truth: Path | None,
    progress: Callable[[int], Any] | None,
) -> BayesMetrics:
    bayes = BayesAccumulator(exact=source.total <= EXACT_ROWS)
    parts = [(out, _part(out)), *([(truth, _part(truth))] if truth else [])]
    try:
        with ExitStack() as stack:
            file = stack.enter_context(parts[0][1].open("wb"))
            gzip = _GzipSink(file) if out.suffix == ".gz" else None
            sink: _Sink = gzip or file
            table = stack.enter_context(pq.ParquetWriter(parts[1][1], _TRUTH)) if truth else None
            if layout.header:
                sink.write(",".join(_names(layout)).encode() + b"\n")
            for text, labels, probabilities in _in_order(layout, model, source):
                sink.write(text)
                bayes.update(labels, probabilities)
                if table is not None:
                    table.write_table(pa.table({"label": labels, "probability": probabilities}, schema=_TRUTH))
                if progress is not None:
                    progress(len(labels))
            if gzip is not None:
                gzip.finish()
        for target, part in parts:
            os.replace(part, target)
    finally:
        for _, part in parts:
            part.unlink(missing_ok=True)
    return bayes.finish()


_TRUTH = pa.schema([("label", pa.int8()), ("probability", pa.float64())])
_Made = tuple[bytes, NDArray[np.int8], NDArray[np.float64]]


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _names(layout: Format) -> list[str]:
    return [*(["id"] if layout.row_id else []), _LABEL[layout.name], *(field.name for field in layout.fields)]


def _in_order(layout: Format, model: PlantedModel, source: RowSource) -> Iterator[_Made]:
    """Blocks in file order, made by two threads that stay at most a few blocks ahead of the writer."""

    def make(start: int) -> _Made:
        block = source.block(start)
        count = min(BLOCK, source.total - start)
        probabilities = sigmoid(model.logits(block.values))
        labels = (block.label_noise < probabilities).astype(np.int8)
        frame = pl.DataFrame([pl.Series(_LABEL[layout.name], labels), *block.columns.values()])
        text = io.BytesIO()
        frame.select(_names(layout)).head(count).write_csv(text, include_header=False, separator=layout.separator)
        return text.getvalue(), labels[:count], probabilities[:count]

    pool = ThreadPoolExecutor(max_workers=2)
    try:
        ahead: deque[Future[_Made]] = deque()
        for start in range(0, source.total, BLOCK):
            ahead.append(pool.submit(make, start))
            if len(ahead) > 3:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # not joined: see genrec_adapters.read_ahead
