"""A behaviour dataset to histories and a catalogue: what pre-training, querying and retrieval start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from genrec_adapters.behaviour.histories import Catalogue, Histories, Int32, Vocabulary
from genrec_adapters.behaviour.splits import EvalSet, PublishedSplit, strictly_before
from genrec_adapters.item_codes import ItemCodes
from genrec_registry.contracts import BehaviourDataset, ErrorPolicy
from genrec_registry.errors import ConfigError, DataError, did_you_mean

Built = tuple[Histories, Catalogue, dict[str, Vocabulary]]
FIRST_CATEGORY, CATEGORIES = "first_category", "categories"


def build_histories(
    dataset: BehaviourDataset,
    *,
    min_item_count: int = 1,
    max_users: int | None = None,
    positive_only: bool = False,
    side: Sequence[str] = (),
    codes: ItemCodes | None = None,
    unseen_items: bool = False,
    policy: ErrorPolicy | None = None,
) -> Built:
    """Histories of all users, the catalogue of their items, and the vocabularies of conditions and side features.

    Counts and vocabularies are those of all events, test events too: they say which items there are, not how often
    anything happens.

    Args:
        dataset: gives the events and the items' content.
        min_item_count: leave out events of items with fewer events than this.
        max_users: keep the first users only, in the order of their ids.
        positive_only: keep only events with label 1.
        side: one-valued features of the catalogue, from the columns of ``items()``: a column's name,
            ``"first_category"``, or ``"categories"`` (all of them, as one value).
        codes: semantic IDs, which become the features ``sid_1`` .. ``sid_L``; code c has id c + 1.
        unseen_items: whether items with content or codes but without events are in the catalogue, too.
        policy: what to do with bad rows; stop if None.

    Raises:
        DataError: no event is left.
        ConfigError: the items have no such side column.

    Example::

        >>> import tempfile
        >>> from genrec_adapters.datasets.amazon_reviews import AmazonReviews
        >>> from genrec_adapters.datasets.behaviour_configs import AmazonReviewsConfig
        >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        ...     _ = file.write('{"u": ["b", "a"], "v": ["a"]}'), file.flush()
        ...     histories, catalogue, _ = build_histories(AmazonReviews(AmazonReviewsConfig(path=file.name)))
        >>> histories.items.tolist(), histories.lengths.tolist(), catalogue.items.values
        ([2, 1, 1], [2, 1], ('', 'a', 'b'))
    """
    events = _events(dataset, min_item_count, max_users, positive_only, policy)
    return _built(dataset, events, side, codes, unseen_items)


def published_split(
    dataset: BehaviourDataset,
    *,
    max_history: int | None = None,
    side: Sequence[str] = (),
    codes: ItemCodes | None = None,
    unseen_items: bool = False,
    policy: ErrorPolicy | None = None,
) -> tuple[PublishedSplit, Histories, Catalogue, dict[str, Vocabulary]]:
    """The split that comes with the files, beside what :func:`build_histories` gives.

    A question of either set sees all of its user's earlier events, as the published rows do: those of the test set see
    the validation targets, and earlier test targets of their user. None of these is in ``train``.

    Args:
        dataset: one whose :meth:`events` have a column ``split`` (``amazon-reviews`` with ``valid`` and ``test``).
        max_history: events a question sees at most, the most recent; all if None.
        side: as for :func:`build_histories`.
        codes: likewise.
        unseen_items: likewise.
        policy: likewise.

    Raises:
        ConfigError: the dataset's files carry no split.
    """
    events = _events(dataset, 1, None, False, policy)
    if "split" not in events.columns:
        raise ConfigError(
            f"{type(dataset).__name__}: its files carry no split; give dataset.valid and dataset.test, or use "
            "leave_one_out or time_split"
        )
    histories, catalogue, vocabularies = _built(dataset, events, side, codes, unseen_items)
    part = events["split"]
    seen = strictly_before(histories)
    valid, test = (
        EvalSet.of(histories, rows, seen[rows], max_history)
        for rows in ((part == name).arg_true().to_numpy().astype(np.int64) for name in ("valid", "test"))
    )
    split = PublishedSplit(train=histories.select((part == "train").to_numpy()), valid=valid, test=test)
    return split, histories, catalogue, vocabularies


def _events(
    dataset: BehaviourDataset,
    min_item_count: int,
    max_users: int | None,
    positive_only: bool,
    policy: ErrorPolicy | None,
) -> pl.DataFrame:
    events = dataset.events(policy)
    if positive_only:
        events = events.filter(pl.col("label") == 1)
    if max_users is not None:
        events = events.filter(pl.col("user").is_in(events["user"].unique().sort().head(max_users).to_list()))
    if min_item_count > 1:
        events = events.filter(pl.len().over("item") >= min_item_count)
    if events.is_empty():
        raise DataError(
            f"no event is left (min_item_count {min_item_count}, positive_only {positive_only}), expected some; "
            "lower the bounds"
        )
    return events


def _built(
    dataset: BehaviourDataset, events: pl.DataFrame, side: Sequence[str], codes: ItemCodes | None, unseen_items: bool
) -> Built:
    known = events["item"].unique()
    content = dataset.items() if side or unseen_items else None
    if unseen_items and content is not None:
        known = pl.concat([known, content["item"], pl.Series("item", codes.items if codes else (), dtype=pl.String)])
    catalogue, vocabularies = _catalogue(Vocabulary.of(known.to_list()), content, side, codes)
    conditions = {name: Vocabulary.of(events[name].drop_nulls().unique().to_list()) for name in dataset.conditions}
    return encode_events(events, catalogue.items, conditions), catalogue, conditions | vocabularies


def encode_events(events: pl.DataFrame, items: Vocabulary, conditions: Mapping[str, Vocabulary]) -> Histories:
    """Histories of events as :meth:`~genrec_registry.contracts.BehaviourDataset.events` gives them.

    Args:
        events: sorted by user and time.
        items: the catalogue's items; others have id 0.
        conditions: the vocabulary of each condition that is kept.

    Example::

        >>> events = pl.DataFrame({"user": ["u", "u"], "item": ["b", "?"], "time": [1, 2], "label": [1, 0]})
        >>> encode_events(events, Vocabulary.of(["a", "b"]), {}).items.tolist()
        [2, 0]
    """
    users = events["user"]
    starts = (users != users.shift(1)).fill_null(True).arg_true().to_numpy()
    return Histories(
        users=tuple(users.gather(starts).to_list()),
        offsets=np.append(starts, len(users)).astype(np.int64),
        items=items.encode(events["item"]),
        times=events["time"].to_numpy(),
        labels=events["label"].to_numpy(),
        conditions={name: vocabulary.encode(events[name]) for name, vocabulary in conditions.items()},
    )


def _catalogue(
    items: Vocabulary, content: pl.DataFrame | None, side: Sequence[str], codes: ItemCodes | None
) -> tuple[Catalogue, dict[str, Vocabulary]]:
    features: dict[str, Int32] = {}
    sizes: dict[str, int] = {}
    vocabularies: dict[str, Vocabulary] = {}
    for name in side if content is not None else ():
        assert content is not None
        values = _side_values(content, name, items)
        vocabularies[name] = Vocabulary.of(values.drop_nulls().to_list())
        features[name] = vocabularies[name].encode(values)
        sizes[name] = len(vocabularies[name])
    if codes is not None:
        table = codes.of(items.values) + 1  # an item without codes has -1 and becomes 0, the unknown id
        for level, size in enumerate(codes.sizes):
            features[f"sid_{level + 1}"] = np.ascontiguousarray(table[:, level])
            sizes[f"sid_{level + 1}"] = size + 1
    return Catalogue(items=items, features=features, sizes=sizes), vocabularies


def _side_values(content: pl.DataFrame, name: str, items: Vocabulary) -> pl.Series:
    """One text a catalogue row, null where nothing is known."""
    single = [column for column, dtype in content.schema.items() if dtype == pl.String and column != "item"]
    known = [*single, FIRST_CATEGORY, CATEGORIES]
    if name not in known:
        raise ConfigError(f"side: the items have no one-valued column '{name}'{did_you_mean(name, known)}")
    if name == FIRST_CATEGORY:
        value = pl.col(CATEGORIES).list.first()
    elif name == CATEGORIES:
        value = pl.col(CATEGORIES).list.join("|")
    else:
        value = pl.col(name)
    rows = pl.DataFrame({"item": pl.Series(items.values, dtype=pl.String)})
    found = content.select("item", value.alias("value")).unique("item", keep="first", maintain_order=True)
    return rows.join(found, on="item", how="left", maintain_order="left")["value"]
