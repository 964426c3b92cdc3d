"""What a ranker takes over from pre-training: encoder weights, and tables whose rows are known by their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from genrec_plugins.lum.run import LumFacts, LumRun
from genrec_plugins.module_names import module_name
from genrec_registry import ModelError, Registry

_ENCODER, _ITEMS, _CONDITIONS = "encoder.", "item_tables.embeddings.", "condition_tables.embeddings."


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A pre-trained encoder with its tables, on the CPU.

    Args:
        directory: the run's directory.
        encoder_type: name of the encoder.
        facts: widths, feature names and their order, digest, time of the last training event.
        encoder: the encoder's weights by name.
        tables: ``[rows, E]`` of each item feature and condition; row 0 is what is unknown.
        values: the text that each row of a table stands for. The rows of a further item feature (a category, a code of
            a semantic ID) are called by their number, as in the run's ``catalogue.parquet``.
    """

    directory: Path
    encoder_type: str
    facts: LumFacts
    encoder: Mapping[str, Tensor]
    tables: Mapping[str, Tensor]
    values: Mapping[str, tuple[str, ...]]


def read_pretrained(directory: str | Path, registry: Registry | None = None) -> Pretrained:
    """Read the directory of a run of ``genrec lum pretrain``.

    Args:
        directory: its ``--out``.
        registry: where components come from; what the run's ``plugins`` say if None.

    Raises:
        DataError: it is no such directory.
        ModelError: its weights are missing or damaged, or have no encoder.
    """
    run = LumRun.open(directory, registry)
    weights = run.weights()
    encoder = {name.removeprefix(_ENCODER): value for name, value in weights.items() if name.startswith(_ENCODER)}
    if not encoder:
        raise ModelError(
            f"{directory}: its objective '{run.run.config.objective.type}' trains no encoder that a ranker could use; "
            "name a run with the objective info-nce"
        )
    tables = tables_by_feature(weights, [*run.catalogue.all_sizes(), *run.vocabularies])
    known = {"item": run.catalogue.items.values}
    known |= {name: vocabulary.values for name, vocabulary in run.vocabularies.items()}
    return Pretrained(
        directory=Path(directory),
        encoder_type=run.run.config.encoder.type,
        facts=run.facts,
        encoder=encoder,
        tables=tables,
        values={name: known.get(name) or tuple(map(str, range(len(table)))) for name, table in tables.items()},
    )


def tables_by_feature(weights: Mapping[str, Tensor], features: Iterable[str]) -> dict[str, Tensor]:
    """The tables among the weights of a pre-trained model, by the feature that each is of.

    Args:
        weights: by name, as a state dict has them.
        features: item features and conditions.
    """
    places = {name: module_name(name) for name in features}
    keys = {name: [f"{prefix}{place}.weight" for prefix in (_ITEMS, _CONDITIONS)] for name, place in places.items()}
    return {name: weights[key] for name, names in keys.items() for key in names if key in weights}
