"""What a device could do: FLOP/s that MFU is held against."""

from __future__ import annotations

import torch

from genrec_plugins.profiling.flops import clock_of, gemm_rate

#: Dense bf16 FLOP/s of the makers' datasheets, without sparsity; parts of the device's name, the longer first.
DATASHEET_BF16 = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}


def datasheet_peak(name: str) -> float | None:
    """Dense bf16 FLOP/s of a GPU by its name; None for one that is not listed.

    Example::

        >>> datasheet_peak("NVIDIA H100 80GB HBM3"), datasheet_peak("Another GPU")
        (989000000000000.0, None)
    """
    return next((peak for part, peak in DATASHEET_BF16.items() if part in name), None)


class Peak:
    """FLOP/s of a device: given, the datasheet's for bf16 on a known GPU, or the largest GEMM rate met in a run.

    Args:
        device: which device.
        dtype: ``fp32`` or ``bf16``; on a CPU, whose bf16 may be faster or slower, the better of both counts.
        given: what the user says it is.

    Example::

        >>> Peak("cpu", given=1e12).look().flops
        1000000000000.0
    """

    def __init__(self, device: torch.device | str = "cpu", dtype: str = "fp32", given: float | None = None) -> None:
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        bf16 = [torch.bfloat16] if on_gpu else [torch.float32, torch.bfloat16]
        self._dtypes = bf16 if dtype == "bf16" else [torch.float32]
        self.flops, self.source, self._known = given or 0.0, "given", given is not None
        if not self._known and dtype == "bf16" and on_gpu:
            name = torch.cuda.get_device_name(self.device)
            listed = datasheet_peak(name)
            if listed is not None:
                self.flops, self.source, self._known = listed, f"datasheet of {name}", True
        if not self._known:
            self.source = "largest GEMM rate of this run"

    @classmethod
    def of_training(cls, device: torch.device, amp: str) -> Peak:
        """What training is held against: the rate of bf16 on a GPU, and of the dtype that it multiplies in on a CPU.

        Args:
            device: where the model is.
            amp: ``none`` or ``bf16``, as in a run's file.

        Example::

            >>> Peak.of_training(torch.device("cpu"), "none").source
            'largest GEMM rate of this run'
        """
        return cls(device, "bf16" if device.type == "cuda" or amp == "bf16" else "fp32")

    def look(self, seconds: float = 0.3) -> Peak:
        """Measure again, where it is to be measured; the largest rate stays."""
        if not self._known:
            clock = clock_of(self.device)
            rates = [gemm_rate(self.device, seconds=seconds, dtype=dtype, clock=clock) for dtype in self._dtypes]
            self.flops = max(self.flops, *rates)
        return self
