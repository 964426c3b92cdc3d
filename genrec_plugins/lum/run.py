"""A pre-training run's directory: what was learned, from what, and what it reached; opened and used by path alone.

- ``run.json``: config, versions, and the facts of :class:`LumFacts`
- ``model.safetensors``: the best weights (see :class:`~genrec_plugins.lum.infonce.InfoNCEModel` for their names)
- ``catalogue.parquet``: a row for each item in the order of the tables' rows (row 0: unknown): ``item``, the ids of
  its further features, ``train_events``
- ``conditions.json``: condition -> values in the order of their ids
- ``metrics.json``, ``checkpoints/``, ``tensorboard/``
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl

from genrec_adapters.behaviour.build import encode_events
from genrec_adapters.behaviour.histories import Catalogue, Histories, Vocabulary
from genrec_adapters.state import checked_state, parse_json, read_parquet
from genrec_plugins.files import reason_of, written_aside
from genrec_plugins.lum.config import InfoNCEObjective, LoadedLum, parse_lum
from genrec_plugins.lum.data import LumData, load_data
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_registry import ConfigError, DataError, ErrorPolicy, ModelError, Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

_RUN, _METRICS, _CATALOGUE, _CONDITIONS, _WEIGHTS = (
    "run.json",
    "metrics.json",
    "catalogue.parquet",
    "conditions.json",
    "model.safetensors",
)
_COUNT = "train_events"


@dataclass(frozen=True, kw_only=True)
class LumFacts:
    """What others need to know of a run, as it stands in ``run.json``.

    Args:
        item_features: rows of the table of each item feature, the item's own id first.
        condition_features: rows of the table of each condition.
        feature_dim: E, width of the tables.
        embedding_dim: D, width of states and item vectors.
        max_length: events of the longest history.
        similarity: what states and item vectors are compared by.
        trained_until: time of the last training event.
        digest: of the best weights, see :func:`weights_digest`; empty while it trains.
    """

    item_features: Mapping[str, int]
    condition_features: Mapping[str, int]
    feature_dim: int
    embedding_dim: int
    max_length: int
    similarity: str
    trained_until: int
    digest: str = ""


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights: names, shapes, types and bytes, in the order of the names.

    Example::

        >>> import torch
        >>> weights = {"a": torch.zeros(2)}
        >>> weights_digest(weights) == weights_digest({"a": torch.zeros(2)}) != weights_digest({"a": torch.ones(2)})
        True
    """
    import torch

    found = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        found.update(weight.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True, kw_only=True)
class LumRun:
    """A pre-training run, opened from its directory.

    Args:
        directory: the run directory.
        run: its config and registry.
        facts: widths, features, digest.
        catalogue: the items it knows.
        vocabularies: the vocabulary of each condition.
        counts: ``[N]`` training events of each catalogue row.
    """

    directory: Path
    run: LoadedLum
    facts: LumFacts
    catalogue: Catalogue
    vocabularies: Mapping[str, Vocabulary]
    counts: np.ndarray

    @classmethod
    def open(cls, directory: str | Path, registry: Registry | None = None) -> Self:
        """Open a run directory.

        Args:
            directory: the ``--out`` of ``genrec lum pretrain``.
            registry: where components come from; what the run's ``plugins`` say if None.

        Raises:
            DataError: it is not one.
        """
        directory = Path(directory)
        try:
            found = parse_json((directory / _RUN).read_text())
            facts = checked_state(LumFacts, found["facts"])
            config = checked_state(dict[str, Any], found["config"])
            values = checked_state(dict[str, list[str]], parse_json((directory / _CONDITIONS).read_text()))
            frame = read_parquet(directory / _CATALOGUE)
            catalogue, counts = _read_catalogue(frame, facts), _column(frame, _COUNT, pl.Int64)
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{directory}: is not the directory of a pre-training run ({reason_of(error, _RUN)}); "
                "name the --out of 'genrec lum pretrain'"
            ) from error
        return cls(
            directory=directory,
            run=parse_lum(config, registry=registry),
            facts=facts,
            catalogue=catalogue,
            vocabularies={name: Vocabulary(values=tuple(found)) for name, found in values.items()},
            counts=counts.to_numpy(),
        )

    @property
    def digest(self) -> str:
        """Digest of the weights that the run ended with."""
        return self.facts.digest

    @property
    def trained_until(self) -> int:
        """Time of the last training event."""
        return self.facts.trained_until

    def weights(self) -> dict[str, Tensor]:
        """The best weights, on the CPU.

        Raises:
            ModelError: they are missing, damaged, or not those that ``run.json`` tells of.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.directory / _WEIGHTS
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{path}: weights cannot be read ({reason}); run 'genrec lum pretrain' again") from error
        if self.facts.digest and weights_digest(weights) != self.facts.digest:
            raise ModelError(f"{path}: is not what run.json tells of (other digest); run 'genrec lum pretrain' again")
        return weights

    def model(self) -> nn.Module:
        """The pre-trained model in eval mode, on the run's device.

        Raises:
            ModelError: the weights are missing or do not fit.
        """
        import torch

        from genrec_plugins.lum.build import build_model
        from genrec_plugins.training.trainer import pick_device

        sizes = {name: len(vocabulary) for name, vocabulary in self.vocabularies.items()}
        counts = torch.from_numpy(self.counts.copy())
        model = build_model(self.run.config, self.catalogue, sizes, counts, self.run.registry)
        try:
            model.load_state_dict(self.weights())
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{self.directory}: weights do not fit ({reason}); pre-train again") from error
        return model.to(pick_device(self.run.config.train.device)).eval()

    def histories(self, policy: ErrorPolicy | None = None) -> Histories:
        """All events that the run's dataset has now, with the ids the run learned; unknown items have id 0."""
        dataset = self.run.registry.create("dataset", self.run.config.dataset)
        return encode_events(dataset.events(policy), self.catalogue.items, self.vocabularies)

    @cached_property
    def data(self) -> LumData:
        """The run's events and splits, read again.

        Raises:
            DataError: the files have other items or condition values than the run was trained on.
        """
        data = load_data(self.run)
        if data.catalogue.items != self.catalogue.items or dict(data.conditions) != dict(self.vocabularies):
            raise DataError(
                f"{self.directory}: the dataset has other items or conditions than the run was trained on; "
                "pre-train again, or restore the files"
            )
        return data

    def evaluate(self, split: str, reporter: Reporter | None = None) -> dict[str, Any]:
        """Recall@K and NDCG@K over the whole catalogue on ``valid`` or ``test``."""
        from genrec_plugins.lum.evaluate import evaluate
        from genrec_plugins.lum.trainer import asked_of
        from genrec_plugins.training.trainer import pick_device

        questions = self.data.test if split == "test" else self.data.valid
        if not len(questions):
            raise ConfigError(f"the {split} split has no questions; change 'split' of the run")
        device = pick_device(self.run.config.train.device)
        asked = asked_of(self.run, self.data)
        return evaluate(self.model(), questions, asked, device, reporter=reporter, name=split)


def _read_catalogue(frame: pl.DataFrame, facts: LumFacts) -> Catalogue:
    sizes = {name: size for name, size in facts.item_features.items() if name != "item"}
    if len(frame) != facts.item_features["item"]:
        raise ValueError(f"{_CATALOGUE} has {len(frame)} rows, expected {facts.item_features['item']}")
    return Catalogue(
        items=Vocabulary(values=tuple(_column(frame, "item", pl.String))),
        features={name: _column(frame, name, pl.Int32, below=size).to_numpy() for name, size in sizes.items()},
        sizes=sizes,
    )


def _column(frame: pl.DataFrame, name: str, dtype: type[pl.DataType], below: int | None = None) -> pl.Series:
    """A column without nulls, of numbers in ``[0, below)`` if they are numbers.

    Raises:
        ValueError: it is another one.
        PolarsError: there is none.
    """
    column = frame[name]
    if column.dtype != dtype or column.null_count():
        raise ValueError(f"{_CATALOGUE}: column '{name}' is {column.dtype} or has nulls, expected {dtype.__name__}")
    if dtype.is_integer() and (bool((column < 0).any()) or (below is not None and bool((column >= below).any()))):
        raise ValueError(f"{_CATALOGUE}: column '{name}' has numbers outside its range")
    return column


def _write_catalogue(path: Path, data: LumData) -> None:
    columns: dict[str, Any] = {"item": pl.Series(data.catalogue.items.values, dtype=pl.String)}
    columns |= {name: pl.Series(ids, dtype=pl.Int32) for name, ids in data.catalogue.features.items()}
    columns[_COUNT] = pl.Series(data.counts, dtype=pl.Int64)
    with written_aside(path) as partial:
        pl.DataFrame(columns).write_parquet(partial)


def _write(path: Path, data: Mapping[str, Any]) -> None:
    with written_aside(path) as partial:
        partial.write_text(json.dumps(data, indent=2))


def pretrain(
    run: LoadedLum,
    directory: str | Path,
    reporter: Reporter | None = None,
    *,
    restart: bool = False,
) -> dict[str, Any]:
    """Pre-train a run into a directory, or go on with one that was interrupted; ask the test questions once.

    Args:
        run: the run.
        directory: the run directory.
        reporter: told of progress.
        restart: forget earlier checkpoints.

    Returns:
        What ``metrics.json`` holds: best epoch, validation and test metrics, history, speed, MFU.
    """
    from genrec_plugins.lum.evaluate import evaluate
    from genrec_plugins.lum.trainer import LumTrainer

    directory = Path(directory)
    reporter = reporter or Quiet()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be made ({error.strerror}); name another --out directory") from error
    data = load_data(run)
    reporter.message(
        f"{len(data.histories.users):,} users, {len(data.catalogue) - 1:,} items, {len(data.train.items):,} training "
        f"events; {len(data.valid):,} validation and {len(data.test):,} test questions"
    )
    trainer = LumTrainer(run, data, directory, reporter, restart=restart)
    facts = _facts(run, data)
    found: dict[str, Any] = {
        "config": run.config.model_dump(mode="json"),
        "versions": {name: metadata.version(name) for name in ("genrec-plugins", "torch", "torchrec")},
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "users": len(data.histories.users),
        "events": len(data.histories.items),
        "facts": asdict(facts),
    }
    _write(directory / _RUN, found)
    _write_catalogue(directory / _CATALOGUE, data)
    _write(directory / _CONDITIONS, {name: list(vocabulary.values) for name, vocabulary in data.conditions.items()})
    result = trainer.fit()
    best = LumRun.open(directory, run.registry)
    found["facts"]["digest"] = weights_digest(best.weights())
    _write(directory / _RUN, found)
    report: dict[str, Any] = {
        "best_epoch": result.best_epoch,
        "events_per_second": result.train_events / result.train_seconds if result.train_seconds else None,
        "mfu": result.mfu,
        "flops_per_event": result.flops_per_event,
        "peak_flops": trainer.utilisation.peak,
        "train_seconds": result.train_seconds,
        "history": result.history,
        "valid": next((entry["valid"] for entry in result.history if entry["epoch"] == result.best_epoch), None),
        "test": None,
    }
    if len(data.test):
        trainer.model.load_state_dict(best.weights())
        report["test"] = evaluate(
            trainer.model, data.test, trainer.asked, trainer.device, reporter=reporter, name="test"
        )
    _write(directory / _METRICS, report)
    return report


def _facts(run: LoadedLum, data: LumData) -> LumFacts:
    config, objective = run.config, run.config.objective
    if isinstance(objective, InfoNCEObjective):
        width, similarity = config.embedding_dim, str(objective.similarity)
    else:
        width, similarity = objective.hidden, "cosine" if objective.knowledge else ""
    return LumFacts(
        item_features=data.catalogue.all_sizes(),
        condition_features={name: len(vocabulary) for name, vocabulary in data.conditions.items()},
        feature_dim=config.feature_dim or config.embedding_dim,
        embedding_dim=width,
        max_length=config.max_length,
        similarity=similarity,
        trained_until=data.trained_until,
    )
