"""One training step: batch by batch in one process on a CPU, under TorchRec's pipeline elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torchrec.datasets.utils import Batch
from torchrec.distributed import TrainPipelineSparseDist
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.models.dlrm import DLRMTrain

from genrec_plugins.training.optimizers import Recipe
from genrec_plugins.training.ranks import world_size


class ShareTrain(DLRMTrain):
    """``DLRMTrain`` on a rank's share of a batch.

    DMP and DDP take the mean of the ranks' gradients. Where the shares are not equally many rows, that is the gradient
    of the mean over the whole batch only if each rank's loss counts for its rows.
    """

    #: what the loss is multiplied by: this rank's rows over the mean rows of a rank; None: shares are equal
    weight: float | None = None

    def forward(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The weighted loss, and ``(mean loss of the rows, logits, labels)`` without a gradient."""
        loss, outputs = super().forward(batch)
        return (loss if self.weight is None else loss * self.weight), outputs


class Steps(Protocol):
    """Takes training steps."""

    #: whether a step whose loss is not finite leaves the weights as they were
    refuses: bool

    def __call__(self, batches: Iterator[Batch]) -> Tensor:
        """Train on the next batch; its mean loss, of this rank's rows."""

    def pause(self) -> None:
        """Give the model back for evaluation; the next call goes on."""


class PlainSteps:
    """Forward, backward, step.

    Args:
        recipe: model and optimizer.
        device: where to train.
        amp: whether the forward runs in bf16.
    """

    def __init__(self, recipe: Recipe, device: torch.device, amp: bool) -> None:
        self._recipe, self._device, self._amp = recipe, device, amp
        # to look at the loss costs nothing there; with more ranks the others would wait in the backward
        self.refuses = device.type == "cpu" and world_size() == 1

    def __call__(self, batches: Iterator[Batch]) -> Tensor:
        """See :class:`Steps`."""
        batch = next(batches)
        if self._device.type != "cpu":
            batch = batch.to(self._device, non_blocking=True)
        recipe = self._recipe
        recipe.optimizer.zero_grad()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._amp):
            loss, outputs = recipe.model(batch)
        mean: Tensor = outputs[0]
        if self.refuses and not math.isfinite(mean.item()):
            return mean
        penalty = recipe.penalty()
        (loss if penalty is None else loss + penalty).backward()
        recipe.before_step()
        recipe.optimizer.step()
        return mean

    def pause(self) -> None:
        """Nothing is ahead."""


class PipelinedSteps:
    """``TrainPipelineSparseDist``: ids of the next batch travel while this one is computed.

    Args:
        recipe: model under DMP, and optimizer; one without penalty.
        device: where to train.
        amp: whether the forward runs in bf16.
    """

    refuses = False

    def __init__(self, recipe: Recipe, device: torch.device, amp: bool) -> None:
        model: Any = recipe.model

        def forward(batch: Batch | None) -> Any:
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                return model(batch)

        self._pipeline: Any = TrainPipelineSparseDist(model, recipe.optimizer, device, custom_model_fwd=forward)

    def __call__(self, batches: Iterator[Batch]) -> Tensor:
        """See :class:`Steps`."""
        mean: Tensor = self._pipeline.progress(batches)[0]
        return mean

    def pause(self) -> None:
        """Put the sharded modules' own forwards back."""
        self._pipeline.detach()


def make_steps(recipe: Recipe, device: torch.device, amp: bool) -> Steps:
    """The way to step a recipe here: the pipeline where there is something to overlap.

    Args:
        recipe: model and optimizer.
        device: where to train.
        amp: whether the forward runs in bf16.
    """
    alone_on_cpu = device.type == "cpu" and world_size() == 1
    if alone_on_cpu or not isinstance(recipe.model, DistributedModelParallel):
        return PlainSteps(recipe, device, amp)
    return PipelinedSteps(recipe, device, amp)
