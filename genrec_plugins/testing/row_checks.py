"""Checks of what a module computes: shapes, rows that do not see each other, gradients, declared symmetries."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from genrec_plugins.testing.errors import ConformanceError
from genrec_plugins.testing.subject import call, largest_difference, probe, random_inputs, tolerance
from genrec_registry import InteractionContext


def check_shapes(module: nn.Module, context: InteractionContext, batch_sizes: Iterable[int] = (1, 2, 7)) -> None:
    """The output is ``[B, out_features]``, finite, and the inputs are left as they were.

    Args:
        module: the interaction.
        context: what it was built for.
        batch_sizes: values of B to try.

    Raises:
        ConformanceError: it is not.

    Example::

        >>> from genrec_plugins.testing import interaction_subject
        >>> subject = interaction_subject("dot")
        >>> check_shapes(subject.build(), subject.context)
    """
    out_features = getattr(module, "out_features", None)
    if not isinstance(out_features, int):
        raise ConformanceError(
            f"out_features is {out_features!r}, expected an int: set self.out_features in __init__ to the width of "
            "what forward returns, the over arch is built from it"
        )
    for batch_size in batch_sizes:
        dense, sparse = random_inputs(context, batch_size)
        before = dense.clone(), sparse.clone()
        output = call(module.eval(), dense, sparse)
        if list(output.shape) != [batch_size, out_features]:
            raise ConformanceError(
                f"B = {batch_size}: the output has shape {list(output.shape)}, expected "
                f"[B, out_features] = {[batch_size, out_features]}"
            )
        if not torch.isfinite(output).all():
            raise ConformanceError(f"B = {batch_size}: the output of a new module has values that are not finite")
        if not (torch.equal(dense, before[0]) and torch.equal(sparse, before[1])):
            raise ConformanceError("forward changes its inputs in place; work on a copy")


_MIXES = (
    "the module mixes rows across the batch. Attend, normalise and pool over the token axis (1), never over axis 0; "
    "nn.TransformerEncoderLayer and nn.MultiheadAttention need batch_first=True; use LayerNorm instead of BatchNorm"
)


def check_batch_independence(module: nn.Module, context: InteractionContext, batch_size: int = 7) -> None:
    """A row's output depends on that row alone, in eval and in train mode, and no forward leaves a trace.

    In eval mode each row alone gives what it gives within the batch. In both modes changing row 1 leaves row 0 as it
    was (train mode under one seed, so that dropout draws the same mask). In train mode no buffer changes: it would
    carry state from batch to batch, and differ between ranks.

    Args:
        module: the interaction.
        context: what it was built for.
        batch_size: rows of the batch, at least two.

    Raises:
        ConformanceError: rows see each other, or a buffer changes.

    Example::

        >>> from genrec_plugins.testing import interaction_subject
        >>> subject = interaction_subject("transformer")
        >>> check_batch_independence(subject.build(), subject.context)
    """
    dense, sparse = random_inputs(context, batch_size)
    dense_changed, sparse_changed = dense.clone(), sparse.clone()
    dense_changed[1] += 3.0
    sparse_changed[1] *= -2.0
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        for training in (False, True):
            module.train(training)
            torch.manual_seed(0)
            expected = call(module, dense, sparse)
            torch.manual_seed(0)
            changed = call(module, dense_changed, sparse_changed)
            for row in (row for row in range(batch_size) if row != 1):
                difference = largest_difference(changed[row], expected[row])
                if difference > tolerance(expected):
                    mode = "train" if training else "eval"
                    raise ConformanceError(
                        f"row {row} changes by {difference:.2g} when row 1 changes ({mode} mode): {_MIXES}"
                    )
        for name, buffer in module.named_buffers():
            if not torch.equal(buffer, buffers[name]):
                raise ConformanceError(
                    f"buffer '{name}' changes in a forward in train mode: it carries state from batch to batch and "
                    "differs between ranks (DMP does not broadcast buffers); drop it, or use LayerNorm for BatchNorm"
                )
        module.eval()
        expected = call(module, dense, sparse)
        for row in range(batch_size):
            alone = call(module, dense[row : row + 1], sparse[row : row + 1])[0]
            difference = largest_difference(alone, expected[row])
            if difference > tolerance(expected):
                raise ConformanceError(
                    f"row {row} alone differs by {difference:.2g} from the same row in a batch of {batch_size}: "
                    f"{_MIXES}"
                )


def check_gradients(
    module: nn.Module,
    context: Any,
    zero_grad_at_init: Iterable[str] = (),
    draws: int = 5,
) -> None:
    """Every parameter takes part in every step, and at least one of several draws moves it.

    Args:
        module: the module.
        context: what it was built for.
        zero_grad_at_init: regular expressions of parameters that get no gradient until others have left their initial
            value (behind a gate that starts at zero); they are examined after all parameters were moved a little.
        draws: random batches to try.

    Raises:
        ConformanceError: a parameter is not used, or its gradient is zero or not finite.

    Example::

        >>> from genrec_plugins.testing import interaction_subject
        >>> subject = interaction_subject("fmfm")
        >>> check_gradients(subject.build(), subject.context)
    """
    module.train()
    declared = [re.compile(pattern) for pattern in zero_grad_at_init]
    waiting = {name for name, _ in module.named_parameters() if any(p.fullmatch(name) for p in declared)}
    _expect_gradients(module, context, waiting, draws)
    if waiting:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        _expect_gradients(module, context, set(), draws)


def _expect_gradients(module: nn.Module, context: Any, excused: set[str], draws: int) -> None:
    moved: set[str] = set()
    for draw in range(draws):
        module.zero_grad(set_to_none=True)
        output = probe(context, module, 16, seed=draw)
        # A random projection: the plain sum of a LayerNorm's output has no gradient.
        projection = torch.randn(output.shape, generator=torch.Generator().manual_seed(draw))
        if output.requires_grad:
            (output * projection).sum().backward()
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                raise ConformanceError(
                    f"parameter '{name}' gets no gradient: nothing it computes uses it (or it is detached). DMP's "
                    "data-parallel wrapper needs every parameter in every step; use it, delete it, "
                    "or set requires_grad=False"
                )
            if not torch.isfinite(parameter.grad).all():
                raise ConformanceError(f"the gradient of parameter '{name}' is not finite")
            if parameter.numel() == 0 or parameter.grad.abs().max() > 0:
                moved.add(name)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and name not in moved | excused:
            raise ConformanceError(
                f"the gradient of parameter '{name}' is zero in {draws} random batches: a factor behind it is zero. "
                "Initialise that factor away from zero, or declare the parameter in zero_grad_at_init"
            )


def check_permutation_invariance(module: nn.Module, context: InteractionContext) -> None:
    """The capability ``"permutation-invariant"``: permuting the F sparse features leaves the output unchanged.

    Token 0, the dense features, stays where it is.

    Args:
        module: the interaction.
        context: what it was built for, with two sparse features or more.

    Raises:
        ConformanceError: the output changes.

    Example::

        >>> from genrec_plugins.testing import interaction_subject
        >>> subject = interaction_subject("transformer", {"readout": "mean"})
        >>> check_permutation_invariance(subject.build(), subject.context)
    """
    module.eval()
    dense, sparse = random_inputs(context, 3)
    order = [*range(1, context.num_sparse_features), 0]
    with torch.no_grad():
        expected, permuted = call(module, dense, sparse), call(module, dense, sparse[:, order])
    difference = largest_difference(permuted, expected)
    if difference > tolerance(expected):
        raise ConformanceError(
            f"the output changes by {difference:.2g} when the sparse features are permuted, but the component declares "
            "'permutation-invariant'; drop the capability, or the parameters that belong to a position"
        )
