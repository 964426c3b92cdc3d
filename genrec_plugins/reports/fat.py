"""What FAT learned about fields: which pairs it lets through, and which shared bases a field's matrices are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from genrec_plugins.interactions.fat import Fat, FatBlock
from genrec_plugins.interactions.fat_weights import HyperWeights


@dataclass(frozen=True, kw_only=True)
class Routes:
    """How one kind of matrix of one block is mixed.

    Args:
        layer: block, from 1.
        kind: q, k, v, ffn1 or ffn2.
        shares: ``[F, M]``, a field's shares of the bases; a row sums to 1.
    """

    layer: int
    kind: str
    shares: NDArray[np.float64]

    @property
    def used(self) -> int:
        """Bases that some field takes."""
        return int((self.shares > 0).any(axis=0).sum())

    @property
    def groups(self) -> int:
        """Different sets of bases among the fields."""
        return len({tuple(np.flatnonzero(row)) for row in self.shares})

    @property
    def largest(self) -> int:
        """Fields that take the base which most take."""
        return int((self.shares > 0).sum(axis=0).max())


def pair_table(model: nn.Module) -> dict[str, Any] | str:
    """``{"names", "values"}`` of the field-pair table, or why there is none.

    Args:
        model: a :class:`~genrec_plugins.models.FieldDLRM`.
    """
    interaction: Any = model.inter_arch
    modulation = getattr(interaction, "pair_modulation", None)
    if modulation is None:
        return "the interaction keeps no table of field pairs; FAT does"
    if isinstance(interaction, Fat) and interaction.config.modulation == "none":
        return "interaction.modulation is 'none', so that there is no table of field pairs"
    return {"names": list(model.token_names), "values": modulation().tolist()}  # type: ignore[arg-type]


@torch.no_grad()
def field_routes(model: nn.Module) -> list[Routes] | str:
    """The routes of every block and kind of matrix, or why there are none.

    Args:
        model: a :class:`~genrec_plugins.models.FieldDLRM`.
    """
    interaction = model.inter_arch
    if not isinstance(interaction, Fat):
        return "the interaction composes no matrices from bases; FAT in mode 'hyper' does"
    if interaction.field_meta is None:
        return f"FAT's mode is '{interaction.config.mode}', which has no bases; mode 'hyper' has"
    meta = interaction.field_meta()
    found = []
    for layer, block in enumerate(interaction.blocks, start=1):
        assert isinstance(block, FatBlock)
        for kind, weights in block.weights.items():
            assert isinstance(weights, HyperWeights)
            found.append(Routes(layer=layer, kind=kind, shares=weights.routes(meta).double().cpu().numpy()))
    return found
