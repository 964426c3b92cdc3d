"""From the embeddings of an event's features to the tokens that encoders work on."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor

from genrec_plugins.encoders.causal_stack import ScaledLinear


class TokenEncoder(nn.Module):
    """LUM's token encoder: ``e = proj(concat(f_1, f_2, ...))`` (arXiv 2502.08309, step 1).

    Args:
        features: names of the features, in order.
        feature_dim: E.
        hidden: h.

    Example::

        >>> encode = TokenEncoder(("item", "genre"), feature_dim=4, hidden=8)
        >>> encode({"item": torch.randn(5, 4), "genre": torch.randn(5, 4)}).shape
        torch.Size([5, 8])
    """

    def __init__(self, features: Sequence[str], feature_dim: int, hidden: int) -> None:
        super().__init__()
        self.features = tuple(features)
        self.project = ScaledLinear(len(self.features) * feature_dim, hidden)

    def forward(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """``[N, h]`` of ``[N, E]`` by feature name."""
        return self.project(torch.cat([embeddings[name] for name in self.features], dim=-1))


def offsets_of(events: Mapping[str, JaggedTensor], features: Sequence[str]) -> Tensor:
    """The common offsets ``[B + 1]`` of the events, int64.

    Example::

        >>> events = {"item": JaggedTensor(torch.zeros(3, 4), lengths=torch.tensor([1, 0, 2]))}
        >>> offsets_of(events, ["item"]).tolist()
        [0, 1, 1, 3]
    """
    return events[features[0]].offsets().long()


def values_of(events: Mapping[str, JaggedTensor], features: Sequence[str]) -> dict[str, Tensor]:
    """The events' embeddings ``[T, E]`` by feature name."""
    return {name: events[name].values() for name in features}
