"""One LUM for all uses: it generates items code by code, and answers queries with vectors.

The output at a condition token predicts the first code of the item to come (:mod:`genrec_plugins.lum.generative`). Here
it is compared with item vectors besides, made of the items' codes, so that the same weights give ``o_q`` and
``sim(o_q, e_i)`` to a ranker (lum.md, steps 2 and 3).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from genrec_plugins.encoders.causal_stack import ScaledLinear
from genrec_plugins.lum.batches import SequenceBatch
from genrec_plugins.lum.contrast import questions
from genrec_plugins.lum.generative import GenerativeLum


class KnowingLum(GenerativeLum):
    """A generative LUM with InfoNCE at its condition tokens.

    ``L = L_codes + knowledge * (L_InfoNCE + condition_contrast * L_contrast)``; InfoNCE is the exact softmax over the
    catalogue's cosines.

    Args:
        codes: as in :class:`~genrec_plugins.lum.generative.GenerativeLum`, as are the options not named here.
        sizes: codes of each level.
        conditions: ids of each condition.
        knowledge: weight of the second loss.
        temperature: tau.
        condition_contrast: weight of the contrast between conditions (:mod:`genrec_plugins.lum.contrast`).
        options: of the generative LUM.

    Example::

        >>> codes = torch.tensor([[-1, -1], [0, 2], [1, 0], [1, 1]])
        >>> model = KnowingLum(codes, sizes=(2, 3), hidden=8, layers=1, heads=2).eval()
        >>> batch = SequenceBatch(
        ...     users=torch.tensor([0, 1]), offsets=torch.tensor([0, 2, 3]), items=torch.tensor([1, 3, 2]),
        ...     conditions={}, times=torch.zeros(3, dtype=torch.int64),
        ... )
        >>> model.answers(batch, torch.tensor([0, 1]), torch.tensor([2, 0])).shape, model.catalogue_vectors().shape
        (torch.Size([2, 8]), torch.Size([4, 8]))
    """

    def __init__(
        self,
        codes: Tensor,
        sizes: Sequence[int],
        conditions: Mapping[str, int] | None = None,
        *,
        knowledge: float = 1.0,
        temperature: float = 0.1,
        condition_contrast: float = 0.0,
        hidden: int = 128,
        **options: Any,
    ) -> None:
        super().__init__(codes, sizes, conditions, hidden=hidden, **options)
        self.knowledge = knowledge
        self.temperature = temperature
        self.condition_contrast = condition_contrast
        self.conditions = tuple(conditions or {})
        self.item_map = ScaledLinear(hidden, hidden)

    def item_vectors(self, rows: Tensor) -> Tensor:
        """Vectors ``[M, h]`` of length 1 of catalogue rows ``[M]``: a linear map of the sum of their codes' tokens."""
        codes = self.item_codes.to(rows.device)[rows]
        tokens = torch.stack([self.tokens.code(level, codes[:, level]) for level in range(self.levels)])
        return functional.normalize(self.item_map(tokens.sum(dim=0)).float(), dim=-1)

    def catalogue_vectors(self) -> Tensor:
        """Vectors ``[N, h]`` of the whole catalogue; row 0 stands for unknown items."""
        return self.item_vectors(torch.arange(len(self.item_codes), device=self.tokens.begin.device))

    def answers(
        self, batch: SequenceBatch, row: Tensor, prefix: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Answers ``[M, h]`` of length 1 to M queries that share the histories of a batch.

        Args:
            batch: histories.
            row: ``[M]`` the row of the batch each query is about.
            prefix: ``[M]`` events of the row that it sees.
            conditions: ``[M]`` ids by condition; one that is not given is unknown.
        """
        tokens, offsets, _ = self.history(batch)
        asked = self.tokens.condition(conditions or {}, len(row)).unsqueeze(1)
        before = prefix * (self.levels + 1) + (self.tokens.users is not None)
        found = self.stack.extend(asked, row, before, self.stack.remember(tokens, offsets))
        return functional.normalize(found.squeeze(1).float(), dim=-1)

    def loss(self, batch: SequenceBatch) -> Tensor:
        """The loss of the codes and the weighted loss of the vectors."""
        tokens, offsets, first = self.history(batch)
        states = self.stack(tokens, offsets)
        loss = self._code_loss(batch, states, first)
        chosen = torch.nonzero(batch.items > 0).squeeze(1)
        if not len(chosen):
            return loss
        answers = functional.normalize(states[first[chosen]].float(), dim=-1)
        logits = answers @ self.catalogue_vectors()[1:].T / self.temperature
        second = functional.cross_entropy(logits, batch.items[chosen] - 1)
        if self.condition_contrast:
            asked = questions(batch, chosen)
            found = self.answers(batch, asked.row, asked.prefix, asked.conditions).unflatten(0, (-1, asked.count))
            likeness = (found * self.item_vectors(batch.items[asked.events])[:, None]).sum(dim=2) / self.temperature
            second = second + self.condition_contrast * functional.cross_entropy(likeness, asked.own)
        return loss + self.knowledge * second
