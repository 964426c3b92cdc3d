"""From events to answers: the encoder is pre-trained, the adapter trained on questions, the language model asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from genrec_adapters.knowledge import KnowledgeFacts, KnowledgeStore
from genrec_plugins.cli import main
from genrec_plugins.lum.batches import make_batch
from genrec_plugins.lum.config import parse_lum
from genrec_plugins.lum.run import LumRun, pretrain
from genrec_plugins.training.reporter import Quiet
from genrec_plugins.uqa.aligned import Aligned
from genrec_plugins.uqa.config import EncoderUsers, StoreUsers, UqaConfig, parse_uqa
from genrec_plugins.uqa.data import Question, histories_of, read_questions
from genrec_plugins.uqa.evaluate import _partners, accuracies, evaluate
from genrec_plugins.uqa.make import ASKED, make_questions
from genrec_plugins.uqa.prompts import batch_prompts
from genrec_plugins.uqa.train import train_uqa
from genrec_plugins.uqa.users import EncoderVectors, StoreVectors
from genrec_registry import ConfigError, DataError, ModelError
from tests.plugins.uqa_cases import COLOURS, make_language_model, write_events, write_questions

pytest.importorskip("transformers", reason="needs the extra [uqa]")

TRAIN = {"epochs": 8, "batch_size": 32, "adapter_lr": 3e-3, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A language model, a pre-trained LUM, questions to learn from and to be asked, and the alignment of all."""
    folder = tmp_path_factory.mktemp("uqa")
    make_language_model(folder / "lm")
    write_events(folder / "events.csv")
    write_questions(folder / "train.jsonl", 500, seed=1)
    write_questions(folder / "test.jsonl", 200, seed=2)
    lum = {
        "dataset": {"type": "taobao-userbehavior", "path": str(folder / "events.csv")},
        "encoder": {"type": "lum", "hidden": 16, "num_layers": 1},
        "embedding_dim": 16,
        "max_length": 20,
        "objective": {"type": "info-nce", "full": True},
        "train": {"epochs": 12, "threads": 1, "lr": 1e-2, "max_events": 512, "warmup_steps": 5},
    }
    pretrain(parse_lum(lum), folder / "lum")
    train_uqa(config_of(folder), folder / "out")
    return folder


def config_of(folder: Path, **overrides: Any) -> UqaConfig:
    data = {
        "questions": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")},
        "users": {"run": str(folder / "lum"), "view": "states"},
        "llm": {"path": str(folder / "lm")},
        "adapter": {"tokens": 2, "hidden": 32},
        "train": TRAIN,
    }
    return parse_uqa(data, {key: json.dumps(value) for key, value in overrides.items()})


def accuracy(answered, task="all"):
    return next(row.accuracy for row in answered.rows if row.task == task)


def test_soft_tokens_carry_what_the_history_says(folder):
    """200 questions, four colours: guessing is 0.25 with a standard error of 0.03."""
    aligned, asked = Aligned.open(folder / "out"), read_questions(folder / "test.jsonl")
    own = evaluate(aligned, asked)
    assert accuracy(own, "liked colour") > 0.6
    assert accuracy(own, "last colour") > 0.6
    assert own.rows[0].chance == 0.25
    for whose in ("shuffled", "none"):
        assert accuracy(evaluate(aligned, asked, whose=whose)) < 0.4, whose
    told = json.loads((folder / "out" / "metrics.json").read_text())
    assert told["test"][0]["accuracy"] == accuracy(own), "what the training run reported, opened again"
    assert told["train_loss"][-1] < told["train_loss"][0]
    greedy = evaluate(aligned, asked, mode="greedy")
    assert accuracy(greedy) > 0.5
    right = [text for text, correct in zip(greedy.predictions, greedy.correct, strict=True) if correct]
    assert all(text.split()[0] in COLOURS for text in right)


def test_an_untrained_adapter_and_a_blind_one_stay_at_chance(folder, tmp_path):
    """The questions say nothing by themselves: with one vector for all users, training finds a constant answer."""
    asked = read_questions(folder / "test.jsonl")
    assert accuracy(evaluate(Aligned.build(config_of(folder)), asked)) < 0.4
    zero = pl.Series([[0.5] * 4], dtype=pl.Array(pl.Float32, 4))
    facts = KnowledgeFacts(model="0" * 64, trained_until=1, queries=("any",), dim=4)
    cold = pl.DataFrame(
        {"user": [None], "last_event": [None], "any": zero},
        schema_overrides={"user": pl.String, "last_event": pl.Int64},
    )
    KnowledgeStore.write(tmp_path / "store", [cold], pl.DataFrame({"item": ["i"], "vector": zero}), facts)
    blind = config_of(folder, users={"type": "store", "path": str(tmp_path / "store")})
    train_uqa(blind, tmp_path / "blind")
    found = evaluate(Aligned.open(tmp_path / "blind"), asked)
    assert accuracy(found) <= found.rows[0].constant + 0.05


def test_frozen_parts_stay_and_tuned_ones_move_and_are_kept(folder, tmp_path):
    settings = {"questions.limit": 64, "train.epochs": 1, "train.encoder_lr": 1e-2, "train.llm_lr": 1e-3}
    before = Aligned.build(config_of(folder))

    def weights(part):
        return {name: value.clone() for name, value in part.state_dict().items()}

    def same(left, right):
        return all(torch.equal(left[name], right[name]) for name in left)

    train_uqa(config_of(folder, **settings), tmp_path / "frozen")
    train_uqa(config_of(folder, **settings, **{"users.tune": True, "llm.tune": True}), tmp_path / "tuned")
    frozen, tuned = Aligned.open(tmp_path / "frozen"), Aligned.open(tmp_path / "tuned")
    assert same(weights(frozen.users), weights(before.users))
    assert same(weights(frozen.model), weights(before.model))
    assert not same(weights(frozen.adapter), weights(before.adapter))
    assert not (tmp_path / "frozen" / "llm").exists()
    changed = {
        name
        for name, value in tuned.users.state_dict().items()
        if not torch.equal(value, before.users.state_dict()[name])
    }
    assert any("item_tables" in name for name in changed)
    assert any("encoder" in name for name in changed)
    assert not same(weights(tuned.model), weights(before.model))
    asked = read_questions(folder / "test.jsonl")
    told = json.loads((tmp_path / "tuned" / "metrics.json").read_text())["test"]
    assert accuracy(evaluate(tuned, asked[:64])) == told[0]["accuracy"]


def test_training_is_the_same_every_time(folder, tmp_path):
    settings = {"questions.limit": 96, "train.epochs": 2, "questions.test": None}
    first, again, other = (
        train_uqa(config_of(folder, **settings, seed=seed), tmp_path / name)["train_loss"]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first != other


def test_training_goes_on_after_the_last_whole_epoch(folder, tmp_path):
    settings = {"questions.limit": 64, "train.epochs": 3, "questions.test": None}

    class Killed(Quiet):
        def step(self, **told: Any) -> None:
            if told["epoch"] == 3 and told["done"] == 2:
                raise KeyboardInterrupt

    whole = train_uqa(config_of(folder, **settings), tmp_path / "whole")["train_loss"]
    with pytest.raises(KeyboardInterrupt):
        train_uqa(config_of(folder, **settings), tmp_path / "killed", Killed())
    assert train_uqa(config_of(folder, **settings), tmp_path / "killed")["train_loss"] == whole
    left, right = (Aligned.open(tmp_path / name).adapter.state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(left[name], right[name]) for name in left)
    with pytest.raises(ModelError, match="another config"):
        train_uqa(config_of(folder, **settings, seed=2), tmp_path / "killed")


# -- user vectors -----------------------------------------------------------------------------------------------------


def asked_of(*histories):
    return [Question(text="?", answer="a", history=h, conditions={"action": ("pv",) * len(h)}) for h in histories]


HISTORIES = (("i01", "i02", "i13"), (), ("i21",), ("new",))


@pytest.mark.parametrize(
    ("view", "queries", "count"),
    [
        ("answers", [{}], 1),
        ("answers", [{"action": "buy"}, {"action": "pv"}, {}], 3),
        ("states", [{}], 1),
        ("tokens", [{}], 1),
    ],
)
def test_vectors_of_a_user_do_not_depend_on_the_batch(folder, view, queries, count):
    users = EncoderVectors(EncoderUsers(run=str(folder / "lum"), view=view, queries=tuple(queries)))
    assert (users.vectors, users.width) == (count, 16)
    asked = asked_of(*HISTORIES)
    together = users(asked)
    assert together.shape == (4, count, 16)
    assert torch.isfinite(together).all()
    for row, question in enumerate(asked):
        torch.testing.assert_close(users([question])[0], together[row], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[0], together[2])


def test_answers_are_those_of_the_pretrained_model(folder):
    run = LumRun.open(folder / "lum")
    model, asked = run.model(), asked_of(*HISTORIES)
    batch = make_batch(histories_of(asked, run.catalogue.items, run.vocabularies), np.arange(4), 20)
    users = EncoderVectors(EncoderUsers(run=str(folder / "lum"), queries=({"action": "buy"}, {})))
    with torch.no_grad():
        for place, condition in enumerate((run.vocabularies["action"].values.index("buy"), 0)):
            ids = {"action": torch.full((4,), condition)}
            expected = model.answers(batch, torch.arange(4), batch.lengths, ids)
            torch.testing.assert_close(users(asked)[:, place], expected, atol=1e-6, rtol=1e-5)
    mean = EncoderVectors(EncoderUsers(run=str(folder / "lum"), view="states"))(asked)
    torch.testing.assert_close(mean[1, 0], users(asked)[1, 1], atol=1e-6, rtol=1e-5)  # nothing but the last answer


def test_store_gives_the_snapshot_before_the_question(tmp_path):
    def vector(*rows):
        return pl.Series(rows, dtype=pl.Array(pl.Float32, 2))

    frame = pl.DataFrame(
        {
            "user": [None, "u", "u"],
            "last_event": [None, 10, 20],
            "like": vector([0, 0], [0, 1], [1, 1]),
            "any": vector([5, 5], [6, 6], [7, 7]),
        }
    )
    facts = KnowledgeFacts(model="0" * 64, trained_until=1, queries=("like", "any"), dim=2)
    KnowledgeStore.write(tmp_path / "store", [frame], pl.DataFrame({"item": ["i"], "vector": vector([0, 2])}), facts)
    users = StoreVectors(StoreUsers(path=str(tmp_path / "store")))
    assert (users.vectors, users.width) == (2, 2)

    def ask(user, time=None):
        return users([Question(text="?", answer="a", user=user, time=time)])[0].tolist()

    assert ask("u") == [[1, 1], [7, 7]]
    assert ask("u", 15) == [[0, 1], [6, 6]]
    assert ask("nobody") == [[0, 0], [5, 5]]
    with pytest.raises(DataError, match="would see their future"):
        ask("u", 5)
    with pytest.raises(DataError, match="has no 'user'"):
        ask("")


# -- counting ---------------------------------------------------------------------------------------------------------


def test_choice_is_the_same_by_one_forward_and_by_likelihood(folder):
    """One-token options are scored in one forward a question; here each is scored by itself."""
    aligned, asked = Aligned.open(folder / "out"), read_questions(folder / "test.jsonl", 40)
    prompts = aligned.prompts()
    slow = []
    for question in asked:
        soft, ids = aligned.soft_tokens([question]), prompts.prompt(question.text)
        scores = [float(aligned.model.log_likelihood(batch_prompts([ids], [prompts.answer(o)]), soft)) for o in COLOURS]
        slow.append(COLOURS[int(np.argmax(scores))])
    assert list(evaluate(aligned, asked).predictions) == slow


def test_options_of_several_tokens_are_compared_by_their_likelihood(folder):
    aligned = Aligned.open(folder / "out")
    options = ("red", "blue answer", "no yes no")
    asked = [
        Question(text="what does the user like ?", answer="red", options=options, history=question.history)
        for question in read_questions(folder / "test.jsonl", 20)
    ]
    found = evaluate(aligned, asked).predictions
    prompts = aligned.prompts()
    for question, answer in zip(asked, found, strict=True):
        soft = aligned.soft_tokens([question])
        ids = prompts.prompt(question.text)
        scores = [float(aligned.model.log_likelihood(batch_prompts([ids], [prompts.answer(o)]), soft)) for o in options]
        assert answer == options[int(np.argmax(scores))]


def test_accuracy_is_told_by_group_and_task():
    asked = [
        Question(text="?", answer="a", task="direct feature"),
        Question(text="?", answer="b", task="match feature"),
        Question(text="?", answer="b", task="match feature"),
        Question(text="?", answer="c", task="item prediction", options=("c", "d")),
    ]
    rows = accuracies(asked, [True, False, True, True])
    assert [(row.task, row.questions, row.correct) for row in rows] == [
        ("all", 4, 3), ("action prediction", 1, 1), ("sequence understanding", 3, 2),
        ("direct feature", 1, 1), ("item prediction", 1, 1), ("match feature", 2, 1),
    ]  # fmt: skip
    assert rows[0].chance is None
    assert rows[1].chance == 0.5
    assert rows[0].constant == 1.0
    assert rows[5].error == pytest.approx(np.sqrt(0.25 / 2))


def test_no_question_gets_its_own_user_when_shuffled():
    partners = _partners(50)
    assert sorted(partners) == list(range(50))
    assert not (partners == np.arange(50)).any()


# -- the command line and mistakes ------------------------------------------------------------------------------------


def run_cli(*words):
    with pytest.raises(SystemExit) as stopped:
        main.run(["uqa", *words])
    return stopped.value.code


def test_genrec_uqa(folder, tmp_path, capsys):
    settings = config_of(folder, **{"questions.limit": 64, "train.epochs": 1}).model_dump(
        mode="json", exclude_none=True
    )
    (tmp_path / "uqa.yaml").write_text(json.dumps(settings))
    assert not run_cli("train", str(tmp_path / "uqa.yaml"), "--out", str(tmp_path / "run"), "--set", "adapter.tokens=1")
    shown = capsys.readouterr()
    assert "liked colour" in shown.out
    assert "loss of the answers" in shown.err
    assert not run_cli(
        "evaluate", str(tmp_path / "run"), "--users", "shuffled", "--json", "--out", str(tmp_path / "p.jsonl")
    )
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["questions"] == 64
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert sum(line["prediction"] == line["answer"] for line in lines) == rows[0]["correct"]
    for words, sentence in [
        (("--users", "shufled"), "did you mean 'shuffled'"),
        (("--mode", "gready"), "did you mean 'greedy'"),
        (("--questions", "none.jsonl"), "none.jsonl: is no file"),
    ]:
        assert run_cli("evaluate", str(tmp_path / "run"), *words)
        assert sentence in capsys.readouterr().err


def test_mistakes_are_told(folder, tmp_path):
    with pytest.raises(DataError, match="is not the directory of an alignment"):
        Aligned.open(tmp_path)
    with pytest.raises(DataError, match="is not the directory of a pre-training run"):
        Aligned.build(config_of(folder, **{"users.run": str(tmp_path)}))
    with pytest.raises(ConfigError, match=r"users.queries.1: condition 'action' has no value 'by', did you mean 'buy'"):
        Aligned.build(config_of(folder, **{"users.queries": [{}, {"action": "by"}]}))
    with pytest.raises(ModelError, match="the loss is"):
        train_uqa(config_of(folder, **{"train.adapter_lr": 1e30, "train.clip_grad_norm": 0}), tmp_path / "wild")
    asked = [Question(text="like " * 70, answer="red")]
    aligned = Aligned.open(folder / "out")
    with pytest.raises(DataError, match=r"question 1 has 72 tokens and up to 8 of answer, more than the 64"):
        evaluate(aligned, asked)
    with pytest.raises(ConfigError, match="question 1 has no options"):
        evaluate(aligned, [Question(text="like", answer="red")], mode="choice")
    facts = json.loads((folder / "out" / "run.json").read_text())
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text(json.dumps(facts | {"users": "0" * 64}))
    with pytest.raises(DataError, match="was trained on other user vectors"):
        Aligned.open(tmp_path / "old")
    (tmp_path / "old" / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="weights cannot be loaded"):
        Aligned.open(tmp_path / "old")


# -- questions made of events -----------------------------------------------------------------------------------------


def test_questions_are_read_off_the_events(folder):
    run = LumRun.open(folder / "lum")
    made = make_questions(run, test_share=0.25, options=3, seed=4)
    assert made == make_questions(run, test_share=0.25, options=3, seed=4)
    assert made != make_questions(run, test_share=0.25, options=3, seed=5)
    assert len(made.test) == 30 * 4
    assert len(made.train) == 90 * 4
    assert not {line["user"] for line in made.train} & {line["user"] for line in made.test}
    names = ["user", "item", "category", "action", "time"]
    events = pl.read_csv(
        folder / "events.csv", has_header=False, new_columns=names, schema_overrides={"user": pl.String}
    )
    for line in made.test:
        own = events.filter(pl.col("user") == line["user"]).sort("time")
        *seen, target = own["item"].to_list()
        colours = [item[1] for item in seen]
        assert line["history"] == seen, "all but the last event"
        assert line["conditions"]["action"] == own["action"].to_list()[:-1]
        assert len(set(line["options"])) == 3
        assert line["answer"] in line["options"]
        if line["task"] == "next category":
            assert line["answer"] == target[1]
        elif line["task"] == "last category":
            assert line["answer"] == colours[-1]
        else:
            assert colours.count(line["answer"]) == max(map(colours.count, colours))


def test_made_questions_are_answered(folder, tmp_path, capsys):
    assert not run_cli("questions", str(folder / "lum"), "--out", str(tmp_path), "--options", "3")
    assert "384 questions written to" in capsys.readouterr().out
    found = read_questions(tmp_path / "test.jsonl")
    rows = evaluate(Aligned.open(folder / "out"), found).rows
    assert {row.task for row in rows} == {"all", "interest perception", *ASKED}
    with pytest.raises(ConfigError, match=r"'last category' has 4 different answers, expected at least 5"):
        make_questions(LumRun.open(folder / "lum"), options=5)
