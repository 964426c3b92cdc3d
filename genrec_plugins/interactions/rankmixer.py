"""``rankmixer``: token mixing without parameters, and a feed-forward network for each token."""

import torch.nn.functional as F
from torch import Tensor, nn

from genrec_plugins.interactions.configs import RankMixerConfig
from genrec_plugins.interactions.tokens import TokenLinear, stack_tokens
from genrec_registry import InteractionContext, ModelError


def mix_tokens(tokens: Tensor) -> Tensor:
    """Multi-head token mixing with as many heads as tokens: mixed token h is head h of every token, concatenated.

    Args:
        tokens: ``[B, T', W]``, with T' dividing W.

    Example::

        >>> import torch
        >>> mix_tokens(torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8]]]))
        tensor([[[1, 2, 5, 6],
                 [3, 4, 7, 8]]])
    """
    batch, count, width = tokens.shape
    return tokens.reshape(batch, count, count, width // count).transpose(1, 2).reshape(batch, count, width)


class _MixerBlock(nn.Module):
    """``S = LN(mix(X) + X)``, then ``LN(PFFN(S) + S)`` (equation 1)."""

    def __init__(self, config: RankMixerConfig) -> None:
        super().__init__()
        hidden = config.width * config.ffn_multiplier
        self.mix_norm = nn.LayerNorm(config.width)
        self.ffn_in = TokenLinear(config.num_tokens, config.width, hidden)
        self.ffn_out = TokenLinear(config.num_tokens, hidden, config.width)
        self.ffn_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.mix_norm(mix_tokens(tokens) + tokens)
        return self.ffn_norm(self.dropout(self.ffn_out(F.gelu(self.ffn_in(tokens)))) + tokens)


class RankMixerInteraction(nn.Module):
    """RankMixer blocks over ``num_tokens`` tokens cut from the row's embeddings.

    Source: RankMixer, arXiv 2507.15551, section 3 (dense variant, without the sparse mixture of experts). As in the
    paper, the mixer's tokens are not the fields: the T D floats of a row are concatenated, cut into T' = ``num_tokens``
    pieces of ``ceil(T D / T')`` floats (the last one filled up with zeros), and each piece is mapped to ``width`` by a
    linear map of its own. So D need not divide anything; ``width`` must be a multiple of T', because the mixing has
    T' heads. Neighbouring tokens share a piece: order the fields by meaning to choose the groups.

    Args:
        config: blocks, tokens, widths, readout.
        context: T tokens of width D.

    Raises:
        ModelError: a row has so few floats that a piece would be zeros only.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, width]`` (``mean``) or ``[B, num_tokens * width]`` (``flatten``).

    Example::

        >>> import torch
        >>> context = InteractionContext(embedding_dim=8, token_names=("dense", "C1", "C2"))
        >>> config = RankMixerConfig(num_tokens=5, width=10)
        >>> RankMixerInteraction(config, context)(torch.zeros(5, 8), torch.zeros(5, 2, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(self, config: RankMixerConfig, context: InteractionContext) -> None:
        super().__init__()
        floats = context.num_tokens * context.embedding_dim
        piece = -(-floats // config.num_tokens)
        self.padding = piece * config.num_tokens - floats
        if self.padding >= piece:
            raise ModelError(
                f"rankmixer: num_tokens = {config.num_tokens} pieces of {piece} floats are more than the "
                f"{context.num_tokens} x {context.embedding_dim} floats of a row; "
                f"set num_tokens to {-(-floats // piece)}"
            )
        self.pieces = [config.num_tokens, piece]
        self.tokenize = TokenLinear(config.num_tokens, piece, config.width)
        self.blocks = nn.Sequential(*(_MixerBlock(config) for _ in range(config.num_layers)))
        self.flatten = config.readout == "flatten"
        self.out_features = config.width * (config.num_tokens if self.flatten else 1)

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Return ``[B, out_features]``."""
        flat = F.pad(stack_tokens(dense_features, sparse_features).flatten(1), (0, self.padding))
        tokens = self.blocks(self.tokenize(flat.unflatten(1, self.pieces)))
        return tokens.flatten(1) if self.flatten else tokens.mean(1)
