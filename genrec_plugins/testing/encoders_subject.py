"""What the encoder suite examines, and the random histories it is examined on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torchrec import JaggedTensor

from genrec_plugins.testing.errors import ConformanceError
from genrec_plugins.testing.subject import bind, probe
from genrec_registry import EncoderContext, EncoderRecord, Registry

EncoderFactory = Callable[[Any, EncoderContext], nn.Module]


@dataclass(frozen=True, kw_only=True)
class EncoderSubject:
    """One sequence encoder, ready to be built.

    Args:
        name: what messages call it.
        factory: ``factory(config, context) -> nn.Module``.
        config: what the factory is given.
        context: what the module is built for.
        capabilities: what it claims: ``"next-item"``, ``"conditional"``, ``"target-aware"``.
    """

    name: str
    factory: EncoderFactory
    config: Any
    context: EncoderContext
    capabilities: frozenset[str] = frozenset()

    def build(self) -> nn.Module:
        """A new module."""
        return self.factory(self.config, self.context)


def encoder_subject(
    component: str | EncoderRecord | EncoderFactory,
    config: Mapping[str, Any] | BaseModel | None = None,
    *,
    embedding_dim: int = 8,
    feature_dim: int = 12,
    max_length: int = 5,
    num_item_features: int = 2,
    num_condition_features: int = 1,
    capabilities: frozenset[str] | None = None,
    registry: Registry | None = None,
) -> EncoderSubject:
    """Bind an encoder, its config and a small context.

    Args:
        component: a registered name, a record, or a factory (a class is one).
        config: its options: a mapping (names and records only), a config object, or nothing.
        embedding_dim: D.
        feature_dim: E, a multiple of 4 (a sharded table needs it).
        max_length: events of the longest row.
        num_item_features: features that say what an item is.
        num_condition_features: features that say under what condition it came.
        capabilities: what it claims; the record's if None.
        registry: where names are looked up; the installed plugins if None.

    Raises:
        PluginError: the name is unknown, or a factory is given a mapping.
        ConfigError: the config is wrong.

    Example::

        >>> subject = encoder_subject("sasrec", {"num_layers": 1})
        >>> subject.name, subject.context.item_features, sorted(subject.capabilities)
        ('sasrec', ('item1', 'item2'), ['next-item'])
    """
    name, factory, config, record = bind("encoder", component, config, registry)
    if capabilities is None:
        capabilities = record.capabilities if record is not None else frozenset()
    context = EncoderContext(
        embedding_dim=embedding_dim,
        feature_dim=feature_dim,
        max_length=max_length,
        item_features=tuple(f"item{number}" for number in range(1, num_item_features + 1)),
        condition_features=tuple(f"condition{number}" for number in range(1, num_condition_features + 1)),
    )
    return EncoderSubject(name=name, factory=factory, config=config, context=context, capabilities=capabilities)


@dataclass(frozen=True, kw_only=True)
class EventBatch:
    """T events of B rows, and the rows' targets, as looked-up embeddings.

    Args:
        lengths: events of each row.
        events: ``[T, E]`` by feature name.
        target: ``[B, E]`` by item feature name.

    Example::

        >>> context = EncoderContext(embedding_dim=4, feature_dim=4, max_length=3, item_features=("item",))
        >>> batch = random_events(context, lengths=[2, 0, 3])
        >>> batch.take([2, 0]).lengths, batch.first([1, 0, 2]).lengths, batch.row.tolist(), batch.place.tolist()
        ([3, 2], [1, 0, 2], [0, 0, 2, 2, 2], [0, 1, 0, 1, 2])
    """

    lengths: list[int]
    events: dict[str, Tensor]
    target: dict[str, Tensor]

    @property
    def row(self) -> Tensor:
        """``[T]`` the row of each event."""
        return torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths, dtype=torch.long))

    @property
    def place(self) -> Tensor:
        """``[T]`` the place of each event in its row."""
        return torch.cat([torch.arange(length) for length in [*self.lengths, 0]])

    def jagged(self) -> dict[str, JaggedTensor]:
        """The events as an EmbeddingCollection returns them."""
        lengths = torch.tensor(self.lengths, dtype=torch.int32)
        return {name: JaggedTensor(values, lengths=lengths) for name, values in self.events.items()}

    def take(self, rows: Sequence[int]) -> EventBatch:
        """These rows, in this order."""
        kept = torch.cat([(self.row == row).nonzero().flatten() for row in rows])
        return EventBatch(
            lengths=[self.lengths[row] for row in rows],
            events={name: values[kept] for name, values in self.events.items()},
            target={name: values[list(rows)] for name, values in self.target.items()},
        )

    def first(self, lengths: Sequence[int]) -> EventBatch:
        """The first ``lengths[b]`` events of every row."""
        kept = self.place < torch.tensor(lengths, dtype=torch.long)[self.row]
        return EventBatch(
            lengths=list(lengths),
            events={name: values[kept] for name, values in self.events.items()},
            target=self.target,
        )

    def changed(self, where: Tensor, features: Sequence[str]) -> EventBatch:
        """The same with other embeddings of ``features`` at the events ``where [T]``."""
        events = dict(self.events)
        for name in features:
            events[name] = torch.where(where.unsqueeze(1), 1.5 - 2.0 * events[name], events[name])
        return EventBatch(lengths=self.lengths, events=events, target=self.target)


def random_events(context: EncoderContext, lengths: Sequence[int], seed: int = 0) -> EventBatch:
    """Normal embeddings for rows of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: sum(lengths) for name in (*context.item_features, *context.condition_features)}
    events = {name: torch.randn(rows, context.feature_dim, generator=generator) for name, rows in shapes.items()}
    target = {
        name: torch.randn(len(lengths), context.feature_dim, generator=generator) for name in context.item_features
    }
    return EventBatch(lengths=list(lengths), events=events, target=target)


def ragged(context: EncoderContext, batch_size: int) -> list[int]:
    """Lengths of ``batch_size`` rows: one as long as allowed, one empty, others between.

    Example::

        >>> ragged(EncoderContext(embedding_dim=4, feature_dim=4, max_length=5, item_features=("item",)), 7)
        [5, 0, 4, 1, 3, 2, 2]
    """
    longest = context.max_length
    return [row // 2 % (longest + 1) if row % 2 else longest - row // 2 % (longest + 1) for row in range(batch_size)]


def user_tokens(module: nn.Module, batch: EventBatch) -> Tensor:
    """Call the encoder as the model does.

    Raises:
        ConformanceError: the call fails, or the result is no tensor.
    """
    hint = "; the model calls forward(events=..., target=...) by keyword: use these two names"
    return _answer(
        f"forward on rows of {batch.lengths} events", hint, module, events=batch.jagged(), target=batch.target
    )


def states(module: nn.Module, batch: EventBatch) -> Tensor:
    """``states`` of all events.

    Raises:
        ConformanceError: the call fails, or the result is no tensor.
    """
    return _answer(f"states on rows of {batch.lengths} events", "", _method(module, "states"), batch.jagged())


def item_vectors(module: nn.Module, items: Mapping[str, Tensor]) -> Tensor:
    """``item_vectors`` of items.

    Raises:
        ConformanceError: the call fails, or the result is no tensor.
    """
    return _answer("item_vectors", "", _method(module, "item_vectors"), items)


def query(module: nn.Module, batch: EventBatch, row: Tensor, prefix: Tensor, conditions: dict[str, Tensor]) -> Tensor:
    """``query``.

    Raises:
        ConformanceError: the call fails, or the result is no tensor.
    """
    what = f"query of {len(row)} queries on rows of {batch.lengths} events"
    return _answer(what, "", _method(module, "query"), batch.jagged(), row, prefix, conditions)


def _method(module: nn.Module, name: str) -> Callable[..., Any]:
    method = getattr(module, name, None)
    if method is None:
        raise ConformanceError(
            f"the encoder declares 'next-item' but has no method {name}: write it (EncoderContext says what it "
            "returns), or drop the capability"
        )
    found: Callable[..., Any] = method
    return found


def _answer(what: str, hint: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
    try:
        found = function(*args, **kwargs)
    except Exception as error:
        hint = hint if isinstance(error, TypeError) and "argument" in str(error) else ""
        raise ConformanceError(f"{what} fails: {type(error).__name__}: {error}{hint}") from error
    if not isinstance(found, Tensor):
        raise ConformanceError(f"{what} returns {type(found).__name__}, expected one tensor")
    return found


@probe.register
def _(context: EncoderContext, module: nn.Module, batch_size: int, seed: int = 0) -> Tensor:
    """User tokens and, of a next-item encoder, states, answers to queries and item vectors."""
    batch = random_events(context, ragged(context, batch_size), seed)
    parts = [user_tokens(module, batch)]
    if hasattr(module, "states"):
        asked = {name: batch.events[name] for name in context.condition_features}
        parts += [states(module, batch), query(module, batch, batch.row, batch.place, asked)]
        parts += [item_vectors(module, batch.target)]
    return torch.cat([part.flatten() for part in parts])
