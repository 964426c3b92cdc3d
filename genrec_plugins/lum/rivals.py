"""Rivals: a user's items under other conditions, told apart from the true item of an event.

In-batch negatives teach which items a user meets at all. Which of the items met are liked and which disliked is what
a ranker asks, and only the difference between two conditions of one user says it.
"""

import torch
from torch import Tensor
from torch.nn import functional

from genrec_plugins.lum.batches import SequenceBatch


def rival_mask(batch: SequenceBatch, place: Tensor, count: int) -> Tensor:
    """Which items are an event's rivals: the same row has them under another condition, and never under its own.

    Args:
        batch: T events.
        place: ``[T]`` each event's item among ``count`` items.
        count: M.

    Returns:
        ``[T, M]`` bool.

    Example::

        >>> batch = SequenceBatch(
        ...     users=torch.tensor([0, 1]), offsets=torch.tensor([0, 3, 4]), items=torch.tensor([5, 6, 7, 5]),
        ...     conditions={"action": torch.tensor([1, 2, 1, 1])}, times=torch.zeros(4, dtype=torch.int64),
        ... )
        >>> rival_mask(batch, torch.tensor([0, 1, 2, 0]), 3).long().tolist()
        [[0, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]]
    """
    keys = torch.stack([batch.owners, *batch.conditions.values()])
    _, group = torch.unique(keys, dim=1, return_inverse=True)
    under = torch.zeros(int(group.max()) + 1 if len(group) else 0, count, dtype=torch.bool, device=place.device)
    under[group, place] = True
    row = torch.zeros(len(batch), count, dtype=torch.bool, device=place.device)
    row[batch.owners, place] = True
    return row[batch.owners] & ~under[group]


def rival_loss(states: Tensor, vectors: Tensor, place: Tensor, rivals: Tensor) -> Tensor:
    """Mean InfoNCE of n events against their rivals alone; an event without rivals adds nothing.

    Args:
        states: ``[n, D]``, divided by the temperature.
        vectors: ``[M, D]`` item vectors.
        place: ``[n]`` the true item of each event.
        rivals: ``[n, M]``, see :func:`rival_mask`.

    Example::

        >>> states, vectors = torch.eye(2), torch.eye(2)
        >>> rival_loss(states, vectors, torch.tensor([0, 1]), torch.tensor([[False, True], [False, False]]))
        tensor(0.1566)
    """
    logits = states @ vectors.T
    true = logits.gather(1, place[:, None]).squeeze(1)
    # Finite, not -inf: a row without rivals would otherwise have a NaN gradient.
    others = logits.masked_fill(~rivals, -1e9).logsumexp(dim=1)
    return functional.softplus(others - true).mean() if len(true) else logits.sum()
