"""What a benchmark compares: the protocol all interactions share, and each one's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from genrec_plugins.config import LoadedRun, parse_run
from genrec_registry import ConfigError, did_you_mean, read_yaml
from genrec_registry.yaml_source import parse_yaml

#: benchmark name -> dataset type
BENCHMARKS = {"criteo": "criteo-kaggle", "avazu": "avazu"}


def benchmark_fields(benchmark: str, min_count: int) -> dict[str, Any]:
    """Fields of a benchmark without a BARS preset: every column a token of its own.

    Args:
        benchmark: ``criteo`` or ``avazu``.
        min_count: training rows that must have an id for it to get a table row.

    Example::

        >>> benchmark_fields("criteo", 2)["C{1..26}"]
        {'type': 'categorical', 'min_count': 2}
    """
    from genrec_adapters.datasets.avazu import Avazu
    from genrec_adapters.datasets.configs import AvazuConfig

    if benchmark == "criteo":
        numbers = {"type": "numeric-dense", "transform": "log1p"}
        return {"I{1..13}": numbers, "C{1..26}": {"type": "categorical", "min_count": min_count}}
    fields = Avazu(AvazuConfig(path="unread")).default_fields()
    return {
        name: {**field, "min_count": min_count} if "min_count" in field else field for name, field in fields.items()
    }


def base_run(
    benchmark: str,
    data: str | Mapping[str, str],
    *,
    preset: str | None = None,
    split: str = "shuffled",
    recipe: str = "torchrec",
    epochs: int | None = None,
    min_count: int = 1,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The run all interactions share, as plain data.

    Args:
        benchmark: ``criteo`` or ``avazu``.
        data: a raw file, or paths of ``train``, ``valid`` and ``test``.
        preset: a BARS protocol for the fields, as ``criteo_x4_001``.
        split: ``shuffled`` (seed 1, 80/10/10), ``time`` or ``random``; the files' own with three paths.
        recipe: ``torchrec`` or ``bars``.
        epochs: passes over the training rows; the recipe's own number if None.
        min_count: see :func:`benchmark_fields`; a preset brings its own.
        overrides: dotted key -> value, over everything.

    Raises:
        ConfigError: there is no such benchmark.

    Example::

        >>> base_run("criteo", "train.txt")["split"]
        {'type': 'shuffled'}
    """
    if benchmark not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark '{benchmark}'{did_you_mean(benchmark, BENCHMARKS)}")
    paths = {"path": data} if isinstance(data, str) else dict(data)
    run: dict[str, Any] = {
        "dataset": {"type": BENCHMARKS[benchmark], **paths} | ({"preset": preset} if preset else {}),
        "split": {"type": "files" if "path" not in paths else split},
        "fields": None if preset else benchmark_fields(benchmark, min_count),
        "model": {},
        "train": {"preset": recipe} | ({"epochs": epochs} if epochs else {}),
    }
    return merge(run, overrides or {})


def merge(run: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of plain config data with dotted keys set.

    Example::

        >>> merge({"train": {"epochs": 1}}, {"train.epochs": 2, "model.dropout": 0.1})
        {'train': {'epochs': 2}, 'model': {'dropout': 0.1}}
    """
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in run.items()}
    for dotted, value in overrides.items():
        head, _, rest = dotted.partition(".")
        if rest:
            child = merged.get(head)
            merged[head] = merge(child if isinstance(child, Mapping) else {}, {rest: value})
        else:
            merged[head] = value
    return merged


def tuned_settings(benchmark: str, path: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """Settings of each interaction found by an equal budget on validation rows: name -> dotted key -> value.

    Args:
        benchmark: whose packaged settings are meant.
        path: a YAML file of the same form instead, as ``genrec tune`` writes it.

    Raises:
        ConfigError: the file cannot be read.
    """
    if path is not None:
        data = read_yaml(path).data
    else:
        packaged = resources.files("genrec_plugins.benchmarks") / "tuned" / f"{benchmark}.yaml"
        data = parse_yaml(packaged.read_text(), name=str(packaged)).data if packaged.is_file() else {}
    return {str(name): dict(settings or {}) for name, settings in data.items()}


def interaction_runs(
    base: Mapping[str, Any], interactions: Sequence[str], tuned: Mapping[str, Mapping[str, Any]], seed: int
) -> dict[str, LoadedRun]:
    """One validated run for each interaction, with its own settings over the shared ones.

    Args:
        base: from :func:`base_run`.
        interactions: names, as ``fat`` or ``acme/gated``.
        tuned: from :func:`tuned_settings`; an interaction without an entry runs with defaults.
        seed: of weights and row order.

    Raises:
        ConfigError: a name or setting is wrong.
    """
    runs = {}
    for name in interactions:
        data = merge(base, {"seed": seed, "model.interaction.type": name, **tuned.get(name, {})})
        runs[name] = parse_run(data)
    return runs
