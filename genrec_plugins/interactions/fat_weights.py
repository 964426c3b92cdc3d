"""Where FAT's per-field matrices come from: free, composed from shared bases, or one for all (paper 3.2 to 3.4).

Every class answers ``forward() -> [F or 1, d_in, d_out]``; the matrices are composed once a forward, never per row.
"""

import math

import torch
from torch import Tensor, nn


def xavier_bound(d_in: int, d_out: int) -> float:
    """Half-width of Glorot's uniform distribution for a ``d_in x d_out`` matrix."""
    return math.sqrt(6.0 / (d_in + d_out))


class FieldWeights(nn.Module):
    """One free matrix for each field (mode ``full``), or one for all (mode ``shared``, ``num_fields=1``).

    Args:
        num_fields: F, or 1.
        d_in: rows of a matrix.
        d_out: columns of a matrix.
        scale: factor on Glorot's bound at initialisation.

    Example::

        >>> FieldWeights(num_fields=3, d_in=4, d_out=8)().shape
        torch.Size([3, 4, 8])
    """

    def __init__(self, num_fields: int, d_in: int, d_out: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(num_fields, d_in, d_out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every field's matrix by Glorot's rule."""
        bound = self.scale * xavier_bound(self.weight.shape[1], self.weight.shape[2])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self) -> Tensor:
        """The matrices, ``[F, d_in, d_out]``."""
        return self.weight


class FieldMeta(nn.Module):
    """The fields' meta-embeddings phi, ``[F, k]``, shared by all parameter kinds and layers.

    Example::

        >>> FieldMeta(num_fields=3, meta_dim=5)().shape
        torch.Size([3, 5])
    """

    def __init__(self, num_fields: int, meta_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_fields, meta_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from N(0, 1), so that fields begin with different routes."""
        nn.init.normal_(self.weight)

    def forward(self) -> Tensor:
        """The meta-embeddings, ``[F, k]``."""
        return self.weight


class HyperWeights(nn.Module):
    """Per-field matrices composed from M shared bases (paper 3.4).

    ``r = g(phi_f); pi = topK(r); alpha = softmax(r[pi]); W^(f) = sum_{m in pi} alpha_m B_m``. The sum is one GEMM,
    ``[F, M] x [M, d_in * d_out]``, with zeros for the bases outside the top K; its backward is one GEMM as well.
    Bases begin ``1 / ||alpha||`` wider than Glorot's rule for equal alphas, ``sqrt(K)``, so that the composed matrix
    has Glorot's variance.

    Args:
        num_bases: M.
        meta_dim: k.
        top_k: K.
        d_in: rows of a matrix.
        d_out: columns of a matrix.
        scale: factor on that width at initialisation.

    Example::

        >>> meta = FieldMeta(num_fields=3, meta_dim=5)
        >>> HyperWeights(num_bases=8, meta_dim=5, top_k=2, d_in=4, d_out=6)(meta()).shape
        torch.Size([3, 4, 6])
    """

    def __init__(self, num_bases: int, meta_dim: int, top_k: int, d_in: int, d_out: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.top_k = top_k
        self.bases = nn.Parameter(torch.empty(num_bases, d_in, d_out))
        self.router = nn.Linear(meta_dim, num_bases)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the bases; the router is a Linear and resets itself."""
        bound = self.scale * xavier_bound(self.bases.shape[1], self.bases.shape[2]) * math.sqrt(self.top_k)
        nn.init.uniform_(self.bases, -bound, bound)

    def routes(self, meta: Tensor) -> Tensor:
        """Each field's mixture over the bases, ``[F, k] -> [F, M]``: K entries a row, summing to 1."""
        scores = self.router(meta)
        top, chosen = torch.topk(scores, self.top_k, dim=1)
        return torch.zeros_like(scores).scatter(1, chosen, torch.softmax(top, dim=1))

    def forward(self, meta: Tensor) -> Tensor:
        """The matrices, ``[F, k] -> [F, d_in, d_out]``."""
        return (self.routes(meta) @ self.bases.flatten(1)).unflatten(1, self.bases.shape[1:])
