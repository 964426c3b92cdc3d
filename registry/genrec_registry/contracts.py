"""What the factories of each kind return: protocols and the small frozen facts they exchange. No torch import.

Shape letters are used everywhere in the project: B rows of a batch, F sparse features, D the embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from genrec_registry.features import BehaviourSpec, DenseFeature, DynamicRows, FieldSpec, SparseFeature

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

__all__ = [
    "SPLITS",
    "BehaviourDataset",
    "BehaviourSpec",
    "ColumnKind",
    "Dataset",
    "DenseFeature",
    "DynamicRows",
    "EncoderContext",
    "ErrorPolicy",
    "FieldFitter",
    "FieldSpec",
    "FieldState",
    "FieldType",
    "FittedField",
    "InteractionContext",
    "Json",
    "MergeableFitter",
    "SourceFile",
    "SparseFeature",
    "Split",
    "Tokenizer",
]

ColumnKind = Literal["string", "number", "list"]
Json = Any


# -- field types ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FieldState:
    """Everything a fitted field learned from the data, as JSON and tables: no pickle.

    Args:
        json: small facts.
        tables: named data frames (vocabularies with their counts), written as Parquet beside the manifest.
    """

    json: Mapping[str, Json] = field(default_factory=dict)
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)


class FittedField(Protocol):
    """A field that knows its vocabulary or statistics.

    One that only makes sense for rows of a certain time may have a method ``check_split(rows, split)``: preprocessing
    calls it with the raw rows of each chunk and split, and it raises DataError.
    """

    @property
    def spec(self) -> FieldSpec:
        """The tables and dense features it asks for."""

    def encode(self) -> Sequence[pl.Expr]:
        """Expressions over the raw columns, one for each feature of ``spec``, aliased to the feature's name.

        They are evaluated a chunk at a time, with those of all other fields in one ``select``; a row's result must
        depend on that row only. Unknown, missing and out-of-range values have a defined result and never raise.
        """

    def state(self) -> FieldState:
        """What :meth:`FieldType.restore` needs to build this object again."""


class FieldFitter(Protocol):
    """Accumulates one field's statistics over chunks in bounded memory."""

    def update(self, chunk: pl.DataFrame) -> None:
        """Take one chunk; it has at least the field's columns."""

    def finish(self) -> FittedField:
        """Return the fitted field; the result does not depend on how the rows were cut into chunks."""


@runtime_checkable
class MergeableFitter(FieldFitter, Protocol):
    """A fitter that can hand on what it counted, so that rows may be fitted in several processes at once.

    All built-in field types have one. A field type that does not is fitted in one process, wherever others are spread.
    """

    def partial(self) -> FieldState:
        """What was counted so far."""

    def absorb(self, partial: FieldState) -> None:
        """Add what another fitter of the same field counted; the order of fitters must not matter."""


class FieldType(Protocol):
    """A configured field that has not seen data yet: what a field-type factory returns.

    One that reads files beside the rows names them (or their folders) in an attribute ``files``, a sequence of paths:
    rows are prepared again when these change.
    """

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """Raw columns it reads, and what they must hold: text, numbers, or lists."""

    def fitter(self) -> FieldFitter:
        """A new accumulator."""

    def restore(self, state: FieldState) -> FittedField:
        """The fitted field with this state."""


# -- datasets ---------------------------------------------------------------------------------------------------------

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One input file of a dataset, and the split it is bound to (None: rows are split by the run's policy)."""

    path: str
    split: Split | None = None
    md5: str | None = None


@dataclass(kw_only=True)
class ErrorPolicy:
    """What to do with a bad row: stop at the first (the default), or count and skip.

    A dataset calls :meth:`bad_row` for each row it cannot use; under ``"stop"`` that raises DataError.

    Example::

        >>> policy = ErrorPolicy(on_error="skip")
        >>> policy.bad_row("train.txt", 3, "label", "'x' is not 0 or 1")
        >>> policy.skipped, policy.examples
        (1, ["train.txt, row 3, column label: 'x' is not 0 or 1"])
    """

    on_error: Literal["stop", "skip"] = "stop"
    skipped: int = 0
    examples: list[str] = field(default_factory=list)
    max_examples: int = 10

    def bad_row(self, path: str, row: int, column: str, problem: str) -> None:
        """Report row ``row`` (1-based, header not counted) of ``path``.

        Raises:
            DataError: the policy is ``"stop"``.
        """
        from genrec_registry.errors import DataError

        sentence = f"{path}, row {row}, column {column}: {problem}"
        if self.on_error == "stop":
            raise DataError(f"{sentence}; mend the row, or pass --on-error skip to leave such rows out and count them")
        self.skipped += 1
        if len(self.examples) < self.max_examples:
            self.examples.append(sentence)


class Dataset(Protocol):
    """A configured dataset adapter: what a dataset factory returns."""

    @property
    def label(self) -> str:
        """Name of the label column of :meth:`scan`'s chunks: Int8, 0 or 1."""

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """Raw feature columns of :meth:`scan`'s chunks (String, Float64/Int64, or List)."""

    def sources(self) -> Sequence[SourceFile]:
        """The input files, in reading order; raises DataError where one is missing."""

    def default_fields(self) -> Mapping[str, Json]:
        """The ``fields`` section used when the run's YAML has none: pattern -> field config."""

    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks of one file, in file order, in bounded memory; bad rows go to ``policy``."""


class BehaviourDataset(Dataset, Protocol):
    """A dataset of users' events, which is also a source of CTR rows: what a factory with ``"events"`` returns.

    A record with the capability ``"events"`` promises this protocol. :meth:`Dataset.scan` gives one row an event, in
    time order (within a split, where the sources are bound to splits), with the history strictly before it: columns
    ``user``, ``item``, ``time``, the lists ``history_item`` and ``history_<condition>``, and whatever is known before
    the outcome. Rows beyond the events have label 0. The methods here give the events themselves, to pre-train on.
    """

    @property
    def conditions(self) -> tuple[str, ...]:
        """Columns of :meth:`events` that say under what condition an item came (``action``, ...)."""

    def events(self, policy: ErrorPolicy | None = None) -> pl.DataFrame:
        """All events, sorted by user, then time, then file order.

        Columns: ``user`` and ``item`` (String), ``time`` (Int64: epoch seconds, or a counter where the source has no
        clock), one String column for each of :attr:`conditions`, ``label`` (Int8: whether the user liked it); and
        ``split`` (``train``, ``valid``, ``test``) where the source publishes one.
        """

    def items(self) -> pl.DataFrame:
        """One row an item that has content: ``item`` (String), ``text`` (String, may be empty), ``categories``
        (List(String), may be empty), and whatever else the source knows, as String columns."""


# -- interactions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InteractionContext:
    """The facts an interaction arch may rely on when it is built.

    The module is called as DLRM calls it, ``forward(dense_features=[B, D], sparse_features=[B, F, D])``, and returns
    ``[B, out_features]``. Token 0 is ``dense_features``; tokens 1..F are ``sparse_features``. In a model without a
    dense arch the first field takes token 0's place, so that every interaction sees ``num_tokens = F + 1`` tokens.

    Args:
        embedding_dim: D.
        token_names: names of the F + 1 tokens, in order.

    Example::

        >>> context = InteractionContext(embedding_dim=16, token_names=("dense", "C1", "C2"))
        >>> context.num_tokens, context.num_sparse_features
        (3, 2)
    """

    embedding_dim: int
    token_names: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        """F + 1."""
        return len(self.token_names)

    @property
    def num_sparse_features(self) -> int:
        """F, as TorchRec's own interaction archs count."""
        return len(self.token_names) - 1


# -- sequence encoders ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EncoderContext:
    """The facts a sequence encoder may rely on when it is built.

    The module is called with the looked-up embeddings of an EmbeddingCollection: T events in all, of B rows, whose
    features have width E.

    - ``forward(events: dict[str, JaggedTensor], target: dict[str, Tensor]) -> Tensor``: user tokens
      ``[B, num_user_tokens, D]``, where ``num_user_tokens`` is an attribute of the module. ``events`` has every feature
      of ``item_features`` and ``condition_features`` with values ``[T, E]`` and one common ``offsets() [B + 1]``;
      ``target`` has ``item_features`` as ``[B, E]``. A row without events gets finite tokens.

    An encoder whose record has the capability ``"next-item"`` can be pre-trained, and has besides:

    - ``states(events) -> Tensor``: ``[T, D]``; row t stands for the item of event t, seen from the events before it in
      its row and, in encoders with the capability ``"conditional"``, from its own condition.
    - ``query(events, row: Tensor, prefix: Tensor, conditions: dict[str, Tensor]) -> Tensor``: ``[M, D]``; query m
      asks for the item that comes after the first ``prefix[m]`` events of row ``row[m]`` under ``conditions`` (each
      ``[M, E]``). Queries do not see each other. ``states`` is ``query`` at every event with the event's own condition.
    - ``item_vectors(items: dict[str, Tensor]) -> Tensor``: ``[N, D]`` from ``[N, E]``, to be compared with the states.

    Args:
        embedding_dim: D, the width of user tokens, states and item vectors.
        feature_dim: E, the width of each feature's embeddings.
        max_length: events of the longest row.
        item_features: event features that say what an item is.
        condition_features: event features that say under what condition it came; may be empty.
    """

    embedding_dim: int
    feature_dim: int
    max_length: int
    item_features: tuple[str, ...]
    condition_features: tuple[str, ...] = ()


# -- tokenizers -------------------------------------------------------------------------------------------------------


@runtime_checkable
class Tokenizer(Protocol):
    """A semantic-ID tokenizer: N items, with embeddings of width E, to N rows of L codes.

    What it returns from :meth:`encode` may be the same for several items; keeping them apart is the work of the
    collision policy, which stands around every tokenizer.
    """

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes of each of the L levels."""

    def fit(
        self,
        embeddings: np.ndarray,
        item_ids: Sequence[str],
        side: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Learn the codebooks from ``[N, E]`` float32 embeddings.

        Raises:
            DataError: NaN, duplicate ids, or fewer items than a codebook has codes.
        """

    def encode(self, embeddings: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
        """Int32 codes ``[N, L]``; an item's codes depend on that item alone, and are the same after a reload."""

    def reconstruct(self, codes: np.ndarray) -> np.ndarray | None:
        """Embeddings ``[N, E]`` that the codes stand for; None where codes say nothing of them (hash, random)."""

    def save(self, directory: str) -> None:
        """Write what was learned into an existing directory, without pickle."""

    def restore(self, directory: str) -> None:
        """Take back what :meth:`save` wrote, into an object made from the same config."""
