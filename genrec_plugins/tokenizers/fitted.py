"""A tokenizer with its catalogue: every item's ID, IDs for new items, and the directory that holds it all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrec_adapters.item_codes import Codes, ItemCodes
from genrec_adapters.preprocess.swap import replaced
from genrec_adapters.state import parse_json
from genrec_plugins.files import reason_of, system_errors
from genrec_plugins.tokenizers.collisions import CollisionPolicy, make_policy, parse_collisions
from genrec_plugins.tokenizers.inputs import CHUNK_ROWS, check_catalogue, check_embeddings, chunks
from genrec_registry import DataError, Registry, Tokenizer, default_registry, parse_component

FORMAT = "genrec-tokenizer"
VERSION = 1
MANIFEST = "tokenizer.json"
_MODEL = "model"
_AGAIN = "run 'genrec tokenize fit' again"


class FittedTokenizer:
    """A fitted tokenizer, the collision policy around it, and the IDs it gave out.

    Made by :func:`fit_tokenizer` and :func:`load_tokenizer`.

    Args:
        config: the tokenizer's tagged config.
        tokenizer: the fitted tokenizer.
        policy: the collision policy, which knows what is taken.
        collisions: its config.
        item_codes: IDs of the items so far.
        width: E of the embeddings.
    """

    def __init__(
        self,
        *,
        config: Any,
        tokenizer: Tokenizer,
        policy: CollisionPolicy,
        collisions: Any,
        item_codes: ItemCodes,
        width: int,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.policy = policy
        self.collisions = collisions
        self.width = width
        self._item_codes: ItemCodes | None = item_codes
        self._rows = {item: row for row, item in enumerate(item_codes.items)}
        self._ids = item_codes.codes  # with room to grow: rows beyond len(self._rows) mean nothing

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each level of an ID, the collision policy's included."""
        return self.policy.sizes

    @property
    def item_codes(self) -> ItemCodes:
        """IDs of all items so far."""
        if self._item_codes is None:
            ids = self._ids[: len(self._rows)].copy()
            self._item_codes = ItemCodes(items=tuple(self._rows), codes=ids, sizes=self.sizes)
        return self._item_codes

    def encode_new(self, embeddings: np.ndarray, item_ids: Sequence[str]) -> Codes:
        """IDs ``[M, len(sizes)]``: a known item keeps its own, whatever its embedding; a new one gets one.

        New items are remembered: they are in :attr:`item_codes` from now on, and :meth:`save` writes them.

        Args:
            embeddings: ``[M, E]``, made as those of the fit.
            item_ids: ``[M]``.

        Raises:
            DataError: an embedding is not finite or has another width, or no ID has room.
        """
        check_embeddings(embeddings, item_ids, self.width)
        new: dict[str, int] = {}
        for row, item in enumerate(item_ids):
            if item not in self._rows:
                new.setdefault(item, row)
        if new:
            vectors = embeddings[list(new.values())]
            self._append(list(new), self.policy.add(self.tokenizer.encode(vectors, list(new)), vectors))
        return self._ids[[self._rows[item] for item in item_ids]]

    def _append(self, items: list[str], ids: Codes) -> None:
        start, end = len(self._rows), len(self._rows) + len(items)
        if end > len(self._ids):
            grown = np.empty((max(end, 2 * start), len(self.sizes)), dtype=np.int32)
            grown[:start] = self._ids[:start]
            self._ids = grown
        self._ids[start:end] = ids
        self._rows |= {item: row for row, item in enumerate(items, start=start)}
        self._item_codes = None

    def reconstruct(self, ids: Codes) -> np.ndarray | None:
        """Embeddings ``[M, E]`` that IDs stand for; None for baselines, whose codes say nothing of them."""
        return self.tokenizer.reconstruct(ids[:, : len(self.tokenizer.codebook_sizes)])

    def save(self, directory: str | Path) -> None:
        """Write ``tokenizer.json``, ``codes.parquet`` and the tokenizer's own files; whole or not at all.

        Args:
            directory: where; a tokenizer that is there is replaced.

        Raises:
            DataError: something else is there, or it cannot be written.
        """
        target = Path(directory)
        if target.exists() and not (target / MANIFEST).exists() and (not target.is_dir() or any(target.iterdir())):
            raise DataError(f"{target}: exists and is no tokenizer; name another directory")
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "config": self.config.model_dump(mode="json"),
            "collisions": self.collisions.model_dump(mode="json"),
            "sizes": self.sizes,
            "width": self.width,
            "items": len(self.item_codes.items),
        }
        try:
            with system_errors(), replaced(target, marker=MANIFEST, what="a tokenizer") as aside:
                (aside / _MODEL).mkdir()
                self.tokenizer.save(str(aside / _MODEL))
                self.item_codes.write(aside)
                (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        except OSError as error:
            raise DataError(
                f"{target}: cannot be written ({error.strerror or error}); name another directory"
            ) from error


def fit_tokenizer(
    config: Any,
    embeddings: np.ndarray,
    item_ids: Sequence[str],
    collisions: Any = "suffix",
    registry: Registry | None = None,
    *,
    side: Mapping[str, np.ndarray] | None = None,
) -> FittedTokenizer:
    """Fit a tokenizer on a catalogue, and give every item its ID.

    Args:
        config: of the tokenizer: a name, ``{"type": name, ...}``, or a tagged config object.
        embeddings: ``[N, E]`` floats.
        item_ids: ``[N]``, each once.
        collisions: what to do with equal codes: ``suffix``, ``knn-cap`` or ``none``, or a mapping with options.
        registry: where the name is looked up; the installed plugins if None.
        side: further ``[N, ...]`` arrays for tokenizers that read them.

    Raises:
        PluginError: the name is unknown.
        ConfigError: an option is wrong.
        DataError: there are no items, one stands twice, an embedding is not finite, or a codebook is larger than the
            catalogue.

    Example::

        >>> vectors = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
        >>> items = [f"item-{row}" for row in range(64)]
        >>> fitted = fit_tokenizer({"type": "rq-kmeans", "sizes": [8, 4]}, vectors, items)
        >>> len(np.unique(fitted.item_codes.codes, axis=0)), fitted.item_codes.of(["item-5"]).shape
        (64, (1, 3))
        >>> fitted.encode_new(vectors[:1], ["item-64"])[0, :2].tolist() == fitted.item_codes.codes[0, :2].tolist()
        True
    """
    registry = registry or default_registry()
    config, policy_config = parse_component(registry, "tokenizer", config), parse_collisions(collisions)
    items = tuple(item_ids)
    check_catalogue(embeddings, items, ())
    tokenizer: Tokenizer = registry.create("tokenizer", config)
    tokenizer.fit(embeddings, items, side)
    policy = make_policy(policy_config, tokenizer)
    ids = policy.fit(tokenizer.encode(embeddings, items), embeddings, items)
    return FittedTokenizer(
        config=config,
        tokenizer=tokenizer,
        policy=policy,
        collisions=policy_config,
        item_codes=ItemCodes(items=items, codes=ids, sizes=policy.sizes),
        width=embeddings.shape[1],
    )


def load_tokenizer(directory: str | Path, registry: Registry | None = None) -> FittedTokenizer:
    """What :meth:`FittedTokenizer.save` wrote; it gives the same IDs, to new items too.

    Args:
        directory: where it is.
        registry: where the tokenizer's name is looked up; the installed plugins if None.

    Raises:
        DataError: there is nothing of the kind, or it is damaged.
        PluginError: the plugin that brought the tokenizer is not installed.
    """
    registry, directory = registry or default_registry(), Path(directory)
    try:
        data = parse_json((directory / MANIFEST).read_bytes())
        if not isinstance(data, dict) or data["format"] != FORMAT:
            raise ValueError("its format is another")
        if data["version"] != VERSION:
            raise DataError(
                f"{directory}: has format version {data['version']}, this program reads {VERSION}; {_AGAIN}"
            )
        sizes, width, items = tuple(map(int, data["sizes"])), int(data["width"]), int(data["items"])
        config, collisions = data["config"], data["collisions"]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"{directory}: is no fitted tokenizer ({reason_of(error, MANIFEST)}); name what 'genrec tokenize fit' wrote"
        ) from error
    config, collisions = parse_component(registry, "tokenizer", config), parse_collisions(collisions)
    tokenizer: Tokenizer = registry.create("tokenizer", config)
    tokenizer.restore(str(directory / _MODEL))
    policy = make_policy(collisions, tokenizer, sizes)
    item_codes = ItemCodes.read(directory)
    if policy.sizes != sizes or len(item_codes.items) != items:
        raise DataError(
            f"{directory}: holds {len(item_codes.items)} items and codes of sizes {policy.sizes}, "
            f"{MANIFEST} says {items} and {sizes}; {_AGAIN}"
        )
    policy.resume(item_codes.codes)
    return FittedTokenizer(
        config=config,
        tokenizer=tokenizer,
        policy=policy,
        collisions=collisions,
        item_codes=item_codes,
        width=width,
    )


def encode_chunks(
    tokenizer: Tokenizer | FittedTokenizer, embeddings: np.ndarray, item_ids: Sequence[str], rows: int = CHUNK_ROWS
) -> Iterator[Codes]:
    """Codes of many items, a chunk at a time: neither embeddings (a memory map will do) nor codes are held as a whole.

    Args:
        tokenizer: a fitted one; the codes are IDs if it is a :class:`FittedTokenizer`, which remembers new items.
        embeddings: ``[M, E]``.
        item_ids: ``[M]``.
        rows: items of a chunk.

    Example::

        >>> vectors = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
        >>> items = [f"item-{row}" for row in range(64)]
        >>> fitted = fit_tokenizer({"type": "opq", "sizes": [8, 4]}, vectors, items, "none")
        >>> [len(codes) for codes in encode_chunks(fitted.tokenizer, vectors, items, rows=40)]
        [40, 24]
    """
    encode = tokenizer.encode_new if isinstance(tokenizer, FittedTokenizer) else tokenizer.encode
    for part in chunks(len(item_ids), rows):
        yield encode(embeddings[part], item_ids[part])
