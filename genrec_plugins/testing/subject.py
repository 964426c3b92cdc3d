"""What the kit examines: a component by name, record or factory, with its config and the context it is built for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from genrec_plugins.testing.errors import ConformanceError
from genrec_registry import (
    InteractionContext,
    InteractionRecord,
    PluginError,
    Record,
    Registry,
    default_registry,
    explain,
    parse_component,
    resolve,
)

Factory = Callable[[Any, InteractionContext], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One interaction, ready to be built.

    Args:
        name: what messages call it.
        factory: ``factory(config, context) -> nn.Module``.
        config: what the factory is given.
        context: what the module is built for.
        capabilities: what it claims, for example ``"permutation-invariant"``.
    """

    name: str
    factory: Factory
    config: Any
    context: InteractionContext
    capabilities: frozenset[str] = frozenset()

    def build(self) -> nn.Module:
        """A new module."""
        return self.factory(self.config, self.context)


def interaction_subject(
    component: str | InteractionRecord | Factory,
    config: Mapping[str, Any] | BaseModel | None = None,
    *,
    embedding_dim: int = 8,
    num_sparse_features: int = 4,
    capabilities: frozenset[str] | None = None,
    registry: Registry | None = None,
) -> Subject:
    """Bind a component, its config and a small context.

    Args:
        component: a registered name, a record, or a factory (a class is one).
        config: its options: a mapping (names and records only), a config object, or nothing.
        embedding_dim: D; a record that needs a certain width overrules it.
        num_sparse_features: F.
        capabilities: what it claims; the record's if None.
        registry: where names are looked up; the installed plugins if None.

    Raises:
        PluginError: the name is unknown, or a factory is given a mapping.
        ConfigError: the config is wrong.

    Example::

        >>> subject = interaction_subject("ffm", {"pair_dim": 2}, num_sparse_features=3)
        >>> subject.name, subject.context.embedding_dim, subject.context.token_names
        ('ffm', 8, ('dense', 'C1', 'C2', 'C3'))
    """
    name, factory, config, record = bind("interaction", component, config, registry)
    tokens = ("dense", *(f"C{index}" for index in range(1, num_sparse_features + 1)))
    if isinstance(record, InteractionRecord) and record.embedding_dim is not None:
        embedding_dim = resolve(record.embedding_dim)(config, len(tokens))
    if capabilities is None:
        capabilities = record.capabilities if record is not None else frozenset()
    return Subject(
        name=name,
        factory=factory,
        config=config,
        context=InteractionContext(embedding_dim=embedding_dim, token_names=tokens),
        capabilities=capabilities,
    )


def bind(
    kind: str,
    component: str | Record | Callable[..., Any],
    config: Mapping[str, Any] | BaseModel | None,
    registry: Registry | None = None,
) -> tuple[str, Callable[..., Any], Any, Record | None]:
    """A component's name, factory and config, and its record if it has one.

    Args:
        kind: of the component, where it is given by name.
        component: a registered name, a record, or a factory (a class is one).
        config: its options: a mapping (names and records only), a config object, or nothing.
        registry: where names are looked up; the installed plugins if None.

    Raises:
        PluginError: the name is unknown, or a factory is given a mapping.
        ConfigError: the config is wrong.

    Example::

        >>> name, factory, config, record = bind("interaction", "dcn", {"num_layers": 2})
        >>> name, factory.__name__, config.num_layers
        ('dcn', 'DcnInteraction', 2)
    """
    record: Record | None = None
    if isinstance(component, str):
        registry = registry or default_registry()
        found = registry.get(kind, component)
        if not isinstance(config, BaseModel):
            config = parse_component(registry, kind, {"type": found.qualified_name, **(config or {})})
        record = found.record
    elif isinstance(component, Record):
        record = component
        if not isinstance(config, BaseModel):
            config = explain(record.load_config(), dict(config or {}), where=f"{record.kind} {record.name}")
    elif isinstance(config, Mapping):
        raise PluginError(f"{component!r} is a factory: give it a config object instead of a mapping, or pass a record")
    else:
        return getattr(component, "__name__", repr(component)), component, config, None
    return record.name, record.load_factory(), config, record


def random_inputs(context: InteractionContext, batch_size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Normal ``dense_features [B, D]`` and ``sparse_features [B, F, D]``.

    Example::

        >>> dense, sparse = random_inputs(InteractionContext(embedding_dim=4, token_names=("dense", "C1")), 3)
        >>> dense.shape, sparse.shape
        (torch.Size([3, 4]), torch.Size([3, 1, 4]))
    """
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(batch_size, context.embedding_dim, generator=generator)
    sparse = torch.randn(batch_size, context.num_sparse_features, context.embedding_dim, generator=generator)
    return dense, sparse


def call(module: nn.Module, dense: Tensor, sparse: Tensor) -> Tensor:
    """Call the module as DLRM does, by keyword.

    Raises:
        ConformanceError: the parameters have other names, the call fails, or the result is no tensor.
    """
    try:
        output = module(dense_features=dense, sparse_features=sparse)
    except Exception as error:
        hint = (
            "; DLRM calls forward(dense_features=..., sparse_features=...) by keyword: use these two names"
            if isinstance(error, TypeError) and "argument" in str(error)
            else ""
        )
        raise ConformanceError(
            f"forward fails on dense_features {list(dense.shape)} and sparse_features {list(sparse.shape)}: "
            f"{type(error).__name__}: {error}{hint}"
        ) from error
    if not isinstance(output, Tensor):
        raise ConformanceError(f"forward returns {type(output).__name__}, expected one tensor [B, out_features]")
    return output


@singledispatch
def probe(context: Any, module: nn.Module, batch_size: int, seed: int = 0) -> Tensor:
    """Everything that a module computes for a random batch, as one tensor.

    The checks that need no more than an output work for every kind of component that teaches this function its
    context.

    Args:
        context: what the module was built for.
        module: the module.
        batch_size: rows of the batch.
        seed: of the batch.
    """
    raise NotImplementedError(f"no random batch is known for a {type(context).__name__}")


@probe.register
def _(context: InteractionContext, module: nn.Module, batch_size: int, seed: int = 0) -> Tensor:
    return call(module, *random_inputs(context, batch_size, seed))


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; infinite where one side is not finite or the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    if found.numel() == 0:
        return 0.0
    return float((found - expected).abs().max().nan_to_num(nan=float("inf")))


def tolerance(expected: Tensor) -> float:
    """What float32 rounding may change in values of this size."""
    return 1e-5 * (1.0 + float(expected.abs().max())) if expected.numel() else 1e-5
