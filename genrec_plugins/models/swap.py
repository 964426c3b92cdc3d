"""Put another interaction into a DLRM that already exists, before it is wrapped or optimised."""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torchrec.models.dlrm import DLRM

from genrec_plugins.models.dlrm import check_embedding_dim
from genrec_plugins.room import check_room
from genrec_registry import InteractionContext, ModelError, Registry, default_registry, parse_component

Model = TypeVar("Model", bound=DLRM)


def swap_interaction(
    dlrm: Model,
    interaction: str | Any,
    config: Mapping[str, Any] | None = None,
    *,
    registry: Registry | None = None,
) -> Model:
    """Replace ``dlrm.inter_arch`` and rebuild ``dlrm.over_arch`` for its width, in place.

    Embeddings and dense arch keep their tensors bit for bit. The over arch keeps its layer sizes and gets fresh
    weights, since its input means something else now.

    Args:
        dlrm: a ``DLRM``, ``DLRM_DCN``, ``DLRM_Projection`` or a subclass of one, not yet wrapped by DMP or DDP and
            not yet held by an optimizer.
        interaction: a registered name (``"fat"``, ``"acme/gated"``), or a tagged config object.
        config: the interaction's own settings, when it is given by name.
        registry: where the name is looked up; the installed plugins if None.

    Returns:
        The same object.

    Raises:
        ModelError: it is too late (with the reason), ``dlrm`` is no DLRM, or the widths do not go together.
        ConfigError: a setting is wrong, or the interaction takes more memory than there is.

    Example::

        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> from torchrec.modules.embedding_modules import EmbeddingBagCollection
        >>> tables = [EmbeddingBagConfig(name="t1", embedding_dim=8, num_embeddings=10, feature_names=["f1"])]
        >>> dlrm = DLRM(EmbeddingBagCollection(tables=tables), dense_in_features=3, dense_arch_layer_sizes=[8],
        ...             over_arch_layer_sizes=[5, 1])
        >>> swap_interaction(dlrm, "fat", {"num_heads": 2}).inter_arch.out_features
        16
    """
    registry = registry or default_registry()
    if not isinstance(dlrm, DLRM):
        hint = "; swap before wrapping it" if hasattr(dlrm, "module") else ""
        raise ModelError(f"swap_interaction: found {type(dlrm).__name__}, expected a torchrec DLRM{hint}")
    reason = _too_late(dlrm)
    if reason:
        raise ModelError(f"swap_interaction: too late, {reason}; swap right after the DLRM is built")
    settings: Any = interaction
    if isinstance(interaction, str):
        settings = parse_component(registry, "interaction", {"type": interaction, **(config or {})})
    elif config:
        raise ModelError("swap_interaction: 'config' goes with a name; a config object carries its settings already")

    context = InteractionContext(embedding_dim=dlrm.sparse_arch.D, token_names=_token_names(dlrm))
    check_embedding_dim(registry, settings, context)
    first = _first_linear(dlrm.over_arch)
    check_room(partial(registry.create, "interaction", settings, context), f"interaction {settings.type}")
    with first.weight.device:
        inter_arch = registry.create("interaction", settings, context)
        over_arch = _rebuild(dlrm.over_arch, inter_arch.out_features)
    dlrm.inter_arch = inter_arch.to(first.weight.dtype)
    dlrm.over_arch = over_arch
    return dlrm


def _token_names(dlrm: DLRM) -> tuple[str, ...]:
    names = getattr(dlrm, "token_names", None)
    return tuple(names) if names is not None else ("dense", *dlrm.sparse_arch.sparse_feature_names)


def _first_linear(over_arch: nn.Module) -> nn.Linear:
    for module in over_arch.modules():
        if isinstance(module, nn.Linear):
            return module
    raise ModelError(
        f"swap_interaction: over_arch {type(over_arch).__name__} has no Linear to rebuild; use an OverArch"
    )


def _rebuild(over_arch: nn.Module, in_features: int) -> nn.Module:
    """A copy with fresh weights whose first Linear takes ``in_features``; dropout and activations stay."""
    rebuilt = copy.deepcopy(over_arch)
    old = _first_linear(rebuilt)
    new = nn.Linear(in_features, old.out_features, bias=old.bias is not None, dtype=old.weight.dtype)
    for parent in rebuilt.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
    for module in rebuilt.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset) and module is not new:
            reset()
    return rebuilt


def _too_late(dlrm: DLRM) -> str:
    """Why the interaction can no longer be swapped, or the empty string."""
    from torch.nn.parallel import DistributedDataParallel
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.types import ShardedModule

    for name, module in dlrm.named_modules():
        if isinstance(module, ShardedModule):
            return f"'{name}' is sharded already (DistributedModelParallel holds this DLRM)"
        if isinstance(module, (DistributedDataParallel, DistributedModelParallel)):
            return f"'{name or type(module).__name__}' is wrapped already"
    ours = {id(p) for arch in (dlrm.dense_arch, dlrm.inter_arch, dlrm.over_arch) if arch for p in arch.parameters()}
    for parameter in dlrm.parameters():
        if id(parameter) in ours and hasattr(parameter, "_in_backward_optimizers"):
            return "an optimizer in the backward holds its dense parameters"
    gc.collect()  # an optimizer that was dropped must not count
    for candidate in gc.get_objects():
        try:
            kind = type(candidate)
            is_optimizer = issubclass(kind, torch.optim.Optimizer)
            is_wrapper = issubclass(kind, (DistributedDataParallel, DistributedModelParallel))
        except (ReferenceError, TypeError):
            continue
        if is_optimizer and any(id(p) in ours for group in candidate.param_groups for p in group["params"]):
            return f"an optimizer ({kind.__name__}) holds its parameters"
        if is_wrapper and any(module is dlrm for module in candidate.modules()):
            return f"it is wrapped by {kind.__name__}"
    return ""
