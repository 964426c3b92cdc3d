"""Which items a batch's true items are told apart from, and how often each of them was to be expected there."""

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_plugins.lum.config import Negatives


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Negatives of one batch, shared by its events.

    Args:
        items: ``[M]`` catalogue rows; an item that both sources gave stands twice, once for each.
        log_q: ``[M]`` log of how often each is expected among the M.
    """

    items: Tensor
    log_q: Tensor


class NegativeSampler:
    """In-batch negatives, each item once, and further items drawn with replacement.

    With n predicted events in the batch, item j with share ``p_j`` of the training events is expected
    ``1 - (1 - p_j)^n`` times among the batch's items, and ``m s_j`` times among m draws with probability ``s_j``. An
    item's ``log_q`` is the log of the sum over the sources that are on. With it, ``sum_j exp(z_j - log_q_j)`` over the
    negatives is an unbiased estimate of ``sum_j exp(z_j)`` over the whole catalogue (the balance heuristic for several
    sources), so that InfoNCE estimates the full softmax.

    Source: Yi et al. 2019, "Sampling-bias-corrected neural modeling", section 3; the true item is always there, not
    sampled, and its logit is left alone by default (Khrylchenko et al. 2025, arXiv 2507.09331).

    Args:
        config: the objective's ``negatives``.
        counts: ``[N]`` training events of each catalogue row; row 0, the unknown item, is never drawn.

    Example::

        >>> sampler = NegativeSampler(Negatives(in_batch=True, sampled=2), torch.tensor([0, 6, 2, 2]))
        >>> drawn = sampler.draw(torch.tensor([3, 1, 1]))
        >>> drawn.items[:2].tolist(), drawn.items.shape, bool((drawn.items > 0).all())
        ([1, 3], torch.Size([4]), True)
    """

    def __init__(self, config: Negatives, counts: Tensor) -> None:
        self.config = config
        share = counts.double().clone()
        share[0] = 0
        share = share / share.sum().clamp(min=1)
        self._share = share
        if config.sampling == "uniform":
            drawn = torch.full_like(share, 1 / max(len(share) - 1, 1))
            drawn[0] = 0
            self._drawn = drawn
        else:
            self._drawn = share
        self._cumulative = self._drawn.cumsum(0)

    def expected(self, events: int) -> Tensor:
        """``[N]`` how often each catalogue row is expected among the negatives of a batch of ``events`` events."""
        found = torch.zeros_like(self._share)
        if self.config.in_batch:
            found += -torch.expm1(events * torch.log1p(-self._share.clamp(max=1 - 1e-12)))
        return found + self.config.sampled * self._drawn

    def draw(self, targets: Tensor) -> Drawn:
        """Negatives for a batch whose predicted events are about ``targets [T]``.

        Drawing uses torch's CPU generator, so that a checkpoint of its state is enough to go on.
        """
        sources = [torch.unique(targets)] if self.config.in_batch else []
        if self.config.sampled:
            places = torch.rand(self.config.sampled, dtype=torch.float64) * self._cumulative[-1]
            # the first row whose cumulative probability exceeds the place: never row 0, nor one of probability 0
            rows = torch.searchsorted(self._cumulative, places, right=True).clamp(max=len(self._cumulative) - 1)
            sources.append(rows.to(targets.device))
        items = torch.cat(sources)
        expected = self.expected(len(targets))[items.cpu()]
        return Drawn(items=items, log_q=expected.clamp(min=1e-12).log().float().to(targets.device))
