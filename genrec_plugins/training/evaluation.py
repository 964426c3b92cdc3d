"""Predictions and exact metrics of a split, by one process or by all ranks together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torchrec.datasets.utils import Batch

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_plugins.training.guards import why_predictions_not_finite
from genrec_plugins.training.metrics import Metrics, evaluate_predictions
from genrec_plugins.training.ranks import on_every, on_first, rank, world_size
from genrec_plugins.training.settings import BarsTraining, TorchRecTraining
from genrec_registry import ConfigError, DenseFeature, ModelError, Split

Arrays = tuple[NDArray[np.float32], NDArray[np.float32]]


def evaluate_split(
    model: nn.Module,
    prepared: Prepared,
    split: Split,
    settings: TorchRecTraining | BarsTraining,
    device: torch.device,
) -> Metrics:
    """Exact metrics of a split, the same on every rank.

    Each row is scored by one rank; rank 0 puts the predictions back in row order and computes what one process would.

    Args:
        model: ``DLRMTrain`` (wrapped or not), the one that all ranks train.
        prepared: the rows.
        split: which split.
        settings: evaluation batch size and autocast.
        device: where the model is.

    Raises:
        ConfigError: there are no rows.
        ModelError: a prediction is NaN or infinite.
    """
    ranks = world_size()
    if ranks == 1:
        return evaluate_predictions(*predict(model, prepared, split, settings, device))
    size = max(settings.eval_batch_size, ranks)
    loader = BatchLoader(prepared, split, size, rank=rank(), world_size=ranks, cut=True)
    own = sum(loader.own_rows(batch) for batch in range(len(loader)))
    labels, probabilities, problem = _score(model, loader, settings, device, f"{split} split", prepared.dense_features)
    with on_every("scoring"):  # not in the loop: the others would wait in the forward of the next batch
        _check(problem)
    # a rank without a row in the last batch has scored one that is not its own
    mine = np.stack([labels[:own], probabilities[:own]])
    together = _gathered(mine, loader.rows, device)
    return on_first(lambda: evaluate_predictions(*together))


def _gathered(mine: NDArray[np.float32], rows: int, device: torch.device) -> NDArray[np.float32]:
    """Columns of all ranks on rank 0, column i from rank i modulo the number of ranks; nothing on the others."""
    ranks, width = world_size(), -(-rows // world_size())
    padded = torch.zeros(len(mine), width)
    padded[:, : mine.shape[1]] = torch.from_numpy(mine)
    padded = padded.to(device)
    parts = [torch.empty_like(padded) for _ in range(ranks)] if rank() == 0 else None
    dist.gather(padded, parts)
    if parts is None:
        return np.empty((len(mine), 0), dtype=np.float32)
    interleaved: NDArray[np.float32] = torch.stack(parts, dim=2).cpu().numpy().reshape(len(mine), -1)[:, :rows]
    return interleaved


def predict(
    model: nn.Module,
    prepared: Prepared,
    split: Split,
    settings: TorchRecTraining | BarsTraining,
    device: torch.device,
) -> Arrays:
    """Labels and probabilities of a whole split, in row order, by this process alone.

    Args:
        model: ``DLRMTrain`` (wrapped or not).
        prepared: the rows.
        split: which split.
        settings: evaluation batch size and autocast.
        device: where the model is.

    Returns:
        ``[N]`` labels and ``[N]`` probabilities.
    """
    loader, dense = BatchLoader(prepared, split, settings.eval_batch_size), prepared.dense_features
    return score(model, loader, settings, device, name=f"{split} split", dense=dense)


def score(
    model: nn.Module,
    batches: Iterable[Batch],
    settings: TorchRecTraining | BarsTraining,
    device: torch.device,
    *,
    name: str,
    dense: Sequence[DenseFeature] = (),
) -> Arrays:
    """Labels and probabilities of batches, in their order.

    Args:
        model: ``DLRMTrain`` (wrapped or not).
        batches: the rows.
        settings: autocast.
        device: where the model is.
        name: of the rows, for messages.
        dense: the dense features of the batches, for messages.

    Raises:
        ConfigError: there are no rows.
        ModelError: a prediction is NaN or infinite.
    """
    labels, probabilities, problem = _score(model, batches, settings, device, name, dense)
    _check(problem)
    return labels, probabilities


def _check(problem: str) -> None:
    if problem:
        raise ModelError(problem)


@torch.no_grad()
def _score(
    model: nn.Module,
    batches: Iterable[Batch],
    settings: TorchRecTraining | BarsTraining,
    device: torch.device,
    name: str,
    dense: Sequence[DenseFeature],
) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """Labels, probabilities, and what is wrong with the first batch with some that are not finite."""
    was_training = model.training
    model.eval()
    labels: list[Any] = []
    probabilities: list[Any] = []
    problem, amp = "", settings.amp == "bf16"
    for number, host_batch in enumerate(batches, start=1):
        batch = host_batch if device.type == "cpu" else host_batch.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            _, (_, logits, _) = model(batch)
        probabilities.append(torch.sigmoid(logits.float()).cpu().numpy())
        labels.append(batch.labels.float().cpu().numpy())
        bad = int((~np.isfinite(probabilities[-1])).sum())
        if bad and not problem:
            why = why_predictions_not_finite(model, batch, dense, amp=amp)
            problem = f"{name}, batch {number}: {bad} of {len(labels[-1])} predictions are not finite; {why}"
    model.train(was_training)
    if not labels:
        raise ConfigError(f"the {name} has no rows; change 'split' or the dataset")
    return np.concatenate(labels), np.concatenate(probabilities), problem
