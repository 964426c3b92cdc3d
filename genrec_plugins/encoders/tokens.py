"""From the embeddings of an event's features to the tokens that encoders work on."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor

from genrec_plugins.encoders.causal_stack import ScaledLinear
from genrec_registry import EncoderContext


class TokenEncoder(nn.Module):
    """LUM's token encoder: ``e = proj(concat(f_1, f_2, ...))`` (arXiv 2502.08309, step 1).

    Args:
        features: names of the features, in order.
        feature_dim: E.
        width: of the token.
        plain: let a single feature that has the token's width be the token itself, without a projection.

    Example::

        >>> encode = TokenEncoder(("item", "genre"), feature_dim=4, width=8)
        >>> encode({"item": torch.randn(5, 4), "genre": torch.randn(5, 4)}).shape
        torch.Size([5, 8])
    """

    def __init__(self, features: Sequence[str], feature_dim: int, width: int, plain: bool = False) -> None:
        super().__init__()
        self.features = tuple(features)
        plain = plain and len(self.features) == 1 and feature_dim == width
        self.project = nn.Identity() if plain else ScaledLinear(len(self.features) * feature_dim, width)

    def forward(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """``[N, width]`` of ``[N, E]`` by feature name."""
        tokens: Tensor = self.project(torch.cat([embeddings[name] for name in self.features], dim=-1))
        return tokens


class EventEncoder(nn.Module):
    """One token an event: its item's, plus its condition's if there are condition features.

    Args:
        context: feature names and E.
        width: of the token.

    Example::

        >>> context = EncoderContext(
        ...     embedding_dim=4, feature_dim=4, max_length=3, item_features=("item",), condition_features=("action",)
        ... )
        >>> jagged = lambda: JaggedTensor(torch.randn(5, 4), lengths=torch.tensor([2, 0, 3]))
        >>> EventEncoder(context, width=8)({"item": jagged(), "action": jagged()}).shape
        torch.Size([5, 8])
    """

    def __init__(self, context: EncoderContext, width: int) -> None:
        super().__init__()
        self.item = TokenEncoder(context.item_features, context.feature_dim, width, plain=True)
        self.condition = (
            TokenEncoder(context.condition_features, context.feature_dim, width) if context.condition_features else None
        )

    def forward(self, events: Mapping[str, JaggedTensor]) -> Tensor:
        """Flat ``[T, width]``."""
        tokens: Tensor = self.item(values_of(events, self.item.features))
        if self.condition is not None:
            tokens = tokens + self.condition(values_of(events, self.condition.features))
        return tokens


def output_map(hidden: int, embedding_dim: int) -> nn.Module:
    """From an encoder's own width h to D, for states and item vectors alike; nothing where h is D.

    Example::

        >>> output_map(8, 8), output_map(8, 4)
        (Identity(), ScaledLinear(in_features=8, out_features=4, bias=False))
    """
    return nn.Identity() if hidden == embedding_dim else ScaledLinear(hidden, embedding_dim)


def offsets_of(events: Mapping[str, JaggedTensor], context: EncoderContext) -> Tensor:
    """The common offsets ``[B + 1]`` of the events, int64.

    Example::

        >>> context = EncoderContext(embedding_dim=4, feature_dim=4, max_length=3, item_features=("item",))
        >>> offsets_of({"item": JaggedTensor(torch.zeros(3, 4), lengths=torch.tensor([1, 0, 2]))}, context).tolist()
        [0, 1, 1, 3]
    """
    return events[context.item_features[0]].offsets().long()


def values_of(events: Mapping[str, JaggedTensor], features: Sequence[str]) -> dict[str, Tensor]:
    """The events' embeddings ``[T, E]`` by feature name."""
    return {name: events[name].values() for name in features}
