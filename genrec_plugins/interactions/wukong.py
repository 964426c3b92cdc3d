"""``wukong``: stacked factorization machines."""

import torch
from torch import Tensor, nn

from genrec_plugins.interactions.configs import WukongConfig
from genrec_plugins.interactions.tokens import mlp, stack_tokens
from genrec_registry import InteractionContext


class _TokenMix(nn.Module):
    """``W X``: new tokens as learned sums of the old ones, ``[B, in_tokens, D]`` -> ``[B, out_tokens, D]``."""

    def __init__(self, in_tokens: int, out_tokens: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_tokens, in_tokens))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier's normal."""
        nn.init.xavier_normal_(self.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.matmul(self.weight, tokens)


class _FactorizationBlock(nn.Module):
    """``reshape(MLP(LN(flatten(X X^T Y))))``, ``[B, in_tokens, D]`` -> ``[B, out_tokens, D]``."""

    def __init__(self, in_tokens: int, width: int, config: WukongConfig) -> None:
        super().__init__()
        self.project = _TokenMix(in_tokens, config.rank)
        self.norm = nn.LayerNorm(in_tokens * config.rank)
        sizes = [in_tokens * config.rank, *config.fmb_hidden_sizes]
        self.hidden = mlp(sizes[0], sizes[1:])
        self.out = nn.Linear(sizes[-1], config.fmb_tokens * width)
        self.shape = [config.fmb_tokens, width]

    def forward(self, tokens: Tensor) -> Tensor:
        projected = self.project(tokens).transpose(1, 2)  # X^T Y first: D k T instead of T T (D + k)
        products = torch.bmm(tokens, projected).flatten(1)  # [B, in_tokens * k]
        return self.out(self.hidden(self.norm(products))).unflatten(1, self.shape)


class _WukongLayer(nn.Module):
    """``LN(concat(FMB(X), LCB(X)) + X)``; where the number of tokens changes, X passes through a learned mix."""

    def __init__(self, in_tokens: int, width: int, config: WukongConfig) -> None:
        super().__init__()
        out_tokens = config.fmb_tokens + config.lcb_tokens
        self.factorization = _FactorizationBlock(in_tokens, width, config)
        self.compression = _TokenMix(in_tokens, config.lcb_tokens)
        self.residual = nn.Identity() if in_tokens == out_tokens else _TokenMix(in_tokens, out_tokens)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        made = torch.cat((self.factorization(tokens), self.compression(tokens)), dim=1)
        return self.norm(made + self.residual(tokens))


class WukongInteraction(nn.Module):
    """Layers of a factorization machine block beside a linear compression block.

    Source: Wukong, arXiv 2403.02545, with the factorization machine's low-rank form
    ``X X^T Y`` and a plain (not input-dependent) ``Y``.

    Args:
        config: layers, tokens of the two blocks, rank, hidden layers.
        context: T tokens of width D.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, (fmb_tokens + lcb_tokens) D]``.

    Example::

        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> config = WukongConfig(fmb_tokens=2, lcb_tokens=3)
        >>> WukongInteraction(config, context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 20])
    """

    def __init__(self, config: WukongConfig, context: InteractionContext) -> None:
        super().__init__()
        width, out_tokens = context.embedding_dim, config.fmb_tokens + config.lcb_tokens
        counts = [context.num_tokens] + [out_tokens] * (config.num_layers - 1)
        self.layers = nn.Sequential(*(_WukongLayer(count, width, config) for count in counts))
        self.out_features = out_tokens * width

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Return ``[B, out_features]``."""
        return self.layers(stack_tokens(dense_features, sparse_features)).flatten(1)
