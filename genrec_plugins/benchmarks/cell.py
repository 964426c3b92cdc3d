"""One cell of a benchmark: one interaction, one seed, trained and measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_plugins.config import RunConfig
from genrec_plugins.models import build_dlrm
from genrec_plugins.profiling.flops import forward_flops, forward_operators
from genrec_plugins.training.checkpoints import load_plain_weights
from genrec_plugins.training.evaluation import predict
from genrec_plugins.training.metrics import calibration_curve, evaluate_predictions
from genrec_plugins.training.reporter import Reporter
from genrec_plugins.training.trainer import Trainer
from genrec_registry import Registry


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What was found.

    Args:
        label: the interaction as the table names it.
        seed: of weights and row order.
        valid: metrics on the validation rows, of the epoch that was kept.
        test: metrics on the test rows.
        parameters: all, and those beside the tables.
        flops_per_row: of one forward.
        operators: launched by one forward.
        rows_per_second: in training steps.
        train_seconds: in training steps.
        epochs: trained.
        calibration: ``(mean prediction, observed rate)`` in bins of equal row counts, on test.
        pair_table: ``{"names": [...], "values": F x F}`` for interactions that have one.
    """

    label: str
    seed: int
    valid: dict[str, float]
    test: dict[str, float]
    parameters: int
    dense_parameters: int
    flops_per_row: float
    operators: int
    rows_per_second: float
    train_seconds: float
    epochs: int
    calibration: list[list[float]]
    pair_table: dict[str, Any] | None

    @property
    def cost(self) -> Cost:
        """What does not depend on the seed."""
        return Cost(
            parameters=self.parameters,
            dense_parameters=self.dense_parameters,
            flops_per_row=self.flops_per_row,
            operators=self.operators,
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """From JSON."""
        return cls(**data)


def run_cell(
    label: str,
    config: RunConfig,
    prepared: Prepared,
    registry: Registry,
    reporter: Reporter | None = None,
    cost: Cost | None = None,
) -> Cell:
    """Train one configuration and measure the weights that its validation chose.

    Args:
        label: name for the table.
        config: the run; its seed is the cell's.
        prepared: the rows.
        registry: where components come from.
        reporter: told of progress.
        cost: of this model, if another seed's cell has measured it; measured here if None.
    """
    cost = cost or measure_cost(config, prepared, registry)
    trainer = Trainer(config, prepared, registry, reporter=reporter)
    result = trainer.fit()
    load_plain_weights(trainer.recipe.model, result.weights)
    labels, probabilities = predict(trainer.recipe.model, prepared, "test", trainer.settings, trainer.device)
    predicted, observed, _ = calibration_curve(labels, probabilities)
    kept = next(entry for entry in result.history if entry["epoch"] == result.best_epoch)
    return Cell(
        label=label,
        seed=config.seed,
        valid=kept["valid"] or {},
        test=evaluate_predictions(labels, probabilities).as_dict(),
        **asdict(cost),
        rows_per_second=result.train_rows / result.train_seconds,
        train_seconds=result.train_seconds,
        epochs=len(result.history),
        calibration=[[float(p), float(o)] for p, o in zip(predicted, observed, strict=True)],
        pair_table=_pair_table(trainer.model),
    )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a model costs before it has learned anything; see :class:`Cell`."""

    parameters: int
    dense_parameters: int
    flops_per_row: float
    operators: int


def measure_cost(config: RunConfig, prepared: Prepared, registry: Registry) -> Cost:
    """Count parameters, FLOPs and operators on the bare model, without sharding around its tables.

    Args:
        config: the run.
        prepared: gives a batch.
        registry: where components come from.
    """
    model = build_dlrm(config.model, prepared.fields, registry).eval()
    batch = next(iter(BatchLoader(prepared, "train", config.train.batch_size)))
    arguments = (batch.dense_features, batch.sparse_features)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tables = sum(parameter.numel() for parameter in model.sparse_arch.parameters())
    return Cost(
        parameters=parameters,
        dense_parameters=parameters - tables,
        flops_per_row=forward_flops(model, *arguments) / batch.labels.numel(),
        operators=forward_operators(model, *arguments),
    )


def _pair_table(model: Any) -> dict[str, Any] | None:
    table = getattr(model.inter_arch, "pair_modulation", None)
    if table is None:
        return None
    return {"names": list(model.token_names), "values": table().tolist()}
