"""The compute parts of the speed table: what they compare is the same work, and they run at tiny sizes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec_plugins.benchmarks.speed import compiled, encoders, growth_compute, step
from genrec_plugins.benchmarks.speed.cpu import on_the_cpu, one_thread
from genrec_plugins.benchmarks.speed.fat_gemms import both_ways, context_of, fat_gemms, fat_products, fat_transformer
from genrec_plugins.benchmarks.speed.hstu_reference import checkout_stack, reference_block
from genrec_plugins.benchmarks.speed.options import Options
from genrec_plugins.encoders.hstu import HstuBlock
from genrec_plugins.encoders.varlen import Layout
from genrec_plugins.interactions.fat import Fat
from genrec_plugins.interactions.fat_config import FatConfig
from genrec_plugins.profiling.flops import flop_counter
from genrec_plugins.profiling.subjects import Shape
from genrec_registry import ConfigError, SetupError


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """Few generated rows, one turn."""
    return Options(folder=tmp_path, rows=200, turns=1)


def test_products_alone_have_all_flops_of_fat() -> None:
    config = FatConfig(num_heads=2, num_layers=2)
    fat = both_ways(Fat(config, context_of(5, 8)), 5, 6, 8)
    with flop_counter() as of_fat:
        fat()
    products = fat_products(config, 5, 6, 8)
    with flop_counter() as alone:
        for product in products:
            product.work()()
    assert of_fat.get_total_flops() == alone.get_total_flops() == 3 * sum(product.flops for product in products)


def test_fat_parts_run(options: Options) -> None:
    found = [*fat_gemms(options, [8], fields=3, batch_size=4), *fat_transformer(options, [8], fields=3, batch_size=4)]
    assert [one.part for one in found] == ["FAT, width 8"] * 2 + ["FAT block, width 8"] * 3
    assert all(one.rate > 0 and one.ratio > 0 for one in found)


def test_reference_computes_what_our_hstu_computes_without_its_bias() -> None:
    torch.manual_seed(0)
    block = HstuBlock(hidden=8, heads=2, max_length=4, dropout=0.0)
    torch.nn.init.zeros_(block.bias)
    tokens, offsets = torch.randn(7, 8), torch.tensor([0, 1, 5, 5, 7])
    torch.testing.assert_close(reference_block(block, tokens, offsets), block(tokens, Layout(offsets)))


@pytest.mark.skipif("GENREC_HSTU_REFERENCE" not in os.environ, reason="GENREC_HSTU_REFERENCE names no checkout of it")
def test_own_code_of_the_reference_computes_what_our_hstu_computes_without_its_bias() -> None:
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(HstuBlock(hidden=8, heads=2, max_length=4, dropout=0.0) for _ in range(2))
    tokens, offsets = torch.randn(8, 8), torch.tensor([0, 1, 5, 5, 8])
    _, theirs = checkout_stack(Path(os.environ["GENREC_HSTU_REFERENCE"]), blocks, biased=False)
    ours, layout = tokens, Layout(offsets)
    for block in blocks:
        torch.nn.init.zeros_(block.bias)
        ours = block(ours, layout)
    torch.testing.assert_close(theirs(tokens, offsets), ours)


def test_checkout_without_the_reference_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"has no generative_recommenders/.*; mend --hstu-reference$"):
        checkout_stack(tmp_path, torch.nn.ModuleList(), biased=False)


def test_encoder_parts_run(options: Options) -> None:
    lengths = {"made up": np.array([1, 3, 2])}
    found = [*encoders.lum(options, lengths, hidden=8), *encoders.hstu(options, lengths, hidden=8)]
    assert [one.part for one in found] == ["LUM, made up"] * 2 + ["HSTU, made up"] * 2
    assert all(one.rate > 0 and one.ratio > 0 for one in found)
    assert "67% of its places hold a token" in found[1].note


def test_lengths_are_drawn_where_the_samples_are_absent(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_DATA", str(tmp_path / "none"))
    (lengths,) = encoders.history_lengths(options, max_events=500).values()
    assert 0 < lengths.sum() <= 500
    assert len(options.notes) == 2


def test_bare_loop_learns_what_the_trainer_learns(options: Options) -> None:
    """Same model, same batches, same optimizers: the same losses."""
    prepared = step._prepared(options, 96)
    run = step._run({"type": "dot"}, 32, {"dense_lr": 0.01})
    trainer, bare = step.TrainerLoop(run, prepared), step.BareLoop(run, prepared)
    # DMP draws tables anew, the trainer keeps those that were drawn
    bare._model.load_state_dict(trainer._trainer.recipe.model.state_dict())
    for _ in range(4):
        for spent in (trainer(), bare()):
            assert spent.cpu > 0
            assert spent.clock > 0
    ours, theirs = torch.tensor(trainer.losses), torch.stack(bare.losses)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0)
    assert len(ours) == 12
    assert ours[-3:].mean() < 0.9 * ours[:3].mean()


def test_step_part_runs(options: Options) -> None:
    found = step.step(options, ["dot"], batch_size=16, steps=3)
    assert [one.what for one in found] == ["genrec Trainer", "TorchRec loop by hand"]
    assert all(one.rate > 0 for one in found)


def test_compiled_part_runs(options: Options) -> None:
    found = compiled.compiled(options, ["dot"], shape=Shape(batch_size=4, fields=3, embedding_dim=4))
    assert [one.what for one in found] == ["train.compile: true", "train.compile: false"]
    assert found[0].note.startswith("its first step took ")


def test_without_fuxictr_its_part_is_a_note(options: Options) -> None:
    assert step.step_fuxictr(options) == []
    assert any("--fuxictr-python" in note for note in options.notes)


def test_tables_beyond_the_memory_are_left_out_with_a_note(options: Options) -> None:
    assert step._fits(1000, options)
    assert options.notes == []
    assert not step._fits(10**12, options)
    assert options.notes[0].startswith(
        "training step against FuxiCTR: without 1,000,000,000,000 table rows, which take 448000 GB"
    )


def test_larger_tables_keep_the_rows(options: Options) -> None:
    prepared = step._prepared(options, 32)
    larger = step.with_table_rows(prepared, 100_000)
    assert abs(sum(feature.num_embeddings for feature in larger.sparse_features) - 100_000) < 100
    assert larger.shard_paths("train") == prepared.shard_paths("train")


def test_rows_are_repeated_where_the_file_is_short(options: Options) -> None:
    assert step._prepared(options, 450).rows("train") == 450


def test_only_work_is_timed() -> None:
    before = torch.get_num_threads()
    calls = []
    with one_thread():
        assert torch.get_num_threads() == 1
        assert on_the_cpu(lambda: calls.append(time.sleep(0.1)), calls=3)().cpu < 0.2
    assert torch.get_num_threads() == before
    assert len(calls) == 3


def test_growth_measures_every_axis_and_tells_exponents(capsys: pytest.CaptureFixture[str]) -> None:
    shape = Shape(batch_size=4, fields=4, embedding_dim=4, length=4)
    found = []
    for axis, curve in (("fields", "dot"), ("width", "mlp"), ("depth", "dcn"), ("batch", "dot"), ("length", "hstu")):
        found += growth_compute.points_of(axis, (2, 4) if axis != "width" else (4, 8), [curve], shape, table_rows=50)
    assert all(one.seconds > 0 and one.memory > 0 and one.flops > 0 for one in found)
    batch = [one for one in found if one.axis == "batch"]
    assert batch[1].flops == 2 * batch[0].flops
    rows = growth_compute.table_of(found)
    assert [row[0] for row in rows] == [one.axis for one in found]
    assert [bool(row[6]) for row in rows] == [False, True] * 5
    assert growth_compute.plot(found).startswith("<svg")
    assert growth_compute.markdown(found).count("\n") == len(found) + 2


def test_growth_marks_what_grows_faster_than_its_work() -> None:
    def line(axis: str, seconds: Callable[[float], float], flops: Callable[[float], float]) -> bool:
        points = [
            growth_compute.Growth(curve="a", axis=axis, x=x, seconds=seconds(x), flops=int(flops(x)), memory=x)
            for x in (10, 100, 1000, 10_000)
        ]
        return growth_compute.superlinear(axis, growth_compute.exponents(points))

    assert not line("batch", lambda x: 5 * x, lambda x: x)
    assert line("batch", lambda x: x**1.3, lambda x: x)
    assert not line("fields", lambda x: x**1.8, lambda x: x**2)
    assert not line("tables", lambda x: 3.0, lambda x: 7)
    assert line("tables", lambda x: x**0.3, lambda x: 7)


def test_growth_of_tables_is_a_process(tmp_path: Path) -> None:
    shape = Shape(batch_size=4, fields=3)
    (found,) = growth_compute.points_of("tables", [1000], ["dot"], shape, table_rows=0)
    assert (found.axis, found.x, found.curve) == ("tables", 1000, "dot")
    assert found.seconds > 0
    with pytest.raises(SetupError, match="tables of 10 rows: the process that measures them ended with 2"):
        growth_compute.points_of("tables", [10], ["no-such"], shape, table_rows=0)
    with pytest.raises(ConfigError, match="there is no axis 'field', did you mean 'fields'"):
        growth_compute.main(axes="field", out=tmp_path / "growth")


def test_page_tells_the_numbers_of_its_file() -> None:
    """The table of docs/performance.md is that of docs/performance.json, and so are the exponents."""
    docs = Path(__file__).parents[2] / "docs"
    page = set((docs / "performance.md").read_text().splitlines())
    facts = json.loads((docs / "performance.json").read_text())
    ours = ""
    for row in facts["table"]:
        if row["ratio"] == row["least"] == row["most"] == 1:
            ours = row["what"]
            continue
        ratio = f"{row['ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
        clock = "" if row["clock"] is None else f"{row['clock']:.2f}"
        assert f"| {row['part']} | {ours} | {row['what']} | {ratio} | {clock} |" in page
    points = [growth_compute.Growth(**point) for point in facts["growth"]]
    assert {one.axis for one in points} == set(growth_compute.SIZES)
    for axis, curves in growth_compute.CURVES.items():
        for curve in curves:
            of_curve = [one for one in points if (one.axis, one.curve) == (axis, curve)]
            assert [one.x for one in of_curve] == list(growth_compute.SIZES[axis])
            found = growth_compute.exponents(of_curve)
            (line,) = (line for line in page if line.startswith(f"| {axis} ") and f"| `{curve}` |" in line)
            cells = [cell.strip() for cell in line.split("|")]
            told = [cells[4], cells[5], cells[7]]
            assert told == [f"{found[name]:.2f}" for name in ("seconds", "flops", "memory")]
            assert growth_compute.superlinear(axis, found) == ((axis, curve) == ("fields", "fat"))
