"""``mean-pool``: the mean of the events' vectors, the baseline that any encoder has to pass."""

from torch import Tensor

from genrec_plugins.encoders.after import AfterEvents
from genrec_plugins.encoders.configs import MeanPoolConfig
from genrec_plugins.encoders.varlen import Layout
from genrec_registry import EncoderContext


class MeanPool(AfterEvents):
    """After an event, the mean of all events so far: as YouTube's model does (Covington et al. 2016, section 3.2).

    Args:
        config: nothing to set.
        context: widths and feature names.

    Example::

        >>> import torch
        >>> from torchrec import JaggedTensor
        >>> context = EncoderContext(embedding_dim=1, feature_dim=1, max_length=3, item_features=("item",))
        >>> events = {"item": JaggedTensor(torch.tensor([[1.0], [3.0], [8.0]]), lengths=torch.tensor([3]))}
        >>> MeanPool(MeanPoolConfig(), context)(events, {}).tolist()
        [[[4.0]]]
    """

    def __init__(self, config: MeanPoolConfig, context: EncoderContext) -> None:
        super().__init__(context, hidden=context.embedding_dim)

    def outputs(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Running means, row by row (a sum that ran on over all rows would let them see each other's rounding)."""
        counts = (layout.positions + 1).unsqueeze(1)
        return layout.apply(lambda rows, mask: rows.cumsum(dim=1), tokens) / counts
