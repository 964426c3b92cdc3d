"""Checks that a module can be traced for serving: torch.fx, fx to TorchScript, torch.export."""

from __future__ import annotations

import io

import torch
from torch import nn

from genrec_plugins.testing.errors import ConformanceError
from genrec_plugins.testing.subject import call, largest_difference, random_inputs, tolerance
from genrec_registry import InteractionContext

_BATCH_SIZES = (1, 2, 7)


def _expect_same(module: nn.Module, traced: nn.Module, context: InteractionContext, what: str) -> None:
    for batch_size in _BATCH_SIZES:
        inputs = random_inputs(context, batch_size, seed=batch_size)
        with torch.no_grad():
            expected = call(module, *inputs)
            try:
                found = call(traced, *inputs)
            except ConformanceError as error:
                raise ConformanceError(
                    f"the {what} module fails for B = {batch_size}: {error}; a batch size was fixed while tracing: "
                    "take B from the inputs' shape, and avoid Python branches on it"
                ) from error
        difference = largest_difference(found, expected)
        if difference > tolerance(expected):
            raise ConformanceError(
                f"the {what} module's output differs by {difference:.2g} for B = {batch_size}: the trace recorded "
                "a value or a branch that depends on the input"
            )


def _trace(module: nn.Module) -> torch.fx.GraphModule:
    try:
        return torch.fx.symbolic_trace(module.eval())
    except Exception as error:
        if "child module 'meta'" in str(error):
            raise ConformanceError(
                f"torch.fx cannot trace the module: {error}; a traced module keeps a dict of its own under the name "
                "'meta': give the submodule another name"
            ) from error
        raise ConformanceError(
            f"torch.fx cannot trace the module: {type(error).__name__}: {error}; forward must not branch, "
            "loop or index on tensor values or sizes: use torch.where and masks, take loop bounds from the config, and "
            "put what cannot be traced into a module-level function marked with torch.fx.wrap"
        ) from error


def check_fx(module: nn.Module, context: InteractionContext) -> None:
    """``torch.fx.symbolic_trace`` gives a module that computes the same for several B.

    Args:
        module: the interaction.
        context: what it was built for.

    Raises:
        ConformanceError: it cannot be traced, or the trace computes something else.

    Example::

        >>> from genrec_plugins.testing import interaction_subject
        >>> subject = interaction_subject("autoint")
        >>> check_fx(subject.build(), subject.context)
    """
    _expect_same(module.eval(), _trace(module), context, "fx-traced")


def check_torchscript(module: nn.Module, context: InteractionContext) -> None:
    """TorchRec's serving path: fx, then TorchScript, saved and loaded, computes the same for several B.

    Args:
        module: the interaction.
        context: what it was built for.

    Raises:
        ConformanceError: it does not script, save or load, or computes something else.

    Example::

        >>> from genrec_plugins.testing import interaction_subject
        >>> subject = interaction_subject("rankmixer")
        >>> check_torchscript(subject.build(), subject.context)
    """
    traced = _trace(module)
    try:
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(traced), file)
        file.seek(0)
        loaded = torch.jit.load(file)
    except Exception as error:
        hint = (
            "; forward's annotations reached TorchScript as text: leave `from __future__ import annotations` out of "
            "the module's file and annotate with torch.Tensor"
            if "Unknown type name" in str(error)
            else "; use tensor operations and plain ints, floats and lists of them, which TorchScript knows"
        )
        raise ConformanceError(
            f"the fx-traced module does not script: {type(error).__name__}: {str(error).strip()}{hint}"
        ) from error
    _expect_same(module.eval(), loaded, context, "scripted")


def check_export(module: nn.Module, context: InteractionContext) -> None:
    """``torch.export`` with a dynamic batch gives a program that computes the same for several B.

    Args:
        module: the interaction.
        context: what it was built for.

    Raises:
        ConformanceError: it cannot be exported, B became fixed, or the program computes something else.

    Example::

        >>> from genrec_plugins.testing import interaction_subject
        >>> subject = interaction_subject("fm")
        >>> check_export(subject.build(), subject.context)
    """
    dense, sparse = random_inputs(context, 4)
    batch = torch.export.Dim("batch", min=1)
    try:
        exported = torch.export.export(
            module.eval(),
            (),
            {"dense_features": dense, "sparse_features": sparse},
            dynamic_shapes={"dense_features": {0: batch}, "sparse_features": {0: batch}},
        ).module()
    except Exception as error:
        raise ConformanceError(
            f"torch.export fails with a dynamic batch: {type(error).__name__}: {str(error).strip()}; forward must not "
            "branch on tensor values, turn B into a Python int, or have a submodule called 'meta'"
        ) from error
    _expect_same(module, exported, context, "exported")
