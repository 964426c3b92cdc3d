"""The whole chain on one dataset of ratings: tokenizer, pre-training, query, rankers with and without, retrieval.

``genrec lum demo`` prints its table; with several seeds and all rankers it is the study of docs/lum-study.md. Nothing
is chosen on test rows: both splits are by time, the weights of each step are those that were best on validation, or
the last ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from genrec_plugins.config import parse_run
from genrec_plugins.files import written_aside
from genrec_plugins.lum.config import parse_lum
from genrec_plugins.lum.demo_configs import (
    RANKERS,
    RATES,
    encoder_config,
    generative_config,
    lum_config,
    ranker_config,
    tokenizer_config,
)
from genrec_plugins.lum.query import query_run
from genrec_plugins.lum.retrieve import Request, recommend
from genrec_plugins.lum.run import LumRun, pretrain
from genrec_plugins.tokenizers.fit_config import parse_tokenize
from genrec_plugins.tokenizers.pipeline import fit_directory
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.run import prepare_run, train_run
from genrec_registry import ConfigError, default_registry, did_you_mean, parse_component

DEFAULT_RANKERS = ("fat", "fat+mean-pool", "fat+lum")
#: between the seeds of LUMs that are asked together
SEED_STEP = 1000


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the chain came to.

    Args:
        rankers: test AUC of each ranker, one a seed.
        retrieval: test Recall@10 and NDCG@10 of each LUM, one a seed.
        examples: recommendations for a few users: ``user``, ``items``.
    """

    rankers: dict[str, list[float]] = field(default_factory=dict)
    retrieval: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    examples: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows: one line a ranker, with its gain over the first one, then one a LUM."""
        base = next(iter(self.rankers.values()), [])
        rows = []
        for name, found in self.rankers.items():
            gains = [value - other for value, other in zip(found, base, strict=False)]
            rows.append([name, "test AUC", _spread(found), _spread(gains, "+") if found is not base else ""])
        for name, pairs in self.retrieval.items():
            rows.append([name, "test recall@10", _spread([recall for recall, _ in pairs]), ""])
            rows.append([name, "test ndcg@10", _spread([ndcg for _, ndcg in pairs]), ""])
        return ["model", "measure", "mean ± std", f"against {next(iter(self.rankers), 'the first')}"], rows


def _spread(values: Sequence[float], sign: str = "") -> str:
    """``0.7479 ± 0.0013``; without a deviation where there is one value.

    Example::

        >>> _spread([0.5, 0.7]), _spread([0.01], "+")
        ('0.6000 ± 0.1414', '+0.0100')
    """
    text = format(mean(values), f"{sign}.4f")
    return f"{text} ± {stdev(values):.4f}" if len(values) > 1 else text


def run_demo(
    data: str,
    out: Path,
    *,
    seeds: int = 1,
    rankers: Sequence[str] = DEFAULT_RANKERS,
    epochs: int = 30,
    reporter: Reporter | None = None,
) -> DemoResult:
    """Run the chain, or go on with it: steps that are done are found in ``out``.

    Args:
        data: the MovieLens folder.
        out: directory of everything that is made.
        seeds: seeds of LUM and of the rankers: 1, 2, ...
        rankers: names of :data:`RANKERS`; the first is what the others are compared with.
        epochs: passes of the pre-training.
        reporter: told of progress.

    Raises:
        ConfigError: a ranker's name is unknown.
    """
    for name in rankers:
        if name not in RANKERS:
            raise ConfigError(f"--rankers: unknown '{name}'{did_you_mean(name, RANKERS)}")
    reporter = reporter or Quiet()
    result = DemoResult(rankers={name: [] for name in rankers}, retrieval={"lum (o_q)": [], "lum (codes)": []})
    codes = out / "tokenizer"
    if not (codes / "tokenizer.json").exists():
        reporter.message("1/5 fitting semantic IDs on titles, genres and co-occurrence")
        fit_directory(parse_tokenize(tokenizer_config(data, _items(data))), codes, reporter=reporter)
    for seed in range(1, seeds + 1):
        reporter.message(f"2/5 pre-training LUM, seed {seed}")
        folder = out / f"lum-{seed}"
        result.retrieval["lum (o_q)"].append(_pretrained(lum_config(data, str(codes), seed, epochs), folder, reporter))
        stores = {
            number: _store(data, str(codes), seed, number, epochs, out, reporter)
            for number in sorted({RANKERS[name].lums for name in rankers} - {0})
        }
        encoder = out / f"lum-encoder-{seed}"
        if any(RANKERS[name].warm_start for name in rankers):
            reporter.message(f"2/5 pre-training the rankers' encoder, seed {seed}")
            _pretrained(encoder_config(data, seed, max(1, 2 * epochs // 3)), encoder, reporter)
        for name in rankers:
            reporter.message(f"4/5 training {name}, seed {seed}")
            files = {"store": stores.get(RANKERS[name].lums, ""), "pretrained": str(encoder)}
            result.rankers[name].append(_best_ranker(data, name, seed, files, out, reporter))
        reporter.message(f"5/5 pre-training the generative LUM, seed {seed}")
        generator = out / f"generative-{seed}"
        found = _pretrained(generative_config(data, str(codes), seed, max(1, epochs // 3)), generator, reporter)
        result.retrieval["lum (codes)"].append(found)
    result.examples.update(_examples(out))
    with written_aside(out / "demo.json") as partial:
        partial.write_text(json.dumps({"rankers": result.rankers, "retrieval": result.retrieval}, indent=2))
    return result


def _items(data: str) -> int:
    """Items that have events."""
    registry = default_registry()
    dataset = registry.create("dataset", parse_component(registry, "dataset", {"type": "movielens", "path": data}))
    return int(dataset.events()["item"].n_unique())


def _pretrained(config: dict[str, Any], folder: Path, reporter: Reporter) -> tuple[float, float]:
    """Test Recall@10 and NDCG@10 of a pre-training run, trained now or before."""
    report = _done(folder, config) or pretrain(parse_lum(config), folder, reporter)
    _mark(folder, config)
    return report["test"]["recall@10"], report["test"]["ndcg@10"]


def _store(data: str, codes: str, seed: int, number: int, epochs: int, out: Path, reporter: Reporter) -> str:
    """The knowledge of ``number`` LUMs, pre-trained and asked now or before."""
    store = out / (f"knowledge-{seed}" if number == 1 else f"knowledge-{seed}-x{number}")
    if not (store / "manifest.json").exists():
        folders = [out / f"lum-{seed + SEED_STEP * member}" for member in range(number)]
        for member, folder in enumerate(folders[1:], start=1):
            reporter.message(f"2/5 pre-training LUM, seed {seed}, number {member + 1} of {number}")
            _pretrained(lum_config(data, codes, seed + SEED_STEP * member, epochs), folder, reporter)
        reporter.message(f"3/5 asking every user what they like and dislike, seed {seed}")
        runs = [LumRun.open(folder) for folder in folders]
        query_run(runs, store, snapshots="every-event", reporter=reporter)
    return str(store)


def _best_ranker(data: str, name: str, seed: int, files: dict[str, str], out: Path, reporter: Reporter) -> float:
    """Test AUC under the learning rates that are best on validation rows."""
    reports = []
    for label, rates in RATES.items():
        config = ranker_config(data, RANKERS[name], seed, rates, **files)
        folder = out / f"{name}-{label}-{seed}"
        report = _done(folder, config)
        if report is None:
            run = parse_run(config)
            knows = f"-{seed}" if RANKERS[name].lums else ""
            prepared = prepare_run(run, out / f"prepared-{name}{knows}", reporter=reporter)
            report = train_run(run, folder, prepared, reporter)
            _mark(folder, config)
        reports.append(report)
    return float(max(reports, key=lambda report: report["valid"]["auc"])["test"]["auc"])


def _done(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The report of a finished run of this config."""
    mark = folder / "demo-config.json"
    if not (mark.exists() and json.loads(mark.read_text()) == config):
        return None
    report: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return report


def _mark(folder: Path, config: dict[str, Any]) -> None:
    with written_aside(folder / "demo-config.json") as partial:
        partial.write_text(json.dumps(config))


def _examples(out: Path, users: int = 3, k: int = 5) -> dict[str, dict[str, list[str]]]:
    """What both LUMs would show a few users next, as titles."""
    found: dict[str, dict[str, list[str]]] = {}
    for label, folder in (("o_q", out / "lum-1"), ("codes", out / "generative-1")):
        run = LumRun.open(folder)
        titles = dict(run.run.registry.create("dataset", run.run.config.dataset).items().select("item", "text").rows())
        chosen = run.histories().users[:users]
        table = recommend(run, Request(k=k, conditions={"action": "like"}, exclude_seen=True), chosen)
        for user, item in table.select("user", "item").rows():
            found.setdefault(user, {}).setdefault(label, []).append(titles.get(item) or item)
    return found
