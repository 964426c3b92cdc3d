"""The interaction through ``torch.compile``: few kernels that are made for it, where else each operator is one."""

from __future__ import annotations

import torch
from torch import nn

from genrec_registry import SetupError


def compile_interaction(inter_arch: nn.Module, device: torch.device) -> None:
    """Let ``torch.compile`` make the module's kernels, in place, at its first call.

    Names and values of its parameters stay, so that checkpoints go with and without. Only the interaction is compiled:
    look-ups and the over arch's products are one kernel each as they are, and TorchRec's pipeline, which traces a model
    down to the modules that hold tables, takes it as the leaf that it was. Sizes are symbols from the start: the last,
    smaller batch of an epoch makes no second version, and a resumed run computes by the kernels of an unbroken one.

    Args:
        inter_arch: any interaction.
        device: where it will run.

    Raises:
        SetupError: there is nothing to make kernels with, a C++ compiler or, for a GPU, Triton.

    Example::

        >>> layer = nn.Linear(2, 3)
        >>> compile_interaction(layer, torch.device("cpu"))
        >>> list(layer.state_dict())
        ['weight', 'bias']
    """
    if device.type == "cpu":
        _need_compiler()
    else:
        from torch.utils._triton import has_triton

        if not has_triton():
            raise SetupError(
                "train.compile needs Triton on a GPU and it is not there; pip install triton, or drop the key"
            )
    inter_arch.compile(dynamic=True)


def _need_compiler() -> None:
    # At the first step its absence would be an error of several pages.
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise SetupError(
            "train.compile needs a C++ compiler and none was found; install g++, name one in the variable CXX, or drop "
            "the key"
        ) from error
