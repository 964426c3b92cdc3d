"""A Hugging Face causal language model that is asked through ``inputs_embeds``."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genrec_adapters.preprocess.swap import replaced
from genrec_plugins.files import system_errors
from genrec_plugins.uqa.config import LanguageModel
from genrec_plugins.uqa.prompts import PromptBatch
from genrec_plugins.uqa.soft_tokens import splice
from genrec_registry import ConfigError, DataError, SetupError


def load_language_model(config: LanguageModel, device: torch.device) -> tuple[Any, Any]:
    """Model and tokenizer; the model in eval mode, and frozen unless it is tuned.

    Args:
        config: the ``llm`` section.
        device: where to put it.

    Raises:
        SetupError: transformers is not installed.
        ConfigError: there is no such model.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ModuleNotFoundError as error:
        raise SetupError(
            f"'genrec uqa' needs the module '{error.name}'; install the extra: pip install 'genrec-plugins[uqa]'"
        ) from error
    if not sys.stderr.isatty():
        disable_progress_bar()
    dtype: Any = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    # neither pickled weights nor modules that lie beside them: a folder of the user's choice is not code
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            config.path, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(config.path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"llm.path is '{config.path}', which transformers cannot load ({reason}); name a folder with a causal "
            "language model in safetensors files, and its tokenizer"
        ) from error
    model.to(device).eval()
    model.requires_grad_(config.tune)
    return model, tokenizer


class SoftPromptModel(nn.Module):
    """A causal language model with soft tokens spliced into its prompts.

    Args:
        llm: any ``PreTrainedModel`` with a language-model head.
    """

    def __init__(self, llm: Any) -> None:
        super().__init__()
        self.llm = llm
        accepted = set(inspect.signature(llm.forward).parameters)
        self._takes_positions = "position_ids" in accepted
        self._keeps_logits = "logits_to_keep" in accepted

    @property
    def embeddings(self) -> nn.Module:
        """Of the input tokens."""
        found: nn.Module = self.llm.get_input_embeddings()
        return found

    def logits(self, batch: PromptBatch, soft: Tensor | None, last: int) -> Tensor:
        """Logits ``[B, last, V]`` of the tokens after each of the last positions, the very last left out.

        Args:
            batch: prompts with their answers.
            soft: ``[B, k, H]`` soft tokens; None where the prompts have no slots.
            last: how many.
        """
        inputs: dict[str, Any] = {
            "inputs_embeds": splice(batch.ids, self.embeddings, soft),
            "attention_mask": batch.mask,
        }
        if self._takes_positions:
            inputs["position_ids"] = batch.positions
        if self._keeps_logits:
            inputs["logits_to_keep"] = last + 1  # a large vocabulary at every position of a prompt is a lot of memory
        found: Tensor = self.llm(**inputs, use_cache=False).logits
        return found[:, -last - 1 : -1].float()

    def loss(self, batch: PromptBatch, soft: Tensor | None) -> Tensor:
        """Mean cross-entropy of the answers' tokens."""
        logits = self.logits(batch, soft, batch.answers.shape[1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch.answers.flatten(), ignore_index=-100)

    @torch.no_grad()
    def log_likelihood(self, batch: PromptBatch, soft: Tensor | None) -> Tensor:
        """``[B]`` log-probability of each answer: the sum over its tokens."""
        logits = self.logits(batch, soft, batch.answers.shape[1])
        known = batch.answers >= 0
        chosen = logits.log_softmax(dim=-1).gather(2, batch.answers.clamp(min=0).unsqueeze(2)).squeeze(2)
        return (chosen * known).sum(dim=1)

    @torch.no_grad()
    def generate(self, batch: PromptBatch, soft: Tensor | None, max_new_tokens: int) -> Tensor:
        """``[B, <= max_new_tokens]`` ids of the most likely continuation, token by token.

        Args:
            batch: prompts without answers.
            soft: ``[B, k, H]`` or None.
            max_new_tokens: at most so many.
        """
        config = self.llm.generation_config
        pad = config.pad_token_id if config.pad_token_id is not None else config.eos_token_id
        if isinstance(pad, list):
            pad = pad[0]
        found: Tensor = self.llm.generate(
            inputs_embeds=splice(batch.ids, self.embeddings, soft),
            attention_mask=batch.mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=0 if pad is None else pad,
        )
        return found


def save_language_model(llm: Any, tokenizer: Any, directory: Path) -> None:
    """Write a tuned language model and its tokenizer, as ``from_pretrained`` reads them; whole, or not at all.

    Raises:
        DataError: they cannot be written.
    """
    try:
        with system_errors(), replaced(directory, marker="config.json", what="a language model") as aside:
            llm.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
    except OSError as error:
        raise DataError(f"{directory}: cannot be written ({error.strerror or error}); name another --out") from error
