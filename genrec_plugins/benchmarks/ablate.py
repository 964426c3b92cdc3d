"""One factor at a time around one setting, on validation rows only: what each choice of an interaction is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrec_plugins.benchmarks.plan import interaction_runs
from genrec_plugins.benchmarks.tune import Settings, Space, TrialLog, try_settings
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.run import prepare_run


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One value of one factor, everything else as in the centre.

    Args:
        factor: dotted key; empty for the centre itself.
        value: its value.
        auc: mean validation AUC over the seeds.
        difference: mean of the paired differences to the centre, seed by seed.
        difference_std: their sample standard deviation.
        logloss: mean validation logloss.
        seconds: median training time.
    """

    factor: str
    value: Any
    auc: float
    difference: float
    difference_std: float
    logloss: float
    seconds: float


def run_ablation(
    base: Mapping[str, Any],
    label: str,
    centre: Settings,
    space: Space,
    out: Path,
    *,
    seeds: Sequence[int],
    reporter: Reporter | None = None,
) -> list[Effect]:
    """Vary each factor of ``space`` by itself.

    Args:
        base: the run all share.
        label: the interaction.
        centre: its settings, as ``genrec tune`` found them.
        space: dotted key -> values; the centre's own value is not run again.
        out: where finished trials are kept; running again goes on.
        seeds: of weights and row order, the same for every value.
        reporter: told of progress.
    """
    reporter = reporter or Quiet()
    out.mkdir(parents=True, exist_ok=True)
    log = TrialLog(out / "trials.jsonl")
    first = interaction_runs(base, [label], {label: centre}, seeds[0])[label]
    prepared = prepare_run(first, out / "prepared", reporter=reporter)
    here: dict[str, Any] = {}
    for key in space:
        value: Any = first.config.model_dump(mode="json")
        for part in key.split("."):
            value = value[part]
        here[key] = value
    variants: list[tuple[str, Any]] = [("", None)]
    variants += [(key, value) for key, values in space.items() for value in values if value != here[key]]
    effects: list[Effect] = []
    centre_auc = np.zeros(len(seeds))
    for number, (key, value) in enumerate(variants, start=1):
        reporter.rows(stage=f"{label}: variants", rows=number, total=len(variants))
        settings = {**centre, **({key: value} if key else {})}
        trials = [try_settings(label, settings, seed, base, prepared, log) for seed in seeds]
        auc = np.array([trial.auc for trial in trials])
        if not key:
            centre_auc = auc
        paired = auc - centre_auc
        effects.append(
            Effect(
                factor=key,
                value=value,
                auc=float(auc.mean()),
                difference=float(paired.mean()),
                difference_std=float(paired.std(ddof=1 if len(paired) > 1 else 0)),
                logloss=float(np.mean([trial.logloss for trial in trials])),
                seconds=float(np.median([trial.seconds for trial in trials])),
            )
        )
    return effects


def effects_table(effects: Sequence[Effect]) -> str:
    """The effects as Markdown, factors in order, the centre first.

    Example::

        >>> print(effects_table([Effect(factor="", value=None, auc=0.75, difference=0.0, difference_std=0.0,
        ...                             logloss=0.49, seconds=3.0)]))
        | factor | value | valid AUC | paired difference | valid logloss | seconds |
        |---|---|--:|--:|--:|--:|
        | (centre) |  | 0.75000 |  | 0.49000 | 3.0 |
    """
    lines = [
        "| factor | value | valid AUC | paired difference | valid logloss | seconds |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for effect in effects:
        name = effect.factor.removeprefix("model.interaction.") or "(centre)"
        value = json.dumps(effect.value) if effect.factor else ""
        paired = f"{effect.difference:+.5f} ± {effect.difference_std:.5f}" if effect.factor else ""
        lines.append(
            f"| {name} | {value} | {effect.auc:.5f} | {paired} | {effect.logloss:.5f} | {effect.seconds:.1f} |"
        )
    return "\n".join(lines)
