"""AdamW for pre-training: tables, matrices and the rest each with their own rate and decay; warm-up and schedule."""

from typing import Any

import torch
from torch import nn

from genrec_plugins.lum.config import LumTraining
from genrec_plugins.lum.infonce import table_parameters
from genrec_plugins.training.optimizers import schedule_factor


class LumRecipe:
    """A model and its AdamW, with what :class:`~genrec_plugins.training.checkpoints.CheckpointStore` asks of both.

    Args:
        model: on its device.
        config: the ``train`` section.
    """

    def __init__(self, model: nn.Module, config: LumTraining) -> None:
        self.model = model
        self.config = config
        tables = table_parameters(model)
        held = {id(weight) for weight in tables}
        rest = [weight for weight in model.parameters() if id(weight) not in held]
        rates = {"tables": config.table_lr or config.lr, "matrices": config.lr, "vectors": config.lr}
        decays = {"tables": config.table_weight_decay, "matrices": config.weight_decay, "vectors": 0.0}
        groups = {
            "tables": tables,
            "matrices": [weight for weight in rest if weight.ndim > 1],
            "vectors": [weight for weight in rest if weight.ndim <= 1],
        }
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            [{"params": groups[n], "lr": rates[n], "weight_decay": decays[n]} for n in groups if groups[n]]
        )
        self._base = [group["lr"] for group in self.optimizer.param_groups]
        self._start_state()

    def _start_state(self) -> None:
        """Have AdamW make the state of every parameter now, also of those the loss never reaches.

        A checkpoint then always holds all of it, whatever the steps before it touched.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        for weight in self.model.parameters():
            weight.grad = torch.zeros_like(weight)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for state in self.optimizer.state.values():
            state["step"].zero_()
        for group, rate in zip(self.optimizer.param_groups, self._base, strict=True):
            group["lr"] = rate

    def set_progress(self, step: float, total_steps: int) -> None:
        """Set the learning rates of step ``step`` (0-based) of about ``total_steps``."""
        factor = schedule_factor(
            self.config.lr_schedule, self.config.warmup_steps, min(step, total_steps - 1), total_steps
        )
        for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
            group["lr"] = base * factor

    def step(self) -> None:
        """Clip and step."""
        if self.config.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """The GPU's random state, which the checkpoint has besides the CPU's."""
        return {"cuda_rng": torch.cuda.get_rng_state().tolist()} if torch.cuda.is_available() else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state`."""
        if "cuda_rng" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(torch.tensor(state["cuda_rng"], dtype=torch.uint8))
