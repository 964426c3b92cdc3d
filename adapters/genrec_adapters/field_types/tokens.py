"""Token modules: dense features ``[B, sum(width)]`` to tokens ``[B, sum(tokens), D]``, all fields of a type at once.

Neighbouring features of one shape form a *run* that is one batched matrix product; the loop in ``forward`` is over
runs, of which there is one unless a run's YAML mixes shapes. Modules hold no index buffers and no bin edges: what they
need of a feature is in its shape, so that a module built on the meta device is whole after ``reset_parameters``.
"""

# No postponed annotations here: torch.fx would write 'torch.Tensor' as a name that TorchScript does not know.
import itertools
import math
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import nn

from genrec_registry import DenseFeature


class Projection(nn.Module):
    """A linear map of its own for each of F features of one width.

    Parameters start uniform in ``+-1/sqrt(D w)``: for w = 1 the feature tokenizer of FT-Transformer (Gorishniy et al.,
    arXiv 2106.11959, section 3.3).

    Args:
        num_features: F.
        width: w, floats of each feature.
        embedding_dim: D.

    Shapes: ``[B, F * w] -> [B, F, D]``.

    Example::

        >>> Projection(num_features=3, width=2, embedding_dim=4)(torch.zeros(5, 6)).shape
        torch.Size([5, 3, 4])
    """

    def __init__(self, *, num_features: int, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.width = width
        self.weight = nn.Parameter(torch.empty(num_features, width, embedding_dim))
        self.bias = nn.Parameter(torch.empty(num_features, 1, embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        bound = 1 / math.sqrt(self.weight.shape[1] * self.weight.shape[2])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, dense: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, F, D]`` of ``[B, F * w]`` or ``[B, F, w]``."""
        by_feature = dense.reshape(-1, self.num_features, self.width).transpose(0, 1)  # [F, B, w]
        return torch.baddbmm(self.bias, by_feature, self.weight).transpose(0, 1)  # [B, F, D]


class PiecewiseLinear(nn.Module):
    """Piecewise linear encoding and a linear map of its own for each of F numbers.

    Component t of the encoding is ``clip(p - t, 0, 1)`` of the position p (Gorishniy et al., arXiv 2203.05556, equation
    1, with p as :class:`~genrec_adapters.field_types.numeric_embedding.NumericEmbedding` prepares it); the missing
    indicator is one more component.

    Args:
        num_features: F.
        num_bins: T, the most bins a feature has.
        embedding_dim: D.

    Shapes: ``[B, F * 2] -> [B, F, D]``; the two floats are position and missing indicator.

    Example::

        >>> PiecewiseLinear(num_features=3, num_bins=8, embedding_dim=4)(torch.zeros(5, 6)).shape
        torch.Size([5, 3, 4])
    """

    def __init__(self, *, num_features: int, num_bins: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_bins = num_bins
        self.projection = Projection(num_features=num_features, width=num_bins + 1, embedding_dim=embedding_dim)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.projection.reset_parameters()

    def forward(self, dense: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, F, D]``."""
        value = dense.reshape(-1, self.num_features, 2)
        position, missing = value[:, :, :1], value[:, :, 1:]
        starts = torch.arange(self.num_bins, dtype=dense.dtype, device=dense.device)
        encoding = torch.clamp(position - starts, 0.0, 1.0)  # [B, F, T]
        tokens: torch.Tensor = self.projection(torch.cat([encoding, missing], dim=2))
        return tokens


class AutoDis(nn.Module):
    """Soft discretisation of each of F numbers over H meta-embeddings of its own (Guo et al., arXiv 2012.08986).

    ``h = leaky_relu(w x)``, ``s = softmax((W h + skip h) / temperature)``, token = ``s`` times the meta-embeddings
    (equations 6 to 9, weighted-average aggregation). A missing number has a learned vector instead.

    Args:
        num_features: F.
        num_bins: H.
        embedding_dim: D.
        temperature: of the softmax.
        skip: weight of the skip connection, alpha in the paper.

    Shapes: ``[B, F * 2] -> [B, F, D]``; the two floats are value and missing indicator.

    Example::

        >>> AutoDis(num_features=3, num_bins=8, embedding_dim=4, temperature=1.0, skip=0.1)(torch.zeros(5, 6)).shape
        torch.Size([5, 3, 4])
    """

    def __init__(
        self, *, num_features: int, num_bins: int, embedding_dim: int, temperature: float, skip: float
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.temperature = temperature
        self.skip = skip
        self.scores = nn.Parameter(torch.empty(num_features, num_bins))
        self.mixing = nn.Parameter(torch.empty(num_features, num_bins, num_bins))
        self.meta_embeddings = nn.Parameter(torch.empty(num_features, num_bins, embedding_dim))
        self.missing = nn.Parameter(torch.empty(num_features, embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        nn.init.uniform_(self.scores, -1.0, 1.0)
        bins_bound = 1 / math.sqrt(self.scores.shape[1])
        nn.init.uniform_(self.mixing, -bins_bound, bins_bound)
        bound = 1 / math.sqrt(self.missing.shape[1])
        nn.init.uniform_(self.meta_embeddings, -bound, bound)
        nn.init.uniform_(self.missing, -bound, bound)

    def forward(self, dense: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, F, D]``."""
        value = dense.reshape(-1, self.num_features, 2)
        number, missing = value[:, :, :1], value[:, :, 1:]
        hidden = nn.functional.leaky_relu(number * self.scores).transpose(0, 1)  # [F, B, H]
        mixed = torch.bmm(hidden, self.mixing) + self.skip * hidden
        weights = torch.softmax(mixed / self.temperature, dim=2)
        tokens = torch.bmm(weights, self.meta_embeddings).transpose(0, 1)  # [B, F, D]
        return tokens + missing * (self.missing - tokens)


class RunsOfFeatures(nn.Module):
    """Features in runs of neighbours of one shape, each run one module.

    Args:
        features: all dense features, in the order of the input's columns.
        key: the shape of a feature; neighbours with equal keys form a run.
        build: makes the module of a run of features: ``[B, sum(width)] -> [B, tokens, D]``.
    """

    def __init__(
        self,
        features: Sequence[DenseFeature],
        *,
        key: Callable[[DenseFeature], Hashable],
        build: Callable[[Sequence[DenseFeature]], nn.Module],
    ) -> None:
        super().__init__()
        runs = [list(run) for _, run in itertools.groupby(features, key)]
        ends = list(itertools.accumulate(sum(feature.width for feature in run) for run in runs))
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        self.runs = nn.ModuleList(build(run) for run in runs)

    def forward(self, dense: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, sum(tokens), D]`` of ``[B, sum(width)]``."""
        tokens = [run(dense[:, start:end]) for run, (start, end) in zip(self.runs, self.bounds, strict=True)]
        return tokens[0] if len(tokens) == 1 else torch.cat(tokens, dim=1)


def projected(features: Sequence[DenseFeature], embedding_dim: int) -> nn.Module:
    """Token module of ``numeric-dense``, ``timestamp`` and ``vector``: one :class:`Projection` a run of one width."""

    def build(run: Sequence[DenseFeature]) -> nn.Module:
        return Projection(num_features=len(run), width=run[0].width, embedding_dim=embedding_dim)

    return RunsOfFeatures(features, key=lambda feature: feature.width, build=build)


def numeric_embeddings(features: Sequence[DenseFeature], embedding_dim: int) -> nn.Module:
    """Token module of ``numeric-embedding``.

    Example::

        >>> params = {"method": "piecewise-linear", "bins": 8}
        >>> module = numeric_embeddings([DenseFeature(name="I1", width=2, params=params)], embedding_dim=4)
        >>> module(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 4])
    """

    def key(feature: DenseFeature) -> Hashable:
        if feature.params["method"] == "piecewise-linear":
            return "piecewise-linear"  # features with fewer bins leave the last ones unused
        return tuple(sorted(feature.params.items()))

    def build(run: Sequence[DenseFeature]) -> nn.Module:
        params = run[0].params
        if params["method"] == "piecewise-linear":
            most = max(feature.params["bins"] for feature in run)
            return PiecewiseLinear(num_features=len(run), num_bins=most, embedding_dim=embedding_dim)
        return AutoDis(
            num_features=len(run),
            num_bins=params["bins"],
            embedding_dim=embedding_dim,
            temperature=params["temperature"],
            skip=params["skip"],
        )

    return RunsOfFeatures(features, key=key, build=build)
