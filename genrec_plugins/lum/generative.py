"""LUM whose item token is its L code tokens: next-token prediction over semantic IDs (lum.md, step 1; TIGER, OneRec).

- a user's row is ``c_1, s_11 .. s_1L, c_2, s_21 .. s_2L, ...``: c is the condition of the item that comes, or a
  learned begin token where there are none; users stand one after the other without padding
- c predicts code 1, code 1 predicts code 2, ...; every level has its own small vocabulary and head
- probability is shared by the codes that some item has behind the same prefix, in training as in search
- the last code of an item predicts nothing; the next condition token does, so that a query can ask for another one
- ``recommend`` computes the history once, then walks only codes that exist (:mod:`genrec_plugins.lum.beam`)
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec_adapters.item_codes import ItemCodes
from genrec_plugins.encoders.causal_stack import CausalStack
from genrec_plugins.lum.batches import SequenceBatch
from genrec_plugins.lum.beam import Found, beam_search
from genrec_plugins.lum.prefix_tree import PrefixTree
from genrec_plugins.module_names import module_name
from genrec_registry.errors import DataError, ModelError

#: beams searched at once; the suffixes of all of them are in memory together
BEAMS = 8192


def catalogue_codes(items: Sequence[str], codes: ItemCodes) -> Tensor:
    """Codes of each catalogue row, ``[N, L]``; -1 for row 0, the unknown item.

    Args:
        items: ``[N]`` item ids by catalogue row, as ``catalogue.items.values``.
        codes: semantic IDs.

    Raises:
        DataError: an item has none.

    Example::

        >>> import numpy as np
        >>> codes = ItemCodes(items=("b", "a"), codes=np.array([[0, 3], [1, 2]], np.int32), sizes=(2, 4))
        >>> catalogue_codes(["", "a", "b"], codes).tolist()
        [[-1, -1], [1, 2], [0, 3]]
    """
    found = torch.from_numpy(codes.of(items)).to(torch.int64)
    found[0] = -1
    missing = torch.nonzero(found[1:, 0] < 0).flatten() + 1
    if len(missing):
        raise DataError(
            f"{len(missing):,} of {len(items) - 1:,} items have no codes, as '{items[int(missing[0])]}'; expected "
            "codes for all; fit the tokenizer on these items, or leave out rare ones with items.min_count"
        )
    return found


class CodeTokens(nn.Module):
    """Events to tokens: begin token plus condition embeddings, then one embedding a code.

    Args:
        sizes: codes of each level; every level has one more row, for items without an ID.
        conditions: ids of each condition.
        hidden: width h.
        users: rows of the hashed table of user tokens, one token before the first event; 0 for none.

    Example::

        >>> tokens = CodeTokens(sizes=(4, 3), conditions={"action": 5}, hidden=8)
        >>> tokens.events(torch.tensor([[0, 2], [-1, -1]]), {"action": torch.tensor([1, 2])}).shape
        torch.Size([2, 3, 8])
    """

    def __init__(self, sizes: Sequence[int], conditions: Mapping[str, int], hidden: int, users: int = 0) -> None:
        super().__init__()
        self.begin = nn.Parameter(torch.empty(hidden))
        self.codes = nn.ModuleList(nn.Embedding(size + 1, hidden) for size in sizes)
        self.names = tuple(conditions)
        tables = {module_name(name): nn.Embedding(size, hidden) for name, size in conditions.items()}
        self.conditions = nn.ModuleDict(tables)
        self.users = nn.Embedding(users, hidden) if users else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw everything from N(0, 0.02): tokens begin small beside the residual branches' norms."""
        nn.init.normal_(self.begin, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def condition(self, conditions: Mapping[str, Tensor], count: int) -> Tensor:
        """Condition tokens ``[count, h]`` of ``[count]`` ids by condition; one that is not named is unknown, id 0."""
        token = self.begin.expand(count, -1)
        for name, table in zip(self.names, self.conditions.values(), strict=True):
            assert isinstance(table, nn.Embedding)
            token = token + (table(conditions[name]) if name in conditions else table.weight[0])
        return token

    def code(self, level: int, codes: Tensor) -> Tensor:
        """Tokens ``[M, h]`` of codes ``[M]`` of one level; -1 is an item without an ID."""
        table = self.codes[level]
        assert isinstance(table, nn.Embedding)
        return table(torch.where(codes < 0, table.num_embeddings - 1, codes))

    def events(self, codes: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Tokens of T events, ``[T, 1 + L, h]``."""
        tokens = [self.condition(conditions, len(codes))]
        tokens += [self.code(level, codes[:, level]) for level in range(codes.shape[1])]
        return torch.stack(tokens, dim=1)


class GenerativeLum(nn.Module):
    """A causal transformer over conditions and codes, with one head a level.

    Args:
        codes: ``[N, L]`` codes of each catalogue row; -1 for a row without an ID (row 0, the unknown item).
        sizes: codes of each level.
        conditions: ids of each condition.
        hidden: width h.
        layers: blocks.
        heads: attention heads.
        dropout: of the stack, on tokens and branches.
        label_smoothing: of the cross-entropy, over the codes that probability is over.
        tied: whether a level's head is its token table.
        user_buckets: rows of the table of hashed user tokens; 0 for none.
        last_only: loss on the last item of each row only, as TIGER; on all of them otherwise.
        event_dropout: share of the history's items that are hidden from the model in training.
        beam_width: prefixes kept in ``recommend``.
        renormalise: probabilities, in the loss and in beam search, are over the codes that may follow; the loss is then
            exactly the negative log-probability of the item's ID among all IDs. Otherwise over the whole codebook.
        popularity: ``[N]``, orders the items of one ID.

    Example::

        >>> codes = torch.tensor([[-1, -1], [0, 2], [1, 0], [1, 1]])
        >>> model = GenerativeLum(codes, sizes=(2, 3), hidden=8, layers=1, heads=2).eval()
        >>> batch = SequenceBatch(
        ...     users=torch.tensor([0, 1]), offsets=torch.tensor([0, 2, 3]), items=torch.tensor([1, 3, 2]),
        ...     conditions={}, times=torch.zeros(3, dtype=torch.int64),
        ... )
        >>> model.loss(batch).ndim, model.recommend(batch, k=3).shape
        (0, torch.Size([2, 3]))
    """

    def __init__(
        self,
        codes: Tensor,
        sizes: Sequence[int],
        conditions: Mapping[str, int] | None = None,
        *,
        hidden: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        tied: bool = False,
        user_buckets: int = 0,
        last_only: bool = False,
        event_dropout: float = 0.0,
        beam_width: int = 30,
        renormalise: bool = True,
        popularity: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.sizes = tuple(int(size) for size in sizes)
        self.label_smoothing = label_smoothing
        self.last_only = last_only
        self.event_dropout = event_dropout
        self.beam_width = beam_width
        self.renormalise = renormalise
        # Facts of the data, not parameters: plain tensors, which a meta-device build leaves alone.
        self.item_codes = codes.to(torch.int64)
        self.tree = PrefixTree(codes, sizes, popularity)
        self._prefixes = torch.stack([self.tree.find(self.item_codes[:, :level]) for level in range(len(sizes))], dim=1)
        self.tokens = CodeTokens(sizes, conditions or {}, hidden, user_buckets)
        self.stack = CausalStack(hidden=hidden, layers=layers, heads=heads, dropout=dropout)
        self.heads = nn.ModuleList() if tied else nn.ModuleList(nn.Linear(hidden, size, bias=False) for size in sizes)

    def get_extra_state(self) -> Tensor:
        """The items' codes, which the weights mean nothing without."""
        return self.item_codes.to("cpu", torch.int32)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare the codes with those the weights were trained on.

        Raises:
            ModelError: they are others.
        """
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise ModelError(
                "the items' codes are not those the weights were trained on; restore the files of objective.codes, or "
                "pre-train again"
            )

    @property
    def levels(self) -> int:
        """L."""
        return len(self.sizes)

    def logits(self, level: int, states: Tensor) -> Tensor:
        """``[M, h]`` states to ``[M, K]`` logits of the code of a level (0-based)."""
        if self.heads:
            return self.heads[level](states)
        table = self.tokens.codes[level]
        assert isinstance(table, nn.Embedding)
        return functional.linear(states, table.weight[: self.sizes[level]])

    def _codes_of(self, batch: SequenceBatch) -> Tensor:
        if self.item_codes.device != batch.items.device:
            self.item_codes = self.item_codes.to(batch.items.device)
            self._prefixes = self._prefixes.to(batch.items.device)
            self.tree = self.tree.to(batch.items.device)
        return self.item_codes[batch.items]

    def history(self, batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor]:
        """All tokens of a batch.

        Returns:
            ``[N, h]`` tokens, ``[B + 1]`` their offsets, ``[T]`` the position of each event's condition token.
        """
        codes = self._codes_of(batch)
        if self.training and self.event_dropout:
            gone = torch.rand(len(codes), 1, device=codes.device) < self.event_dropout
            codes = codes.masked_fill(gone, -1)
        events = self.tokens.events(codes, batch.conditions)
        step = self.levels + 1
        owners = batch.owners
        first = torch.arange(len(events), device=owners.device) * step
        if self.tokens.users is None:
            return events.flatten(0, 1), batch.offsets * step, first
        rows = torch.arange(len(batch.users), device=owners.device)
        offsets = batch.offsets * step + torch.arange(len(batch.offsets), device=owners.device)
        first = first + owners + 1
        tokens = events.new_empty(int(offsets[-1]), events.shape[2])
        places = (first[:, None] + torch.arange(step, device=first.device)).flatten()
        user = self.tokens.users(batch.users % self.tokens.users.num_embeddings)
        tokens = tokens.index_copy(0, places, events.flatten(0, 1)).index_copy(0, offsets[rows], user)
        return tokens, offsets, first

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Cross-entropy of the next code, mean over the predicted items and their levels; zero where there is none."""
        tokens, offsets, first = self.history(batch)
        return self._code_loss(batch, self.stack(tokens, offsets), first)

    def _code_loss(self, batch: SequenceBatch, states: Tensor, first: Tensor) -> Tensor:
        """The loss of :meth:`loss` from the states ``[N, h]`` of all tokens and the places of condition tokens."""
        known = self._codes_of(batch)[:, 0] >= 0
        if self.last_only:
            last = torch.zeros_like(known)
            last[batch.offsets[1:][batch.lengths > 0] - 1] = True
            known = known & last
        places, items = first[known], batch.items[known]
        if not len(items):
            return states.sum() * 0.0
        losses = [self._level_loss(level, states[places + level], items) for level in range(self.levels)]
        return torch.stack(losses).sum() / (len(items) * self.levels)

    def _level_loss(self, level: int, states: Tensor, items: Tensor) -> Tensor:
        """Cross-entropy of one level's code, summed over ``[M, h]`` states and the ``[M]`` items that come."""
        codes = self.item_codes[items, level]
        if not self.renormalise:
            logits, smoothing = self.logits(level, states), self.label_smoothing
            return functional.cross_entropy(logits, codes, label_smoothing=smoothing, reduction="sum")
        prefixes = self._prefixes[items, level]
        # An only child is certain: its loss is zero, and nothing is computed for it.
        asked = torch.nonzero(self.tree.child_counts(level, prefixes) > 1).squeeze(1)
        allowed = self.tree.mask(level, prefixes[asked])
        logits = self.logits(level, states[asked]).float().masked_fill(~allowed, -torch.inf)
        log_p = torch.log_softmax(logits, dim=1)
        true = log_p.gather(1, codes[asked, None]).sum()
        even = (log_p.masked_fill(~allowed, 0.0).sum(dim=1) / allowed.sum(dim=1)).sum()
        return -(1 - self.label_smoothing) * true - self.label_smoothing * even

    @torch.no_grad()
    def retrieve(
        self,
        batch: SequenceBatch,
        k: int,
        *,
        seen: tuple[Tensor, Tensor] | None = None,
        conditions: Mapping[str, Tensor] | None = None,
        width: int = 0,
    ) -> Found:
        """The k most likely next items of each user, with their log-probabilities.

        Args:
            batch: histories.
            k: items a user.
            seen: ``[S]`` rows of the batch and ``[S]`` items not to return for them.
            conditions: ``[B]`` ids by condition, under which the next item is asked for.
            width: beams; ``beam_width`` if 0.
        """
        width = max(width or self.beam_width, k)
        tokens, offsets, _ = self.history(batch)
        cache = self.stack.remember(tokens, offsets)
        lengths = torch.diff(offsets)
        query = self.tokens.condition(conditions or {}, len(batch.users))

        def search(start: int, count: int) -> Found:
            def scorer(level: int, row: Tensor, codes: Tensor) -> Tensor:
                row = row + start
                suffix = [query[row]] + [self.tokens.code(at, codes[:, at]) for at in range(level)]
                states = self.stack.extend(torch.stack(suffix, dim=1), row, lengths[row], cache)
                return self.logits(level, states[:, -1])

            barred = None
            if seen is not None:
                here = (seen[0] >= start) & (seen[0] < start + count)
                barred = (seen[0][here] - start, seen[1][here])
            return beam_search(
                scorer,
                self.tree,
                count,
                k=k,
                width=width,
                renormalise=self.renormalise,
                seen=barred,
                device=tokens.device,
            )

        step = max(1, BEAMS // width)
        found = [search(at, min(step, len(query) - at)) for at in range(0, len(query), step)] or [search(0, 0)]
        return Found(items=torch.cat([one.items for one in found]), scores=torch.cat([one.scores for one in found]))

    def recommend(
        self,
        batch: SequenceBatch,
        k: int,
        exclude_seen: bool = False,
        conditions: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The k most likely next items, ``[B, k]`` catalogue rows, 0 where there are fewer; see :meth:`retrieve`.

        Args:
            batch: histories.
            k: items a row.
            exclude_seen: leave out the items of the batch's histories.
            conditions: ``[B]`` ids by condition, under which the next item is asked for.
        """
        seen = (batch.owners, batch.items) if exclude_seen else None
        return self.retrieve(batch, k, seen=seen, conditions=conditions).items
