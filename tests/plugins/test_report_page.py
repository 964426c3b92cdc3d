"""``genrec report``: what stands on the page, what it says where there is nothing, and that a browser shows it."""

from __future__ import annotations

import json
import os
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrec_adapters.item_codes import ItemCodes
from genrec_plugins.cli import main
from genrec_plugins.figures import inline_svg, new_figure
from genrec_plugins.interactions.fat import Fat
from genrec_plugins.interactions.fat_config import FatConfig
from genrec_plugins.reports.codes import prefix_tree
from genrec_plugins.reports.curves import learning_curve, logged_scalars
from genrec_plugins.reports.fat import field_routes, pair_table
from genrec_plugins.reports.layout import Section
from genrec_plugins.reports.page import make_report
from genrec_plugins.reports.runs import read_run
from genrec_plugins.reports.study import StudyOptions
from genrec_plugins.scaling.curve import fit_curve
from genrec_plugins.scaling.report import as_dict, columns, from_dict, rows, write_report
from genrec_plugins.scaling.sweep import Axis, Measured, Point, Swept
from genrec_plugins.tokenizers.quality import measure
from genrec_plugins.training.metrics import evaluate_predictions
from genrec_plugins.training.run import TrainedRun
from genrec_registry import DataError, InteractionContext
from tests.plugins.item_cases import write_index
from tests.plugins.report_cases import train

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
)
QUICK = StudyOptions(shuffles=2, max_rows=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained runs, a sweep and an index of item codes."""
    folder = tmp_path_factory.mktemp("page")
    train(folder, "fat")
    train(folder, "dcn", "{type: dcn, num_layers: 1}", epochs=1)
    write_report([sweep()], folder / "sweep", "Sweep")
    write_index(folder / "index.json.gz", 300)
    return folder


def sweep() -> Swept:
    axis = Axis(key="model.embedding_dim", values=(4, 8, 16, 32))
    points = []
    for value in axis.values:
        for seed in (1, 2):
            auc = 0.7 + 0.01 * np.log(value) + 0.001 * seed
            metrics = {"auc": float(auc), "logloss": float(1 - auc)}
            cost = {"parameters": 100 * value, "dense_parameters": 10 * value, "flops_per_row": 5.0, "seconds": 1.0}
            points.append(Point(value=value, seed=seed, measured=Measured(metrics=metrics, **cost)))
    curve = fit_curve(
        [point.value for point in points],
        [point.measured.metrics["auc"] for point in points],
        metric="auc",
        size=axis.key,
        rising=True,
        draws=50,
    )
    return Swept(axis=axis, points=tuple(points), metric="auc", rising=True, size="value", curve=curve)


def by_key(sections: Any) -> dict[str, Section]:
    return {section.key: section for section in sections}


@pytest.fixture(scope="module")
def report(folder: Path) -> Any:
    return make_report(
        [folder / "fat", folder / "dcn"],
        scale=folder / "sweep",
        tokenizers=[folder / "index.json.gz"],
        options=QUICK,
    )


# -- what it shows is what was computed ------------------------------------------------------------------------------


def test_sections_hold_the_numbers(report: Any, folder: Path) -> None:
    found = by_key(report.sections)
    labels, ours = TrainedRun.open(folder / "fat").predict("test")
    _, theirs = TrainedRun.open(folder / "dcn").predict("test")
    aucs = [evaluate_predictions(labels, scores).auc for scores in (ours, theirs)]
    header, *_ = [table.header for table in found["runs"].tables]
    cells = [dict(zip(header, row, strict=True)) for row in found["runs"].tables[0].rows]
    assert [row["test auc"] for row in cells] == [f"{auc:.5f}" for auc in aucs]
    assert [row["best epoch"] for row in cells] == [
        f"{read_run(folder / n).facts['best_epoch']} of {e}" for n, e in (("fat", 2), ("dcn", 1))
    ]
    paired = found["runs"].tables[1]
    assert paired.rows[0][1] == f"{min(aucs) - max(aucs):+.5f}"
    differing = {row[0]: row[1:] for row in found["runs"].tables[2].rows}
    assert differing["train.epochs"] == ["2", "1"]
    assert differing["model.interaction.type"] == ['"fat"', '"dcn"']
    order = np.argsort(ours, kind="stable")
    bins = found["calibration"].tables[0].rows
    assert len(bins) == 20
    first = order[: int(bins[0][1])]
    assert bins[0][2:] == [f"{ours[first].astype(float).mean():.4f}", f"{labels[first].mean():.4f}"]
    assert sum(int(row[1]) for row in bins) == 450


def test_every_section_of_fat_has_a_plot_and_dcn_says_why_not(report: Any) -> None:
    found = by_key(report.sections)
    parts = ["slices", "frequency", "importance", "pairs", "routes"]
    assert all(found[f"run-1-{part}"].plots and not found[f"run-1-{part}"].missing for part in parts)
    assert [bool(found[f"run-2-{part}"].missing) for part in parts] == [False, False, False, True, True]
    assert "FAT does" in found["run-2-pairs"].missing
    assert all(found[key].plots for key in ("learning", "calibration", "scaling", "codes"))
    assert "drawn from 450" in found["run-1-importance"].says[0]


def test_the_page_is_one_file_without_network(report: Any) -> None:
    page = report.html()
    assert page.count("<svg") == sum(len(section.plots) for section in report.sections) >= 13
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"(src|href)=\"(?!#|data:)", without_names)
    assert not re.search(r"https?://", without_names)
    assert "<script" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', page))
    assert used <= set(ids)
    assert len([name for name in used if ids.count(name) != 1]) == 0


def test_names_from_outside_are_escaped(folder: Path, tmp_path: Path) -> None:
    """Anyone's run directory can be called anything."""
    evil = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(folder / "dcn", evil)
    page = make_report([evil], options=StudyOptions(shuffles=0)).html()
    assert "<img" not in page
    assert "&lt;img src=x" in page


# -- parts -------------------------------------------------------------------------------------------------------------


def test_learning_curve_is_what_was_logged(folder: Path) -> None:
    curve = learning_curve(read_run(folder / "fat"))
    metrics = json.loads((folder / "fat" / "metrics.json").read_text())
    steps = metrics["history"][-1]["step"]
    assert [step for step, _ in curve.loss] == list(range(2, steps + 1, 2))  # log_every: 2
    assert curve.valid["auc"] == tuple((entry["step"], entry["valid"]["auc"]) for entry in metrics["history"])
    kept = next(entry for entry in metrics["history"] if entry["epoch"] == metrics["best_epoch"])
    assert curve.best_step == kept["step"]
    assert 0.3 < np.mean([value for _, value in curve.loss]) < 0.9
    assert logged_scalars(folder / "nothing", "train/loss") == ()


def test_a_step_that_was_logged_twice_counts_once(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for offset in (0.0, 1.0):
        with SummaryWriter(str(tmp_path), filename_suffix=f".{offset}") as writer:
            for step in (1, 2, 3):
                writer.add_scalar("train/loss", step + offset, step, walltime=1000.0 + 100 * offset + step)
    assert logged_scalars(tmp_path, "train/loss") == ((1, 2.0), (2, 3.0), (3, 4.0))
    assert logged_scalars(tmp_path, "other") == ()


def test_routes_are_the_softmax_of_the_best_scores(folder: Path) -> None:
    model = TrainedRun.open(folder / "fat").model().model
    found = field_routes(model)
    assert not isinstance(found, str)
    assert [one.kind for one in found] == ["q", "k", "v", "ffn1", "ffn2"]
    meta = model.inter_arch.field_meta.weight.detach().double().numpy()
    for one in found:
        router = model.inter_arch.blocks[0].weights[one.kind].router
        for field, phi in enumerate(meta):
            scores = [
                float(weight @ phi + bias)
                for weight, bias in zip(
                    router.weight.detach().double().numpy(), router.bias.detach().double().numpy(), strict=True
                )
            ]
            best = sorted(range(len(scores)), key=lambda base: -scores[base])[:2]
            whole = sum(np.exp(scores[base]) for base in best)
            expected = [np.exp(score) / whole if base in best else 0.0 for base, score in enumerate(scores)]
            assert one.shares[field] == pytest.approx(expected, abs=1e-6)
        taken = [[base for base in range(6) if row[base] > 0] for row in one.shares]
        assert one.used == len({base for bases in taken for base in bases})
        assert one.groups == len({tuple(bases) for bases in taken})
        assert one.largest == max(sum(base in bases for bases in taken) for base in range(6))


def test_the_pair_table_is_the_mean_over_blocks_and_heads() -> None:
    import torch

    context = InteractionContext(embedding_dim=4, token_names=("a", "b", "c"))

    class Model(torch.nn.Module):
        token_names = context.token_names

        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.inter_arch = Fat(FatConfig(num_heads=2, **options), context)

    model = Model(num_layers=2, modulation_per_head=True)
    found = pair_table(model)
    assert not isinstance(found, str)
    tables = [block.attention.modulation.tolist() for block in model.inter_arch.blocks]  # type: ignore[union-attr]
    for i in range(3):
        for j in range(3):
            mean = sum(tables[layer][head][i][j] for layer in range(2) for head in range(2)) / 4
            assert found["values"][i][j] == pytest.approx(mean, abs=1e-6)
    assert "modulation is 'none'" in str(pair_table(Model(modulation="none")))
    assert "mode is 'full'" in str(field_routes(model))


def test_the_tree_of_prefixes_against_counting() -> None:
    source = np.random.default_rng(0)
    table = source.integers(0, (3, 4, 5), size=(200, 3)).astype(np.int32)
    codes = ItemCodes(items=tuple(f"i{n}" for n in range(200)), codes=table, sizes=(3, 4, 5))
    tree = prefix_tree(codes, depth=3)
    for one in tree:
        assert one.items == sum(tuple(row[: len(one.codes)]) == one.codes for row in table.tolist())
        parent = next((other for other in tree if other.codes == one.codes[:-1]), None)
        first, last = (0, 200) if parent is None else (parent.start, parent.start + parent.items)
        assert first <= one.start <= one.start + one.items <= last
    for length in (1, 2, 3):
        level = [one for one in tree if len(one.codes) == length]
        assert sum(one.items for one in level) == 200
        places = sorted((one.start, one.start + one.items) for one in level)
        assert all(end == start for (_, end), (start, _) in pairwise(places))
        assert len(level) == measure(codes).levels[length - 1].prefixes
    assert {one.codes for one in prefix_tree(codes, least=10)} == {one.codes for one in tree if one.items >= 10}


def test_a_sweep_comes_back_from_json_as_it_was() -> None:
    whole = sweep()
    back = from_dict(json.loads(json.dumps(as_dict(whole))))
    assert (rows(back), columns(back)) == (rows(whole), columns(whole))
    assert as_dict(back) == as_dict(whole)
    sizes = np.array([4.0, 10.0, 32.0])
    for ours, theirs in zip(back.curve.fits, whole.curve.fits, strict=True):
        assert ours.at(sizes).tolist() == theirs.at(sizes).tolist()
    with pytest.raises(DataError, match="is no axis of a sweep"):
        from_dict({"axis": "x"})


def test_equal_figures_are_equal_text_and_share_no_id() -> None:
    def text(key: str) -> str:
        figure, axes = new_figure()
        axes.scatter([1, 2], [3, 4], label="<b>")
        axes.legend()
        return inline_svg(figure, key, 'a "quoted" title')

    one, two = text("one"), text("two")
    assert one == text("one")
    assert not set(re.findall(r'\bid="([^"]+)"', one)) & set(re.findall(r'\bid="([^"]+)"', two))
    assert 'aria-label="a &quot;quoted&quot; title"' in one


# -- what is not there -------------------------------------------------------------------------------------------------


def test_an_unfinished_run_and_one_without_rows_are_reported_with_what_they_have(folder: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    shutil.copytree(folder / "fat", stopped)
    (stopped / "metrics.json").unlink()
    lost = tmp_path / "lost"
    shutil.copytree(folder / "dcn", lost)
    facts = json.loads((lost / "run.json").read_text())
    (lost / "run.json").write_text(json.dumps(facts | {"prepared": str(tmp_path / "gone")}))
    weightless = tmp_path / "weightless"
    shutil.copytree(folder / "dcn", weightless)
    (weightless / "model.safetensors").unlink()
    broken = tmp_path / "broken"
    broken.mkdir()
    made = make_report([stopped, lost, weightless, broken], options=StudyOptions(shuffles=0))
    found = by_key(made.sections)
    assert found["runs"].says[0].startswith("stopped: unfinished, stopped after step")
    assert found["learning"].plots
    assert found["run-1-importance"].missing == "left out, as --shuffles is 0"
    assert "gone" in found["run-2"].missing
    assert "weights cannot be loaded" in found["run-3"].missing
    assert found["run-4"].missing == "run.json is missing"
    assert found["scaling"].missing.startswith("none were named")
    assert found["codes"].missing.startswith("no run has a semantic-id field")
    json.dumps(made.as_dict(), allow_nan=False)
    made.html()


def test_what_is_named_and_is_not_there_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no run directory"):
        make_report([tmp_path])
    with pytest.raises(DataError, match="--scale names what 'genrec scale' wrote"):
        make_report([folder / "dcn"], scale=tmp_path)
    (tmp_path / "result.json").write_text('[{"axis": 3}]')
    with pytest.raises(DataError, match="is no axis of a sweep"):
        make_report([folder / "dcn"], scale=tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        make_report([folder / "dcn"], tokenizers=[tmp_path / "none.json"])


def test_codes_of_a_run_that_are_gone_are_told(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "dcn", run)
    facts = json.loads((run / "run.json").read_text())
    facts["config"]["fields"]["item"] = {"type": "semantic-id", "codes": str(tmp_path / "sid.json")}
    (run / "run.json").write_text(json.dumps(facts))
    found = by_key(make_report([run], options=StudyOptions(shuffles=0)).sections)
    assert found["codes"].missing.startswith("Field item: ")
    shutil.copy(folder / "index.json.gz", tmp_path / "sid.json.gz")
    facts["config"]["fields"]["item"]["codes"] = str(tmp_path / "sid.json.gz")
    (run / "run.json").write_text(json.dumps(facts))
    assert len(by_key(make_report([run], options=StudyOptions(shuffles=0)).sections)["codes"].plots) == 2


# -- the command and the browser ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "report.html"
    words = ["report", str(folder / "fat"), str(folder / "dcn"), "--scale", str(folder / "sweep")]
    words += ["--tokenizer", str(folder / "index.json.gz"), "--shuffles", "1", "--max-rows", "100", "--quiet"]
    with pytest.raises(SystemExit) as stopped:
        main.run([*words, "--out", str(path)])
    assert not stopped.value.code
    return path


def test_json_is_strict_and_has_the_numbers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", str(folder / "fat"), "--shuffles", "0", "--quiet", "--json", "--out", str(tmp_path / "r.html")]
    with pytest.raises(SystemExit) as stopped:
        main.run(words)
    assert not stopped.value.code
    data = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (run,) = data["runs"]
    test = json.loads((folder / "fat" / "metrics.json").read_text())["test"]
    assert run["predicted"]["overall"]["auc"] == pytest.approx(test["auc"], abs=1e-6)
    assert len(run["predicted"]["slices"]) == 5


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian package chromium)")
def test_a_browser_shows_every_plot_and_complains_of_nothing(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    told: list[str] = []
    with sync_playwright() as driver:
        profile = tmp_path / "profile"
        browser = driver.chromium.launch_persistent_context(
            str(profile), executable_path=CHROMIUM, args=[*FLAGS.split(), "--disable-sync"], headless=True,
            env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
        shown = browser.new_page()
        shown.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
        shown.on("pageerror", lambda error: told.append(str(error)))
        requests: list[str] = []
        shown.on("request", lambda request: requests.append(request.url))
        shown.goto(page.as_uri())
        boxes = shown.evaluate(
            "[...document.querySelectorAll('figure svg')].map(svg => {const box = svg.getBoundingClientRect();"
            " return [svg.getAttribute('aria-label'), box.width, box.height, svg.querySelectorAll('path').length]})"
        )
        titles = shown.eval_on_selector_all("h2", "all => all.map(one => one.textContent)")
        wide = shown.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        text = shown.inner_text("body")
        folded = shown.locator("details").first
        folded.locator("summary").click()
        opened = folded.locator("tbody tr").first.is_visible()
        links = shown.eval_on_selector_all("nav a", "all => all.every(a => document.querySelector(a.hash) !== null)")
        browser.close()
    assert told == []
    assert requests == [page.as_uri()]
    assert titles == ["Runs", "Learning curves", "Calibration", "fat", "dcn", "Scaling curves", "Semantic IDs"]
    assert len(boxes) >= 13
    assert all(width > 200 and height > 100 and paths > 5 for _, width, height, paths in boxes)
    assert len({title for title, *_ in boxes}) >= 9
    assert not wide
    assert opened
    assert links
    for label in ("step", "mean prediction", "attended field", "base", "training rows with the id"):
        assert label in text, f"the browser does not show '{label}'"
