"""Tuning with an equal budget for every interaction, on validation rows only; the test rows are never read.

Stage one tries as many random settings of each interaction's space as ``trials`` says, one seed each. Stage two
repeats the best ``finalists`` with more seeds; the best mean validation AUC wins. Every finished trial is a line in
``trials.jsonl``; running again goes on from there.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from genrec_adapters.prepared import Prepared
from genrec_plugins.benchmarks.plan import interaction_runs
from genrec_plugins.files import written_aside
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.run import prepare_run
from genrec_plugins.training.trainer import Trainer
from genrec_registry import ConfigError, DataError, digest, read_yaml
from genrec_registry.yaml_source import parse_yaml

Settings = dict[str, Any]
Space = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting of one interaction, trained with one seed."""

    label: str
    settings: Settings
    seed: int
    auc: float
    logloss: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The setting an interaction came out with: mean and standard deviation of validation AUC over its seeds."""

    label: str
    settings: Settings
    auc: float
    auc_std: float
    logloss: float
    trials: int


def load_spaces(path: str | Path | None = None, packaged: str = "spaces.yaml") -> dict[str, dict[str, list[Any]]]:
    """Search spaces: ``shared`` and one for each interaction, dotted key -> values to draw from.

    Args:
        path: a YAML file; the packaged one if None.
        packaged: its name.

    Raises:
        ConfigError: it has another form.

    Example::

        >>> sorted(load_spaces())
        ['dcn', 'dot', 'fat', 'mlp', 'shared']
    """
    if path is None:
        file = resources.files("genrec_plugins.benchmarks") / "tuned" / packaged
        source = parse_yaml(file.read_text(), name=str(file))
    else:
        source = read_yaml(path)
    for name, space in source.data.items():
        for key, values in (space if isinstance(space, dict) else {"": None}).items():
            if not isinstance(values, list) or not values:
                place = source.position((name, key))
                raise ConfigError(f"{place}: '{name}.{key}' is {values!r}, expected a list of values to draw from")
    return source.data


def draw_settings(shared: Space, own: Space, count: int, seed: int) -> list[Settings]:
    """``count`` different random settings, the same for the same seed.

    Example::

        >>> draw_settings({"a": [1, 2]}, {"b": [3]}, 2, seed=0)
        [{'a': 2, 'b': 3}, {'a': 1, 'b': 3}]
    """
    space = {**shared, **own}
    size = int(np.prod([float(len(values)) for values in space.values()]))
    source = random.Random(seed)
    found: dict[str, Settings] = {}
    while len(found) < min(count, size):
        settings = {key: source.choice(list(values)) for key, values in space.items()}
        found.setdefault(json.dumps(settings, sort_keys=True), settings)
    return list(found.values())


class TrialLog:
    """Finished trials in ``trials.jsonl``, by what they were of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Trial] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                    self._known[entry["identity"]] = Trial(**entry["trial"])
                except (ValueError, KeyError, TypeError):
                    continue  # the last line of a killed run

    def get(self, identity: str) -> Trial | None:
        """The finished trial, if there is one."""
        return self._known.get(identity)

    def add(self, identity: str, trial: Trial) -> None:
        """Keep a finished trial."""
        self._known[identity] = trial
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"identity": identity, "trial": asdict(trial)}) + "\n")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written ({error.strerror}); name another --out") from error


def run_tuning(
    base: Mapping[str, Any],
    interactions: Sequence[str],
    spaces: Mapping[str, Space],
    out: Path,
    *,
    trials: int,
    finalists: int,
    seeds: int,
    reporter: Reporter | None = None,
) -> list[Winner]:
    """Tune every interaction with the same number of trials.

    Args:
        base: the run all share.
        interactions: names.
        spaces: from :func:`load_spaces`.
        out: where trials, prepared rows and the result go.
        trials: random settings of each interaction.
        finalists: how many are repeated.
        seeds: how many seeds a finalist gets in all; seeds are 101, 102, ... so that a benchmark's are fresh.
        reporter: told of progress.
    """
    reporter = reporter or Quiet()
    out.mkdir(parents=True, exist_ok=True)
    log = TrialLog(out / "trials.jsonl")
    prepared = prepare_run(
        interaction_runs(base, interactions[:1], {}, 1)[interactions[0]], out / "prepared", reporter=reporter
    )
    winners = []
    for label in interactions:
        drawn = draw_settings(spaces.get("shared", {}), spaces.get(label, {}), trials, seed=1)
        first = [try_settings(label, s, 101, base, prepared, log) for s in _told(drawn, label, reporter)]
        best = sorted(first, key=lambda trial: -trial.auc)[:finalists]
        groups = []
        for trial in best:
            more = [try_settings(label, trial.settings, 101 + extra, base, prepared, log) for extra in range(1, seeds)]
            groups.append([trial, *more])
        chosen = max(groups, key=lambda group: float(np.mean([trial.auc for trial in group])))
        auc = np.array([trial.auc for trial in chosen])
        winners.append(
            Winner(
                label=label,
                settings=chosen[0].settings,
                auc=float(auc.mean()),
                auc_std=float(auc.std(ddof=1 if len(auc) > 1 else 0)),
                logloss=float(np.mean([trial.logloss for trial in chosen])),
                trials=len(first) + len(best) * (seeds - 1),
            )
        )
        reporter.message(f"{label}: valid AUC {winners[-1].auc:.5f} with {json.dumps(winners[-1].settings)}")
    text = yaml.safe_dump({winner.label: winner.settings for winner in winners}, sort_keys=False)
    with written_aside(out / "best.yaml") as partial:
        partial.write_text(text)
    return winners


def _told(drawn: Sequence[Settings], label: str, reporter: Reporter) -> Iterator[Settings]:
    for number, settings in enumerate(drawn, start=1):
        reporter.rows(stage=f"{label}: trials", rows=number, total=len(drawn))
        yield settings


def try_settings(
    label: str, settings: Settings, seed: int, base: Mapping[str, Any], prepared: Prepared, log: TrialLog
) -> Trial:
    """Train one setting with one seed and evaluate it on validation rows, or find it in the log."""
    run = interaction_runs(base, [label], {label: settings}, seed)[label]
    identity = digest({"run": run.config.model_dump(mode="json"), "data": prepared.identity})
    known = log.get(identity)
    if known is not None:
        return known
    result = Trainer(run.config, prepared, run.registry).fit()
    best = next(entry["valid"] for entry in result.history if entry["epoch"] == result.best_epoch)
    trial = Trial(
        label=label,
        settings=settings,
        seed=seed,
        auc=best["auc"],
        logloss=best["logloss"],
        seconds=result.train_seconds,
    )
    log.add(identity, trial)
    return trial
