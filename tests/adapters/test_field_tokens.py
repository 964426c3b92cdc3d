"""Token modules against loops written from the formulas."""

from __future__ import annotations

import pytest
import torch

from genrec_adapters.field_types.tokens import AutoDis, PiecewiseLinear, Projection, numeric_embeddings, projected
from genrec_registry import DenseFeature

B, D = 5, 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_projection_is_a_linear_map_of_each_feature() -> None:
    module, dense = Projection(num_features=3, width=2, embedding_dim=D), torch.randn(B, 6)
    tokens = module(dense)
    for feature in range(3):
        value = dense[:, 2 * feature : 2 * feature + 2]
        torch.testing.assert_close(tokens[:, feature], value @ module.weight[feature] + module.bias[feature])


def test_piecewise_linear_is_equation_1_and_a_linear_map() -> None:
    module = PiecewiseLinear(num_features=2, num_bins=3, embedding_dim=D)
    edges = torch.tensor([[0.0, 1.0, 4.0, 5.0], [-2.0, 0.0, 2.0, 9.0]])
    numbers = torch.tensor([[0.5, -2.0], [2.5, 1.0], [5.0, 8.0], [4.0, 0.0]])
    positions, expected = torch.zeros(4, 2), torch.zeros(4, 2, D)
    for row in range(4):
        for feature in range(2):
            number, encoding = numbers[row, feature], torch.zeros(3)
            for t in range(3):
                low, high = edges[feature, t], edges[feature, t + 1]
                encoding[t] = 0.0 if number < low else 1.0 if number >= high else (number - low) / (high - low)
            positions[row, feature] = encoding.sum()
            weight, bias = module.projection.weight[feature], module.projection.bias[feature, 0]
            expected[row, feature] = encoding @ weight[:3] + bias
    dense = torch.stack([positions, torch.zeros(4, 2)], dim=2).reshape(4, 4)
    torch.testing.assert_close(module(dense), expected)


def test_missing_has_a_direction_of_its_own() -> None:
    missing = torch.tensor([[0.0, 1.0]])
    piecewise = PiecewiseLinear(num_features=1, num_bins=3, embedding_dim=D)
    expected = piecewise.projection.weight[0, 3] + piecewise.projection.bias[0, 0]
    torch.testing.assert_close(piecewise(missing)[0, 0], expected)
    autodis = AutoDis(num_features=1, num_bins=3, embedding_dim=D, temperature=1.0, skip=0.1)
    torch.testing.assert_close(autodis(missing)[0, 0], autodis.missing[0])


def test_autodis_follows_the_paper() -> None:
    module, skip, temperature = (
        AutoDis(num_features=2, num_bins=3, embedding_dim=D, temperature=0.5, skip=0.3),
        0.3,
        0.5,
    )
    numbers = torch.randn(B, 2)
    tokens = module(torch.stack([numbers, torch.zeros(B, 2)], dim=2).reshape(B, 4))
    for row in range(B):
        for feature in range(2):
            hidden = torch.nn.functional.leaky_relu(module.scores[feature] * numbers[row, feature])
            scores = hidden @ module.mixing[feature] + skip * hidden
            weights = torch.exp(scores / temperature) / torch.exp(scores / temperature).sum()
            expected = sum(weights[bin] * module.meta_embeddings[feature, bin] for bin in range(3))
            torch.testing.assert_close(tokens[row, feature], expected)


def _embedded(name: str, method: str, bins: int) -> DenseFeature:
    extra = {"temperature": 1.0, "skip": 0.1} if method == "autodis" else {}
    return DenseFeature(name=name, width=2, params={"method": method, "bins": bins, **extra})


def test_features_of_several_shapes_keep_their_order() -> None:
    features = [
        _embedded("a", "autodis", 4),
        _embedded("b", "piecewise-linear", 2),
        _embedded("c", "piecewise-linear", 7),
    ]
    features.append(_embedded("d", "autodis", 4))
    module, dense = numeric_embeddings(features, D), torch.rand(B, 8)
    assert [type(run).__name__ for run in module.runs] == ["AutoDis", "PiecewiseLinear", "AutoDis"]
    assert module.runs[1].num_bins == 7
    torch.testing.assert_close(module(dense)[:, 0:1], module.runs[0](dense[:, :2]))
    torch.testing.assert_close(module(dense)[:, 1:3], module.runs[1](dense[:, 2:6]))
    torch.testing.assert_close(module(dense)[:, 3:], module.runs[2](dense[:, 6:]))


def test_vectors_of_several_widths() -> None:
    features = [DenseFeature(name=name, width=width) for name, width in (("a", 3), ("b", 3), ("c", 1))]
    module, dense = projected(features, D), torch.randn(B, 7)
    assert len(module.runs) == 2
    assert module(dense).shape == (B, 3, D)
    torch.testing.assert_close(module(dense)[:, 2], dense[:, 6:] @ module.runs[1].weight[0] + module.runs[1].bias[0])
