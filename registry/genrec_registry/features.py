"""What a fitted field asks of the model: tables, floats, a history. Small frozen facts without torch.

Shape letters are those of :mod:`genrec_registry.contracts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Json = Any


@dataclass(frozen=True, kw_only=True)
class DynamicRows:
    """How hashed ids are given the rows of a table, and lose them again (TorchRec's managed collision, ZCH).

    Args:
        eviction: which ids go first: those not seen for longest, those seen least often, or a mix of both.
        interval: steps between two times of giving rows.
    """

    eviction: Literal["lru", "lfu", "distance-lfu"] = "lru"
    interval: int = 1


@dataclass(frozen=True, kw_only=True)
class SparseFeature:
    """Ids that look up one embedding table, and become one token.

    Args:
        name: feature name, unique in the run; also the name of the encoded column.
        num_embeddings: rows of the table; ids are in ``[0, num_embeddings)`` unless they are dynamic.
        max_length: 1 for exactly one id a row (the encoded column is Int32); larger for up to that many ids a row
            (the encoded column is ``List(Int32)``, possibly empty).
        pooling: how several ids become one vector; ``"none"`` for ids that a sequence encoder looks up one by one
            in an EmbeddingCollection (see :class:`BehaviourSpec`), which are no tokens by themselves.
        table: the table's name, when two features share one; the feature's own name if empty.
        dynamic: the ids are hashes in ``[0, 2**63 - 1)``, encoded as Int64, to which the model gives rows while it
            trains; None for ids that are rows.
    """

    name: str
    num_embeddings: int
    max_length: int = 1
    pooling: Literal["sum", "mean", "none"] = "sum"
    table: str = ""
    dynamic: DynamicRows | None = None

    @property
    def num_ids(self) -> int:
        """Ids of the encoded column are in ``[0, num_ids)``."""
        return self.num_embeddings if self.dynamic is None else 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class DenseFeature:
    """Floats that the field type's token module turns into tokens.

    Args:
        name: feature name, unique in the run; also the name of the encoded column.
        width: floats a row; the encoded column is Float32 if 1, else ``Array(Float32, width)``.
        tokens: tokens that the token module makes of it.
        params: JSON facts that the token module needs (bin edges, ...).
    """

    name: str
    width: int = 1
    tokens: int = 1
    params: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BehaviourSpec:
    """Which sparse features of a field are a history of events, and which are the target of the same kind.

    All features named here have ``pooling="none"``. Events of a row stand in time order, and the lists of one row are
    equally long.

    Args:
        items: event features that say what an item is; the first is the item's own id.
        conditions: event features that say under what condition it came (action, scene, gap); may be empty.
        targets: for each of ``items``, the one-id feature of the row's target that shares its table.
        max_length: events of the longest history.

    Example::

        >>> BehaviourSpec(items=("past",), conditions=("past_action",), targets=("now",), max_length=50).features
        ('past', 'past_action', 'now')
    """

    items: tuple[str, ...]
    conditions: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    max_length: int

    @property
    def features(self) -> tuple[str, ...]:
        """All features the encoder reads."""
        return (*self.items, *self.conditions, *self.targets)


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """What one fitted field asks of the model: its tables, its dense features, its history.

    Example::

        >>> spec = FieldSpec(name="C1", type="categorical", sparse=(SparseFeature(name="C1", num_embeddings=7),))
        >>> spec.num_tokens
        1
    """

    name: str
    type: str
    sparse: tuple[SparseFeature, ...] = ()
    dense: tuple[DenseFeature, ...] = ()
    behaviour: BehaviourSpec | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens this field contributes to the interaction, beside those of the encoder that reads its history."""
        pooled = sum(feature.pooling != "none" for feature in self.sparse)
        return pooled + sum(feature.tokens for feature in self.dense)
