"""What every tokenizer must do, one check a function; each raises ConformanceError with a sentence on what to mend."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from pydantic import BaseModel

from genrec_plugins.testing.errors import ConformanceError
from genrec_plugins.testing.subject import bind
from genrec_registry import DataError, Record, Registry, Tokenizer

Floats = np.ndarray


@dataclass(frozen=True, kw_only=True)
class TokenizerSubject:
    """One configured tokenizer, and a catalogue to try it on.

    Args:
        name: what messages call it.
        factory: ``factory(config) -> Tokenizer``.
        config: what the factory is given.
        embeddings: ``[N, E]`` float32.
        item_ids: ``[N]``.
    """

    name: str
    factory: Callable[[Any], Tokenizer]
    config: Any
    embeddings: Floats
    item_ids: tuple[str, ...]

    def build(self) -> Tokenizer:
        """A new tokenizer, not fitted."""
        return self.factory(self.config)

    def fit(self) -> Tokenizer:
        """A new tokenizer, fitted on all but the last quarter of the catalogue, which stays for new items."""
        tokenizer = self.build()
        old = self.num_old
        tokenizer.fit(self.embeddings[:old].copy(), self.item_ids[:old])
        return tokenizer

    @property
    def num_old(self) -> int:
        """Items that it is fitted on."""
        return len(self.item_ids) * 3 // 4


def tokenizer_subject(
    component: str | Record | Callable[[Any], Tokenizer],
    config: Mapping[str, Any] | BaseModel | None = None,
    *,
    embeddings: Floats | None = None,
    registry: Registry | None = None,
) -> TokenizerSubject:
    """Bind a tokenizer, its config and a catalogue.

    Args:
        component: a registered name, a record, or a factory (a class is one).
        config: its options: a mapping (names and records only), a config object, or nothing. Keep it small: codebooks
            of at most three quarters of the items.
        embeddings: ``[N, E]`` of the catalogue; 160 clustered items of width 12 if None.
        registry: where names are looked up; the installed plugins if None.

    Raises:
        PluginError: the name is unknown, or a factory is given a mapping.
        ConfigError: the config is wrong.

    Example::

        >>> tokenizer_subject("rq-kmeans", {"sizes": [8, 4]}).fit().codebook_sizes
        (8, 4)
    """
    name, factory, config, _ = bind("tokenizer", component, config, registry)
    if embeddings is None:
        embeddings = clustered_items()
    items = tuple(f"item-{row}" for row in range(len(embeddings)))
    return TokenizerSubject(name=name, factory=factory, config=config, embeddings=embeddings, item_ids=items)


def clustered_items(items: int = 160, width: int = 12, clusters: int = 20, seed: int = 0) -> Floats:
    """Embeddings around a few centres, with a zero vector and some equal ones among them, ``[items, width]``."""
    generator = np.random.default_rng(seed)
    centres = 2.0 * generator.standard_normal((clusters, width))
    vectors = centres[generator.integers(clusters, size=items)] + 0.5 * generator.standard_normal((items, width))
    vectors[0] = 0.0
    vectors[-3:] = vectors[1:4]
    return vectors.astype(np.float32)


def check_codes(subject: TokenizerSubject) -> None:
    """Codes are int32 ``[N, L]``, in range, for known and new items and for none; what it is given is left alone.

    Raises:
        ConformanceError: they are not.
    """
    tokenizer, old = subject.build(), subject.num_old
    known = subject.embeddings[:old].copy()
    tokenizer.fit(known, subject.item_ids[:old])
    sizes = tokenizer.codebook_sizes
    if not (isinstance(sizes, tuple) and sizes and all(isinstance(size, int) and size > 0 for size in sizes)):
        raise ConformanceError(f"{subject.name}: codebook_sizes is {sizes!r}, expected a tuple of positive ints")
    everything = subject.embeddings.copy()
    for rows in (slice(0, old), slice(old, None), slice(0, 1), slice(0, 0)):
        codes = tokenizer.encode(everything[rows], subject.item_ids[rows])
        _expect_codes(subject, codes, len(subject.item_ids[rows]), sizes)
    if not np.array_equal(known, subject.embeddings[:old]) or not np.array_equal(everything, subject.embeddings):
        raise ConformanceError(f"{subject.name}: fit or encode changes the embeddings in place; work on a copy")


def _expect_codes(subject: TokenizerSubject, codes: Any, rows: int, sizes: tuple[int, ...]) -> None:
    if not isinstance(codes, np.ndarray) or codes.dtype != np.int32 or codes.shape != (rows, len(sizes)):
        found = f"{codes.dtype} {codes.shape}" if isinstance(codes, np.ndarray) else type(codes).__name__
        raise ConformanceError(
            f"{subject.name}: encode gives {found} for {rows} items, expected int32 {(rows, len(sizes))}"
        )
    wrong = np.argwhere((codes < 0) | (codes >= np.array(sizes)))
    if len(wrong):
        row, level = wrong[0]
        raise ConformanceError(
            f"{subject.name}: code {codes[row, level]} of level {level + 1} is not in [0, {sizes[level]})"
        )


def check_determinism(subject: TokenizerSubject) -> None:
    """Two fits give the same codes, wherever the global random generators stand.

    Raises:
        ConformanceError: they do not.
    """
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        found.append(subject.fit().encode(subject.embeddings, subject.item_ids))
    if not np.array_equal(found[0], found[1]):
        raise ConformanceError(
            f"{subject.name}: {_rows_that_differ(found[0], found[1])} items get other codes when it is fitted twice; "
            "draw from a generator seeded by the config, not from the global one"
        )


def check_item_alone(subject: TokenizerSubject) -> None:
    """An item's codes are the same in any batch, at any place, alone, and in a batch of strangers.

    Raises:
        ConformanceError: they are not.
    """
    tokenizer, items = subject.fit(), subject.item_ids
    expected = tokenizer.encode(subject.embeddings, items)
    orders = {"one by one": [[row] for row in range(len(items))]}
    orders["in reverse"] = [list(range(len(items)))[::-1]]
    orders["in batches of 7"] = [list(range(row, min(row + 7, len(items)))) for row in range(0, len(items), 7)]
    for how, batches in orders.items():
        for rows in batches:
            found = tokenizer.encode(subject.embeddings[rows], [items[row] for row in rows])
            different = np.flatnonzero((found != expected[rows]).any(axis=1))
            if len(different):
                row = rows[int(different[0])]
                raise ConformanceError(
                    f"{subject.name}: {items[row]} has codes {found[different[0]].tolist()} when items are encoded "
                    f"{how}, {expected[row].tolist()} when all at once; its codes must depend on the item alone"
                )


def check_save(subject: TokenizerSubject, directory: Path) -> None:
    """What is saved and restored encodes and reconstructs bit for bit as before, and holds no pickle.

    Args:
        subject: the tokenizer.
        directory: an existing, empty directory.

    Raises:
        ConformanceError: it does not, or there is one.
    """
    tokenizer = subject.fit()
    codes = tokenizer.encode(subject.embeddings, subject.item_ids)
    tokenizer.save(str(directory))
    for path in sorted(directory.rglob("*")):
        if path.is_file() and _is_pickle(path):
            raise ConformanceError(f"{subject.name}: save writes a pickle, {path.name}; write JSON, npy or safetensors")
    restored = subject.build()
    try:
        restored.restore(str(directory))
        again = restored.encode(subject.embeddings, subject.item_ids)
    except Exception as error:
        raise ConformanceError(f"{subject.name}: restore or encode raises {type(error).__name__}: {error}") from error
    if restored.codebook_sizes != tokenizer.codebook_sizes:
        raise ConformanceError(
            f"{subject.name}: codebook_sizes is {restored.codebook_sizes} after a reload, "
            f"{tokenizer.codebook_sizes} before"
        )
    if not np.array_equal(again, codes):
        raise ConformanceError(
            f"{subject.name}: {_rows_that_differ(again, codes)} items get other codes after a reload; "
            "save all it learned"
        )
    before, after = tokenizer.reconstruct(codes), restored.reconstruct(codes)
    same = before is after if before is None or after is None else np.array_equal(before, after)
    if not same:
        raise ConformanceError(f"{subject.name}: reconstruct gives other vectors after a reload; save all it learned")


def _is_pickle(path: Path) -> bool:
    if zipfile.is_zipfile(path):  # .npz, or what torch.save writes
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    if _looks_pickled(member):
                        return True
        return False
    with path.open("rb") as file:
        return _looks_pickled(file)


def _looks_pickled(file: IO[bytes]) -> bool:
    start = file.read(128)
    npy_of_objects = start.startswith(b"\x93NUMPY") and b"'|O'" in start
    return npy_of_objects or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def check_new_items(subject: TokenizerSubject) -> None:
    """An item that the fit has not seen gets codes without another fit, and nobody's codes change by it.

    Raises:
        ConformanceError: it does not, or they do.
    """
    tokenizer, old = subject.fit(), subject.num_old
    before = tokenizer.encode(subject.embeddings[:old], subject.item_ids[:old])
    try:
        new = tokenizer.encode(subject.embeddings[old:], subject.item_ids[old:])
    except Exception as error:
        raise ConformanceError(
            f"{subject.name}: encode raises {type(error).__name__} for items it was not fitted on: {error}; a new item "
            "gets codes from its embedding or its id"
        ) from error
    _expect_codes(subject, new, len(subject.item_ids) - old, tokenizer.codebook_sizes)
    if not np.array_equal(tokenizer.encode(subject.embeddings[:old], subject.item_ids[:old]), before):
        raise ConformanceError(f"{subject.name}: codes change when new items are encoded; encode must not learn")


def check_reconstruct(subject: TokenizerSubject) -> None:
    """Reconstructions are finite float32 ``[N, E]``, of any codes in range, each of its codes alone; or None.

    Raises:
        ConformanceError: they are not.
    """
    tokenizer = subject.fit()
    codes = tokenizer.encode(subject.embeddings, subject.item_ids)
    vectors = tokenizer.reconstruct(codes)
    if vectors is None:
        return
    last = np.array([tokenizer.codebook_sizes], dtype=np.int32) - 1  # a path that no item may have
    for found, rows in ((vectors, len(codes)), (tokenizer.reconstruct(last), 1), (tokenizer.reconstruct(codes[:0]), 0)):
        shape = (rows, subject.embeddings.shape[1])
        if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape != shape:
            what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
            raise ConformanceError(f"{subject.name}: reconstruct gives {what}, expected float32 {shape}")
        if not np.isfinite(found).all():
            raise ConformanceError(f"{subject.name}: reconstruct gives numbers that are not finite")
    alone = np.concatenate([tokenizer.reconstruct(codes[row : row + 1]) for row in range(len(codes))])
    worst = float(np.abs(alone - vectors).max()) / (1.0 + float(np.abs(vectors).max()))
    if worst > 1e-5:
        raise ConformanceError(f"{subject.name}: a reconstruction changes by {worst:.2g} with the rows beside it")


def check_errors(subject: TokenizerSubject) -> None:
    """What cannot work is refused by a DataError: see the contract of ``Tokenizer.fit``.

    Raises:
        ConformanceError: it is not.
    """
    vectors, items = subject.embeddings, subject.item_ids
    spoilt = {"NaN": vectors.copy(), "infinity": vectors.copy()}
    spoilt["NaN"][5, 2], spoilt["infinity"][5, 2] = np.nan, np.inf
    _expect_refusal(subject, "fit on no items", vectors[:0], ())
    _expect_refusal(subject, "fit on an item that stands twice", vectors, (*items[:-1], items[0]), items[0])
    for value, spoiled in spoilt.items():
        _expect_refusal(subject, f"fit on an embedding with {value}", spoiled, items, items[5])
    _expect_refusal(subject, "fit on fewer ids than embeddings", vectors, items[:-1])
    tokenizer = subject.fit()
    if tokenizer.reconstruct(np.zeros((1, len(tokenizer.codebook_sizes)), np.int32)) is not None:  # it learns codes
        few = max(tokenizer.codebook_sizes) - 1
        _expect_refusal(subject, "fit on fewer items than a codebook has codes", vectors[:few], items[:few])
    for value, spoiled in spoilt.items():
        _expect_refusal(subject, f"encode of an embedding with {value}", spoiled, items, items[5], tokenizer)
    wide = np.concatenate([vectors, vectors], axis=1)
    _expect_refusal(subject, "encode of embeddings of another width", wide, items, "", tokenizer)


def _expect_refusal(
    subject: TokenizerSubject,
    what: str,
    vectors: Floats,
    items: Sequence[str],
    named: str = "",
    fitted: Tokenizer | None = None,
) -> None:
    try:
        if fitted is None:
            subject.build().fit(vectors, items)
        else:
            fitted.encode(vectors, items)
    except DataError as error:
        if named not in str(error):
            raise ConformanceError(
                f"{subject.name}: {what} is refused by '{error}', which does not name the item {named}"
            ) from error
        return
    except Exception as error:
        raise ConformanceError(
            f"{subject.name}: {what} raises {type(error).__name__}: {error}; raise a DataError that says what to mend"
        ) from error
    raise ConformanceError(f"{subject.name}: {what} is accepted; raise a DataError that says what to mend")


def _rows_that_differ(found: np.ndarray, expected: np.ndarray) -> int:
    return int((found != expected).any(axis=1).sum())
