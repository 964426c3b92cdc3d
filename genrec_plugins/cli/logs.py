"""Load TorchRec for a command: say how to install it where it is missing, and keep its notes off the terminal."""

from __future__ import annotations

import logging
import os
import warnings


def load_torchrec() -> None:
    """Import torchrec quietly; every command that trains or scores calls it before it imports anything of torch.

    Raises:
        SetupError: torchrec cannot be imported; the message has the command that mends it.
    """
    _calm_logs()
    from genrec_plugins.doctor import require_torchrec

    require_torchrec()


def _calm_logs() -> None:
    """Show errors only, of the planner and the tracer; some of it is read when torch is imported."""
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    warnings.filterwarnings("ignore", message="Please use DTensor", category=FutureWarning)  # laid at our door
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    for name in ("torchrec", "torch.fx._symbolic_trace", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
