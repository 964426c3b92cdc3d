"""FAT against loops written from the paper's formulas, one row, one head, one field at a time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from genrec_plugins.interactions import fat_attention
from genrec_plugins.interactions.fat import Fat
from genrec_plugins.interactions.fat_attention import attend, modulated_attention
from genrec_plugins.interactions.fat_config import FatConfig
from genrec_plugins.interactions.fat_weights import FieldMeta, HyperWeights
from genrec_registry import ConfigError, InteractionContext, ModelError, default_registry, parse_component

D, F, B = 4, 3, 5
CONTEXT = InteractionContext(embedding_dim=D, token_names=tuple(f"f{i}" for i in range(F + 1)))


def build(**options: object) -> Fat:
    torch.manual_seed(0)
    hyper = {"num_bases": 6, "meta_dim": 5, "top_k": 2} if options.get("mode") == "hyper" else {}
    fat = Fat(FatConfig(num_heads=2, **hyper, **options), CONTEXT).eval()
    for parameter in fat.parameters():  # so that zero biases and near-one modulations are tested as well
        parameter.data += 0.3 * torch.randn_like(parameter)
    return fat


def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, D, generator=generator), torch.randn(B, F, D, generator=generator)


def layer_norm(vector: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    centred = vector - vector.mean()
    return centred / torch.sqrt(centred.square().mean() + norm.eps) * norm.weight + norm.bias


def composed(weights: HyperWeights, meta: Tensor) -> list[Tensor]:
    """Section 3.4 by its definition: route, keep the best K, soften, add up."""
    matrices = []
    for phi in meta:
        scores = weights.router.weight @ phi + weights.router.bias
        best = sorted(range(len(scores)), key=lambda m: -float(scores[m]))[: weights.top_k]
        total = sum(math.exp(float(scores[m])) for m in best)
        matrices.append(sum(math.exp(float(scores[m])) / total * weights.bases[m] for m in best))
    return matrices


def slow_fat(fat: Fat, dense: Tensor, sparse: Tensor) -> Tensor:
    """Every formula of sections 3.1 to 3.4 and the readout, written as loops."""
    outputs = []
    for row in range(B):
        tokens = [dense[row], *sparse[row]]
        if fat.tokens.projection is not None:
            tokens = [x @ fat.tokens.projection.weight[f] for f, x in enumerate(tokens)]
        tokens = [x + fat.tokens.bias[f, 0] for f, x in enumerate(tokens)]
        for block in fat.blocks:
            tokens = slow_block(fat, block, tokens)
        if fat.final_norm is not None:
            tokens = [layer_norm(x, fat.final_norm) for x in tokens]
        match fat.config.readout:
            case "sum":
                outputs.append(sum(tokens))
            case "mean":
                outputs.append(sum(tokens) / len(tokens))
            case "flatten":
                outputs.append(torch.cat(tokens))
            case "target":
                outputs.append(tokens[CONTEXT.token_names.index(fat.config.target)])
    return torch.stack(outputs)


def slow_block(fat: Fat, block: torch.nn.Module, tokens: list[Tensor]) -> list[Tensor]:
    number = len(tokens)
    matrix = {}
    for name, weights in block.weights.items():
        if isinstance(weights, HyperWeights):
            matrix[name] = composed(weights, fat.field_meta.weight)
        else:
            matrix[name] = [weights.weight[f if len(weights.weight) > 1 else 0] for f in range(number)]
    normed = [layer_norm(x, block.attention_norm) for x in tokens]
    query, key, value = ([x @ matrix[name][f] for f, x in enumerate(normed)] for name in "qkv")
    heads, width = block.attention.num_heads, block.attention.width
    size = width // heads
    attended = [torch.zeros(width) for _ in tokens]
    for head, i in itertools.product(range(heads), range(number)):
        part = slice(head * size, (head + 1) * size)
        scores = []
        for j in range(number):
            score = float(query[i][part] @ key[j][part]) / math.sqrt(size)
            if block.attention.modulation is not None:
                tables = block.attention.modulation
                score *= float(tables[head if len(tables) > 1 else 0, i, j])
            scores.append(math.exp(score))
        attended[i][part] = sum(scores[j] / sum(scores) * value[j][part] for j in range(number))
    result = []
    for f, (x, a) in enumerate(zip(tokens, attended, strict=True)):
        inner = x + a if fat.config.residual == "two" else a
        hidden = layer_norm(inner, block.ffn_norm) @ matrix["ffn1"][f]
        out = (hidden * torch.sigmoid(hidden)) @ matrix["ffn2"][f]
        result.append((inner if fat.config.residual == "two" else x) + out)
    return result


@pytest.mark.parametrize("mode", ["full", "hyper", "shared"])
@pytest.mark.parametrize("residual", ["block", "two"])
@pytest.mark.parametrize(
    "options",
    [
        {"modulation": "paper", "readout": "sum"},
        {"modulation": "one-plus", "readout": "flatten", "modulation_per_head": True, "num_layers": 2},
        {"modulation": "none", "readout": "mean", "width": 6, "final_norm": True},
        {"modulation": "paper", "readout": "target", "target": "f2", "norm_eps": 0.1, "ffn_ratio": 0.5},
    ],
    ids=["sum", "flatten-2-layers", "mean-wider", "target"],
)
@torch.no_grad()
def test_forward_equals_the_formulas(mode: str, residual: str, options: dict) -> None:
    fat = build(mode=mode, residual=residual, **options)
    dense, sparse = rows()
    fast = fat(dense_features=dense, sparse_features=sparse)
    slow = slow_fat(fat, dense, sparse)
    assert fast.shape == (B, fat.out_features)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tables", [0, 1, 2])
@pytest.mark.parametrize("rows_at_a_time", [1, 2, 4, 5])
def test_attention_in_parts_equals_attention_at_once(tables: int, rows_at_a_time: int) -> None:
    """5 rows in parts of 1, 2 and 4 (with a rest), and in one; outputs and gradients."""
    torch.manual_seed(4)
    found = []
    qkv = torch.randn(F + 1, B, 3 * D, requires_grad=True)
    table = torch.randn(tables, F + 1, F + 1, requires_grad=True) if tables else None
    for scores in (rows_at_a_time * 2 * (F + 1) ** 2, 10**9):
        output = modulated_attention(qkv, table, 2, scores_at_a_time=scores)
        inputs = [qkv] if table is None else [qkv, table]
        found.append([output.detach(), *torch.autograd.grad((output * output.detach().cos()).sum(), inputs)])
    for part, whole in zip(*found, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-5, rtol=1e-4)


def test_fat_is_computed_in_parts_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    context = InteractionContext(embedding_dim=4, token_names=tuple(f"f{i}" for i in range(40)))
    fat = Fat(FatConfig(num_heads=2), context)
    sizes = []
    monkeypatch.setattr(fat_attention, "attend", lambda qkv, *rest: (sizes.append(qkv.shape[1]), attend(qkv, *rest))[1])
    fat(torch.randn(300, 4), torch.randn(300, 39, 4))
    assert sizes == [125, 125, 50]


@torch.no_grad()
def test_paper_form_is_not_the_two_residual_form() -> None:
    dense, sparse = rows()
    paper, two = build(residual="block"), build(residual="two")
    two.load_state_dict(paper.state_dict())
    assert not torch.allclose(paper(dense, sparse), two(dense, sparse), atol=1e-3)


@torch.no_grad()
def test_hypernetwork_equals_its_definition() -> None:
    torch.manual_seed(2)
    meta = FieldMeta(num_fields=7, meta_dim=5)
    weights = HyperWeights(num_bases=9, meta_dim=5, top_k=3, d_in=4, d_out=6)
    torch.testing.assert_close(weights(meta()), torch.stack(composed(weights, meta.weight)))
    routes = weights.routes(meta())
    assert (routes > 0).sum(dim=1).tolist() == [3] * 7
    torch.testing.assert_close(routes.sum(dim=1), torch.ones(7))


def test_hypernetwork_gradient_equals_finite_differences() -> None:
    torch.manual_seed(3)
    meta = FieldMeta(num_fields=3, meta_dim=4).double()
    weights = HyperWeights(num_bases=5, meta_dim=4, top_k=2, d_in=2, d_out=3).double()
    names = [name for name, _ in weights.named_parameters()]

    def forward(phi: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(weights, dict(zip(names, parameters, strict=True)), (phi,))

    assert torch.autograd.gradcheck(forward, (meta.weight, *weights.parameters()))


@pytest.mark.parametrize("mode", ["full", "hyper", "shared"])
@torch.no_grad()
def test_fold_keeps_outputs_and_drops_the_hypernetwork(mode: str) -> None:
    fat = build(mode=mode, num_layers=2)
    folded = fat.fold()
    torch.testing.assert_close(folded(*rows()), fat(*rows()), atol=1e-6, rtol=0)
    names = set(folded.state_dict())
    assert not any("bases" in name or "router" in name or "meta" in name for name in names)
    if mode == "hyper":
        assert any("bases" in name for name in fat.state_dict()), "the module that trains must be left as it was"
        unfolded = Fat(folded.config, CONTEXT)
        unfolded.load_state_dict(folded.state_dict())
        torch.testing.assert_close(unfolded.eval()(*rows()), fat(*rows()), atol=1e-6, rtol=0)


def test_hyper_parameters_do_not_grow_with_fields_like_full_ones() -> None:
    def count(mode: str, fields: int) -> int:
        context = InteractionContext(embedding_dim=8, token_names=tuple(f"f{i}" for i in range(fields)))
        config = FatConfig(mode=mode, modulation="none", readout="sum", num_bases=4, meta_dim=2, top_k=2)
        return sum(p.numel() for p in Fat(config, context).parameters())

    per_field = count("hyper", 21) - count("hyper", 20)
    assert per_field == 2 + 8, "k for the meta-embedding and d for the field bias"
    assert count("full", 21) - count("full", 20) == 3 * 64 + 2 * 128 + 8


def test_initial_modulation_and_scales() -> None:
    torch.manual_seed(0)
    context = InteractionContext(embedding_dim=16, token_names=tuple(f"f{i}" for i in range(40)))
    for form, mean in (("paper", 0.0), ("one-plus", 1.0)):
        table = Fat(FatConfig(modulation=form), context).blocks[0].attention.modulation
        assert table.mean().item() == pytest.approx(mean, abs=2e-3)
        assert table.std().item() == pytest.approx(0.01, rel=0.1)
    hyper = Fat(FatConfig(mode="hyper", branch_scale=1.0), context)
    full = Fat(FatConfig(mode="full", branch_scale=1.0), context)
    composed_std = hyper.blocks[0].weights["q"](hyper.field_meta()).std().item()
    assert composed_std == pytest.approx(full.blocks[0].weights["q"]().std().item(), rel=0.15)


def test_user_mistakes_are_sentences() -> None:
    registry = default_registry()
    with pytest.raises(ConfigError, match="top_k is 9, more than num_bases 4"):
        parse_component(registry, "interaction", {"type": "fat", "mode": "hyper", "top_k": 9, "num_bases": 4})
    with pytest.raises(ConfigError, match="give both or neither"):
        parse_component(registry, "interaction", {"type": "fat", "readout": "target"})
    with pytest.raises(ModelError, match="width 4 is not a multiple of num_heads 3"):
        Fat(FatConfig(num_heads=3), CONTEXT)
    with pytest.raises(ModelError, match="target 'f9' is not a token"):
        Fat(FatConfig(readout="target", target="f9", num_heads=2), CONTEXT)
