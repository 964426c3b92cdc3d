"""A pre-training file of ``genrec lum pretrain`` as the subject of a sweep: test loss, Recall@K and NDCG@K.

The loss is the cross-entropy of the true item under the softmax over the whole catalogue, on the test questions; an
objective that does not score the whole catalogue (``semantic-id``) has no such loss, and is swept by recall.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genrec_plugins.lum.config import LoadedLum, parse_lum
from genrec_plugins.scaling.sweep import Measured
from genrec_plugins.training.reporter import Reporter
from genrec_registry import ConfigError, digest
from genrec_registry.yaml_source import YamlSource

METRICS: dict[str, bool] = {"loss": False, "recall@10": True, "ndcg@10": True, "recall@50": True, "mrr": True}


@dataclass(kw_only=True)
class LumSubject:
    """Pre-trains a file's model; weights and checkpoints stay in memory.

    Args:
        source: the pre-training file.
        overrides: ``dotted.key -> YAML value`` for all cells.
    """

    source: YamlSource
    overrides: Mapping[str, str]
    _data: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> Mapping[str, bool]:
        """Of the file's objective; ``objective`` itself is no axis."""
        objective = parse_lum(self.source, dict(self.overrides)).config.objective.type
        return {name: rising for name, rising in METRICS.items() if name != "loss" or objective == "info-nce"}

    def plan(self, setting: Mapping[str, Any], seed: int) -> LumPlan:
        """One run; see :class:`genrec_plugins.scaling.sweep.Subject`."""
        keys = {key: json.dumps(value) for key, value in setting.items()}
        return LumPlan(subject=self, run=parse_lum(self.source, {**self.overrides, **keys, "seed": str(seed)}))

    def data(self, run: LoadedLum) -> Any:
        """A run's events and splits, read once for all cells that share them."""
        from genrec_plugins.lum.data import load_data

        config = run.config.model_dump(mode="json")
        # a time split cuts the histories of its questions to max_length
        key = digest({part: config[part] for part in ("dataset", "split", "items", "conditions", "max_length")})
        if key not in self._data:
            self._data[key] = load_data(run)
        return self._data[key]


@dataclass(frozen=True, kw_only=True)
class LumPlan:
    """One pre-training run."""

    subject: LumSubject
    run: LoadedLum

    def identity(self) -> str:
        """Digest of config and events."""
        return digest({"run": self.run.config.model_dump(mode="json"), "data": self.subject.data(self.run).identity})

    def measure(self, reporter: Reporter) -> Measured:
        """Pre-train, and ask the weights that the validation questions chose the test questions."""
        from genrec_plugins.lum.evaluate import evaluate
        from genrec_plugins.lum.infonce import table_parameters
        from genrec_plugins.lum.trainer import LumTrainer

        data = self.subject.data(self.run)
        if not len(data.test):
            raise ConfigError("the test split has no questions; change 'split'")
        trainer = LumTrainer(self.run, data, reporter=reporter)
        result = trainer.fit()
        trainer.model.load_state_dict(trainer.best_weights)
        found = evaluate(trainer.model, data.test, trainer.asked, trainer.device, reporter=reporter, name="test")
        total = sum(weight.numel() for weight in trainer.model.parameters())
        return Measured(
            metrics={name: float(found[name]) for name in METRICS if name in found},
            parameters=total,
            dense_parameters=total - sum(weight.numel() for weight in table_parameters(trainer.model)),
            flops_per_row=result.flops_per_event / 3,
            seconds=result.train_seconds,
        )
