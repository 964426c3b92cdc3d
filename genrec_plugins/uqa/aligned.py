"""Users, adapter and language model together: built from a config, kept in a run directory, opened by path alone.

``run.json`` (config, digest of the users' source, sizes), ``adapter.safetensors``, and where they were tuned
``encoder.safetensors`` and ``llm/``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from genrec_adapters.state import parse_json
from genrec_plugins.files import reason_of, written_aside
from genrec_plugins.room import check_room
from genrec_plugins.training.trainer import pick_device
from genrec_plugins.uqa.config import UqaConfig, parse_uqa
from genrec_plugins.uqa.data import Question
from genrec_plugins.uqa.llm import SoftPromptModel, load_language_model, save_language_model
from genrec_plugins.uqa.prompts import Prompts
from genrec_plugins.uqa.soft_tokens import SoftTokenAdapter, mean_norm
from genrec_plugins.uqa.users import UserVectors, user_vectors
from genrec_registry import DataError, ModelError

_RUN, _ADAPTER, _ENCODER, _LLM = "run.json", "adapter.safetensors", "encoder.safetensors", "llm"


@dataclass(kw_only=True)
class Aligned:
    """User vectors that a language model can be asked about.

    Args:
        config: the run.
        users: gives vectors.
        adapter: makes soft tokens of them.
        model: the language model.
        tokenizer: its tokenizer.
        device: where adapter and language model are.
    """

    config: UqaConfig
    users: UserVectors
    adapter: SoftTokenAdapter
    model: SoftPromptModel
    tokenizer: Any
    device: torch.device

    @classmethod
    def build(cls, config: UqaConfig) -> Self:
        """With a new adapter.

        Raises:
            SetupError: transformers is not installed.
            ConfigError: there is no such language model, the users' run does not go with the config, or the adapter
                takes more memory than there is.
            DataError: the users' run or store cannot be read.
        """
        device = pick_device(config.train.device)
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        users = user_vectors(config.users)
        llm, tokenizer = load_language_model(config.llm, device)
        model = SoftPromptModel(llm)
        torch.manual_seed(config.seed)
        make_adapter = partial(
            SoftTokenAdapter,
            vectors=users.vectors,
            width=users.width,
            tokens=config.adapter.tokens,
            llm_width=int(model.embeddings.weight.shape[1]),  # type: ignore[index]
            llm_norm=mean_norm(model.embeddings),
            hidden=config.adapter.hidden,
            dropout=config.adapter.dropout,
        )
        check_room(make_adapter, "adapter")
        adapter = make_adapter().to(device)
        return cls(config=config, users=users, adapter=adapter, model=model, tokenizer=tokenizer, device=device)

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """What ``genrec uqa train`` wrote.

        Raises:
            DataError: it is not such a directory, or the users' run was trained again since.
            ModelError: weights are missing or do not fit.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        directory = Path(directory)
        try:
            facts = parse_json((directory / _RUN).read_text())
            config, users_digest = facts["config"], facts["users"]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{directory}: is not the directory of an alignment ({reason_of(error, _RUN)}); name the --out of "
                "'genrec uqa train'"
            ) from error
        if config["llm"]["tune"]:
            config["llm"]["path"] = str(directory / _LLM)
        found = cls.build(parse_uqa(config))
        if found.users.digest != users_digest:
            raise DataError(
                f"{directory}: the adapter was trained on other user vectors than {found.users.source} gives now; "
                "train it again, or restore those"
            )
        try:
            found.adapter.load_state_dict(load_file(directory / _ADAPTER))
            if found.config.users.tune:
                found.users.load_state_dict(load_file(directory / _ENCODER))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"{directory}: weights cannot be loaded ({reason}); run 'genrec uqa train' again"
            ) from error
        found.adapter.eval()
        return found

    def save(self, directory: Path) -> None:
        """Write what was learned.

        Raises:
            DataError: the directory cannot be written.
        """
        from safetensors.torch import save_file

        with written_aside(directory / _ADAPTER) as partial:
            save_file(_on_cpu(self.adapter), partial)
        if self.config.users.tune:
            with written_aside(directory / _ENCODER) as partial:
                save_file(_on_cpu(self.users), partial)
        if self.config.llm.tune:
            save_language_model(self.model.llm, self.tokenizer, directory / _LLM)
        facts = {
            "config": self.config.model_dump(mode="json"),
            "users": self.users.digest,
            "versions": {name: metadata.version(name) for name in ("genrec-plugins", "torch", "transformers")},
            "adapter_parameters": sum(weight.numel() for weight in self.adapter.parameters()),
        }
        with written_aside(directory / _RUN) as partial:
            partial.write_text(json.dumps(facts, indent=2))

    def soft_tokens(self, questions: Sequence[Question]) -> Tensor:
        """Soft tokens ``[B, k, H]`` of the users of B questions."""
        soft: Tensor = self.adapter(self.users(questions).to(self.device))
        return soft

    def prompts(self, *, with_user: bool = True) -> Prompts:
        """Questions to token ids, with slots for the soft tokens or without."""
        return Prompts(self.tokenizer, self.config.prompt, self.config.adapter.tokens if with_user else 0)

    def train(self, mode: bool = True) -> None:
        """Training mode for what is trained; everything else stays in eval mode."""
        self.adapter.train(mode)
        self.users.train(mode and self.config.users.tune)
        self.model.train(mode and self.config.llm.tune)


def check_lengths(prompts: Sequence[Sequence[int]], more: int, model: SoftPromptModel) -> None:
    """Check that prompts fit the language model.

    Args:
        prompts: token ids.
        more: tokens that come after them.
        model: the language model.

    Raises:
        DataError: one does not.
    """
    most = getattr(model.llm.config, "max_position_embeddings", None)
    longest = max(range(len(prompts)), key=lambda index: len(prompts[index]))
    if most is not None and len(prompts[longest]) + more > most:
        raise DataError(
            f"question {longest + 1} has {len(prompts[longest])} tokens and up to {more} of answer, more than the "
            f"{most} that the language model takes; shorten it, or choose another model"
        )


def _on_cpu(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in module.state_dict().items()}
