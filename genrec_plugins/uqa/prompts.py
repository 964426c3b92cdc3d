"""Questions to token ids: the template, the slots of the soft tokens, and batches padded on the left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_plugins.uqa.config import PromptConfig
from genrec_plugins.uqa.soft_tokens import SLOT
from genrec_registry import ConfigError


class Prompts:
    """Turns questions and answers into token ids.

    Args:
        tokenizer: of the language model.
        config: template, system message, placeholder.
        soft_tokens: k, slots a prompt; 0 for the bare question.

    Raises:
        ConfigError: a chat template is asked for, and the tokenizer has none.
    """

    def __init__(self, tokenizer: Any, config: PromptConfig, soft_tokens: int) -> None:
        self.tokenizer, self.config, self.soft_tokens = tokenizer, config, soft_tokens
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if config.template == "chat" and not has_template:
            raise ConfigError("prompt.template is 'chat', but the tokenizer has no chat template; write plain")
        self.chat = config.template != "plain" and has_template
        self.end = tokenizer.eos_token_id

    def prompt(self, question: str) -> list[int]:
        """Ids of what stands before the answer, with ``SLOT`` where a soft token goes.

        Args:
            question: the text; soft tokens stand at its placeholder, or before everything if it has none.
        """
        if self.chat:
            system = [{"role": "system", "content": self.config.system}] if self.config.system else []
            text = self.tokenizer.apply_chat_template(
                [*system, {"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
            )
        else:
            text = self.config.plain.replace("{question}", question)
        before, found, after = text.partition(self.config.placeholder)
        if not found:
            before, after = "", text
        # a chat template writes its special tokens itself
        head = self.tokenizer(before, add_special_tokens=not self.chat).input_ids if before or not self.chat else []
        return [*head, *[SLOT] * self.soft_tokens, *self._ids(after)]

    def answer(self, text: str, *, end: bool = False) -> list[int]:
        """Ids of an answer.

        Args:
            text: the answer.
            end: with the end-of-text token after it, where the tokenizer has one.
        """
        return [*self._ids(text), *([self.end] if end and self.end is not None else [])]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text else []


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Token ids of several prompts, padded on the left, so that answers end together.

    Args:
        ids: ``[B, S]``, ``SLOT`` where a soft token goes, 0 where there is padding.
        mask: ``[B, S]`` 1 where there is no padding.
        answers: ``[B, A]`` ids of the last A tokens that are to be predicted, -100 elsewhere; A is the longest answer.
    """

    ids: Tensor
    mask: Tensor
    answers: Tensor

    @property
    def positions(self) -> Tensor:
        """``[B, S]`` place of each token, padding not counted."""
        return (self.mask.cumsum(dim=1) - 1).clamp(min=0)

    def to(self, device: torch.device) -> PromptBatch:
        """The batch on a device."""
        return PromptBatch(ids=self.ids.to(device), mask=self.mask.to(device), answers=self.answers.to(device))


def batch_prompts(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]] | None = None) -> PromptBatch:
    """Pad prompts, each followed by its answer.

    Args:
        prompts: ids of each prompt.
        answers: ids of each answer; none are to be predicted if None.

    Example::

        >>> batch = batch_prompts([[5, SLOT], [6]], [[7], [8, 9]])
        >>> batch.ids.tolist(), batch.mask.tolist(), batch.answers.tolist()
        ([[5, -1, 7], [6, 8, 9]], [[1, 1, 1], [1, 1, 1]], [[-100, 7], [8, 9]])
        >>> batch_prompts([[5, 6], [7]]).mask.tolist()
        [[1, 1], [0, 1]]
    """
    endings = answers or [[]] * len(prompts)
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, endings, strict=True)]
    longest, wide = max(map(len, rows)), max(map(len, endings))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    wanted = torch.full((len(rows), wide), -100, dtype=torch.int64)
    for row, (tokens, answer) in enumerate(zip(rows, endings, strict=True)):
        ids[row, longest - len(tokens) :] = torch.tensor(tokens, dtype=torch.int64)
        mask[row, longest - len(tokens) :] = 1
        wanted[row, wide - len(answer) :] = torch.tensor(answer, dtype=torch.int64)
    return PromptBatch(ids=ids, mask=mask, answers=wanted)
