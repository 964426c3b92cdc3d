"""Frozen records: what a plugin hands to the registry, one class per kind of component.

A record is data. It names a pydantic config model and a factory, either as objects or as ``"module:attr"`` strings
that are resolved on first use. The factory's signature depends on the kind and is stated on each record class; the
objects that factories return are described in :mod:`genrec_registry.contracts`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from genrec_registry.errors import PluginError
from genrec_registry.lazy import resolve

_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

Status = Literal["stable", "experimental", "deprecated"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One component offered by a plugin.

    Args:
        name: kebab-case name, the value of ``type`` in a run's YAML.
        config: a pydantic model (see :class:`genrec_registry.Config`), or ``"module:attr"`` of one. Its module must
            not import torch: configs are validated before anything heavy is loaded.
        factory: the callable that builds the component, or ``"module:attr"`` of one.
        summary: one line for ``genrec plugins list``.
        aliases: further names.
        capabilities: free-form facts that the conformance kit and the CLI read, for example
            ``"permutation-invariant"``.
        since: the version of the distribution that first had it.
        status: ``"deprecated"`` records still work and warn when they are used.

    Raises:
        PluginError: the name or an alias is not kebab-case.

    Example::

        >>> record = InteractionRecord(name="sum", config="acme.sum:SumConfig", factory="acme.sum:Sum", summary="Sum")
        >>> record.kind, record.name
        ('interaction', 'sum')
    """

    kind: ClassVar[str] = ""
    hook: ClassVar[str] = ""

    name: str
    config: str | type[Any]
    factory: str | Callable[..., Any]
    summary: str
    aliases: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    since: str = ""
    status: Status = "stable"

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            if not _KEBAB.fullmatch(name):
                raise PluginError(f"{self.kind} name '{name}' is not kebab-case; write it like 'my-component'")

    def load_config(self) -> type[Any]:
        """Return the pydantic config model, importing it if need be."""
        model: type[Any] = resolve(self.config)
        return model

    def load_factory(self) -> Callable[..., Any]:
        """Return the factory, importing it if need be."""
        factory: Callable[..., Any] = resolve(self.factory)
        return factory


@dataclass(frozen=True, kw_only=True)
class FieldTypeRecord(Record):
    """A field type: raw column(s) to ids, floats and tokens.

    ``factory(name: str, config) -> FieldType``.

    Args:
        token_module: ``factory(features: Sequence[DenseFeature], embedding_dim: int) -> nn.Module`` (or
            ``"module:attr"``) for types with dense features: one module turns the dense features of *all* fields of
            this type, ``[B, sum(width)]``, into tokens ``[B, sum(tokens), D]``. None for types that are sparse only.
    """

    kind = "field-type"
    hook = "genrec_field_types"

    token_module: str | Callable[..., Any] | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetRecord(Record):
    """A dataset adapter: files as downloaded to chunks of raw columns. ``factory(config) -> Dataset``.

    The capability ``"events"`` says that it gives a :class:`~genrec_registry.contracts.BehaviourDataset`.
    """

    kind = "dataset"
    hook = "genrec_datasets"


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord(Record):
    """A semantic-ID tokenizer. ``factory(config) -> Tokenizer``."""

    kind = "tokenizer"
    hook = "genrec_tokenizers"


@dataclass(frozen=True, kw_only=True)
class EncoderRecord(Record):
    """A behaviour-sequence encoder. ``factory(config, context: EncoderContext) -> nn.Module``.

    Capabilities: ``"next-item"`` (it can be pre-trained), ``"conditional"`` (its states depend on conditions),
    ``"target-aware"`` (its user tokens depend on the target); see
    :class:`~genrec_registry.contracts.EncoderContext` for what each promises.
    """

    kind = "encoder"
    hook = "genrec_encoders"


@dataclass(frozen=True, kw_only=True)
class InteractionRecord(Record):
    """An interaction arch. ``factory(config, context: InteractionContext) -> nn.Module``.

    Args:
        embedding_dim: for interactions whose tables must have a certain width (field-aware pair embeddings), a
            ``(config, num_tokens: int) -> int`` callable or ``"module:attr"``; None where any width will do.
    """

    kind = "interaction"
    hook = "genrec_interactions"

    embedding_dim: str | Callable[..., Any] | None = None


RECORD_TYPES: tuple[type[Record], ...] = (
    FieldTypeRecord,
    DatasetRecord,
    TokenizerRecord,
    EncoderRecord,
    InteractionRecord,
)
KINDS: dict[str, type[Record]] = {record.kind: record for record in RECORD_TYPES}
