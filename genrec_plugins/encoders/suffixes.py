"""Many continuations of shared prefixes in one pass: group queries, beams of a search.

M suffixes of t tokens hang on the rows of a batch; suffix m sees the first ``prefix[m]`` tokens of its row and its own
earlier tokens, and no other suffix. The prefix's keys and values are computed once, whatever M is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec_plugins.encoders.varlen import CALL_COST

Int64 = npt.NDArray[np.int64]

#: Suffixes of one row that are attended together at most; more of them are cut into several lines.
LINE = 64


@dataclass(frozen=True)
class Group:
    """G lines of n suffixes each; all suffixes of a line continue the same row, of which S tokens are looked at.

    Args:
        shape: G and n.
        width: S.
        hidden: ``[G, n, S]`` true where a suffix must not look: behind its prefix.
    """

    shape: tuple[int, int]
    width: int
    hidden: Tensor


class Suffixes:
    """Which suffix hangs where, laid out for attention; made once a pass for all layers.

    Args:
        offsets: ``[B + 1]`` of the tokens of the prefixes.
        row: ``[M]`` row of each suffix.
        prefix: ``[M]`` tokens of that row it sees.

    Example::

        >>> suffixes = Suffixes(torch.tensor([0, 2, 5]), row=torch.tensor([1, 1, 0]), prefix=torch.tensor([3, 0, 1]))
        >>> own = torch.zeros(3, 1, 3, 1, 1)  # with equal scores, attention is the mean of what is seen
        >>> shared = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).view(5, 1, 1, 1) * torch.tensor([0.0, 1.0]).view(2, 1, 1)
        >>> suffixes.attend(own, shared).flatten().tolist()
        [3.0, 0.0, 0.5]
    """

    def __init__(self, offsets: Tensor, row: Tensor, prefix: Tensor) -> None:
        device = row.device
        rows, seen, starts = (x.detach().cpu().numpy().astype(np.int64) for x in (row, prefix, offsets))
        last = np.maximum(starts[1:] - 1, 0)
        seats, tokens = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        self._groups: list[Group] = []
        for group in _groups(rows, seen):
            line = rows[group[:, 0]]
            places = np.arange(seen[group].max())
            hidden = torch.from_numpy(places >= seen[group][:, :, None]).to(device)
            self._groups.append(Group((group.shape[0], group.shape[1]), len(places), hidden))
            seats.append(group.ravel())
            tokens.append(np.minimum(starts[line][:, None] + places, last[line][:, None]).ravel())
        gather = np.concatenate(seats)
        back = np.zeros(len(rows), dtype=np.int64)
        back[gather] = np.arange(len(gather))
        self._gather = torch.from_numpy(gather).to(device)
        self._tokens = torch.from_numpy(np.concatenate(tokens)).to(device)
        self._back = torch.from_numpy(back).to(device)

    def attend(self, heads: Tensor, prefixes: Tensor) -> Tensor:
        """Softmax attention of every suffix token over its prefix and its own suffix up to itself.

        Args:
            heads: the suffixes' queries, keys and values, ``[M, t, 3, H, d]``.
            prefixes: keys and values of the rows, flat ``[T, 2, H, d]``.

        Returns:
            ``[M, t, H, d]``.
        """
        sizes = [group.shape[0] * group.shape[1] for group in self._groups]
        widths = [group.shape[0] * group.width for group in self._groups]
        own = heads.index_select(0, self._gather).split(sizes)
        shared = prefixes.index_select(0, self._tokens).split(widths)
        results = [
            _attend(
                group, suffix.unflatten(0, group.shape), prefix.view(group.shape[0], group.width, *prefix.shape[1:])
            )
            for group, suffix, prefix in zip(self._groups, own, shared, strict=True)
        ]
        return torch.cat(results).index_select(0, self._back) if results else heads[:, :, 2]


def _attend(group: Group, suffix: Tensor, prefix: Tensor) -> Tensor:
    """One group: ``[G, n, t, 3, H, d]`` and ``[G, S, 2, H, d]`` to ``[G n, t, H, d]``."""
    query, own_key, own_value = suffix.unbind(3)
    key, value = prefix.unbind(2)
    query = query * query.shape[-1] ** -0.5
    later = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device).triu(1)
    of_prefix = torch.einsum("gnihd,gshd->ghnis", query, key)
    of_prefix = of_prefix.masked_fill(group.hidden[:, None, :, None, :], float("-inf"))
    of_own = torch.einsum("gnihd,gnjhd->ghnij", query, own_key).masked_fill(later, float("-inf"))
    weights = torch.cat([of_prefix, of_own], dim=-1).softmax(dim=-1)
    mixed = torch.einsum("ghnis,gshd->gnihd", weights[..., : group.width], value)
    mixed = mixed + torch.einsum("ghnij,gnjhd->gnihd", weights[..., group.width :], own_value)
    return mixed.flatten(0, 1)


def _groups(rows: Int64, seen: Int64) -> Iterator[Int64]:
    """Suffixes ``[G, n]``, each line of one row; short lines are filled up with their last suffix.

    Lines go from the one with most suffixes (and then tokens) down; a group is closed where going on would cost more
    padding than another call.
    """
    if not len(rows):
        return
    order = np.lexsort((seen, rows))
    firsts = np.flatnonzero(np.diff(rows[order], prepend=-1))
    place = np.arange(len(rows)) - np.repeat(firsts, np.diff(firsts, append=len(rows)))
    starts = np.flatnonzero(place % LINE == 0)
    counts = np.diff(starts, append=len(rows))
    tokens = seen[order][starts + counts - 1] + 1  # a line's suffixes are in order of what they see
    lines = np.lexsort((-tokens, -counts))
    begin = most = widest = area = 0
    for end, (count, width) in enumerate(zip(counts[lines].tolist(), tokens[lines].tolist(), strict=True)):
        most, widest, area = max(most, count), max(widest, width), area + count * width
        if (end + 1 - begin) * most * widest - area > CALL_COST:
            yield _filled(order, starts[lines[begin:end]], counts[lines[begin:end]])
            begin, most, widest, area = end, count, width, count * width
    yield _filled(order, starts[lines[begin:]], counts[lines[begin:]])


def _filled(order: Int64, starts: Int64, counts: Int64) -> Int64:
    places = np.arange(counts.max())
    return order[starts[:, None] + np.minimum(places, counts[:, None] - 1)]
