"""What ``genrec tokenize`` does: items to a tokenizer's directory, new items to IDs, IDs to reports.

A directory holds the tokenizer (:mod:`genrec_plugins.tokenizers.fitted`) and besides ``content.json`` and
``content_N.npz`` (how items become embeddings), ``embeddings.npy`` (those of the fit, for reports), ``quality.json``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_adapters.behaviour.build import build_histories, published_split
from genrec_adapters.behaviour.histories import Histories, Vocabulary
from genrec_adapters.behaviour.splits import HistorySplit, leave_one_out, time_split
from genrec_adapters.item_codes import SIZES, ItemCodes
from genrec_adapters.preprocess.swap import replaced
from genrec_adapters.state import parse_json
from genrec_plugins.files import written_aside
from genrec_plugins.lum.config import OfficialSplit, TimeSplit
from genrec_plugins.tokenizers.content import FittedContent, fit_content
from genrec_plugins.tokenizers.content_config import CoOccurrenceSource
from genrec_plugins.tokenizers.fit_config import LoadedTokenize
from genrec_plugins.tokenizers.fitted import MANIFEST, FittedTokenizer, fit_tokenizer, load_tokenizer
from genrec_plugins.tokenizers.inputs import Floats
from genrec_plugins.tokenizers.items import count_items, read_items, stream_items
from genrec_plugins.tokenizers.quality import QualityReport, measure, variance_lost
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_registry import ConfigError, DataError, SetupError

EMBEDDINGS, QUALITY = "embeddings.npy", "quality.json"


@dataclass(frozen=True, kw_only=True)
class CatalogueItems:
    """The items to fit on, and the events that may be learned from.

    Args:
        items: ``item``, ``text``, ``categories`` and further text columns; each item once.
        train: training events, if they were asked for.
        vocabulary: which item is which row of ``train``.
    """

    items: pl.DataFrame
    train: Histories | None = None
    vocabulary: Vocabulary | None = None


def load_items(run: LoadedTokenize) -> CatalogueItems:
    """The items of a run, from its file or its dataset; events are split only where a source of content needs them.

    Raises:
        DataError: a file is bad, or there are no items.
    """
    config = run.config
    if config.items is not None:
        return CatalogueItems(items=read_items(config.items))
    dataset = run.registry.create("dataset", config.dataset)
    train, vocabulary = None, None
    if any(isinstance(source, CoOccurrenceSource) for source in config.content):
        train, vocabulary = _training_events(dataset, config.split)
        names = pl.Series("item", vocabulary.values[1:], dtype=pl.String)
    else:
        names = dataset.events()["item"].unique()
    content = dataset.items()
    if config.catalogue == "all":
        names = pl.concat([names, content["item"]]).unique()
    empty = pl.lit([], dtype=pl.List(pl.String))
    items = pl.DataFrame({"item": names.sort()}).join(content, on="item", how="left", maintain_order="left")
    items = items.with_columns(pl.col("text").fill_null(""), pl.col("categories").fill_null(empty))
    return CatalogueItems(items=items, train=train, vocabulary=vocabulary)


def _training_events(dataset: Any, config: Any) -> tuple[Histories, Vocabulary]:
    split: HistorySplit
    if isinstance(config, OfficialSplit):
        split, _, catalogue, _ = published_split(dataset)
        return split.train, catalogue.items
    histories, catalogue, _ = build_histories(dataset)
    if isinstance(config, TimeSplit):
        split = time_split(histories, valid=config.valid, test=config.test)
    else:
        split = leave_one_out(histories)
    return split.train, catalogue.items


def fit_directory(
    run: LoadedTokenize, out: Path, *, keep_embeddings: bool = True, reporter: Reporter | None = None
) -> QualityReport:
    """Fit content and tokenizer on a run's items, and write everything to a directory.

    Args:
        run: what to fit on what.
        out: the directory; a tokenizer that is there is replaced when the new one is complete.
        keep_embeddings: write ``embeddings.npy``, so that reports can look at neighbours.
        reporter: told where it stands.

    Returns:
        The quality of the IDs.

    Raises:
        DataError: the items are bad, or something else is at ``out``.
        SetupError: a source of content or the tokenizer needs a package that is not installed.
    """
    config = run.config
    check_target(out)
    names, content, embeddings = _embedded(run, reporter or Quiet())
    try:
        fitted = fit_tokenizer(config.tokenizer, embeddings, names, config.collisions, run.registry)
    except ModuleNotFoundError as error:
        raise SetupError(
            f"the tokenizer '{config.tokenizer.type}' needs the module '{error.name}', which is not installed; "
            "run 'genrec doctor'"
        ) from error
    report = _quality(fitted, names, embeddings)
    with _replaced(out) as aside:
        fitted.save(aside)
        content.save(aside)
        if keep_embeddings:
            np.save(aside / EMBEDDINGS, embeddings)
        (aside / QUALITY).write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return report


def embed_file(run: LoadedTokenize, out: Path, reporter: Reporter | None = None) -> tuple[int, int]:
    """The embeddings of a run's items, to Parquet with the columns ``item`` and ``embedding``.

    The content source ``table`` reads it: what takes long to embed is embedded once for many tokenizers.

    Args:
        run: the items and their content; its tokenizer is not read.
        out: the file.
        reporter: told where it stands.

    Returns:
        Items, and the width of the embeddings.
    """
    names, content, embeddings = _embedded(run, reporter or Quiet())
    vectors = pl.Series("embedding", embeddings, dtype=pl.Array(pl.Float32, content.width))
    with written_aside(out) as partial:
        pl.DataFrame({"item": pl.Series(names, dtype=pl.String), "embedding": vectors}).write_parquet(partial)
    return len(names), content.width


def _embedded(run: LoadedTokenize, reporter: Reporter) -> tuple[list[str], FittedContent, Floats]:
    catalogue = load_items(run)
    items = catalogue.items
    content = fit_content(run.config.content, items, catalogue.train, catalogue.vocabulary)
    reporter.message(f"{len(items):,} items, embeddings of width {content.width}")
    embeddings = content.embed(items, lambda done, total: reporter.rows(stage="embed", rows=done, total=total))
    return items["item"].to_list(), content, embeddings


def _quality(fitted: FittedTokenizer, names: Sequence[str], embeddings: Floats) -> QualityReport:
    report = measure(fitted.item_codes, names, embeddings)
    return replace(report, reconstruction_error=_error(fitted, names, embeddings))


def _error(fitted: FittedTokenizer, names: Sequence[str], embeddings: Floats) -> float | None:
    reconstructed = fitted.reconstruct(fitted.item_codes.of(names))
    return None if reconstructed is None else variance_lost(embeddings, reconstructed)


def encode_file(
    directory: Path,
    items: Path,
    out: Path,
    *,
    table: str | None = None,
    remember: bool = False,
    rows: int = 16384,
    reporter: Reporter | None = None,
) -> tuple[int, int]:
    """IDs of a file's items, chunk by chunk, to Parquet with the columns ``item`` and ``codes``.

    Known items keep their IDs; new ones get one, which only ``remember`` keeps for them.

    Args:
        directory: of the tokenizer.
        items: see :func:`~genrec_plugins.tokenizers.items.read_items`.
        out: the file.
        table: path that takes the place of the content source ``table``'s.
        remember: write the new items into the directory, too.
        rows: items of a chunk.
        reporter: told where it stands.

    Returns:
        Items, and how many of them were new.

    Raises:
        DataError: the directory or the items are bad.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    reporter = reporter or Quiet()
    fitted = load_tokenizer(directory)
    content = FittedContent.load(directory, table=table)
    before, total, seen = len(fitted.item_codes.items), count_items(items), set[str]()
    column = pa.list_(pa.int32(), len(fitted.sizes))
    schema = pa.schema({"item": pa.large_string(), "codes": column}, {SIZES: json.dumps(fitted.sizes)})
    with written_aside(out) as partial, pq.ParquetWriter(partial, schema) as writer:
        for chunk in stream_items(items, rows):
            names = chunk["item"].to_list()
            twice = next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
            if twice is not None:
                raise DataError(f"{items}: item '{twice}' stands twice; give each item once")
            codes = fitted.encode_new(content.embed(chunk), names)
            flat = pa.array(np.ascontiguousarray(codes).reshape(-1), pa.int32())
            lists = pa.FixedSizeListArray.from_arrays(flat, len(fitted.sizes))
            writer.write_table(pa.table([pa.array(names, pa.large_string()), lists.cast(column)], schema=schema))
            reporter.rows(stage="encode", rows=len(seen), total=total)
    new = len(fitted.item_codes.items) - before
    if remember and new:
        with _replaced(directory) as aside:
            fitted.save(aside)
            for file in directory.iterdir():
                if file.is_file() and not (aside / file.name).exists():
                    shutil.copy2(file, aside / file.name)
    return len(seen), new


@dataclass(frozen=True, kw_only=True)
class CodeSet:
    """Codes to report on.

    Args:
        name: what the report calls them.
        codes: which item has which.
        kind: fits of one kind differ in their seed alone; None for codes that were not fitted here.
        fitted: the tokenizer, where there is one.
        items: the items of the fit.
        embeddings: ``[len(items), E]`` as of the fit, where they were kept.
    """

    name: str
    codes: ItemCodes
    kind: str | None = None
    fitted: FittedTokenizer | None = None
    items: tuple[str, ...] = ()
    embeddings: Floats | None = None


def open_codes(path: Path) -> CodeSet:
    """A tokenizer's directory, a file that ``genrec tokenize encode`` wrote, or a published index.

    Raises:
        DataError: there is nothing of the kind.
    """
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: does not exist, expected a tokenizer's directory or a file of item codes")
        return CodeSet(name=path.name.split(".")[0], codes=ItemCodes.read(path))
    fitted = load_tokenizer(path)
    embeddings: Floats | None = None
    if (path / EMBEDDINGS).exists():
        try:
            embeddings = np.load(path / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path / EMBEDDINGS}: cannot be read ({error}); fit the tokenizer again") from error
    manifest = parse_json((path / MANIFEST).read_text())
    facts = {key: value for key, value in manifest["config"].items() if key != "seed"}
    content = (path / "content.json").read_text() if (path / "content.json").exists() else ""
    return CodeSet(
        name=path.resolve().name,
        codes=fitted.item_codes,
        kind=json.dumps([facts, manifest["collisions"], content], sort_keys=True),
        fitted=fitted,
        items=fitted.item_codes.items[: 0 if embeddings is None else len(embeddings)],
        embeddings=embeddings,
    )


def report_on(
    sets: Sequence[CodeSet], by: CodeSet | None = None, *, neighbours: int = 10, max_queries: int = 2000
) -> dict[str, list[QualityReport]]:
    """Reports by name; fits that differ in their seed alone share one.

    Args:
        sets: the codes.
        by: whose embeddings say which items are neighbours, for all of them; nobody's if None.
        neighbours: k.
        max_queries: items whose neighbours are looked at.

    Raises:
        ConfigError: two sets have one name, or ``by`` has no embeddings.
    """
    if by is not None and by.embeddings is None:
        raise ConfigError(
            f"--by {by.name}: keeps no embeddings, expected a directory that does; fit it without --no-embeddings"
        )
    groups: dict[str, list[CodeSet]] = {}
    for one in sets:
        groups.setdefault(one.kind or one.name, []).append(one)
    made: dict[str, list[QualityReport]] = {}
    for several in groups.values():
        name = _common_name([one.name for one in several])
        if name in made:
            raise ConfigError(f"two sets of codes are called '{name}'; rename one of them")
        for one in several:
            items, vectors = (by.items, by.embeddings) if by is not None else (None, None)
            report = measure(one.codes, items, vectors, neighbours=neighbours, max_queries=max_queries)
            if one.fitted is not None and one.embeddings is not None:
                report = replace(report, reconstruction_error=_error(one.fitted, one.items, one.embeddings))
            made.setdefault(name, []).append(report)
    return made


def _common_name(names: Sequence[str]) -> str:
    """``rq-1``, ``rq-2`` are ``rq``: what all begin with, without a number at the end."""
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike).rstrip("-_. 0123456789") or names[0]


def check_target(target: Path) -> None:
    """Raise unless a tokenizer may be written there; it is told before anything long begins.

    Raises:
        DataError: something that is no tokenizer is there.
    """
    if target.exists() and not (target / MANIFEST).exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: exists and is no tokenizer; name another --out")


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """A directory beside ``target`` that takes its place when the block ends well."""
    try:
        with replaced(target, marker=MANIFEST, what="a tokenizer") as aside:
            yield aside
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error}); name another --out") from error
