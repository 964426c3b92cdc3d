"""``genrec profile``: FLOPs against hand counts, bytes and operators of known work, and the command."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genrec_plugins.cli import main
from genrec_plugins.profiling import peaks
from genrec_plugins.profiling.asked import asked_for
from genrec_plugins.profiling.flops import flop_counter, launched_operators
from genrec_plugins.profiling.measure import Profile, measure
from genrec_plugins.profiling.peaks import Peak
from genrec_plugins.profiling.ranker import Tables, ranker_subject, table_fields
from genrec_plugins.profiling.run import profile_all
from genrec_plugins.profiling.subjects import Shape, Way, component_subject
from genrec_plugins.profiling.traffic import Traffic, peak_bytes
from genrec_registry import ModelError, default_registry

B, T, D = 6, 5, 8
SHAPE = Shape(batch_size=B, fields=T, embedding_dim=D, length=1)
N = T * D


def per_token(*widths: tuple[int, int]) -> int:
    """FLOPs of linear maps of the sizes ``(in, out)`` on every token."""
    return sum(2 * B * T * d_in * d_out for d_in, d_out in widths)


ATTENTION = 2 * (2 * B * T * T * D)  # scores and mix, all heads together
#: component, options, FLOPs of a forward counted by hand
BY_HAND: list[tuple[str, dict[str, Any], int]] = [
    ("dot", {}, 2 * B * T * T * D),
    ("mlp", {}, 0),
    ("dcn", {"num_layers": 2, "low_rank_dim": 3}, 2 * (2 * 2 * B * N * 3)),
    ("dcn", {"num_layers": 1, "low_rank_dim": "full"}, 2 * B * N * N),
    ("fat", {"num_heads": 2}, per_token((D, 3 * D), (D, 2 * D), (2 * D, D)) + ATTENTION),
    ("fat", {"num_heads": 2, "mode": "shared"}, per_token((D, 3 * D), (D, 2 * D), (2 * D, D)) + ATTENTION),
    (
        "transformer",
        {"num_layers": 3, "ffn_width": 7},
        3 * (per_token((D, 3 * D), (D, D), (D, 7), (7, D)) + ATTENTION),
    ),
    ("autoint", {"num_layers": 1, "num_heads": 2, "attention_dim": D // 2}, per_token((D, 4 * D)) + ATTENTION),
]


@pytest.mark.parametrize(("name", "options", "expected"), BY_HAND)
def test_flops_equal_a_hand_count(name: str, options: dict[str, Any], expected: int) -> None:
    subject = component_subject("interaction", name, default_registry(), SHAPE, options=options)
    profile = measure(subject, peak_flops=1e9, repeats=1)
    assert profile.flops == 3 * expected
    assert profile.executed_flops == 3 * expected, "the backward of a product is two products"
    forward = measure(subject, peak_flops=1e9, backward=False, repeats=1)
    assert (forward.flops, forward.executed_flops) == (expected, expected)


def test_flops_of_lum_equal_a_hand_count() -> None:
    """B histories of one event, two tokens each."""
    options = {"hidden": D, "num_layers": 3, "num_heads": 2, "ffn_ratio": 2.0}
    subject = component_subject("encoder", "lum", default_registry(), SHAPE, options=options)
    tokens, events = 2 * B, B
    block = 2 * tokens * (D * 3 * D + D * D + D * 2 * 2 * D + 2 * D * D) + 2 * (2 * B * 2 * 2 * D)
    assert measure(subject, peak_flops=1e9, repeats=1).flops == 3 * (2 * events * 2 * D * D + 3 * block)


def test_fused_attention_is_counted() -> None:
    rows = torch.rand(2, 3, 5, 4, requires_grad=True)
    product = 2 * 2 * 3 * 5 * 5 * 4
    with flop_counter() as counter:
        mixed = torch.nn.functional.scaled_dot_product_attention(rows, rows, rows, is_causal=True)
        assert counter.get_total_flops() == 2 * product
        mixed.sum().backward()
    assert counter.get_total_flops() == (2 + 5) * product, "the backward computes the scores again"


def test_bytes_are_those_of_arguments_and_results() -> None:
    left, right = torch.rand(3, 4), torch.rand(4, 5)
    with Traffic() as traffic:
        (left @ right).t()
    assert (traffic.bytes, traffic.operators) == (4 * (12 + 20 + 15), 1)
    with Traffic() as traffic:
        left + torch.rand(1, 1).expand(3, 4)  # the one element of the expanded tensor is read once, and drawn once
    assert traffic.bytes == 4 * (12 + 1 + 12 + 1)
    table = torch.rand(1000, 4)
    with Traffic() as traffic:
        torch.nn.functional.embedding(torch.tensor([1, 2]), table)
    assert traffic.bytes == 2 * (2 * 4 * 4) + 2 * 8, "two rows read and written, two ids; not the table"


def test_peak_is_the_most_that_lives_at_a_time() -> None:
    def work() -> None:
        first = torch.ones(1000)
        second = first * 2
        del first
        third = second * 2
        del second, third

    assert peak_bytes(work) // 1000 == 8, "two tensors, and torch's scalars"


def test_operators_within_operators_are_not_counted_again() -> None:
    weight = torch.ones(4, 4, requires_grad=True)
    forward = launched_operators(lambda: torch.nn.functional.linear(weight, weight).sum())
    both = launched_operators(lambda: torch.nn.functional.linear(weight, weight).sum().backward())
    assert (forward, both > forward) == (2, True)


def test_bf16_on_a_cpu_is_held_against_the_better_of_both_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {torch.float32: 2.0, torch.bfloat16: 3.0}
    monkeypatch.setattr(peaks, "gemm_rate", lambda device, *, dtype, **_: rates[dtype])
    assert (Peak("cpu", "fp32").look().flops, Peak("cpu", "bf16").look().flops) == (2.0, 3.0)
    rates[torch.bfloat16] = 1.0
    assert Peak("cpu", "bf16").look().flops == 2.0


@pytest.mark.parametrize("kind", ["interaction", "encoder"])
def test_every_component_has_a_profile(kind: Any) -> None:
    registry = default_registry()
    names = [(kind, component.name) for component in registry.components(kind)]
    shape = Shape(batch_size=4, fields=8, embedding_dim=8, length=3)
    found, left_out = profile_all(names, registry, shape, Way(), peak=Peak(given=1e9), repeats=1)
    assert left_out == {}
    assert [one.name for one in found] == [name for _, name in names]
    for one in found:
        assert one.operators > one.operators_forward > 0
        assert one.bytes > 0
        assert one.peak_bytes > 0
        assert one.executed_flops <= 1.5 * one.flops  # fused attention computes its scores again
        assert one.mfu == pytest.approx(one.flops / one.seconds / 1e9)
        assert one.events == (7 if kind == "encoder" else 0)  # lengths 1, 2, 3, 1


def test_ranker_steps_tables_and_all() -> None:
    subject = ranker_subject("dot", Shape(batch_size=8, fields=3, embedding_dim=4), tables=Tables(rows=10))
    before = {name: parameter.detach().clone() for name, parameter in subject.module.named_parameters()}
    profile = measure(subject, peak_flops=1e9, repeats=1)
    assert profile.flops == 3 * 2 * 8 * (3 * 3 * 4 + 7 * 400 + 400 * 400 + 400)
    assert profile.parameters == sum(parameter.numel() for parameter in before.values())
    assert sum(field.sparse[0].num_embeddings for field in table_fields(3, 10)) == 10


def test_a_component_that_does_not_take_the_sizes_is_left_out_or_refused() -> None:
    registry = default_registry()
    shape = Shape(batch_size=2, fields=3, embedding_dim=6)
    told: list[str] = []
    both = asked_for("fat,dot", registry)
    options = {"peak": Peak(given=1e9), "repeats": 1}
    found, left_out = profile_all(both, registry, shape, Way(), tell=told.append, **options)  # type: ignore[arg-type]
    assert [one.name for one in found] == ["dot"]
    assert "not a multiple of num_heads" in left_out["fat"]
    assert any("fat is left out" in line for line in told)
    with pytest.raises(ModelError, match="not a multiple of num_heads 4"):
        profile_all(both[:1], registry, shape, Way(), **options)  # type: ignore[arg-type]


Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``genrec profile`` with these words; what it printed, and its errors."""

    def call(*words: str) -> tuple[str, str]:
        with pytest.raises(SystemExit):
            main.run(["profile", *words])
        captured = capsys.readouterr()
        return captured.out, captured.err

    return call


def test_command_prints_a_table_json_plot_and_traces(tmp_path: Path, run: Run) -> None:
    plot, trace = tmp_path / "p.svg", tmp_path / "t.json.gz"
    small = ["--batch-size", "8", "--fields", "4", "--embedding-dim", "8", "--repeats", "1", "--threads", "1"]
    data = json.loads(run("fat,mean-pool", *small, "--json", "--plot", str(plot), "--trace", str(trace))[0])
    assert [one["name"] for one in data["profiles"]] == ["fat", "mean-pool"]
    assert data["profiles"][0]["mfu"] > 0
    assert "<svg" in plot.read_text()
    with gzip.open(tmp_path / "t-fat.json.gz", "rt") as file:
        assert "aten::bmm" in file.read()
    assert (tmp_path / "t-mean-pool.json.gz").exists()
    table, _ = run("fat", *small, "--forward-only", "--set", "fat.mode=hyper", "--set", "fat.num_bases=4")
    lines = table.splitlines()
    assert "forward; cpu, fp32, 1 thread" in lines[0]
    assert lines[2].split()[0] == "fat"
    assert run("dot", *small, "--ranker")[0].splitlines()[2].split()[:2] == ["dot", "ranker"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fatt"], "'fatt' is no interaction and no encoder, did you mean 'fat'"),
        (["fat", "--set", "dcn.num_layers=2"], "expected COMPONENT.KEY of a component that runs"),
        (["fat", "--set", "fat.layers=2"], "unknown key 'layers'"),
        (["din", "--ranker"], "--ranker takes interactions"),
        (["fat", "--plot", "p.bmp"], "ends in '.bmp', expected one of .svg"),
    ],
)
def test_mistakes_are_sentences(words: list[str], message: str, run: Run) -> None:
    out, errors = run(*words)
    assert out == ""
    assert message in errors
    assert "Traceback" not in errors


def test_derived_numbers() -> None:
    facts: dict[str, Any] = dict.fromkeys(Profile.__dataclass_fields__, 0) | {"name": "a", "kind": "encoder"}
    facts |= {"rows": 4, "events": 8, "seconds": 2.0, "flops": 10, "executed_flops": 12, "bytes": 3, "peak_flops": 50.0}
    profile = Profile(**facts).as_dict()
    assert (profile["rows_per_second"], profile["events_per_second"]) == (2.0, 4.0)
    assert (profile["intensity"], profile["mfu"], profile["flops_per_row"]) == (4.0, 0.1, 2.5)
