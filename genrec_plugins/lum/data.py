"""What a pre-training run reads: histories, catalogue, condition vocabularies, and the events of each split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from genrec_adapters.behaviour.build import build_histories, published_split
from genrec_adapters.behaviour.histories import Catalogue, Histories, Vocabulary
from genrec_adapters.behaviour.splits import EvalSet, HistorySplit, leave_one_out, time_split
from genrec_adapters.item_codes import ItemCodes
from genrec_plugins.lum.config import LoadedLum, LumConfig, OfficialSplit, TimeSplit
from genrec_registry import ConfigError, DataError, did_you_mean

Conditions = Mapping[str, Vocabulary]


@dataclass(frozen=True, kw_only=True)
class LumData:
    """Everything a pre-training run learns from and is asked.

    Args:
        histories: all events of all users.
        catalogue: all items, with the ids of their features.
        conditions: the vocabulary of each condition.
        train: events that train.
        valid: questions that pick the best weights.
        test: questions that are asked once.
    """

    histories: Histories
    catalogue: Catalogue
    conditions: Conditions
    train: Histories
    valid: EvalSet
    test: EvalSet

    @property
    def trained_until(self) -> int:
        """Time of the last training event."""
        return int(self.train.times.max())

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """``[N]`` training events of each catalogue row."""
        return np.bincount(self.train.items, minlength=len(self.catalogue))

    @property
    def identity(self) -> str:
        """SHA-256 of everything that training reads."""
        found = hashlib.sha256()
        for array in (self.train.offsets, self.train.items, self.train.times, self.train.labels):
            found.update(np.ascontiguousarray(array).tobytes())
        for ids in (*self.train.conditions.values(), *self.catalogue.features.values(), self.valid.targets):
            found.update(np.ascontiguousarray(ids).tobytes())
        return found.hexdigest()


def load_data(run: LoadedLum) -> LumData:
    """Read a run's events and split them.

    Raises:
        ConfigError: a condition, item feature or split that the dataset does not have.
        DataError: the files are bad, or no event is left to train on.
    """
    config = run.config
    dataset = run.registry.create("dataset", config.dataset)
    names = condition_names(config, dataset.conditions)
    codes = ItemCodes.read(config.items.codes) if config.items.codes else None
    side = config.items.features
    split: HistorySplit
    if isinstance(config.split, OfficialSplit):
        split, histories, catalogue, vocabularies = published_split(
            dataset, max_history=config.max_length, side=side, codes=codes
        )
    else:
        histories, catalogue, vocabularies = build_histories(
            dataset, min_item_count=config.items.min_count, side=side, codes=codes
        )
        split = _split(config, histories)
    histories, train = keep_conditions(histories, names), keep_conditions(split.train, names)
    if not len(train.items):
        raise DataError("no event is left to train on; change 'split' or 'items.min_count'")
    return LumData(
        histories=histories,
        catalogue=catalogue,
        conditions={name: vocabularies[name] for name in names},
        train=train,
        valid=_keep(split.valid, names),
        test=_keep(split.test, names),
    )


def condition_names(config: LumConfig, known: tuple[str, ...]) -> tuple[str, ...]:
    """The condition columns a run uses.

    Raises:
        ConfigError: the dataset has no such column.
    """
    if config.conditions is None:
        return tuple(known)
    for name in config.conditions:
        if name not in known:
            raise ConfigError(f"conditions: the dataset's events have no column '{name}'{did_you_mean(name, known)}")
    return config.conditions


def keep_conditions(histories: Histories, names: tuple[str, ...]) -> Histories:
    """The histories with these conditions only."""
    return replace(histories, conditions={name: histories.conditions[name] for name in names})


def _keep(questions: EvalSet, names: tuple[str, ...]) -> EvalSet:
    targets = {name: questions.target_conditions[name] for name in names}
    return replace(questions, histories=keep_conditions(questions.histories, names), target_conditions=targets)


def _split(config: LumConfig, histories: Histories) -> HistorySplit:
    if isinstance(config.split, TimeSplit):
        shares = config.split
        return time_split(histories, valid=shares.valid, test=shares.test, max_history=config.max_length)
    return leave_one_out(histories)


def fixed_conditions(wanted: Mapping[str, str], conditions: Conditions, where: str) -> dict[str, int]:
    """Ids of a query's conditions; those not named are unknown, id 0.

    Args:
        wanted: ``{"action": "like"}``.
        conditions: the vocabularies.
        where: what the query is, for messages.

    Raises:
        ConfigError: no such condition, or no such value.

    Example::

        >>> known = {"action": Vocabulary.of(["view", "like"]), "day": Vocabulary.of(["mon"])}
        >>> fixed_conditions({"action": "like"}, known, "query")
        {'action': 1, 'day': 0}
    """
    for name, value in wanted.items():
        if name not in conditions:
            raise ConfigError(f"{where}: there is no condition '{name}'{did_you_mean(name, conditions)}")
        if value not in conditions[name].values[1:]:
            known = conditions[name].values[1:]
            raise ConfigError(f"{where}: condition '{name}' has no value '{value}'{did_you_mean(value, known)}")
    return {
        name: vocabulary.values.index(wanted[name]) if name in wanted else 0 for name, vocabulary in conditions.items()
    }


def evenly(questions: EvalSet, number: int) -> npt.NDArray[np.int64]:
    """``number`` of the questions, evenly over all of them; all if 0."""
    total = len(questions)
    if not number or number >= total:
        return np.arange(total)
    return np.linspace(0, total - 1, number).astype(np.int64)
