"""Keep TorchRec's notes to its own developers off the user's terminal."""

from __future__ import annotations

import logging
import os
import warnings


def calm_logs() -> None:
    """Show errors only from the planner and the tracer; call it before torch is imported."""
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    for name in ("torchrec", "torch.fx._symbolic_trace", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
