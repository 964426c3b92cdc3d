"""Checks of a field type's token module: ``[B, sum(width)] -> [B, sum(tokens), D]``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genrec_plugins.testing.build_checks import materialize_like_dmp
from genrec_plugins.testing.errors import ConformanceError
from genrec_plugins.testing.field_cases import FieldSubject, encode, floats, hostile_rows
from genrec_plugins.testing.subject import largest_difference, tolerance
from genrec_registry import DenseFeature, resolve

_BATCH_SIZES = (1, 2, 7)
_D = 8


def dense_features(subject: FieldSubject) -> tuple[DenseFeature, ...]:
    """The dense features of two fields of this type: a token module serves all fields of its type at once."""
    return (*subject.fit(name="field").spec.dense, *subject.fit(name="other").spec.dense)


def build_token_module(subject: FieldSubject) -> nn.Module:
    """A new token module for the features of :func:`dense_features`, with D = 8."""
    module: nn.Module = resolve(subject.record.token_module)(dense_features(subject), _D)
    return module


def _inputs(subject: FieldSubject, rows: int, seed: int = 0) -> Tensor:
    width = sum(feature.width for feature in dense_features(subject))
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def _forward(module: nn.Module, dense: Tensor) -> Tensor:
    try:
        output = module(dense)
    except Exception as error:
        raise ConformanceError(
            f"the token module fails on {list(dense.shape)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(output, Tensor):
        raise ConformanceError(f"the token module returns {type(output).__name__}, expected a tensor [B, tokens, D]")
    return output


def _expect_close(found: Tensor, expected: Tensor, otherwise: str) -> None:
    difference = largest_difference(found, expected)
    if difference > tolerance(expected):
        raise ConformanceError(f"{otherwise}: the difference is {difference:.2g}")


def check_token_shapes(subject: FieldSubject) -> None:
    """Tokens are ``[B, sum(tokens), D]`` and finite, for random floats and for every row that can be encoded.

    Args:
        subject: the field type.

    Raises:
        ConformanceError: they are not.
    """
    module = build_token_module(subject)
    tokens = sum(feature.tokens for feature in dense_features(subject))
    fitted = subject.fit()
    encoded = floats(encode(fitted, hostile_rows(subject.build(), subject.sample)), fitted.spec.dense)
    hostile = torch.from_numpy(encoded).repeat(1, 2)
    for dense in (*(_inputs(subject, rows) for rows in _BATCH_SIZES), hostile):
        output = _forward(module, dense)
        expected = [dense.shape[0], tokens, _D]
        if list(output.shape) != expected:
            raise ConformanceError(f"tokens have the shape {list(output.shape)}, expected [B, tokens, D] = {expected}")
    if not torch.isfinite(_forward(module, _inputs(subject, 7))).all():
        raise ConformanceError("tokens of ordinary floats are not finite")


def check_token_independence(subject: FieldSubject) -> None:
    """A row's tokens depend on that row alone, and a field's tokens on that field's floats alone, in their order.

    Args:
        subject: the field type.

    Raises:
        ConformanceError: they depend on others.
    """
    module, dense, fields = build_token_module(subject).eval(), _inputs(subject, 7), dense_features(subject)
    with torch.no_grad():
        expected = _forward(module, dense)
        changed = dense.clone()
        changed[1] += 1.0
        others = [0, *range(2, 7)]
        _expect_close(_forward(module, changed)[others], expected[others], "other rows change when row 1 changes")
        for row in range(7):
            alone = _forward(module, dense[row : row + 1])[0]
            _expect_close(alone, expected[row], f"row {row} alone gives other tokens than in a batch")
        width = sum(feature.width for feature in fields) // 2
        tokens = sum(feature.tokens for feature in fields) // 2
        changed = dense.clone()
        changed[:, width:] = dense[:, width:].flip(0) + 0.5
        _expect_close(
            _forward(module, changed)[:, :tokens],
            expected[:, :tokens],
            "the first field's tokens change with the second field's floats (tokens follow the order of the features)",
        )


def check_token_gradients(subject: FieldSubject) -> None:
    """Every parameter gets a finite gradient in every step, and one that is not zero.

    Args:
        subject: the field type.

    Raises:
        ConformanceError: one does not.
    """
    module = build_token_module(subject).train()
    output = _forward(module, _inputs(subject, 64))
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    torch.autograd.backward((output * weights).sum())
    for name, parameter in module.named_parameters():
        if parameter.grad is None:
            raise ConformanceError(f"parameter '{name}' gets no gradient: forward does not use it; use it or delete it")
        if not torch.isfinite(parameter.grad).all() or not parameter.grad.abs().max() > 0:
            raise ConformanceError(f"the gradient of parameter '{name}' is zero or not finite")


def check_token_builds(subject: FieldSubject) -> None:
    """One seed, one module; the state dict carries everything; a meta-device build is whole after reset_parameters.

    Args:
        subject: the field type.

    Raises:
        ConformanceError: it is not.
    """
    dense = _inputs(subject, 5)

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return build_token_module(subject).eval()

    with torch.no_grad():
        expected = _forward(build(0), dense)
        _expect_close(_forward(build(0), dense), expected, "two modules under one seed differ: use torch's generator")
        loaded = build(1)
        loaded.load_state_dict(build(0).state_dict())
        _expect_close(_forward(loaded, dense), expected, "the output changes after a state-dict round trip")
        with torch.device("meta"):
            module = build_token_module(subject)
        module = materialize_like_dmp(module).eval()
        for name, parameter in module.named_parameters():
            if not torch.isfinite(parameter).all():
                raise ConformanceError(
                    f"parameter '{name}' holds uninitialised memory after a meta-device build: give the module that "
                    "owns it a reset_parameters() that sets it, and call that from __init__"
                )
        # With the parameters of a normal build it must compute the same: no buffer or fact may have got lost.
        for name, parameter in build(0).named_parameters():
            module.get_parameter(name).copy_(parameter)
        _expect_close(_forward(module, dense), expected, "a meta-device build loses a buffer: make it in forward")


def check_token_traces(subject: FieldSubject) -> None:
    """torch.fx, fx to TorchScript, and torch.export with a dynamic batch compute the same.

    Args:
        subject: the field type.

    Raises:
        ConformanceError: the module cannot be traced, or the trace computes something else.
    """
    module = build_token_module(subject).eval()
    try:
        traced = torch.fx.symbolic_trace(module)
        scripted = torch.jit.script(traced)
        batch = torch.export.Dim("batch", min=2, max=4096)
        exported = torch.export.export(module, (_inputs(subject, 4),), dynamic_shapes=({0: batch},)).module()
    except Exception as error:
        raise ConformanceError(
            f"the token module cannot be traced: {type(error).__name__}: {error}; branch and loop on the features "
            "alone, and write no 'from __future__ import annotations' in its file (TorchScript reads what fx writes)"
        ) from error
    with torch.no_grad():
        for rows in _BATCH_SIZES:
            dense = _inputs(subject, rows)
            expected = _forward(module, dense)
            _expect_close(_forward(traced, dense), expected, f"the fx-traced module differs for B = {rows}")
            _expect_close(_forward(scripted, dense), expected, f"the TorchScript module differs for B = {rows}")
            if rows > 1:
                _expect_close(_forward(exported, dense), expected, f"the exported module differs for B = {rows}")
