"""UQABench's files and JSON lines: what is read of them, and what is said of files of another form."""

from __future__ import annotations

import gzip
import json

import polars as pl
import pytest

from genrec_adapters.behaviour.histories import Vocabulary
from genrec_plugins.cli import main
from genrec_plugins.uqa.config import parse_uqa
from genrec_plugins.uqa.data import TASKS, Question, histories_of, read_questions, task_of, write_events
from genrec_registry import ConfigError, DataError, default_registry

#: questions in the words of UQABench's templates, one a task
ASKED = {
    "direct feature": "用户第3次浏览的商品的品牌是什么?",
    "match feature": "用户浏览过的类目为女装的商品有多少个?",
    "item prediction": "请问用户下一个可能点击的商品的标题是什么?",
    "attribute prediction": "请问用户下一个可能点击的商品的类目是什么?",
    "long-term interest": "请问用户最感兴趣的3个类目是什么?",
    "short-term interest": "请问用户近期最感兴趣的品牌是什么?",
    "interest trajectory": "用户的类目偏好的转移路径是什么?",
}


def chat(question, answer):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps(messages, ensure_ascii=False)


def align_frame():
    """Rows as the files have them: lists of one-element lists, text as JSON, side information beside."""
    histories = [[[11], [12], [11]], [[13]], [], [[12], [], [14]], [[11]], [[12]], [[13]]]
    return pl.DataFrame(
        {
            "uni_seq_item_id": pl.Series(histories, dtype=pl.List(pl.List(pl.Int64))),
            "uni_seq_cate_id": pl.Series([[[1]] * len(h) for h in histories], dtype=pl.List(pl.List(pl.Int64))),
            "uni_seq_title_bpe_token_ids": pl.Series([[[5, 6]] * len(h) for h in histories]),
            "text": [chat(question, "A" if n else ["B", "C"]) for n, question in enumerate(ASKED.values())],
        }
    )


def test_uqabench_rows_become_questions(tmp_path):
    align_frame().write_ipc(tmp_path / "align_data_eval.arrow")
    found = read_questions(tmp_path / "align_data_eval.arrow")
    assert [question.task for question in found] == list(ASKED)
    assert [question.text for question in found] == list(ASKED.values())
    assert [question.answer for question in found] == ["B", *"AAAAAA"]
    assert [question.history for question in found[:4]] == [("11", "12", "11"), ("13",), (), ("12", "14")]
    groups = {question.group for question in found}
    assert groups == {"sequence understanding", "action prediction", "interest perception"}
    assert len(read_questions(tmp_path / "align_data_eval.arrow", limit=2)) == 2


def test_every_task_is_known_by_its_template():
    assert set(ASKED) == set(TASKS)
    assert {name: task_of(text) for name, text in ASKED.items()} == {name: name for name in ASKED}
    assert task_of("What is the capital of France?") == "other"


def test_json_lines(tmp_path):
    lines = [
        {"question": "q", "answer": 3, "options": [2, 3], "history": [7, 8], "conditions": {"action": ["pv", "buy"]}},
        {"question": "q", "answer": "x", "task": "mine", "user": 5, "time": 17},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + "\n\n"
    (tmp_path / "q.jsonl").write_text(text)
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    found = read_questions(tmp_path / "q.jsonl")
    assert found == read_questions(tmp_path / "q.jsonl.gz")
    assert found[0] == Question(
        text="q", answer="3", options=("2", "3"), history=("7", "8"), conditions={"action": ("pv", "buy")}
    )
    assert (found[1].task, found[1].user, found[1].time, found[1].history) == ("mine", "5", 17.0, ())


def test_histories_have_the_encoders_ids():
    asked = [
        Question(text="?", answer="a", history=("b", "new", "a"), conditions={"action": ("pv", "buy", "new")}),
        Question(text="?", answer="a"),
        Question(text="?", answer="a", history=("a",)),
    ]
    items, actions = Vocabulary.of(["a", "b"]), Vocabulary.of(["buy", "pv"])
    found = histories_of(asked, items, {"action": actions})
    assert found.items.tolist() == [2, 0, 1, 1]
    assert found.lengths.tolist() == [3, 0, 1]
    assert found.conditions["action"].tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "q.jsonl:1: "),
        ('{"question": "q"}', "key 'answer' is None, expected text"),
        ('["q"]', "q.jsonl:1: "),
        ('{"question": "q", "answer": "a", "options": ["b", "c"]}', "answer 'a' is none of the options"),
        (
            '{"question": "q", "answer": "a", "history": ["x"], "conditions": {"action": []}}',
            "condition 'action' has 0 values for 1 events",
        ),
        ("", "has no questions"),
    ],
)
def test_bad_lines_are_told_with_their_place(tmp_path, line, sentence):
    (tmp_path / "q.jsonl").write_text(line + "\n")
    with pytest.raises(DataError) as raised:
        read_questions(tmp_path / "q.jsonl")
    assert sentence in str(raised.value)


def test_bad_arrow_files_are_told(tmp_path):
    path = tmp_path / "x.arrow"
    with pytest.raises(DataError, match="is no file"):
        read_questions(path)
    path.write_bytes(b"not arrow")
    with pytest.raises(DataError, match="cannot be read as an Arrow file"):
        read_questions(path)
    align_frame().drop("text").write_ipc(path)
    with pytest.raises(DataError, match="has no column 'text', only uni_seq_item_id"):
        read_questions(path)
    align_frame().with_columns(uni_seq_item_id=pl.lit([1, 2])).write_ipc(path)
    with pytest.raises(DataError, match="expected a list of lists of integers"):
        read_questions(path)
    align_frame().with_columns(text=pl.lit('{"a": 1}')).write_ipc(path)
    with pytest.raises(DataError, match=r"row 1, column text: found '\{\"a\": 1\}'"):
        read_questions(path)


def test_interactions_are_read_back_as_a_dataset(tmp_path, capsys):
    align_frame().write_ipc(tmp_path / "pretrain_data_train.arrow")
    with pytest.raises(SystemExit) as stopped:
        main.run(["uqa", "events", str(tmp_path / "pretrain_data_train.arrow"), "--out", str(tmp_path / "e.csv")])
    assert not stopped.value.code
    assert "9 events of 6 users" in capsys.readouterr().out
    registry = default_registry()
    from genrec_registry.config import parse_component

    config = parse_component(registry, "dataset", {"type": "taobao-userbehavior", "path": str(tmp_path / "e.csv")})
    dataset = registry.create("dataset", config)
    events = dataset.events()
    assert events.select("user", "item", "time").rows()[:4] == [
        ("1", "11", 0),
        ("1", "12", 1),
        ("1", "11", 2),
        ("2", "13", 0),
    ]
    assert dict(dataset.items().select("item", "category").rows()) == {"11": "1", "12": "1", "13": "1", "14": "1"}
    align_frame().drop("uni_seq_cate_id").write_ipc(tmp_path / "bare.arrow")
    assert write_events(tmp_path / "bare.arrow", tmp_path / "bare.csv") == (6, 9)


def test_config_mistakes_are_told():
    base = "questions: {train: q.jsonl}\nusers: {run: r}\nllm: {path: m}\n"
    assert parse_uqa(base).users.view == "answers"
    assert parse_uqa(base, {"users": "{type: store, path: k}"}).users.path == "k"
    for overrides, sentence in [
        ({"adapter.token": "3"}, "did you mean 'tokens'"),
        ({"users.view": "state"}, "view"),
        ({"users": "{type: store, path: k, tune: true}"}, "tune"),
        ({"prompt.plain": "'?'"}, "expected text with {question} in it"),
    ]:
        with pytest.raises(ConfigError) as raised:
            parse_uqa(base, overrides)
        assert sentence in str(raised.value)
