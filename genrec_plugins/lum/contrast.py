"""Condition contrast: the item of an event asked for under every condition, its own against the others.

InfoNCE is given the condition and says which item comes; it never learns which condition a known item would come
under (will this user like it?), and that is what a ranker is asked. The contrast turns the same similarities around:

    L_c = -log exp(sim(o_l^c, e_l) / tau) / sum_c' exp(sim(o_l^c', e_l) / tau)

over the conditions c' of the batch, where o_l^c' is the answer to condition c' after the same events. Our addition; it
needs the group query (lum.md, step 2), which makes the answers to all conditions in one pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_plugins.lum.batches import SequenceBatch

#: conditions an item is asked for under; of more, the most frequent ones of the batch
MOST = 8


@dataclass(frozen=True, kw_only=True)
class Questions:
    """n events, each asked under K conditions.

    Args:
        events: ``[n]`` places of the events in the batch.
        own: ``[n]`` which of the K is the event's own condition.
        row: ``[n * K]`` row of each query.
        prefix: ``[n * K]`` events it sees.
        conditions: ``[n * K]`` ids by condition name.
        count: K.
    """

    events: Tensor
    own: Tensor
    row: Tensor
    prefix: Tensor
    conditions: dict[str, Tensor]
    count: int


def questions(batch: SequenceBatch, chosen: Tensor) -> Questions:
    """Every chosen event under every condition that the chosen events have.

    Args:
        batch: T events with at least one condition.
        chosen: ``[m]`` places of events that are predicted; those under a rare condition are left out where there are
            more than :data:`MOST` conditions.

    Example::

        >>> batch = SequenceBatch(
        ...     users=torch.tensor([0, 1]), offsets=torch.tensor([0, 2, 3]), items=torch.tensor([5, 6, 7]),
        ...     conditions={"action": torch.tensor([1, 2, 1])}, times=torch.zeros(3, dtype=torch.int64),
        ... )
        >>> asked = questions(batch, torch.tensor([1, 2]))
        >>> asked.own.tolist(), asked.prefix.tolist(), asked.conditions["action"].tolist()
        ([1, 0], [1, 1, 0, 0], [1, 2, 1, 2])
    """
    ids = torch.stack([values[chosen] for values in batch.conditions.values()])
    kinds, own, frequency = torch.unique(ids, dim=1, return_inverse=True, return_counts=True)
    if kinds.shape[1] > MOST:
        kept = frequency.topk(MOST).indices
        renamed = torch.full_like(frequency, -1)
        renamed[kept] = torch.arange(MOST, device=kept.device)
        known = renamed[own] >= 0
        chosen, own, kinds = chosen[known], renamed[own[known]], kinds[:, kept]
    count = kinds.shape[1]
    owners = batch.owners
    before = torch.arange(len(owners), device=owners.device) - batch.offsets[owners]
    return Questions(
        events=chosen,
        own=own,
        row=owners[chosen].repeat_interleave(count),
        prefix=before[chosen].repeat_interleave(count),
        conditions={name: kinds[at].repeat(len(chosen)) for at, name in enumerate(batch.conditions)},
        count=count,
    )
