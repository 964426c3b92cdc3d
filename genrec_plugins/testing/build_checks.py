"""Checks of how a module comes to life: on the meta device, from a state dict, from a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genrec_plugins.testing.errors import ConformanceError
from genrec_plugins.testing.subject import largest_difference, probe, tolerance

Build = Callable[[], nn.Module]
_SAMPLES = 8


def materialize_like_dmp(module: nn.Module) -> nn.Module:
    """Give a meta-device module memory as ``DistributedModelParallel`` does, with NaN where DMP leaves garbage.

    Children first: parameters become uninitialised memory, buffers zeros, and ``reset_parameters`` is called on
    exactly those modules that directly own a meta parameter and have the method.

    Example::

        >>> with torch.device("meta"):
        ...     linear = nn.Linear(2, 3)
        >>> bool(torch.isfinite(materialize_like_dmp(linear).weight).all())
        True
    """

    @torch.no_grad()
    def init(owner: nn.Module) -> None:
        meta = [name for name, parameter in owner._parameters.items() if parameter is not None and parameter.is_meta]
        for name in meta:
            parameter = owner._parameters[name]
            assert parameter is not None
            empty = torch.full_like(parameter, float("nan"), device="cpu")
            owner._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for name, buffer in owner._buffers.items():
            if buffer is not None and buffer.is_meta:
                owner._buffers[name] = torch.zeros_like(buffer, device="cpu")
        reset = getattr(owner, "reset_parameters", None)
        if meta and reset is not None:
            reset()

    return module.apply(init)


def _meta_build(build: Build) -> nn.Module:
    try:
        with torch.device("meta"):
            module = build()
    except Exception as error:
        raise ConformanceError(
            f"the module cannot be built on the meta device: {type(error).__name__}: {error}; "
            "__init__ must not read tensor values (compute them with Python numbers)"
        ) from error
    try:
        return materialize_like_dmp(module)
    except Exception as error:
        raise ConformanceError(f"reset_parameters fails: {type(error).__name__}: {error}") from error


def check_meta_device(build: Build, context: Any) -> None:
    """Built on the meta device and materialised by DMP's rules, the module is as good as one built normally.

    Args:
        build: makes a new module.
        context: what it is built for.

    Raises:
        ConformanceError: a parameter stays uninitialised or comes from another distribution, a buffer differs, or the
            forward fails.

    Example::

        >>> from genrec_plugins.testing import interaction_subject
        >>> subject = interaction_subject("dcn")
        >>> check_meta_device(subject.build, subject.context)
    """
    torch.manual_seed(0)
    normal = [build() for _ in range(_SAMPLES)]
    meta = [_meta_build(build) for _ in range(_SAMPLES)]
    owners = dict(meta[0].named_modules())
    for name, parameter in meta[0].named_parameters():
        path, _, leaf = name.rpartition(".")
        owner = type(owners[path]).__name__
        if not torch.isfinite(parameter).all():
            raise ConformanceError(
                f"parameter '{name}' holds uninitialised memory after a meta-device build: DMP calls "
                f"reset_parameters() on the module that owns a parameter, here a {owner}; give that class one that "
                f"sets '{leaf}' (call it from __init__ too). An nn.ParameterList has none: subclass it, "
                "or use one tensor"
            )
        _expect_same_distribution(name, [dict(m.named_parameters())[name] for m in normal], meta)
    expected_buffers, found_buffers = dict(normal[0].named_buffers()), dict(meta[0].named_buffers())
    for name, buffer in expected_buffers.items():
        found = found_buffers.get(name)
        if found is None or found.shape != buffer.shape or not torch.equal(found, buffer):
            raise ConformanceError(
                f"buffer '{name}' differs from a normal build after a meta-device build: DMP fills buffers with zeros, "
                "and calls reset_parameters() only on modules that own a parameter. Keep indices as Python numbers, "
                "make them in forward, or rebuild the buffer in the reset_parameters() of such a module"
            )
    if not torch.isfinite(probe(context, meta[0].eval(), 3)).all():
        raise ConformanceError("the output after a meta-device build is not finite, though every parameter is")


def _expect_same_distribution(name: str, normal: list[nn.Parameter], meta: list[nn.Module]) -> None:
    expected = torch.stack([parameter.detach().float() for parameter in normal])
    found = torch.stack([dict(module.named_parameters())[name].detach().float() for module in meta])
    if expected.numel() == 0:
        return
    mean, std = float(expected.mean()), float(expected.std())
    found_mean, found_std = float(found.mean()), float(found.std())
    # What chance allows: twofold with many samples, tenfold with the few of a bias of one number.
    factor = 2.0 if expected.numel() >= 64 else 10.0
    slack = 6.0 * max(std, found_std) / expected.numel() ** 0.5 + 1e-6 * (1.0 + abs(mean))
    if abs(mean - found_mean) > slack or not std / factor - 1e-7 <= found_std <= std * factor + 1e-7:
        raise ConformanceError(
            f"parameter '{name}' is initialised with mean {mean:.3g} and deviation {std:.3g} by a normal build, "
            f"but with {found_mean:.3g} and {found_std:.3g} by reset_parameters() after a meta-device build; "
            "let __init__ call reset_parameters() and initialise nowhere else"
        )


def check_state_dict(build: Build, context: Any) -> None:
    """A second module that loads the first one's state dict computes the same.

    Args:
        build: makes a new module.
        context: what it is built for.

    Raises:
        ConformanceError: the dict does not load, or the outputs differ.

    Example::

        >>> from genrec_plugins.testing import interaction_subject
        >>> subject = interaction_subject("wukong")
        >>> check_state_dict(subject.build, subject.context)
    """
    torch.manual_seed(1)
    first = build().eval()
    torch.manual_seed(2)
    second = build().eval()
    try:
        second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()}, strict=True)
    except RuntimeError as error:
        raise ConformanceError(f"the state dict of one build does not load into another: {error}") from error
    with torch.no_grad():
        expected, found = probe(context, first, 3), probe(context, second, 3)
    difference = largest_difference(found, expected)
    if difference > tolerance(expected):
        raise ConformanceError(
            f"the output changes by {difference:.2g} after a state-dict round trip: something the forward uses is "
            "not in the state dict; make it a parameter or a persistent buffer, or compute it from the config"
        )


def check_determinism(build: Build, context: Any) -> None:
    """One seed, one module; one seed, one training output; one input, one eval output.

    Args:
        build: makes a new module.
        context: what it is built for.

    Raises:
        ConformanceError: a repetition gives something else.

    Example::

        >>> from genrec_plugins.testing import interaction_subject
        >>> subject = interaction_subject("masknet", {"dropout": 0.5})
        >>> check_determinism(subject.build, subject.context)
    """

    def run(training: bool) -> tuple[dict[str, Tensor], Tensor]:
        torch.manual_seed(3)
        module = build().train(training)
        with torch.no_grad():
            return module.state_dict(), probe(context, module, 5)

    for training in (False, True):
        (state, output), (state_again, output_again) = run(training), run(training)
        for name, value in state.items():
            if not torch.equal(value, state_again[name]):
                raise ConformanceError(
                    f"'{name}' differs between two builds under one seed: draw initial values with torch's global "
                    "generator (torch.nn.init), not with numpy, random or a generator of your own"
                )
        if not torch.equal(output, output_again):
            mode = "train" if training else "eval"
            raise ConformanceError(
                f"two forwards under one seed differ by {largest_difference(output_again, output):.2g} ({mode} mode): "
                "the forward draws numbers outside torch's global generator, or depends on earlier calls"
            )
    module = build().eval()
    with torch.no_grad():
        first, second = probe(context, module, 5), probe(context, module, 5)
    if not torch.equal(first, second):
        raise ConformanceError(
            "two forwards in eval mode differ: use nn.Dropout (which eval mode turns off), "
            "and keep no state between calls"
        )
