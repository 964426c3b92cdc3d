"""Each interaction arch against a slow loop written from its formula, and against values computed by hand."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchrec.models.dlrm import (
    DenseArch,
    InteractionArch,
    InteractionDCNArch,
    InteractionProjectionArch,
)
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet

from genrec_plugins.testing import interaction_subject

torch.set_num_threads(1)
B = 3


def make(name, config=None, *, width=4, sparse=3, seed=0):
    """A float64 module in eval mode with every parameter away from its initial value, and a batch as tokens."""
    subject = interaction_subject(name, config, embedding_dim=width, num_sparse_features=sparse)
    torch.manual_seed(seed)
    module = subject.build().double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    context = subject.context
    tokens = torch.randn(B, context.num_tokens, context.embedding_dim, dtype=torch.float64)
    return module, tokens


def run(module, tokens):
    with torch.no_grad():
        return module(dense_features=tokens[:, 0], sparse_features=tokens[:, 1:])


def params(module):
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def expect(module, tokens, row_formula):
    """Row by row: what the formula gives for ``[T, D]`` tokens is what the module gives."""
    output = run(module, tokens)
    assert output.shape == (B, module.out_features)
    for row in range(B):
        expected = torch.as_tensor(row_formula(tokens[row]), dtype=torch.float64)
        difference = (output[row] - expected).abs().max().item()
        assert difference < 1e-10, f"row {row}: largest difference {difference:.2g}"


def pairs(count):
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def layer_norm(x, weight, bias):
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt() * weight + bias


def linear(p, prefix, x):
    """``W x + b`` with the matrix of ``nn.Linear``."""
    y = p[f"{prefix}.weight"] @ x
    return y + p[f"{prefix}.bias"] if f"{prefix}.bias" in p else y


# -- computed by hand --------------------------------------------------------------------------------------------------

X = torch.tensor([[[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]]])  # <x0,x1> = 1, <x0,x2> = 8.5, <x1,x2> = -2.5


def by_hand(name, config=None, width=2):
    return interaction_subject(name, config, embedding_dim=width, num_sparse_features=2).build()


def test_dot_by_hand():
    assert run(by_hand("dot"), X).tolist() == [[1.0, 2.0, 1.0, 8.5, -2.5]]


def test_mlp_by_hand():
    assert run(by_hand("mlp"), X).tolist() == [[1.0, 2.0, 3.0, -1.0, 0.5, 4.0]]


def test_fm_by_hand():
    module = by_hand("fm", {"deep": False})
    torch.nn.init.ones_(module.first_order.weight)
    torch.nn.init.constant_(module.first_order.bias, 10.0)
    assert run(module, X).tolist() == [[19.5, 7.0]]


def test_fwfm_by_hand():
    module = by_hand("fwfm", {"deep": False})
    module.pair_weight.data = torch.tensor([2.0, 10.0, 100.0])
    assert run(module, X)[0, 1].item() == 2.0 * 1.0 + 10.0 * 8.5 - 100.0 * 2.5


def test_fmfm_by_hand():
    module = by_hand("fmfm", {"deep": False})
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    module.pair_matrix.data = torch.stack([torch.zeros(2, 2), swap, torch.zeros(2, 2)])
    assert run(module, X)[0, 1].item() == 1.0 * 4.0 + 2.0 * 0.5  # x0 against x2 with its entries swapped


def test_ffm_and_onn_by_hand():
    # Token i, slice j: 10 i + j. Products: (0,1): 1 * 10, (0,2): 2 * 20, (1,2): 12 * 21.
    tokens = torch.tensor([[[0.0, 1.0, 2.0], [10.0, 11.0, 12.0], [20.0, 21.0, 22.0]]])
    onn = by_hand("onn", {"pair_dim": 1})
    assert run(onn, tokens).tolist() == [[0.0, 11.0, 22.0, 10.0, 40.0, 252.0]]
    ffm = by_hand("ffm", {"pair_dim": 1})
    ffm.first_order.weight.data = torch.tensor([[1.0, 2.0, 3.0]])
    torch.nn.init.zeros_(ffm.first_order.bias)
    assert run(ffm, tokens).tolist() == [[88.0, 10.0, 40.0, 252.0]]


# -- against TorchRec's own modules ------------------------------------------------------------------------------------


def test_dot_is_torchrecs():
    module, tokens = make("dot")
    stock = InteractionArch(3)
    assert isinstance(module, InteractionArch)
    torch.testing.assert_close(run(module, tokens), stock(tokens[:, 0], tokens[:, 1:]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [2, "full", None])
def test_dcn_loads_torchrecs_parameters_and_computes_the_same(rank):
    module, tokens = make("dcn", {"num_layers": 2, "low_rank_dim": rank})
    cross = LowRankCrossNet(16, 2, rank) if isinstance(rank, int) else CrossNet(16, 2)
    stock = InteractionDCNArch(3, cross).double()
    stock.load_state_dict(module.state_dict())
    assert isinstance(module, InteractionDCNArch)
    torch.testing.assert_close(run(module, tokens), run(stock, tokens), rtol=0, atol=1e-12)


def test_projection_loads_torchrecs_parameters_and_computes_the_same():
    module, tokens = make("projection", {"hidden_sizes": [5], "branch1_features": 2, "branch2_features": 3})
    stock = InteractionProjectionArch(3, DenseArch(16, [5, 8]), DenseArch(16, [5, 12])).double()
    stock.load_state_dict(module.state_dict())
    torch.testing.assert_close(run(module, tokens), run(stock, tokens), rtol=0, atol=1e-12)


# -- against loops -----------------------------------------------------------------------------------------------------


def test_dcn_low_rank_formula():
    module, tokens = make("dcn", {"num_layers": 2, "low_rank_dim": 3})
    p = params(module.crossnet)

    def formula(x):
        x0 = xl = x.flatten()
        for layer in range(2):
            v = p[f"V_kernels.{layer}"] @ xl
            xl = x0 * (p[f"W_kernels.{layer}"] @ v + p[f"bias.{layer}"]) + xl
        return xl

    expect(module, tokens, formula)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", ["fm", "fwfm", "fmfm"])
def test_factorization_machines_sum_over_pairs(name, deep):
    module, tokens = make(name, {"deep": deep})
    p = params(module)

    def formula(x):
        second = 0.0
        for index, (i, j) in enumerate(pairs(4)):
            if name == "fm":
                second += dot(x[i], x[j])
            elif name == "fwfm":
                second += float(p["pair_weight"][index]) * dot(x[i], x[j])
            else:
                second += dot(p["pair_matrix"][index].T @ x[i], x[j])
        weights = p["first_order.weight"].view(4, 4)
        first = float(p["first_order.bias"]) + sum(dot(weights[i], x[i]) for i in range(4))
        return [first, second, *(x.flatten().tolist() if deep else [])]

    expect(module, tokens, formula)


@pytest.mark.parametrize("name", ["ffm", "onn"])
def test_field_aware_products(name):
    k = 2
    module, tokens = make(name, {"pair_dim": k})
    p = params(module)
    assert tokens.shape == (B, 4, 4 * k)

    def toward(x, i, j):
        return x[i, j * k : (j + 1) * k]

    def formula(x):
        products = [dot(toward(x, i, j), toward(x, j, i)) for i, j in pairs(4)]
        own = [float(value) for i in range(4) for value in toward(x, i, i)]
        if name == "onn":
            return own + products
        return [float(p["first_order.bias"]) + dot(p["first_order.weight"][0], own), *products]

    expect(module, tokens, formula)


@pytest.mark.parametrize("readout", ["flatten", "mean"])
def test_transformer_formula(readout):
    heads, width = 2, 4
    module, tokens = make("transformer", {"num_layers": 2, "num_heads": heads, "ffn_width": 6, "readout": readout})
    p = params(module)
    size = width // heads

    def formula(x):
        for layer in range(2):
            b = f"blocks.{layer}"
            normed = [layer_norm(t, p[f"{b}.attention_norm.weight"], p[f"{b}.attention_norm.bias"]) for t in x]
            qkv = [linear(p, f"{b}.attention.qkv", t) for t in normed]
            mixed = []
            for i in range(len(x)):
                parts = []
                for h in range(heads):
                    part = slice(h * size, (h + 1) * size)
                    q, ks, vs = qkv[i][:width][part], *([t[n * width :][part] for t in qkv] for n in (1, 2))
                    scores = [math.exp(dot(q, key) / math.sqrt(size)) for key in ks]
                    parts.append(sum(s / sum(scores) * v for s, v in zip(scores, vs, strict=True)))
                mixed.append(linear(p, f"{b}.attention.out", torch.cat(parts)))
            x = torch.stack([t + m for t, m in zip(x, mixed, strict=True)])
            normed = [layer_norm(t, p[f"{b}.ffn_norm.weight"], p[f"{b}.ffn_norm.bias"]) for t in x]
            hidden = [F.gelu(linear(p, f"{b}.ffn.0", t)) for t in normed]
            x = torch.stack([t + linear(p, f"{b}.ffn.2", u) for t, u in zip(x, hidden, strict=True)])
        x = torch.stack([layer_norm(t, p["norm.weight"], p["norm.bias"]) for t in x])
        return x.flatten() if readout == "flatten" else x.mean(0)

    expect(module, tokens, formula)


@pytest.mark.parametrize("residual", [True, False])
def test_autoint_formula(residual):
    heads, size = 2, 3
    config = {"num_layers": 2, "num_heads": heads, "attention_dim": size, "residual": residual}
    module, tokens = make("autoint", config)
    p = params(module)

    def formula(x):
        for layer in range(2):
            query, key, value = p[f"layers.{layer}.qkv.weight"].chunk(3)
            made = []
            for m in range(len(x)):
                parts = []
                for h in range(heads):
                    part = slice(h * size, (h + 1) * size)
                    scores = [math.exp(dot((query @ x[m])[part], (key @ e)[part])) for e in x]
                    parts.append(sum(s / sum(scores) * (value @ e)[part] for s, e in zip(scores, x, strict=True)))
                token = torch.cat(parts)
                made.append(F.relu(token + linear(p, f"layers.{layer}.residual", x[m]) if residual else token))
            x = torch.stack(made)
        return x.flatten()

    expect(module, tokens, formula)


@pytest.mark.parametrize("gating", ["none", "learned", "tokens"])
def test_final_mlp_formula(gating):
    config = {"stream1_sizes": [5, 4], "stream2_sizes": [6], "num_heads": 2, "gate_hidden": 3}
    config |= {"feature_gating": gating != "none"}
    config |= {"gate1_tokens": ["C2", "dense"], "gate2_tokens": ["C1"]} if gating == "tokens" else {}
    module, tokens = make("final-mlp", config)
    p = params(module)
    steering = {"gate1": (2, 0), "gate2": (1,)}

    def stream(x, number, layers):
        flat = x.flatten()
        gate = f"gate{number}"
        if gating != "none":
            c = p[f"{gate}.context"][0] if gating == "learned" else torch.cat([x[i] for i in steering[gate]])
            hidden = F.relu(linear(p, f"{gate}.gate.0", c))
            flat = flat * 2.0 * torch.sigmoid(linear(p, f"{gate}.gate.2", hidden))
        for layer in range(layers):
            flat = F.relu(linear(p, f"stream{number}.{2 * layer}", flat))
        return flat

    def formula(x):
        o1, o2 = stream(x, 1, 2), stream(x, 2, 1)
        w = p["fusion.weight"]
        heads = [dot(o1[2 * h : 2 * h + 2], w[h] @ o2[3 * h : 3 * h + 3]) for h in range(2)]
        return [*o1.tolist(), *o2.tolist(), *heads]

    expect(module, tokens, formula)


@pytest.mark.parametrize("mode", ["parallel", "serial"])
def test_masknet_formula(mode):
    module, tokens = make("masknet", {"mode": mode, "num_blocks": 2, "block_width": 5, "reduction_ratio": 0.5})
    p = params(module)
    assert p["blocks.0.mask.0.weight"].shape == (8, 16)

    def block(index, inputs, embeddings):
        b = f"blocks.{index}"
        mask = linear(p, f"{b}.mask.2", F.relu(linear(p, f"{b}.mask.0", embeddings)))
        return F.relu(layer_norm(linear(p, f"{b}.hidden", inputs * mask), p[f"{b}.norm.weight"], p[f"{b}.norm.bias"]))

    def formula(x):
        normed = torch.cat([layer_norm(t, p["norm.weight"][i], p["norm.bias"][i]) for i, t in enumerate(x)])
        if mode == "parallel":
            return torch.cat([block(index, normed, x.flatten()) for index in range(2)])
        return block(1, block(0, normed, x.flatten()), x.flatten())

    expect(module, tokens, formula)


def test_wukong_formula():
    module, tokens = make(
        "wukong", {"num_layers": 2, "fmb_tokens": 3, "lcb_tokens": 2, "rank": 2, "fmb_hidden_sizes": [7]}
    )
    p = params(module)
    assert "layers.0.residual.weight" in p  # 4 tokens become 5
    assert "layers.1.residual.weight" not in p

    def formula(x):
        for layer in range(2):
            b = f"layers.{layer}"
            y = p[f"{b}.factorization.project.weight"].T  # [n, k]
            products = (x @ x.T @ y).flatten()
            hidden = layer_norm(products, p[f"{b}.factorization.norm.weight"], p[f"{b}.factorization.norm.bias"])
            hidden = F.relu(linear(p, f"{b}.factorization.hidden.0", hidden))
            made = [*linear(p, f"{b}.factorization.out", hidden).view(3, 4), *(p[f"{b}.compression.weight"] @ x)]
            kept = p[f"{b}.residual.weight"] @ x if layer == 0 else x
            norm = p[f"{b}.norm.weight"], p[f"{b}.norm.bias"]
            x = torch.stack([layer_norm(new + old, *norm) for new, old in zip(made, kept, strict=True)])
        return x.flatten()

    expect(module, tokens, formula)


@pytest.mark.parametrize("readout", ["mean", "flatten"])
def test_rankmixer_formula(readout):
    # 16 floats in 3 pieces of 6: the last one has two zeros
    module, tokens = make(
        "rankmixer", {"num_layers": 2, "num_tokens": 3, "width": 6, "ffn_multiplier": 2, "readout": readout}
    )
    p = params(module)

    def per_token(prefix, index, t):
        return t @ p[f"{prefix}.weight"][index] + p[f"{prefix}.bias"][index, 0]

    def formula(x):
        flat = [*x.flatten().tolist(), 0.0, 0.0]
        pieces = torch.tensor([flat[:6], flat[6:12], flat[12:]], dtype=torch.float64)
        t = [per_token("tokenize", i, piece) for i, piece in enumerate(pieces)]
        for layer in range(2):
            b = f"blocks.{layer}"
            mixed = [torch.cat([token[2 * h : 2 * h + 2] for token in t]) for h in range(3)]
            norm = p[f"{b}.mix_norm.weight"], p[f"{b}.mix_norm.bias"]
            s = [layer_norm(m + token, *norm) for m, token in zip(mixed, t, strict=True)]
            norm = p[f"{b}.ffn_norm.weight"], p[f"{b}.ffn_norm.bias"]
            hidden = [F.gelu(per_token(f"{b}.ffn_in", i, token)) for i, token in enumerate(s)]
            t = [layer_norm(per_token(f"{b}.ffn_out", i, h) + s[i], *norm) for i, h in enumerate(hidden)]
        t = torch.stack(t)
        return t.mean(0) if readout == "mean" else t.flatten()

    expect(module, tokens, formula)
