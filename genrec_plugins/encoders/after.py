"""What SASRec, HSTU and mean pooling share: what is known after an event stands for the item that comes next."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor

from genrec_plugins.encoders.positions import check_prefixes
from genrec_plugins.encoders.tokens import EventEncoder, offsets_of, output_map
from genrec_plugins.encoders.varlen import How, Layout
from genrec_registry import EncoderContext


class AfterEvents(nn.Module):
    """A next-item encoder with one token an event, whose output after an event is its guess of the next item.

    Subclasses give :meth:`outputs`. The state of event l is the output after event l - 1; before the first event it is
    a learned start. What is known after a row's last event is its user token.

    Args:
        context: widths and feature names.
        hidden: h.
        attention: how rows are laid out, see :mod:`.varlen`.
        token_scale: factor on the events' tokens, for encoders that add something to them.
    """

    num_user_tokens = 1

    def __init__(
        self, context: EncoderContext, hidden: int, attention: How = "bucketed", token_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.context = context
        self.attention = attention
        self.token_scale = token_scale
        self.events = EventEncoder(context, hidden)
        self.start = nn.Parameter(torch.empty(hidden))
        self.out = output_map(hidden, context.embedding_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the start from N(0, 0.02); 0.02 is the standard deviation."""
        nn.init.normal_(self.start, std=0.02)

    def outputs(self, tokens: Tensor, layout: Layout) -> Tensor:
        """What is known after each event, ``[T, h]`` of tokens ``[T, h]``; no later event of the row is seen."""
        raise NotImplementedError

    def forward(self, events: Mapping[str, JaggedTensor], target: Mapping[str, Tensor]) -> Tensor:
        """What is known after each row's last event, ``[B, 1, D]``; ``target`` is not looked at."""
        del target
        lengths = torch.diff(offsets_of(events, self.context))
        return self._after(events, torch.arange(len(lengths), device=lengths.device), lengths).unsqueeze(1)

    def states(self, events: Mapping[str, JaggedTensor]) -> Tensor:
        """What is known just before each event, ``[T, D]``."""
        offsets = offsets_of(events, self.context)
        lengths = torch.diff(offsets)
        row = torch.arange(len(lengths), device=offsets.device).repeat_interleave(lengths)
        return self._after(events, row, torch.arange(len(row), device=offsets.device) - offsets[row])

    def query(
        self, events: Mapping[str, JaggedTensor], row: Tensor, prefix: Tensor, conditions: Mapping[str, Tensor]
    ) -> Tensor:
        """What is known after the first ``prefix [M]`` events of rows ``row [M]``: ``[M, D]``, whatever is asked."""
        del conditions
        check_prefixes(torch.diff(offsets_of(events, self.context)), row, prefix)
        return self._after(events, row, prefix)

    def item_vectors(self, items: Mapping[str, Tensor]) -> Tensor:
        """What states are compared with, ``[N, D]`` of ``[N, E]`` by feature name: the items' own tokens."""
        vectors: Tensor = self.out(self.events.item(items))
        return vectors

    def _after(self, events: Mapping[str, JaggedTensor], row: Tensor, prefix: Tensor) -> Tensor:
        layout = Layout(offsets_of(events, self.context), self.attention)
        outputs = self.outputs(self.events(events) * self.token_scale, layout)
        # The start stands in front, so that it has part in every step, also in one without a first event.
        known = torch.cat([self.start.unsqueeze(0), outputs])
        found: Tensor = self.out(known[torch.where(prefix > 0, layout.offsets[row] + prefix, 0)])
        return found
