"""``din``: Deep Interest Network (Zhou et al. 2018, arXiv 1706.06978): the history as the target sees it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchrec import JaggedTensor

from genrec_plugins.encoders.configs import DinConfig
from genrec_plugins.encoders.tokens import EventEncoder, offsets_of
from genrec_registry import EncoderContext


class Din(nn.Module):
    """Events weighted by a small network that compares each with the target, and summed (paper, equation 3).

    ``token = sum_t a(e_t, e_target) e_t``, with ``a`` an MLP over ``[e_t, target, e_t - target, e_t * target]``. As in
    the paper the weights are not normalised: their sum tells how strong the interest is. The activations are PReLU;
    the paper's Dice normalises over the batch, so that a row's output would depend on its neighbours.

    Args:
        config: the MLP's layers.
        context: widths and feature names; condition features are added to the events' vectors. The target is known by
            its item features alone.

    Example::

        >>> context = EncoderContext(embedding_dim=4, feature_dim=4, max_length=3, item_features=("item",))
        >>> events = {"item": JaggedTensor(torch.randn(5, 4), lengths=torch.tensor([2, 0, 3]))}
        >>> tokens = Din(DinConfig(), context)(events, {"item": torch.randn(3, 4)})
        >>> tokens.shape, tokens[1].abs().max().item()  # the row without events
        (torch.Size([3, 1, 4]), 0.0)
    """

    num_user_tokens = 1

    def __init__(self, config: DinConfig, context: EncoderContext) -> None:
        super().__init__()
        self.context = context
        self.events = EventEncoder(context, context.embedding_dim)
        layers: list[nn.Module] = []
        width = 4 * context.embedding_dim
        for size in config.hidden_sizes:
            layers += [nn.Linear(width, size), nn.PReLU()]
            width = size
        self.activation = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, events: Mapping[str, JaggedTensor], target: Mapping[str, Tensor]) -> Tensor:
        """The interest of each row in its target, ``[B, 1, D]``.

        Args:
            events: ``[T, E]`` by feature name.
            target: ``[B, E]`` by item feature name.
        """
        lengths = torch.diff(offsets_of(events, self.context))
        past, wanted = self.events(events), self.events.item(target)
        # Sizes from shapes, and the number of events from the events, so that torch.export leaves both open.
        row = torch.arange(lengths.shape[0], device=lengths.device).repeat_interleave(
            lengths, output_size=past.shape[0]
        )
        now = wanted[row]
        weights = self.activation(torch.cat([past, now, past - now, past * now], dim=1))
        return torch.zeros_like(wanted).index_add(0, row, weights * past).unsqueeze(1)
