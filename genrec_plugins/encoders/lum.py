"""``lum``: the Large User Model (arXiv 2502.08309), steps 1 and 2."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor

from genrec_plugins.encoders.causal_stack import CausalStack
from genrec_plugins.encoders.configs import LumConfig
from genrec_plugins.encoders.tokens import TokenEncoder, offsets_of, output_map, values_of
from genrec_registry import EncoderContext


class Lum(nn.Module):
    """Two tokens an event, condition then item, under a causal transformer; what stands at a condition answers it.

    The tokens of a row are ``c_1, i_1, c_2, i_2, ...``. The output at ``c_l`` stands for the item that comes under
    condition ``c_l``, and is compared with that item's token ``e_l^i``. An item is represented once, in the history
    and as a candidate; where h is not D, both sides of the comparison go through one linear map to width D.

    Source: arXiv 2502.08309: token encoder and next-condition-item prediction (step 1), group query (step 2).

    Args:
        config: LUM's options.
        context: widths and feature names; without condition features one learned token stands for every condition.

    Raises:
        ModelError: the width cannot be split into the heads.

    Example::

        >>> context = EncoderContext(
        ...     embedding_dim=4, feature_dim=6, max_length=3, item_features=("item",), condition_features=("action",)
        ... )
        >>> lum = Lum(LumConfig(hidden=8, num_queries=2), context)
        >>> jagged = lambda: JaggedTensor(torch.randn(5, 6), lengths=torch.tensor([2, 0, 3]))
        >>> events = {"item": jagged(), "action": jagged()}
        >>> lum(events, {"item": torch.randn(3, 6)}).shape, lum.states(events).shape
        (torch.Size([3, 2, 4]), torch.Size([5, 4]))
    """

    def __init__(self, config: LumConfig, context: EncoderContext) -> None:
        super().__init__()
        self.context = context
        self.num_user_tokens = config.num_queries
        self.item = TokenEncoder(context.item_features, context.feature_dim, config.hidden)
        self.condition: TokenEncoder | None = None
        self.any_condition: nn.Parameter | None = None
        if context.condition_features:
            self.condition = TokenEncoder(context.condition_features, context.feature_dim, config.hidden)
        else:
            self.any_condition = nn.Parameter(torch.empty(config.hidden))
        self.queries = nn.Parameter(torch.empty(config.num_queries, config.hidden))
        self.stack = CausalStack(
            hidden=config.hidden,
            layers=config.num_layers,
            heads=config.num_heads,
            ffn=config.ffn_ratio,
            positions=config.positions,
            max_length=2 * context.max_length + 1,
            dropout=config.dropout,
            attention=config.attention,
        )
        self.out = output_map(config.hidden, context.embedding_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the learned condition and query tokens from N(0, 0.02); 0.02 is the standard deviation."""
        if self.any_condition is not None:
            nn.init.normal_(self.any_condition, std=0.02)
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, events: Mapping[str, JaggedTensor], target: Mapping[str, Tensor]) -> Tensor:
        """The answers to the learned queries after each row's last event, ``[B, num_queries, D]``.

        Args:
            events: items and conditions, ``[T, E]`` each.
            target: not looked at.
        """
        del target
        lengths = torch.diff(offsets_of(events, self.context))
        number = len(self.queries)
        rows = torch.arange(len(lengths), device=lengths.device).repeat_interleave(number)
        asked = self.queries.repeat(len(lengths), 1)
        return self._ask(events, rows, lengths.repeat_interleave(number), asked).unflatten(0, (-1, number))

    def states(self, events: Mapping[str, JaggedTensor]) -> Tensor:
        """What each event's condition, after all earlier events, says of the item to come, ``[T, D]``."""
        tokens, offsets = self._tokens(events)
        return self.out(self.stack(tokens, offsets)[::2])

    def query(
        self, events: Mapping[str, JaggedTensor], row: Tensor, prefix: Tensor, conditions: Mapping[str, Tensor]
    ) -> Tensor:
        """Answers to M queries in one pass: query m stands after ``prefix[m]`` events of row ``row[m]``.

        Args:
            events: items and conditions, ``[T, E]`` each.
            row: ``[M]``.
            prefix: ``[M]`` events seen.
            conditions: ``[M, E]`` each.

        Returns:
            ``[M, D]``.
        """
        return self._ask(events, row, prefix, self._condition_tokens(conditions, len(row)))

    def item_vectors(self, items: Mapping[str, Tensor]) -> Tensor:
        """What states are compared with, ``[N, D]`` of ``[N, E]`` by feature name."""
        return self.out(self.item(items))

    def _ask(self, events: Mapping[str, JaggedTensor], row: Tensor, prefix: Tensor, asked: Tensor) -> Tensor:
        """Outputs ``[M, D]`` at condition tokens ``asked [M, h]``."""
        cache = self.stack.remember(*self._tokens(events))
        return self.out(self.stack.extend(asked.unsqueeze(1), row, 2 * prefix, cache).squeeze(1))

    def _tokens(self, events: Mapping[str, JaggedTensor]) -> tuple[Tensor, Tensor]:
        """The rows ``c_1, i_1, c_2, i_2, ...``: flat ``[2 T, h]``, and their offsets."""
        items = self.item(values_of(events, self.context.item_features))
        conditions = self._condition_tokens(values_of(events, self.context.condition_features), len(items))
        tokens = torch.stack([conditions, items], dim=1).flatten(0, 1)
        return tokens, 2 * offsets_of(events, self.context)

    def _condition_tokens(self, conditions: Mapping[str, Tensor], number: int) -> Tensor:
        """``[number, h]``."""
        if self.condition is not None:
            return self.condition(conditions)
        assert self.any_condition is not None
        return self.any_condition.expand(number, -1)
