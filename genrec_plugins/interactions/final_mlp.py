"""``final-mlp``: two MLP streams over gated tokens, fused by a bilinear form."""

import torch
from torch import Tensor, nn

from genrec_plugins.interactions.configs import FinalMlpConfig
from genrec_plugins.interactions.tokens import mlp, stack_tokens
from genrec_registry import InteractionContext, ModelError, did_you_mean


class _TokenGate(nn.Module):
    """``2 sigmoid(MLP(c))``, ``[B, T D]``, with c the named tokens."""

    def __init__(self, tokens: list[int], width: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.gate = nn.Sequential(
            nn.Linear(len(tokens) * width, hidden), nn.ReLU(), nn.Linear(hidden, out_features), nn.Sigmoid()
        )

    def forward(self, tokens: Tensor) -> Tensor:
        chosen = torch.cat([tokens[:, index] for index in self.tokens], dim=1)
        return 2.0 * self.gate(chosen)


class _LearnedGate(nn.Module):
    """The gate without named tokens: c is a learned vector, the same for every row."""

    def __init__(self, width: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.empty(1, width))
        self.gate = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out_features), nn.Sigmoid())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Not zeros: the gate's first matrix would get no gradient."""
        nn.init.normal_(self.context, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        return 2.0 * self.gate(self.context)


class _BilinearFusion(nn.Module):
    """``u_h^T W_h v_h`` for each head h, ``[B, H]``."""

    def __init__(self, num_heads: int, width1: int, width2: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.weight = nn.Parameter(torch.empty(num_heads, width1 // num_heads, width2 // num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier's normal, head by head."""
        _, rows, columns = self.weight.shape
        nn.init.normal_(self.weight, std=(2.0 / (rows + columns)) ** 0.5)

    def forward(self, stream1: Tensor, stream2: Tensor) -> Tensor:
        heads1 = stream1.unflatten(1, [self.num_heads, -1]).transpose(0, 1)  # [H, B, w1]
        heads2 = stream2.unflatten(1, [self.num_heads, -1]).transpose(0, 1)
        return (torch.bmm(heads1, self.weight) * heads2).sum(2).transpose(0, 1)


class FinalMlpInteraction(nn.Module):
    """Feature gating, two MLP streams, multi-head bilinear fusion.

    Source: FinalMLP, arXiv 2304.00902, feature selection and multi-head bilinear fusion. The output is
    ``[o_1, o_2, o_1h^T W_h o_2h for each h]``: the paper's logit,
    ``b + w_1^T o_1 + w_2^T o_2 + sum_h o_1h^T W_h o_2h``, is a linear map of it. No batch normalisation: a row's
    output depends on that row alone.

    Args:
        config: streams, heads and gates.
        context: T tokens of width D.

    Raises:
        ModelError: a gate names a token that does not exist.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, stream1_sizes[-1] + stream2_sizes[-1] + num_heads]``.

    Example::

        >>> context = InteractionContext(embedding_dim=4, token_names=("user", "item", "C2"))
        >>> config = FinalMlpConfig(stream1_sizes=(8,), stream2_sizes=(16,), num_heads=2, gate1_tokens=("user",))
        >>> FinalMlpInteraction(config, context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 26])
    """

    def __init__(self, config: FinalMlpConfig, context: InteractionContext) -> None:
        super().__init__()
        width = context.num_tokens * context.embedding_dim
        self.gate1 = _gate("gate1_tokens", config.gate1_tokens, config, context)
        self.gate2 = _gate("gate2_tokens", config.gate2_tokens, config, context)
        self.stream1 = mlp(width, config.stream1_sizes, config.dropout)
        self.stream2 = mlp(width, config.stream2_sizes, config.dropout)
        self.fusion = _BilinearFusion(config.num_heads, config.stream1_sizes[-1], config.stream2_sizes[-1])
        self.out_features = config.stream1_sizes[-1] + config.stream2_sizes[-1] + config.num_heads

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Return ``[B, out_features]``."""
        tokens = stack_tokens(dense_features, sparse_features)
        flat = tokens.flatten(1)
        stream1 = self.stream1(flat if self.gate1 is None else flat * self.gate1(tokens))
        stream2 = self.stream2(flat if self.gate2 is None else flat * self.gate2(tokens))
        return torch.cat((stream1, stream2, self.fusion(stream1, stream2)), dim=1)


def _gate(key: str, names: tuple[str, ...], config: FinalMlpConfig, context: InteractionContext) -> nn.Module | None:
    if not config.feature_gating:
        return None
    out_features = context.num_tokens * context.embedding_dim
    if not names:
        return _LearnedGate(context.embedding_dim, config.gate_hidden, out_features)
    for name in names:
        if name not in context.token_names:
            raise ModelError(
                f"final-mlp: {key} names an unknown token '{name}'{did_you_mean(name, context.token_names)}"
            )
    tokens = [context.token_names.index(name) for name in names]
    return _TokenGate(tokens, context.embedding_dim, config.gate_hidden, out_features)
