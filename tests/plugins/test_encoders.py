"""The fast ways of attending against the slow, obvious ones; and what each encoder is by its paper."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from genrec_plugins.benchmarks import packing_speed
from genrec_plugins.encoders.after import AfterEvents
from genrec_plugins.encoders.causal_stack import CausalStack
from genrec_plugins.encoders.configs import DinConfig, HstuConfig, LumConfig, MeanPoolConfig, SasRecConfig
from genrec_plugins.encoders.din import Din
from genrec_plugins.encoders.hstu import Hstu
from genrec_plugins.encoders.lum import Lum
from genrec_plugins.encoders.mean_pool import MeanPool
from genrec_plugins.encoders.sasrec import SasRec
from genrec_plugins.encoders.varlen import Layout, attention_by_row, causal_attention
from genrec_plugins.testing import random_events
from genrec_registry import ConfigError, EncoderContext, ModelError

LENGTHS = {
    "ragged": [3, 0, 1, 17, 4, 4, 0, 9, 1],
    "equal": [5, 5, 5],
    "one": [6],
    "empty rows": [0, 0, 0],
    "no rows": [],
    "many": [40, *range(1, 30), 33, 0, 33],
}
HOW = ("bucketed", "packed", "padded")


CONTEXT = EncoderContext(
    embedding_dim=6, feature_dim=4, max_length=5, item_features=("item", "genre"), condition_features=("action",)
)
BATCH = random_events(CONTEXT, [3, 0, 5, 1])


def offsets_for(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_every_layout_attends_as_row_by_row(how, lengths):
    offsets = offsets_for(lengths)
    generator = torch.Generator().manual_seed(0)
    heads = torch.randn(sum(lengths), 3, 2, 6, generator=generator)
    upstream = torch.randn(sum(lengths), 2, 6, generator=generator)
    fast, slow = heads.clone().requires_grad_(), heads.clone().requires_grad_()
    found = causal_attention(fast, Layout(offsets, how))
    expected = attention_by_row(slow, offsets)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-5, rtol=0)


def separate_passes(stack: CausalStack, tokens: Tensor, offsets: Tensor, suffix: Tensor, row, prefix) -> Tensor:
    """One full pass for each suffix: its prefix, then itself."""
    starts = offsets.tolist()
    outputs = []
    for own, r, p in zip(suffix, row.tolist(), prefix.tolist(), strict=True):
        whole = torch.cat([tokens[starts[r] : starts[r] + p], own])
        outputs.append(stack(whole, torch.tensor([0, len(whole)]))[p:])
    return torch.stack(outputs) if outputs else suffix


@pytest.mark.parametrize("positions", ["rope", "learned"])
@pytest.mark.parametrize("size", [1, 4])
def test_extend_is_as_many_separate_passes(positions, size):
    torch.manual_seed(0)
    lengths = [3, 0, 1, 17, 4, 4, 0, 9, 1]
    offsets = offsets_for(lengths)
    stack = CausalStack(hidden=8, layers=2, heads=2, positions=positions, max_length=17 + size).eval()
    tokens = torch.randn(sum(lengths), 8)
    every_prefix = [(r, p) for r, length in enumerate(lengths) for p in range(length + 1)]
    row, prefix = torch.tensor(every_prefix)[torch.randperm(len(every_prefix))].T
    suffix = torch.randn(len(row), size, 8)
    out, cache = stack.prefill(tokens, offsets)
    torch.testing.assert_close(out, stack(tokens, offsets), atol=0, rtol=0)
    found = stack.extend(suffix, row, prefix, cache)
    assert torch.equal(stack.extend(suffix, row, prefix, stack.remember(tokens, offsets)), found)
    expected = separate_passes(stack, tokens, offsets, suffix, row, prefix)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_extend_cuts_many_suffixes_of_one_row_into_several_groups():
    torch.manual_seed(0)
    stack = CausalStack(hidden=8, layers=1, heads=2).eval()
    tokens, offsets = torch.randn(7, 8), torch.tensor([0, 5, 7])
    row = torch.tensor([0] * 200 + [1] * 3)
    prefix = torch.cat([torch.randint(6, (200,)), torch.tensor([2, 0, 1])])
    suffix = torch.randn(203, 2, 8)
    found = stack.extend(suffix, row, prefix, stack.prefill(tokens, offsets)[1])
    expected = separate_passes(stack, tokens, offsets, suffix, row, prefix)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_extend_of_nothing():
    stack = CausalStack(hidden=8, layers=1, heads=2)
    _, cache = stack.prefill(torch.randn(3, 8), torch.tensor([0, 3]))
    none = torch.zeros(0, dtype=torch.long)
    assert stack.extend(torch.zeros(0, 2, 8), none, none, cache).shape == (0, 2, 8)
    _, empty = stack.prefill(torch.zeros(0, 8), torch.tensor([0, 0]))
    zero = torch.zeros(1, dtype=torch.long)
    assert torch.isfinite(stack.extend(torch.randn(1, 2, 8), zero, zero, empty)).all()


def test_a_prefix_longer_than_its_row_is_refused():
    """What stands behind it is another user's."""
    events = BATCH.jagged()
    for encoder in (Lum(LumConfig(hidden=8), CONTEXT), SasRec(SasRecConfig(), CONTEXT)):
        with pytest.raises(ModelError, match=r"query 1 looks at the first (4|8) of row 0, which has (3|6)"):
            encoder.query(events, torch.tensor([2, 0]), torch.tensor([5, 4]), {"action": torch.randn(2, 4)})


def test_learned_positions_end_where_they_end():
    stack = CausalStack(hidden=8, layers=1, heads=2, positions="learned", max_length=3)
    stack(torch.randn(3, 8), torch.tensor([0, 3]))
    with pytest.raises(ModelError, match=r"4 tokens.*for 3"):
        stack(torch.randn(4, 8), torch.tensor([0, 4]))


def test_widths_that_do_not_go_together():
    with pytest.raises(ModelError, match="heads 3"):
        CausalStack(hidden=8, heads=3)
    with pytest.raises(ModelError, match="even"):
        CausalStack(hidden=6, heads=2)
    with pytest.raises(ModelError, match="max_length"):
        CausalStack(hidden=6, heads=2, positions="learned")


# -- encoders against their papers, one row and one formula at a time --------------------------------------------------


def rows_of(tokens: Tensor) -> list[Tensor]:
    return [tokens[BATCH.row == row] for row in range(len(BATCH.lengths))]


def event_tokens(encoder: AfterEvents | Din) -> Tensor:
    """``proj_i(item, genre) + proj_c(action)``."""
    items = torch.cat([BATCH.events["item"], BATCH.events["genre"]], dim=1) @ encoder.events.item.project.weight.T
    assert encoder.events.condition is not None
    return items + BATCH.events["action"] @ encoder.events.condition.project.weight.T


def expect_states(encoder: AfterEvents, outputs: list[Tensor]) -> None:
    """Each state is the output at the event before, the start if there is none; the user token is the last output."""
    start = encoder.start.unsqueeze(0)
    rows = [torch.cat([start, output]) for output in outputs]
    states, tokens = encoder.states(BATCH.jagged()), encoder(BATCH.jagged(), BATCH.target)
    torch.testing.assert_close(states, encoder.out(torch.cat([row[:-1] for row in rows])), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens[:, 0], encoder.out(torch.stack([row[-1] for row in rows])), atol=1e-5, rtol=0)


def test_mean_pool_is_the_mean_so_far():
    encoder = MeanPool(MeanPoolConfig(), CONTEXT)
    expect_states(
        encoder,
        [
            torch.stack([*[row[: n + 1].mean(dim=0) for n in range(len(row))], torch.zeros(6)])[:-1]
            for row in rows_of(event_tokens(encoder))
        ],
    )


@pytest.mark.parametrize("attention", HOW)
def test_sasrec_is_its_equations(attention):
    torch.manual_seed(0)
    encoder = SasRec(SasRecConfig(hidden=8, num_heads=2, attention=attention), CONTEXT).eval()
    outputs = []
    for row in rows_of(event_tokens(encoder) * 8**0.5):
        x = row + encoder.position.weight[: len(row)]
        for block in encoder.blocks:
            q, k, v = (block.attention_norm(x) @ block.qkv.weight.T).chunk(3, dim=1)
            attended = torch.zeros_like(x)
            for event in range(len(x)):
                for head in (slice(0, 4), slice(4, 8)):
                    weights = torch.softmax(k[: event + 1, head] @ q[event, head] / 4**0.5, dim=0)
                    attended[event, head] = weights @ v[: event + 1, head]
            x = x + attended
            x = x + block.ffn(block.ffn_norm(x))
        outputs.append(encoder.norm(x))
    expect_states(encoder, outputs)


@pytest.mark.parametrize("attention", HOW)
def test_hstu_is_its_equations(attention):
    torch.manual_seed(0)
    encoder = Hstu(HstuConfig(hidden=8, num_heads=2, attention=attention), CONTEXT).eval()
    for block in encoder.blocks:
        nn.init.normal_(block.bias)  # larger than it begins, so that a wrong one shows
    outputs = []
    for row in rows_of(event_tokens(encoder) * 8**0.5):
        x = row
        for block in encoder.blocks:
            u, v, q, k = nn.functional.silu(block.norm(x) @ block.project.weight.T).chunk(4, dim=1)
            attended = torch.zeros_like(x)
            for event in range(len(x)):
                for head, columns in enumerate((slice(0, 4), slice(4, 8))):
                    for past in range(event + 1):
                        score = q[event, columns] @ k[past, columns] + block.bias[head, event - past]
                        attended[event, columns] += nn.functional.silu(score) / 5 * v[past, columns]
            x = x + block.mix(block.attended_norm(attended) * u)
        outputs.append(x)
    expect_states(encoder, outputs)


def test_din_is_its_equation():
    torch.manual_seed(0)
    encoder = Din(DinConfig(hidden_sizes=(5,)), CONTEXT)
    wanted = torch.cat([BATCH.target["item"], BATCH.target["genre"]], dim=1) @ encoder.events.item.project.weight.T
    expected = torch.zeros(len(BATCH.lengths), 6)
    for row, tokens in enumerate(rows_of(event_tokens(encoder))):
        for e in tokens:
            seen = torch.cat([e, wanted[row], e - wanted[row], e * wanted[row]])
            expected[row] += encoder.activation(seen.unsqueeze(0))[0] * e
    torch.testing.assert_close(encoder(BATCH.jagged(), BATCH.target)[:, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_lum_reads_condition_then_item(positions):
    """States and learned queries from rows ``c_1, i_1, ..., c_L, i_L, q`` put together by hand."""
    torch.manual_seed(0)
    encoder = Lum(LumConfig(hidden=8, num_queries=2, positions=positions), CONTEXT)
    items = torch.cat([BATCH.events["item"], BATCH.events["genre"]], dim=1) @ encoder.item.project.weight.T
    conditions = BATCH.events["action"] @ encoder.condition.project.weight.T
    tokens = encoder(BATCH.jagged(), BATCH.target)
    states = rows_of(encoder.states(BATCH.jagged()))
    for row, (c, i) in enumerate(zip(rows_of(conditions), rows_of(items), strict=True)):
        history = [token for pair in zip(c, i, strict=True) for token in pair]
        for number, asked in enumerate(encoder.queries):
            whole = torch.stack([*history, asked])
            output = encoder.out(encoder.stack(whole, torch.tensor([0, len(whole)])))
            torch.testing.assert_close(output[:-1:2], states[row], atol=1e-5, rtol=0)
            torch.testing.assert_close(output[-1], tokens[row, number], atol=1e-5, rtol=0)
    expected = torch.cat([BATCH.target["item"], BATCH.target["genre"]], dim=1) @ encoder.item.project.weight.T
    torch.testing.assert_close(encoder.item_vectors(BATCH.target), encoder.out(expected))


def test_rope_stack_is_its_equations():
    """One block with angles written out, pair by pair."""
    torch.manual_seed(0)
    stack = CausalStack(hidden=8, layers=1, heads=2)
    (block,) = stack.blocks
    x = torch.randn(4, 8)

    def turned(vector: Tensor, position: int) -> Tensor:
        found = vector.clone()
        for pair in range(2):
            angle = torch.tensor(position * 10_000.0 ** (-2 * pair / 4))
            a, b = vector[2 * pair], vector[2 * pair + 1]
            found[2 * pair] = a * angle.cos() - b * angle.sin()
            found[2 * pair + 1] = a * angle.sin() + b * angle.cos()
        return found

    def normed(rows: Tensor) -> Tensor:
        return rows / (rows.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    q, k, v = (normed(x) @ block.qkv.weight.T).chunk(3, dim=1)
    attended = torch.zeros_like(x)
    for token in range(4):
        for head in (slice(0, 4), slice(4, 8)):
            asked = turned(q[token, head], token)
            scores = torch.stack([turned(k[past, head], past) @ asked for past in range(token + 1)]) / 4**0.5
            attended[token, head] = scores.softmax(0) @ v[: token + 1, head]
    y = x + attended @ block.mix.weight.T
    gate, up = (normed(y) @ block.gate_up.weight.T).chunk(2, dim=1)
    y = y + (nn.functional.silu(gate) * up) @ block.down.weight.T
    torch.testing.assert_close(stack(x, torch.tensor([0, 4])), normed(y), atol=1e-5, rtol=0)


def test_a_single_feature_of_the_right_width_is_the_token_itself():
    context = EncoderContext(embedding_dim=4, feature_dim=4, max_length=5, item_features=("item",))
    items = {"item": torch.randn(3, 4)}
    for encoder in (SasRec(SasRecConfig(), context), Hstu(HstuConfig(), context), MeanPool(MeanPoolConfig(), context)):
        assert torch.equal(encoder.item_vectors(items), items["item"])


def test_widths_and_lengths_that_encoders_refuse():
    for config, factory in ((SasRecConfig(num_heads=4), SasRec), (HstuConfig(num_heads=4), Hstu)):
        with pytest.raises(ModelError, match="width 6 is not a multiple of num_heads 4"):
            factory(config, CONTEXT)
    too_long = random_events(CONTEXT, [6]).jagged()
    for encoder in (SasRec(SasRecConfig(), CONTEXT), Hstu(HstuConfig(), CONTEXT)):
        with pytest.raises(ModelError, match="a row has 6 tokens, but there are learned positions for 5"):
            encoder(too_long, {})
    with pytest.raises(ValidationError, match="even width"):
        LumConfig(hidden=6, num_heads=2)


# -- the benchmark ----------------------------------------------------------------------------------------------------


def test_packing_speed_compares_equal_things(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # those of the other tests stay
    rows = {"u": list("abcde"), "v": list("ab"), "w": ["a"], "x": list("abcdefghij")}
    (tmp_path / "inter.json").write_text(json.dumps(rows))
    source = f"amazon-reviews={tmp_path / 'inter.json'}"
    packing_speed.main([source], max_length=6, max_events=100, hidden=8, num_layers=1, queries=3, repeats=1, json_=True)
    found = {(row["what"], row["way"]): row for row in json.loads(capsys.readouterr().out)}
    assert all(row["max difference"] < 1e-5 for row in found.values())
    tokens = {key: row["tokens"] for key, row in found.items()}
    assert tokens["forward and backward", "bucketed"] == 2 * (5 + 2 + 1 + 6)
    assert tokens["forward and backward", "padded to the longest row"] == 2 * 4 * 6
    assert tokens["3 queries a user", "one group query"] == 2 * 14 + 12
    assert tokens["3 queries a user", "separate passes"] == 3 * (2 * 14 + 4)


def test_packing_speed_wants_a_dataset_of_events():
    for source in ("movielens", "csv=x.csv"):
        with pytest.raises(ConfigError, match="expected TYPE=PATH"):
            packing_speed.read_lengths(source)
