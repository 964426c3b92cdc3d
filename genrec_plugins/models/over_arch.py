"""TorchRec's OverArch with dropout, with the same state-dict keys."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torchrec.models.dlrm import OverArch
from torchrec.modules.mlp import MLP


def _relu_dropout(probability: float) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Dropout(probability))


class DropoutOverArch(OverArch):
    """``[B, in_features] -> [B, layer_sizes[-1]]``: an MLP with dropout after each hidden layer, then a linear map.

    Args:
        in_features: width of the interaction's output.
        layer_sizes: hidden widths, then the output's (1 for logits).
        dropout: probability after each hidden layer.
        device: where the parameters are made.

    Example::

        >>> DropoutOverArch(10, [5, 1], dropout=0.1)(torch.rand(20, 10)).shape
        torch.Size([20, 1])
    """

    def __init__(
        self, in_features: int, layer_sizes: Sequence[int], dropout: float, device: torch.device | None = None
    ) -> None:
        super().__init__(in_features, list(layer_sizes), device=device)
        if dropout > 0:
            # Perceptron keeps its activation apart from its linear map, so checkpoints of both classes are alike.
            activation = partial(_relu_dropout, dropout)
            mlp = MLP(in_features, list(layer_sizes[:-1]), activation=activation, device=device)
            mlp.load_state_dict(self.model[0].state_dict())
            self.model[0] = mlp
