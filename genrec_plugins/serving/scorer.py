"""The model that an export scores with, made of its config and its weights; and the fold that comes before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from genrec_plugins.models import FieldDLRM, build_dlrm
from genrec_plugins.serving.tables import SCALE_SHIFT, Tables, install_tables, table_names
from genrec_registry import FieldSpec, ModelError, Registry


def fold(model: FieldDLRM, config: Any) -> tuple[FieldDLRM, Any, str]:
    """Fold what an interaction computes anew in every forward though it depends on no row: FAT's hypernetwork.

    An interaction that can be folded has ``fold()``, which gives a module of the same kind, and that module's config
    as ``config``.

    Args:
        model: the trained model; it gets the folded interaction.
        config: its ``model`` section.

    Returns:
        The model, the ``model`` section that builds it, and what was folded in words (empty if nothing).
    """
    folding = getattr(model.inter_arch, "fold", None)
    if not callable(folding):
        return model, config, ""
    before = _parameters(model.inter_arch)
    folded: Any = folding()
    if folded.config == model.inter_arch.config:
        return model, config, ""
    model.inter_arch = folded
    words = f"{config.interaction.type}: {before:,} parameters composed into {_parameters(folded):,}"
    return model, config.model_copy(update={"interaction": folded.config}), words


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def build_scorer(
    config: Any,
    fields: Sequence[FieldSpec],
    registry: Registry,
    weights: Mapping[str, Tensor],
    tables: Tables,
    *,
    with_tables: bool = True,
) -> FieldDLRM:
    """The model of an export, in eval mode on the CPU.

    Args:
        config: the ``model`` section.
        fields: the fitted fields.
        registry: where the components come from.
        weights: its state dict, whose tables are stored as ``tables`` says.
        tables: see :func:`~genrec_plugins.serving.tables.quantise`.
        with_tables: False leaves the tables without memory, for a model whose other parts alone are used.

    Raises:
        ModelError: the weights are not those of this model.
    """
    model = build_dlrm(config, fields, registry, device="cpu", table_device="meta")
    names = set(table_names(model))
    known = {name for name in model.state_dict() if name not in names}
    rest = {name: value for name, value in weights.items() if name.removesuffix(SCALE_SHIFT) not in names}
    if set(rest) != known:
        wrong = sorted(set(rest) ^ known)
        raise ModelError(f"weights: '{wrong[0]}' is {'unknown' if wrong[0] in rest else 'missing'}; export again")
    if with_tables:
        install_tables(model, weights, tables)
    try:
        model.load_state_dict(rest, strict=False)
    except RuntimeError as error:
        raise ModelError(f"weights do not fit ({str(error).splitlines()[-1].strip()}); export again") from error
    return model.requires_grad_(False).eval()
