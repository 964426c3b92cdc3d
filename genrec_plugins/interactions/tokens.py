"""Pieces that several interaction archs share: tokens, token pairs, per-token maps, plain MLPs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def stack_tokens(dense_features: Tensor, sparse_features: Tensor) -> Tensor:
    """Tokens ``[B, T, D]`` from ``dense_features [B, D]`` (token 0) and ``sparse_features [B, F, D]``.

    Example::

        >>> stack_tokens(torch.zeros(2, 4), torch.ones(2, 3, 4)).shape
        torch.Size([2, 4, 4])
    """
    return torch.cat((dense_features.unsqueeze(1), sparse_features), dim=1)


def num_pairs(num_tokens: int) -> int:
    """P = T(T-1)/2, the pairs i < j.

    Example::

        >>> num_pairs(27)
        351
    """
    return num_tokens * (num_tokens - 1) // 2


# The pair indices are made where they are used. As a buffer they would be zeros after DMP materialises a module that
# was built on the meta device; as leaf functions of fx they stay one node in a traced graph, and script.
@torch.fx.wrap
def _upper_triangle(products: Tensor) -> Tensor:
    tokens = products.size(1)
    pairs = torch.triu_indices(tokens, tokens, offset=1, device=products.device)
    return products[:, pairs[0], pairs[1]]


@torch.fx.wrap
def _block_matrix(pair_matrices: Tensor, num_tokens: int) -> Tensor:
    width = pair_matrices.size(1)
    pairs = torch.triu_indices(num_tokens, num_tokens, offset=1, device=pair_matrices.device)
    blocks = pair_matrices.new_zeros([num_tokens, num_tokens, width, width])
    blocks = blocks.index_put([pairs[0], pairs[1]], pair_matrices)
    return blocks.transpose(1, 2).reshape(num_tokens * width, num_tokens * width)


def upper_triangle(products: Tensor) -> Tensor:
    """The entries i < j of ``[B, T, T]``, row by row: ``[B, P]``.

    Example::

        >>> upper_triangle(torch.arange(9).view(1, 3, 3))
        tensor([[1, 2, 5]])
    """
    return _upper_triangle(products)


def block_matrix(pair_matrices: Tensor, num_tokens: int) -> Tensor:
    """``[P, D, D]`` laid out as the strictly upper block triangle of one ``[T D, T D]`` matrix.

    Example::

        >>> block_matrix(torch.tensor([[[5.0]]]), 2)
        tensor([[0., 5.],
                [0., 0.]])
    """
    return _block_matrix(pair_matrices, num_tokens)


class TokenLinear(nn.Module):
    """A linear map of its own for every token, as one batched matrix product.

    Args:
        num_tokens: T.
        in_features: width of the incoming tokens.
        out_features: width of the outgoing tokens.

    Example::

        >>> TokenLinear(3, 4, 5)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 5])
    """

    def __init__(self, num_tokens: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_tokens, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(num_tokens, 1, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """U(-1/sqrt(in), 1/sqrt(in)), as ``nn.Linear``."""
        bound = self.weight.size(1) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[B, T, in_features]`` to ``[B, T, out_features]``."""
        return torch.baddbmm(self.bias, tokens.transpose(0, 1), self.weight).transpose(0, 1)


def mlp(in_features: int, layer_sizes: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear, ReLU and (if asked for) dropout, for each size.

    Example::

        >>> mlp(8, [4, 2])(torch.zeros(3, 8)).shape
        torch.Size([3, 2])
    """
    layers: list[nn.Module] = []
    for size in layer_sizes:
        layers += [nn.Linear(in_features, size), nn.ReLU()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        in_features = size
    return nn.Sequential(*layers)
