"""The YAML of ``genrec uqa train``: questions, users, language model, adapter, training. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from genrec_plugins.config import apply_overrides
from genrec_registry import Config, explain, read_yaml
from genrec_registry.sizes import Count, CountOrZero, Length, Threads, Width
from genrec_registry.yaml_source import YamlSource, parse_yaml


class QuestionFiles(Config):
    """UQABench's ``align_data_*.arrow``, or JSON lines (see :mod:`genrec_plugins.uqa.data`)."""

    train: str = Field(description="questions to learn from")
    test: str | None = Field(None, description="questions to report the accuracy on")
    limit: CountOrZero = Field(0, description="use only the first so many of either file; 0: all")


class EncoderUsers(Config):
    """A pre-trained sequence encoder reads the history that stands with each question."""

    type: Literal["encoder"] = "encoder"
    run: str = Field(description="the --out of 'genrec lum pretrain', of any encoder")
    view: Literal["answers", "states", "tokens"] = Field(
        "answers",
        description="answers: to 'queries', after the last event; states: the mean over all events, as UQABench pools; "
        "tokens: the encoder's own user tokens, which pre-training does not reach where they are learned queries",
    )
    queries: tuple[dict[str, str], ...] = Field(
        ({},), min_length=1, description="conditions to ask under, as [{action: like}, {}]; others unknown"
    )
    tune: bool = Field(False, description="train encoder and tables, too")


class StoreUsers(Config):
    """Vectors that ``genrec lum query`` wrote, by the question's user."""

    type: Literal["store"] = "store"
    path: str = Field(description="the knowledge store")
    tune: Literal[False] = Field(False, description="a store has nothing to train")


class LanguageModel(Config):
    """Any causal language model that transformers can load."""

    path: str = Field(description="a folder with model and tokenizer, or a name on the Hugging Face hub")
    tune: bool = Field(False, description="train the language model, too; false: only what stands before it")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of its weights; auto: as saved")


class AdapterConfig(Config):
    """User vectors to soft tokens."""

    tokens: Width = Field(4, description="k, soft tokens a user")
    hidden: int = Field(256, ge=0, le=65_536, description="hidden width of the adapter; 0: one linear map, as UQABench")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the hidden layer")


class PromptConfig(Config):
    """How a question becomes text."""

    template: Literal["auto", "chat", "plain"] = Field(
        "auto", description="chat: the tokenizer's own template; plain: 'plain'; auto: chat where there is one"
    )
    system: str = Field("", description="the chat's system message; empty: the template's own")
    plain: str = Field("{question}\n", description="text before the answer without a chat template")
    placeholder: str = Field(
        "<user>", min_length=1, description="where the soft tokens go; a question without it has them at the front"
    )

    @model_validator(mode="after")
    def _question_is_there(self) -> Self:
        if "{question}" not in self.plain:
            raise ValueError(f"'plain' is {self.plain!r}, expected text with {{question}} in it")
        return self


class UqaTraining(Config):
    """AdamW on the cross-entropy of the answer's tokens."""

    epochs: Count = Field(3, description="passes over the training questions")
    batch_size: Count = Field(4, description="questions a step")
    adapter_lr: PositiveFloat = Field(1e-4, description="learning rate of the adapter")
    encoder_lr: PositiveFloat = Field(1e-5, description="learning rate of a tuned encoder")
    llm_lr: PositiveFloat = Field(1e-6, description="learning rate of a tuned language model")
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW's decay")
    warmup_steps: CountOrZero = Field(0, description="steps over which the rates rise from zero")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="how the rates fall to zero")
    clip_grad_norm: NonNegativeFloat = Field(1.0, description="largest gradient norm; 0: no clipping")
    device: str = Field("auto", description="auto, cpu or cuda")
    threads: Threads = Field(0, description="CPU threads of torch; 0: torch's default")


class UqaEvaluation(Config):
    """How an answer is found."""

    mode: Literal["auto", "choice", "greedy"] = Field(
        "auto",
        description="choice: the most likely of the question's options; greedy: what is generated must begin with the "
        "answer, as UQABench counts; auto: choice where a question has options",
    )
    max_new_tokens: Length = Field(8, description="tokens generated at most")
    batch_size: Count = Field(16, description="questions a forward")


class UqaConfig(Config):
    """One run: align user embeddings to a language model, and ask it questions about the users.

    Example::

        >>> parse_uqa('''
        ... questions: {train: align_data_train.arrow}
        ... users: {run: runs/lum}
        ... llm: {path: Qwen2.5-3B-Instruct}
        ... ''').adapter.tokens
        4
    """

    seed: int = Field(1, ge=0, lt=2**31, description="of the adapter's weights and of the order of questions")
    questions: QuestionFiles
    users: Annotated[EncoderUsers | StoreUsers, Field(discriminator="type")]
    llm: LanguageModel
    adapter: AdapterConfig = AdapterConfig()
    prompt: PromptConfig = PromptConfig()
    train: UqaTraining = UqaTraining()
    evaluation: UqaEvaluation = UqaEvaluation()


def load_uqa(path: str | Path, overrides: dict[str, str] | None = None) -> UqaConfig:
    """Read and validate a run's YAML.

    Args:
        path: the file.
        overrides: ``dotted.key -> YAML value`` set on top of the file.

    Raises:
        ConfigError: something in the file is wrong; the message names line, column, key and the nearest valid one.
    """
    return parse_uqa(read_yaml(path), overrides)


def parse_uqa(source: YamlSource | str | Mapping[str, Any], overrides: dict[str, str] | None = None) -> UqaConfig:
    """Validate a run given as YAML text or plain data; see :func:`load_uqa`."""
    if isinstance(source, str):
        source = parse_yaml(source)
    elif not isinstance(source, YamlSource):
        source = YamlSource("uqa run", dict(source), {})
    data = apply_overrides(source.data, overrides)
    users = data.get("users")
    if isinstance(users, dict):
        data["users"] = {"type": "encoder"} | users
    return explain(UqaConfig, data, source=source)
