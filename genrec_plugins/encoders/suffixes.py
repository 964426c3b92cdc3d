"""Many continuations of shared prefixes in one pass: group queries, beams of a search.

M suffixes of t tokens hang on the rows of a batch; suffix m sees the first ``prefix[m]`` tokens of its row and its own
earlier tokens, and no other suffix. The prefix's keys and values are computed once, whatever M is.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Int64 = npt.NDArray[np.int64]

#: Scores of padding that cost as much as one more call.
CALL_COST = 16_000
#: Suffixes of one row that are attended together at most; more of them are cut into several groups.
MAX_TOGETHER = 64


class Suffixes:
    """Which suffix hangs where, laid out for attention; made once a pass for all layers.

    Suffixes of one row share a place ("seat row") in a padded rectangle: ``[G, n]`` suffixes against ``[G, S]`` tokens
    of the prefix.

    Args:
        offsets: ``[B + 1]`` of the tokens of the prefixes.
        row: ``[M]`` row of each suffix.
        prefix: ``[M]`` tokens of that row it sees.

    Example::

        >>> suffixes = Suffixes(torch.tensor([0, 2, 5]), row=torch.tensor([1, 1, 0]), prefix=torch.tensor([3, 0, 1]))
        >>> v = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).view(5, 1, 1)
        >>> own = torch.zeros(3, 1, 3, 1, 1)  # with equal scores, attention is the mean of what is seen
        >>> suffixes.attend(own, torch.zeros_like(v), v).flatten().tolist()
        [3.0, 0.0, 0.5]
    """

    def __init__(self, offsets: Tensor, row: Tensor, prefix: Tensor) -> None:
        device = row.device
        rows, seen, starts = (x.detach().cpu().numpy().astype(np.int64) for x in (row, prefix, offsets))
        self._groups: list[tuple[Tensor, Tensor, Tensor]] = []
        places = []
        for seats in _rectangles(rows, seen):
            first = starts[rows[seats[:, 0]]]
            width = int(seen[seats].max())
            tokens = np.minimum(first[:, None] + np.arange(width), max(int(starts[-1]) - 1, 0))
            hidden = np.arange(width) >= seen[seats][:, :, None]
            self._groups.append(tuple(torch.from_numpy(x).to(device) for x in (seats, tokens, hidden)))  # type: ignore[arg-type]
            places.append(seats.ravel())
        back = np.zeros(len(rows), dtype=np.int64)
        if places:
            flat = np.concatenate(places)
            back[flat[::-1]] = np.arange(len(flat))[::-1]
        self._back = torch.from_numpy(back).to(device)

    def attend(self, heads: Tensor, prefix_key: Tensor, prefix_value: Tensor) -> Tensor:
        """Softmax attention of every suffix token over its prefix and its own suffix up to itself.

        Args:
            heads: the suffixes' queries, keys and values, ``[M, t, 3, H, d]``.
            prefix_key: flat ``[T, H, d]``, and so ``prefix_value``.
            prefix_value: see ``prefix_key``.

        Returns:
            ``[M, t, H, d]``.
        """
        size, scale = heads.shape[1], heads.shape[-1] ** -0.5
        later = torch.ones(size, size, dtype=torch.bool, device=heads.device).triu(1)
        results = [heads[:0, :, 2]]
        for seats, tokens, hidden in self._groups:
            q, k, v = heads[seats].unbind(3)  # each [G, n, t, H, d]
            shared_k, shared_v = prefix_key[tokens], prefix_value[tokens]  # [G, S, H, d]
            q = q * scale
            of_prefix = torch.einsum("gnihd,gshd->ghnis", q, shared_k)
            of_prefix = of_prefix.masked_fill(hidden[:, None, :, None, :], float("-inf"))
            of_own = torch.einsum("gnihd,gnjhd->ghnij", q, k).masked_fill(later, float("-inf"))
            weights = torch.cat([of_prefix, of_own], dim=-1).softmax(dim=-1)
            mixed = torch.einsum("ghnis,gshd->gnihd", weights[..., : tokens.shape[1]], shared_v)
            mixed = mixed + torch.einsum("ghnij,gnjhd->gnihd", weights[..., tokens.shape[1] :], v)
            results.append(mixed.flatten(0, 1))
        return torch.cat(results).index_select(0, self._back)


def _rectangles(rows: Int64, seen: Int64) -> Iterator[Int64]:
    """Suffixes ``[G, n]``: each line of one row; short lines are filled up with their last suffix again."""
    if not len(rows):
        return
    order = np.lexsort((seen, rows))
    starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
    place = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    starts = np.flatnonzero(place % MAX_TOGETHER == 0)
    lines = np.stack([starts, np.diff(starts, append=len(rows))], axis=1)
    longest = seen[order][lines.sum(axis=1) - 1]
    by_size = np.lexsort((-longest, -lines[:, 1]))
    begin = area = count = width = 0
    for end, line in enumerate(by_size.tolist()):
        count, width = max(count, int(lines[line, 1])), max(width, int(longest[line]) + 1)
        area += int(lines[line, 1] * (longest[line] + 1))
        if end > begin and (end + 1 - begin) * count * width - area > CALL_COST:
            yield _seats(order, lines[by_size[begin:end]])
            begin, count, width = end, int(lines[line, 1]), int(longest[line]) + 1
            area = count * width
    yield _seats(order, lines[by_size[begin:]])


def _seats(order: Int64, lines: Int64) -> Int64:
    places = np.arange(lines[:, 1].max())
    return order[lines[:, :1] + np.minimum(places, lines[:, 1:] - 1)]
