"""What ``genrec profile`` measures: an interaction or encoder alone, on random input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from genrec_plugins.models.dlrm import required_embedding_dim
from genrec_registry import EncoderContext, InteractionContext, Registry, parse_component

Kind = Literal["interaction", "encoder"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the input.

    Args:
        batch_size: B.
        fields: F, tokens of a row, the dense one included.
        embedding_dim: D.
        length: L, events of the longest history; lengths are spread evenly from 1 to L.
    """

    batch_size: int = 1024
    fields: int = 39
    embedding_dim: int = 16
    length: int = 50


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something to run.

    Args:
        name: of the component.
        kind: ``interaction`` or ``encoder``.
        part: what of it runs: ``tokens`` of a row, ``states`` before each event, ``user tokens``, or ``ranker``.
        rows: of a call.
        events: of a call; 0 for interactions.
        module: holds the parameters.
        forward: runs it once.
        step: runs it forward and backward (a ranker: a whole training step).
        clear: drops the gradients that a step leaves.
    """

    name: str
    kind: Kind
    part: str
    rows: int
    events: int
    module: nn.Module
    forward: Callable[[], Any]
    step: Callable[[], Any]
    clear: Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How it runs.

    Args:
        device: where.
        dtype: ``fp32``, or ``bf16`` (autocast).
        compiled: through ``torch.compile``.
    """

    device: str = "cpu"
    dtype: str = "fp32"
    compiled: bool = False


def component_subject(
    kind: Kind,
    name: str,
    registry: Registry,
    shape: Shape | None = None,
    way: Way | None = None,
    options: Mapping[str, Any] | None = None,
) -> Subject:
    """An interaction or encoder alone; gradients go to its inputs too.

    Args:
        kind: which registry.
        name: of the component.
        registry: where it comes from.
        shape: of the input.
        way: how it runs.
        options: of the component.

    Raises:
        GenrecError: the name or an option is wrong, or the component does not take these sizes.

    Example::

        >>> from genrec_registry import default_registry
        >>> shape = Shape(batch_size=4, fields=3, embedding_dim=8)
        >>> component_subject("interaction", "fat", default_registry(), shape).forward().shape
        torch.Size([4, 24])
    """
    shape, way = shape or Shape(), way or Way()
    config = parse_component(registry, kind, {"type": name, **(options or {})})
    build = _interaction if kind == "interaction" else _encoder
    part, rows, events, module, call, inputs = build(config, registry, shape, way)

    def forward() -> Tensor:
        with torch.autocast(torch.device(way.device).type, torch.bfloat16, enabled=way.dtype == "bf16"):
            found: Tensor = call()
        return found

    gradient: list[Tensor] = []

    def clear() -> None:
        module.zero_grad(set_to_none=True)
        for tensor in inputs:
            tensor.grad = None

    def step() -> None:
        clear()
        output = forward()
        if not gradient:
            gradient.append(torch.randn_like(output))
        output.backward(gradient[0])

    return Subject(
        name=name,
        kind=kind,
        part=part,
        rows=rows,
        events=events,
        module=module,
        forward=forward,
        step=step,
        clear=clear,
    )


_Built = tuple[str, int, int, nn.Module, Callable[[], Tensor], list[Tensor]]


def _interaction(config: Any, registry: Registry, shape: Shape, way: Way) -> _Built:
    width = required_embedding_dim(registry, config, shape.fields) or shape.embedding_dim
    names = tuple(f"token_{index}" for index in range(shape.fields))
    with torch.device(way.device):
        module = registry.create("interaction", config, InteractionContext(embedding_dim=width, token_names=names))
        dense = torch.randn(shape.batch_size, width, requires_grad=True)
        sparse = torch.randn(shape.batch_size, shape.fields - 1, width, requires_grad=True)
    run: Any = torch.compile(module) if way.compiled else module
    call = lambda: run(dense_features=dense, sparse_features=sparse)  # noqa: E731
    return "tokens", shape.batch_size, 0, module, call, [dense, sparse]


def _encoder(config: Any, registry: Registry, shape: Shape, way: Way) -> _Built:
    context = EncoderContext(
        embedding_dim=shape.embedding_dim,
        feature_dim=shape.embedding_dim,
        max_length=shape.length,
        item_features=("item",),
        condition_features=("action",),
    )
    lengths = 1 + torch.arange(shape.batch_size) % shape.length
    total = int(lengths.sum())
    with torch.device(way.device):
        module: Any = registry.create("encoder", config, context)
        lengths = lengths.to(way.device)
        values = {name: torch.randn(total, shape.embedding_dim, requires_grad=True) for name in ("item", "action")}
        target = torch.randn(shape.batch_size, shape.embedding_dim, requires_grad=True)
    inputs = [*values.values(), target]
    next_item = "next-item" in registry.get("encoder", config.type).record.capabilities
    run: Any = module.states if next_item else module
    run = torch.compile(run) if way.compiled else run

    def call() -> Tensor:
        # Made anew: a JaggedTensor keeps what it has computed, and lengths to offsets belong to the work.
        events = {name: JaggedTensor(tensor, lengths=lengths) for name, tensor in values.items()}
        found: Tensor = run(events) if next_item else run(events, {"item": target})
        return found

    return "states" if next_item else "user tokens", shape.batch_size, total, module, call, inputs
