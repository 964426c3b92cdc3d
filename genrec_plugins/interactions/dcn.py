"""``dcn``: DCNv2's cross network over the flattened tokens."""

from torch import nn
from torchrec.models.dlrm import InteractionDCNArch
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet

from genrec_plugins.interactions.configs import DcnConfig
from genrec_registry import InteractionContext


class _XavierList(nn.ParameterList):
    """A ParameterList that can be initialised again.

    DMP calls ``reset_parameters`` on the module that owns a parameter. TorchRec's cross networks keep theirs in
    ParameterLists, which have none: built on the meta device they would train from uninitialised memory.
    """

    def reset_parameters(self) -> None:
        """Draw every matrix from Xavier's normal, as TorchRec does."""
        for parameter in self:
            nn.init.xavier_normal_(parameter)


class _ZeroList(nn.ParameterList):
    """A ParameterList of biases that can be set to zero again."""

    def reset_parameters(self) -> None:
        """Set every bias to zero."""
        for parameter in self:
            nn.init.zeros_(parameter)


def cross_net(in_features: int, num_layers: int, low_rank_dim: int | None) -> nn.Module:
    """TorchRec's cross network with parameters that ``reset_parameters`` reaches; state-dict keys are unchanged.

    Args:
        in_features: N, the width of the vector that is crossed.
        num_layers: cross layers.
        low_rank_dim: rank of each layer's matrix; None for a square one.

    Example::

        >>> sorted(cross_net(6, 1, 2).state_dict())
        ['V_kernels.0', 'W_kernels.0', 'bias.0']
    """
    if low_rank_dim is None:
        full = CrossNet(in_features, num_layers)
        full.kernels, full.bias = _XavierList(full.kernels), _ZeroList(full.bias)
        return full
    low_rank = LowRankCrossNet(in_features, num_layers, low_rank_dim)
    low_rank.W_kernels, low_rank.V_kernels = _XavierList(low_rank.W_kernels), _XavierList(low_rank.V_kernels)
    low_rank.bias = _ZeroList(low_rank.bias)
    return low_rank


class DcnInteraction(InteractionDCNArch):
    """``x_{l+1} = x_0 * (W_l V_l x_l + b_l) + x_l`` over the flattened tokens.

    Source: DCN V2, arXiv 2008.13535, equations 1 and 2 (full and low rank), the stacked structure; TorchRec's
    ``InteractionDCNArch`` with ``LowRankCrossNet`` or ``CrossNet``.

    Args:
        config: layers and rank.
        context: T tokens of width D.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, T D]``.

    Example::

        >>> import torch
        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> DcnInteraction(DcnConfig(low_rank_dim=2), context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 12])
    """

    def __init__(self, config: DcnConfig, context: InteractionContext) -> None:
        width = context.num_tokens * context.embedding_dim
        rank = config.low_rank_dim if isinstance(config.low_rank_dim, int) else None
        super().__init__(context.num_sparse_features, cross_net(width, config.num_layers, rank))
        self.out_features = width
