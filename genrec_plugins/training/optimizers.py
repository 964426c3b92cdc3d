"""The two ways to train: TorchRec's (fused table updates under DMP) and BARS's (dense Adam with L2 on every row)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torchrec.models.dlrm import DLRMTrain

from genrec_plugins.models import FieldDLRM
from genrec_plugins.training.checkpoints import load_plain_weights
from genrec_plugins.training.compiled import compile_interaction
from genrec_plugins.training.ranks import total, world_size
from genrec_plugins.training.settings import BarsTraining, TorchRecTraining
from genrec_plugins.training.table_drawing import draw_tables
from genrec_registry import ModelError


class Recipe(Protocol):
    """A model ready to train, its optimizer, and what happens around a step."""

    @property
    def model(self) -> nn.Module:
        """``DLRMTrain``, wrapped or not."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Everything that ``step()`` is called on."""

    def penalty(self) -> Tensor | None:
        """A term to add to the loss, or None."""

    def before_step(self) -> None:
        """Between the backward and the optimizer's step."""

    def set_progress(self, step: int, total_steps: int) -> None:
        """Set the learning rates for step ``step`` of ``total_steps``."""

    def after_evaluation(self, improved: bool) -> None:
        """React to a validation result."""

    def state(self) -> dict[str, Any]:
        """What a resumed run must know beside the optimizer's state."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state`, or refuse it."""


class TorchRecRecipe:
    """Tables updated inside the backward by an FBGEMM optimizer, under DistributedModelParallel; the rest by Adam(W).

    Tables are laid out as ``train.sharding`` says, by default ``table_wise`` with the fused kernel: left alone, the
    planner makes small tables data-parallel, where the fused optimizer holds nothing and the dense one takes over
    without a word. Tables that are asked to be data-parallel get the same rule, unfused.

    Args:
        train: ``DLRMTrain`` around the model.
        config: the ``train`` section.
        device: where to train.

    Raises:
        ConfigError: the tables cannot be laid out as asked; on every rank, before any collective.
    """

    def __init__(self, train: DLRMTrain, config: TorchRecTraining, device: torch.device) -> None:
        from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
        from torchrec.distributed.model_parallel import DistributedModelParallel
        from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
        from torchrec.optim.optimizers import in_backward_optimizer_filter

        from genrec_plugins.training.sharding import sharding_plan

        self.config = config
        model: FieldDLRM = train.model
        # eps is FBGEMM's own default, given so that it does not hang on which side's default wins.
        arguments: dict[str, Any] = (
            {"lr": config.embedding_lr}
            if config.embedding_optimizer == "sgd"
            else {"lr": config.embedding_lr, "eps": 1e-8}
        )
        # Frozen tables get one as well, which their detached look-ups never reach: FBGEMM would else give its own.
        table_class = _table_class(config.embedding_optimizer)
        apply_optimizer_in_backward(table_class, model.tables(), dict(arguments))  # TorchRec adds to it
        sharding = sharding_plan(train, device, config.sharding, -(-config.batch_size // world_size()))
        dense_class = torch.optim.AdamW if config.dense_optimizer == "adamw" else torch.optim.Adam
        dense_arguments: dict[str, Any] = {}
        if config.dense_optimizer == "adamw":
            dense_arguments["weight_decay"] = config.weight_decay
        self._layout = sharding.layout(rowwise=config.embedding_optimizer == "rowwise-adagrad")
        built = train.state_dict()
        self.model = DistributedModelParallel(
            train, env=sharding.env, device=device, plan=sharding.plan, sharders=sharding.sharders
        )
        if any(value.is_meta for value in built.values()):
            draw_tables(self.model, sharding.tables, torch.initial_seed())
        else:
            # A sharded EmbeddingBagCollection draws its tables anew: what was loaded would be lost, and what is
            # learned would depend on the number of ranks.
            load_plain_weights(self.model, {name.removeprefix("model."): value for name, value in built.items()})
        rates = {
            "inter_arch.": config.interaction_lr or config.dense_lr,
            "behaviour_arch.": config.encoder_lr or config.dense_lr,
            "": config.dense_lr,
        }
        groups: dict[str, dict[str, nn.Parameter]] = {part: {} for part in rates}
        replicated: dict[str, nn.Parameter] = {}
        for name, parameter in in_backward_optimizer_filter(self.model.named_parameters()):
            if name in sharding.replicated:
                replicated[name] = parameter
            elif parameter.requires_grad:
                groups[next(part for part in rates if part in name)][name] = parameter
        dense = [KeyedOptimizerWrapper(replicated, partial(table_class, **arguments))] if replicated else []
        dense += [
            KeyedOptimizerWrapper(group, partial(dense_class, lr=rates[part], **dense_arguments))
            for part, group in groups.items()
            if group
        ]
        self.optimizer = CombinedOptimizer([self.model.fused_optimizer, *dense])
        self._base = [group["lr"] for group in self.optimizer.param_groups]

    def penalty(self) -> Tensor | None:
        """Nothing to add."""
        return None

    def before_step(self) -> None:
        """Nothing to do."""

    def set_progress(self, step: int, total_steps: int) -> None:
        """Warm-up, then the schedule."""
        factor = schedule_factor(self.config.lr_schedule, self.config.warmup_steps, step, total_steps)
        for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
            group["lr"] = base * factor

    def after_evaluation(self, improved: bool) -> None:
        """Nothing to do."""

    def state(self) -> dict[str, Any]:
        """Layouts that the optimizer's state depends on; learning rates follow from the step."""
        return {"layout": self._layout}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore.

        Raises:
            ModelError: the optimizer's state is of other layouts.
        """
        theirs = state.get("layout", self._layout)
        for table in sorted(theirs.keys() | self._layout.keys()):
            found, ours = theirs.get(table, "sharded"), self._layout.get(table, "sharded")
            if found != ours:
                raise ModelError(
                    f"table '{table}' is {found} there and {ours} here, between which the optimizer's state cannot be "
                    "carried over: restore train.sharding"
                )


class BarsRecipe:
    """FuxiCTR's training as BARS used it: Adam on everything, L2 on all table rows at every step, clip, plateau.

    Every rank holds the whole model; gradients, those of the tables too, are averaged before the step.

    Args:
        train: ``DLRMTrain`` around the model.
        config: the ``train`` section.
        device: where to train.
    """

    def __init__(self, train: DLRMTrain, config: BarsTraining, device: torch.device) -> None:
        self.config = config
        self.model = train.to(device)
        model: FieldDLRM = train.model
        self._tables = model.trained_tables()
        tables = {id(parameter) for parameter in model.tables()}
        self._net = [p for p in train.parameters() if p.requires_grad and id(p) not in tables]
        self.optimizer = torch.optim.Adam([*self._tables, *self._net], lr=config.lr)

    def penalty(self) -> Tensor | None:
        """``lambda / 2 * ||.||^2`` over the tables and, if set, over everything else."""
        terms = []
        if self.config.embedding_l2:
            terms.append(self.config.embedding_l2 / 2 * torch.stack([p.square().sum() for p in self._tables]).sum())
        if self.config.net_l2:
            terms.append(self.config.net_l2 / 2 * torch.stack([p.square().sum() for p in self._net]).sum())
        return torch.stack(terms).sum() if terms else None

    def before_step(self) -> None:
        """Average the gradient over the ranks and clip its norm."""
        if world_size() > 1:
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            flat = total(_flatten_dense_tensors(gradients)) / world_size()
            for gradient, mean in zip(gradients, _unflatten_dense_tensors(flat, gradients), strict=True):
                gradient.copy_(mean)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)

    def set_progress(self, step: int, total_steps: int) -> None:
        """The rate changes on plateaus only."""

    def after_evaluation(self, improved: bool) -> None:
        """Multiply the learning rate by ``lr_factor`` after an evaluation that did not improve."""
        if not improved:
            for group in self.optimizer.param_groups:
                group["lr"] = max(group["lr"] * self.config.lr_factor, self.config.min_lr)

    def state(self) -> dict[str, Any]:
        """The learning rate now."""
        return {"lr": self.optimizer.param_groups[0]["lr"]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Set the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = state["lr"]


def _table_class(name: str) -> type[torch.optim.Optimizer]:
    from torchrec.optim import RowWiseAdagrad

    return {"rowwise-adagrad": RowWiseAdagrad, "adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}[name]


def schedule_factor(schedule: str, warmup_steps: int, step: float, total_steps: int) -> float:
    """Factor on the learning rates at step ``step`` (0-based).

    Example::

        >>> [round(schedule_factor("linear", 2, step, 6), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "linear":
        return 1 - done
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def make_recipe(train: DLRMTrain, config: TorchRecTraining | BarsTraining, device: torch.device) -> Recipe:
    """The recipe of the ``train`` section."""
    if config.compile:
        compile_interaction(train.model.inter_arch, device)
    if isinstance(config, BarsTraining):
        return BarsRecipe(train, config, device)
    return TorchRecRecipe(train, config, device)
