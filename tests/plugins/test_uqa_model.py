"""Soft tokens in prompts: batches against single prompts, likelihood and generation against slow loops."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from genrec_plugins.uqa.config import LanguageModel, PromptConfig
from genrec_plugins.uqa.llm import SoftPromptModel, load_language_model
from genrec_plugins.uqa.prompts import Prompts, batch_prompts
from genrec_plugins.uqa.soft_tokens import SLOT, SoftTokenAdapter, mean_norm, splice
from genrec_registry import ConfigError, SetupError
from tests.plugins.uqa_cases import WORDS, make_language_model

pytest.importorskip("transformers", reason="needs the extra [uqa]")

CPU = torch.device("cpu")
CHAT = (
    "{% for m in messages %}{{ '<s> ' + m['role'] + ' : ' + m['content'] + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s> answer :' }}{% endif %}"
)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def loaded(request, tmp_path_factory):
    folder = make_language_model(tmp_path_factory.mktemp(request.param), request.param)
    model, tokenizer = load_language_model(LanguageModel(path=str(folder)), CPU)
    return SoftPromptModel(model), tokenizer


@pytest.fixture
def soft():
    torch.manual_seed(1)
    return torch.randn(3, 2, 32)


PROMPTS = [[1, SLOT, SLOT, 4, 5, 6, 7], [SLOT, 9, SLOT], [1, 4, SLOT, SLOT, 15]]
ANSWERS = [[11], [12, 13, 2], [14, 2]]


def words_of(ids):
    return [WORDS[i] if i >= 0 else "*" for i in ids]


def test_a_prompt_gives_the_same_alone_and_in_a_padded_batch(loaded, soft):
    model, _ = loaded
    batch = batch_prompts(PROMPTS, ANSWERS)
    assert batch.ids.shape == (3, 8)
    with torch.no_grad():
        together = model.logits(batch, soft, 3)
        for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
            alone = model.logits(batch_prompts([prompt], [answer]), soft[row : row + 1], len(answer))
            torch.testing.assert_close(together[row, 3 - len(answer) :], alone[0], atol=1e-5, rtol=1e-5)


def test_logits_are_those_of_the_language_model_itself(loaded):
    """Without soft tokens: the model's own forward over token ids, shifted by one."""
    model, _ = loaded
    with torch.no_grad():
        plain = model.llm(input_ids=torch.tensor([[1, 4, 5, 6, 11, 2]])).logits
        ours = model.logits(batch_prompts([[1, 4, 5, 6]], [[11, 2]]), None, 2)
    torch.testing.assert_close(ours, plain[:, 3:5], atol=1e-5, rtol=1e-5)


def test_loss_and_likelihood_are_the_chain_rule(loaded, soft):
    model, _ = loaded
    total, per_row = 0.0, []
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        score = 0.0
        for place, token in enumerate(answer):
            embedded = splice(torch.tensor([prompt + answer[:place]]), model.embeddings, soft[row : row + 1])
            with torch.no_grad():
                logits = model.llm(inputs_embeds=embedded).logits[0, -1]
            score += logits.log_softmax(dim=0)[token].item()
        per_row.append(score)
        total += score
    batch = batch_prompts(PROMPTS, ANSWERS)
    assert model.log_likelihood(batch, soft).tolist() == pytest.approx(per_row, abs=1e-4)
    with torch.no_grad():
        assert model.loss(batch, soft).item() == pytest.approx(-total / 6, abs=1e-5)


def test_generation_is_the_slow_argmax_loop(loaded, soft):
    model, _ = loaded
    found = model.generate(batch_prompts(PROMPTS), soft, 4)
    for row, prompt in enumerate(PROMPTS):
        tokens: list[int] = []
        while len(tokens) < 4 and 2 not in tokens:
            embedded = splice(torch.tensor([prompt + tokens]), model.embeddings, soft[row : row + 1])
            with torch.no_grad():
                tokens.append(int(model.llm(inputs_embeds=embedded).logits[0, -1].argmax()))
        assert found[row, : len(tokens)].tolist() == tokens


def test_gradients_reach_the_soft_tokens_and_no_frozen_weight(loaded, soft):
    model, _ = loaded
    soft.requires_grad_()
    model.loss(batch_prompts(PROMPTS, ANSWERS), soft).backward()
    assert (soft.grad.abs().sum(dim=2) > 0).all()
    assert all(weight.grad is None for weight in model.parameters())


def test_soft_tokens_fill_their_slots_in_order():
    table = nn.Embedding(4, 1)
    table.weight.data[:] = torch.arange(4.0)[:, None]
    ids = torch.tensor([[SLOT, 1, SLOT], [0, SLOT, SLOT]])
    soft = torch.tensor([[[10.0], [11.0]], [[20.0], [21.0]]])
    assert splice(ids, table, soft).squeeze(2).tolist() == [[10, 1, 11], [0, 20, 21]]


@pytest.mark.parametrize("hidden", [0, 16])
def test_adapter_begins_at_the_language_models_scale(hidden):
    adapter = SoftTokenAdapter(vectors=2, width=8, tokens=3, llm_width=64, llm_norm=0.7, hidden=hidden)
    out = adapter(torch.randn(5, 2, 8) * 100)
    assert out.shape == (5, 3, 64)
    torch.testing.assert_close(out.norm(dim=2), torch.full((5, 3), 0.7), rtol=1e-2, atol=0)
    out.sum().backward()
    assert all(weight.grad is not None for weight in adapter.parameters())
    with torch.device("meta"):
        late = SoftTokenAdapter(vectors=2, width=8, tokens=3, llm_width=64, llm_norm=0.7, hidden=hidden)
    late.to_empty(device="cpu")
    for module in late.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    late.reset_parameters()
    torch.testing.assert_close(late(torch.randn(5, 2, 8)).norm(dim=2), torch.full((5, 3), 0.7), rtol=1e-2, atol=0)


def test_mean_norm_leaves_out_padding():
    table = nn.Embedding(3, 4, padding_idx=0)
    assert mean_norm(table) == pytest.approx(table.weight.detach()[1:].norm(dim=1).mean().item())


def test_placeholder_says_where_the_soft_tokens_go(loaded):
    _, tokenizer = loaded
    prompts = Prompts(tokenizer, PromptConfig(plain="{question} answer :"), 2)
    assert words_of(prompts.prompt("what does <user> like ?")) == ["what", "does", "*", "*", "like", "?", "answer", ":"]
    assert words_of(prompts.prompt("what ?")) == ["*", "*", "what", "?", "answer", ":"]
    assert words_of(prompts.answer("red", end=True)) == ["red", "</s>"]
    bare = Prompts(tokenizer, PromptConfig(plain="{question} answer :"), 0)
    assert words_of(bare.prompt("what does <user> like ?")) == ["what", "does", "like", "?", "answer", ":"]


def test_a_chat_template_is_used_where_there_is_one(loaded):
    _, tokenizer = loaded
    with pytest.raises(ConfigError, match=r"the tokenizer has no chat template; write plain"):
        Prompts(tokenizer, PromptConfig(template="chat"), 1)
    tokenizer.chat_template = CHAT
    try:
        at_front = Prompts(tokenizer, PromptConfig(system="the answer"), 1).prompt("what ?")
        inside = Prompts(tokenizer, PromptConfig(), 1).prompt("what <user> ?")
        plain = Prompts(tokenizer, PromptConfig(template="plain"), 1).prompt("what ?")
    finally:
        tokenizer.chat_template = None
    opening = ["<s>", "<unk>", ":", "the", "answer", "</s>", "<s>", "user", ":", "what", "?", "</s>"]
    assert words_of(at_front) == ["*", *opening, "<s>", "answer", ":"]
    assert words_of(inside) == ["<s>", "user", ":", "what", "*", "?", "</s>", "<s>", "answer", ":"]
    assert words_of(plain) == ["*", "what", "?"]


def test_what_cannot_be_loaded_is_told(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"which transformers cannot load"):
        load_language_model(LanguageModel(path=str(tmp_path)), CPU)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SetupError, match=r"genrec-plugins\[uqa\]"):
        load_language_model(LanguageModel(path=str(tmp_path)), CPU)
