"""Beam search over item codes that only walks prefixes which exist, for all users of a batch at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_plugins.lum.prefix_tree import PrefixTree

#: ``(level, row [M], codes [M, level]) -> logits [M, K]``: scores of the next code of M beams of users ``row``
Scorer = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Items of B users, best first.

    Args:
        items: ``[B, k]`` catalogue rows; 0 where the beam held fewer than k items.
        scores: ``[B, k]`` log-probability of the item's ID; -inf where there is no item.
    """

    items: Tensor
    scores: Tensor


@torch.no_grad()
def beam_search(
    scorer: Scorer,
    tree: PrefixTree,
    users: int,
    *,
    k: int,
    width: int,
    renormalise: bool = True,
    seen: tuple[Tensor, Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> Found:
    """The k most likely items of each user under a model of codes.

    Level by level, the ``width`` best prefixes of a user are kept. All items of a kept ID are returned. Equal scores
    are ordered by ID (its codes), and within an ID as the tree orders its items. A beam as wide as the widest level
    of the tree gives the exact ranking of the whole catalogue.

    Args:
        scorer: logits of the next code.
        tree: prefixes that exist.
        users: B.
        k: items wanted of each user.
        width: prefixes kept of each user; the last level keeps as many items as are wanted.
        renormalise: whether probabilities are over the codes that may follow (they then sum to one over the
            catalogue, and a prefix with one child needs no forward pass), or over the whole codebook.
        seen: ``[S]`` users and ``[S]`` items not to return.
        device: where the tree is.

    Example::

        >>> tree = PrefixTree(torch.tensor([[-1, -1], [0, 1], [1, 0], [1, 1]]), sizes=(2, 2))
        >>> def scorer(level, row, codes):  # code 1 is twice as likely as code 0
        ...     return torch.tensor([1.0, 2.0]).log().expand(len(row), 2)
        >>> found = beam_search(scorer, tree, users=1, k=3, width=2)
        >>> found.items.tolist(), found.scores.exp().mul(9).round().tolist()
        ([[3, 1, 2]], [[4.0, 3.0, 2.0]])
    """
    # A beam is (user, node, score), in flat arrays sorted by user, then node: ties are then settled by order alone.
    user = torch.arange(users, device=device)
    node = torch.zeros(users, dtype=torch.int64, device=device)
    score = torch.zeros(users, device=device)
    for level in range(tree.levels):
        owner, child, gain = _step(scorer, tree, level, user, node, renormalise)
        user, node, score = user[owner], child, score[owner] + gain
        if level < tree.levels - 1:
            kept = best_of_each(user, score, users, width)
            user, node, score = user[kept], node[kept], score[kept]
    owner, item = tree.items(node)
    user, score = user[owner], score[owner]
    if seen is not None:
        rows = 1 + max(tree.max_item, int(seen[1].max()) if len(seen[1]) else 0)
        fresh = ~torch.isin(user * rows + item, seen[0] * rows + seen[1])
        user, item, score = user[fresh], item[fresh], score[fresh]
    kept = best_of_each(user, score, users, k)
    return _table(user[kept], item[kept], score[kept], users, k)


def _step(
    scorer: Scorer, tree: PrefixTree, level: int, user: Tensor, node: Tensor, renormalise: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Children of beams: which beam, which node, and the log-probability of its last code."""
    owner, child = tree.children(level, node)
    gain = torch.zeros(len(child), device=node.device)
    # Where a prefix has one child, renormalised probability is 1: the model need not be asked.
    asked = tree.child_counts(level, node) > 1 if renormalise else torch.ones_like(node, dtype=torch.bool)
    if bool(asked.any()):
        place = torch.cumsum(asked, dim=0) - 1
        logits = scorer(level, user[asked], tree.codes(level, node[asked])).float()
        if renormalise:
            logits = logits.masked_fill(~tree.mask(level, node[asked]), -torch.inf)
        found = asked[owner]
        gain[found] = torch.log_softmax(logits, dim=1)[place[owner[found]], tree.last_codes(level + 1, child[found])]
    return owner, child, gain


def best_of_each(user: Tensor, score: Tensor, users: int, keep: int) -> Tensor:
    """Positions of the ``keep`` best scores of each user, in their old order; of equal scores the earlier stay.

    Args:
        user: ``[C]``, ascending.
        score: ``[C]``.
        users: B.
        keep: at most so many of each.

    Example::

        >>> best_of_each(torch.tensor([0, 0, 0, 1]), torch.tensor([1.0, 3.0, 1.0, 2.0]), users=2, keep=2).tolist()
        [0, 1, 3]
    """
    counts = torch.bincount(user, minlength=users)
    most = int(counts.max()) if len(user) else 0
    if most <= keep:
        return torch.arange(len(user), device=user.device)
    column = torch.arange(len(user), device=user.device) - (torch.cumsum(counts, dim=0) - counts)[user]
    table = score.new_full((users, most), -torch.inf)
    table[user, column] = score
    # topk does not say which of equal values it takes, so only its threshold is used.
    threshold = table.topk(keep, dim=1).values[:, -1:]
    above, equal = table > threshold, table == threshold
    room = keep - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (torch.cumsum(equal, dim=1) <= room))
    return torch.nonzero(chosen[user, column]).squeeze(1)


def _table(user: Tensor, item: Tensor, score: Tensor, users: int, k: int) -> Found:
    """Flat results, sorted by user, as one table with a row a user, best first."""
    order = torch.sort(score, descending=True, stable=True).indices
    order = order[torch.sort(user[order], stable=True).indices]
    user, item, score = user[order], item[order], score[order]
    counts = torch.bincount(user, minlength=users)
    column = torch.arange(len(user), device=user.device) - (torch.cumsum(counts, dim=0) - counts)[user]
    items = torch.zeros(users, k, dtype=torch.int64, device=user.device)
    scores = score.new_full((users, k), -torch.inf)
    items[user, column], scores[user, column] = item, score
    return Found(items=items, scores=scores)
