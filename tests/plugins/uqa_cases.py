"""A tiny language model made here, a pre-trained encoder on made-up events, and questions about its users."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

WORDS = ("<pad>", "<s>", "</s>", "<unk>", "what", "does", "the", "user", "like", "last", "view", "red", "blue", "green",
         "gold", "?", ":", "answer", "no", "yes")  # fmt: skip
COLOURS = ("red", "blue", "green", "gold")


def make_language_model(folder: Path, kind: str = "llama") -> Path:
    """A causal language model of width 32 with random weights, and its word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(5)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(WORDS), n_positions=64, n_embd=32, n_layer=2, n_head=2, **tokens)
        )
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(WORDS),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
                initializer_range=0.2,
                **tokens,
            )
        )
    model.save_pretrained(folder)
    return folder


def history(colour: int, length: int, source: np.random.Generator) -> list[str]:
    """Items of one colour, mostly: item ``i<colour><k>``."""
    own = source.random(length) < 0.9
    colours = np.where(own, colour, source.integers(0, len(COLOURS), length))
    return [f"i{c}{k}" for c, k in zip(colours.tolist(), source.integers(0, 5, length).tolist(), strict=True)]


def write_events(path: Path, users: int = 120) -> Path:
    """Taobao's CSV of users who like one colour each; every item is seen by someone."""
    source = np.random.default_rng(0)
    lines = []
    for user in range(users):
        items = history(user % len(COLOURS), int(source.integers(5, 10)), source)
        lines += [f"{user},{item},{item[1]},{'buy' if k % 3 == 0 else 'pv'},{k + 1}" for k, item in enumerate(items)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_questions(path: Path, count: int, seed: int) -> Path:
    """Which colour a user likes, and the colour of the last item: the text is the same for all, the history decides."""
    source = np.random.default_rng(seed)
    with path.open("w") as file:
        for number in range(count):
            colour = int(source.integers(0, len(COLOURS)))
            items = history(colour, int(source.integers(4, 9)), source)
            question = {
                "user": str(number),
                "history": items,
                "conditions": {"action": ["pv"] * len(items)},
                "question": "what does the user like ?",
                "answer": COLOURS[colour],
                "options": list(COLOURS),
                "task": "liked colour",
            }
            if number % 4 == 0:
                last = COLOURS[int(items[-1][1])]
                question |= {"question": "last view : <user> ?", "answer": last, "task": "last colour"}
            file.write(json.dumps(question) + "\n")
    return path
