"""The prefixes that exist among the items' codes: what constrained decoding may generate, and the items it ends at."""

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_registry.errors import DataError


class PrefixTree:
    """A trie of codes in flat arrays: nodes of level l are the distinct prefixes of l codes, in sorted order.

    A prefix is one int64, its mixed-radix key ``((c_1 K_2 + c_2) K_3 + c_3) ...``. Because keys are sorted, the
    children of a node stand side by side on the next level, so that a CSR offset array holds the whole tree, and no
    prefix is ever compared with every item.

    Args:
        codes: ``[N, L]`` codes of each item (catalogue row); a row with -1 has no ID and is left out.
        sizes: codes of each level.
        popularity: ``[N]``; items that share an ID come by falling popularity, then by row. By row alone if None.

    Raises:
        DataError: the keys do not fit 63 bits, or no item has codes.

    Example::

        >>> tree = PrefixTree(torch.tensor([[-1, -1], [0, 2], [1, 0], [0, 2], [0, 1]]), sizes=(2, 3))
        >>> tree.num_nodes, tree.mask(1, torch.tensor([0])).tolist()  # below the prefix (0,): codes 1 and 2
        ((1, 2, 3), [[False, True, True]])
        >>> [items.tolist() for items in tree.items(torch.tensor([1]))]  # leaf 1 is (0, 2), of items 1 and 3
        [[0, 0], [1, 3]]
    """

    def __init__(self, codes: Tensor, sizes: Sequence[int], popularity: Tensor | None = None) -> None:
        self.sizes = tuple(int(size) for size in sizes)
        space = 1
        for size in self.sizes:
            space *= size
        if space > torch.iinfo(torch.int64).max:
            raise DataError(f"codebooks of sizes {self.sizes} allow more IDs than 63 bits hold; use fewer levels")
        codes = codes.to("cpu", torch.int64)
        rows = torch.nonzero((codes >= 0).all(dim=1)).squeeze(1)
        if not len(rows):
            raise DataError("no item has codes; name the codes of this catalogue's items")
        if popularity is not None:
            rows = rows[torch.sort(popularity.cpu()[rows], descending=True, stable=True).indices]
        keys = [torch.zeros_like(rows)]
        for level, size in enumerate(self.sizes):
            keys.append(keys[-1] * size + codes[rows, level])
        order = torch.sort(keys[-1], stable=True).indices
        #: per level, the sorted keys of its nodes; level 0 is the root, level L has the IDs (leaves)
        self.keys: list[Tensor] = [torch.unique_consecutive(key[order]) for key in keys]
        #: per level, ``[nodes + 1]``: node n's children are nodes ``starts[n]`` to ``starts[n + 1]`` of the next level
        self.starts: list[Tensor] = []
        for level, size in enumerate(self.sizes):
            parents = torch.div(self.keys[level + 1], size, rounding_mode="floor")
            self.starts.append(_offsets(torch.searchsorted(parents, self.keys[level]), len(parents)))
        #: the largest row of an item with codes
        self.max_item = int(rows.max())
        self._items = rows[order]
        self._item_starts = _offsets(torch.searchsorted(keys[-1][order], self.keys[-1]), len(rows))

    @property
    def levels(self) -> int:
        """L."""
        return len(self.sizes)

    @property
    def num_nodes(self) -> tuple[int, ...]:
        """Nodes of levels 0 (one: the root) to L (the IDs)."""
        return tuple(len(keys) for keys in self.keys)

    def to(self, device: torch.device | str) -> "PrefixTree":
        """This tree, its arrays moved to ``device``."""
        self.keys = [keys.to(device) for keys in self.keys]
        self.starts = [starts.to(device) for starts in self.starts]
        self._items, self._item_starts = self._items.to(device), self._item_starts.to(device)
        return self

    def find(self, prefixes: Tensor) -> Tensor:
        """Nodes of prefixes: ``[M, l]`` codes to ``[M]`` nodes of level l, -1 where no item has the prefix."""
        key = torch.zeros(len(prefixes), dtype=torch.int64, device=prefixes.device)
        known = torch.ones_like(key, dtype=torch.bool)
        for level in range(prefixes.shape[1]):
            code = prefixes[:, level].to(torch.int64)
            known &= (code >= 0) & (code < self.sizes[level])
            key = key * self.sizes[level] + code
        keys = self.keys[prefixes.shape[1]]
        node = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
        return torch.where(known & (keys[node] == key), node, -1)

    def codes(self, level: int, nodes: Tensor) -> Tensor:
        """The prefixes of nodes of a level: ``[M]`` to ``[M, level]`` codes."""
        key = self.keys[level][nodes]
        codes = []
        for size in reversed(self.sizes[:level]):
            codes.append(key % size)
            key = torch.div(key, size, rounding_mode="floor")
        return torch.stack(codes[::-1], dim=1) if codes else key.new_zeros(len(nodes), 0)

    def child_counts(self, level: int, nodes: Tensor) -> Tensor:
        """How many codes may follow each of ``[M]`` nodes."""
        return self.starts[level][nodes + 1] - self.starts[level][nodes]

    def children(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """All children of ``[M]`` nodes of a level, as a flat list.

        Returns:
            ``[C]`` which of the M nodes, and ``[C]`` the child: a node of the next level.
        """
        return _gather_ranges(self.starts[level], nodes)

    def last_codes(self, level: int, nodes: Tensor) -> Tensor:
        """The last code of each node of a level (1 to L)."""
        return self.keys[level][nodes] % self.sizes[level - 1]

    def mask(self, level: int, nodes: Tensor) -> Tensor:
        """Which codes may follow: ``[M]`` nodes of a level to ``[M, K]`` booleans."""
        allowed = torch.zeros(len(nodes), self.sizes[level], dtype=torch.bool, device=nodes.device)
        owner, child = self.children(level, nodes)
        allowed[owner, self.last_codes(level + 1, child)] = True
        return allowed

    def items(self, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """All items of ``[M]`` IDs, as a flat list in the order of IDs, then of popularity.

        Returns:
            ``[C]`` which of the M IDs, and ``[C]`` the item's row.
        """
        owner, position = _gather_ranges(self._item_starts, leaves)
        return owner, self._items[position]


def _offsets(firsts: Tensor, total: int) -> Tensor:
    return torch.cat([firsts, firsts.new_tensor([total])])


def _gather_ranges(starts: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers ``starts[n]`` to ``starts[n + 1]`` of every node, flat, each with the position of its node."""
    first = starts[nodes]
    counts = starts[nodes + 1] - first
    owner = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), counts)
    before = torch.cumsum(counts, dim=0) - counts
    return owner, torch.arange(len(owner), device=nodes.device) + (first - before)[owner]
