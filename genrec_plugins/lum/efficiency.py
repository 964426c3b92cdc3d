"""Model FLOPs of an event in pre-training, and the rate they are held against: MFU in the log."""

import torch
from torch import nn

from genrec_plugins.lum.batches import SequenceBatch
from genrec_plugins.profiling.flops import flop_counter
from genrec_plugins.profiling.peaks import Peak


def loss_flops(model: nn.Module, batch: SequenceBatch) -> int:
    """FLOPs of the matrix products of one forward to the loss; the random state is left as it was.

    Attention counts with its whole rectangles: what a causal mask hides is computed all the same on a CPU.

    Args:
        model: with ``loss(batch)``.
        batch: events.
    """
    devices = [batch.items.device] if batch.items.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), flop_counter() as counter:
        model.loss(batch)  # type: ignore[operator]
    return int(counter.get_total_flops())


class Utilisation:
    """Counts what a run's steps cost and tells its model FLOPs utilisation.

    Args:
        peak: FLOP/s of the device; measured when first asked for if None.
        device: where the model is.
        amp: autocast of the run, ``none`` or ``bf16``.
        samples: batches whose FLOPs are counted, and taken as typical of all.
    """

    def __init__(self, peak: float | None, device: torch.device, amp: str = "none", samples: int = 3) -> None:
        self.peak = peak
        self.device = device
        self.amp = amp
        self.samples = samples
        self._flops = 0
        self._events = 0

    def see(self, model: nn.Module, batch: SequenceBatch) -> None:
        """Count the FLOPs of a batch, if it is one of the first."""
        if self.samples:
            self.samples -= 1
            self._flops += loss_flops(model, batch)
            self._events += len(batch.items)

    @property
    def flops_per_event(self) -> float:
        """FLOPs of forward and backward, three times the forward's."""
        return 3 * self._flops / self._events if self._events else 0.0

    def mfu(self, events_per_second: float) -> float:
        """Share of the peak that the model's FLOPs come to."""
        if self.peak is None:
            # its matrices are random: a resumed run, which measures at another moment, must not draw otherwise
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                self.peak = Peak.of_training(self.device, self.amp).look().flops
        return self.flops_per_event * events_per_second / self.peak
