"""Taobao and KuaiRand, on small files in their published formats."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_adapters.behaviour.build import build_histories
from genrec_adapters.datasets.behaviour_configs import KuaiRandConfig, TaobaoConfig
from genrec_adapters.datasets.kuairand import KuaiRand
from genrec_adapters.datasets.taobao import TaobaoUserBehavior
from genrec_registry import ConfigError, DataError, ErrorPolicy, default_registry, parse_component

TAOBAO = """1,2268318,2520377,pv,1511544070
1,2333346,2520771,buy,1511561733
1,2268318,2520377,fav,1511561733
100,2268318,2520377,cart,1511500000
"""


def taobao(folder: Path, text: str = TAOBAO, **options: Any) -> TaobaoUserBehavior:
    (folder / "UserBehavior.csv").write_text(text)
    return TaobaoUserBehavior(TaobaoConfig(path=str(folder / "UserBehavior.csv"), **options))


def test_taobao_actions_are_labels_and_conditions(tmp_path):
    dataset = taobao(tmp_path)
    assert dataset.events().rows() == [
        ("1", "2268318", 1511544070, "pv", 0),
        ("1", "2333346", 1511561733, "buy", 1),
        ("1", "2268318", 1511561733, "fav", 1),
        ("100", "2268318", 1511500000, "cart", 1),
    ]
    rows = pl.concat(dataset.scan(dataset.sources()[0], ErrorPolicy()))
    assert rows.columns == ["user", "item", "time", "category", "history_item", "history_action", "label"]
    assert rows.rows()[-1] == ("1", "2268318", 1511561733, "2520377", ["2268318"], ["pv"], 1)
    assert dataset.items().rows() == [
        ("2268318", "", ["2520377"], "2520377"),
        ("2333346", "", ["2520771"], "2520771"),
    ]
    _, catalogue, vocabularies = build_histories(dataset, side=["category"])
    assert catalogue.features["category"].tolist() == [0, 1, 2]
    assert vocabularies["action"].values == ("", "buy", "cart", "fav", "pv")
    assert taobao(tmp_path, positive=("buy",)).events()["label"].to_list() == [0, 1, 0, 0]


def test_what_the_items_were_can_be_listed_beside_them(tmp_path):
    dataset = taobao(tmp_path, history_side=("category",))
    rows = pl.concat(dataset.scan(dataset.sources()[0], ErrorPolicy()))
    assert rows.columns == [*dataset.columns, "label"]
    assert rows["history_category"].to_list() == [[], [], ["2520377"], ["2520377"]]
    with pytest.raises(ConfigError, match="the items have no text column 'kategory', did you mean 'category'"):
        _ = taobao(tmp_path, history_side=("kategory",)).columns


def test_taobao_may_stand_in_several_gzipped_parts(tmp_path):
    whole = taobao(tmp_path).events()
    (tmp_path / "parts").mkdir()
    lines = TAOBAO.splitlines(keepends=True)
    for index, part in enumerate((lines[:2], lines[2:])):
        (tmp_path / "parts" / f"part-{index}.csv.gz").write_bytes(gzip.compress("".join(part).encode()))
    dataset = TaobaoUserBehavior(TaobaoConfig(path=str(tmp_path / "parts")))
    assert dataset.events().equals(whole)
    rows = [chunk for source in dataset.sources() for chunk in dataset.scan(source, ErrorPolicy())]
    assert sum(chunk.height for chunk in rows) == 4


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1,2,3,look,4", "UserBehavior.csv, row 5, column behavior_type: found 'look', expected pv, cart, fav, buy"),
        ("1,2,3,pv,soon", "row 5, column timestamp: found 'soon', expected an integer"),
        ("1,2,3,pv", "row 5, column timestamp: found 4 columns, expected 5"),
        (",2,3,pv,4", "row 5, column user_id: found an empty value"),
    ],
)
def test_bad_actions_are_told(line, problem, tmp_path):
    dataset = taobao(tmp_path, TAOBAO + line + "\n2,3,4,pv,5\n")
    with pytest.raises(DataError, match=problem):
        dataset.events()
    policy = ErrorPolicy(on_error="skip")
    assert dataset.events(policy).height == 5
    assert policy.skipped == 1


def test_a_share_of_the_users_is_the_same_in_every_file_and_order(tmp_path):
    lines = [f"{user},{item},1,pv,{1000 + item}\n" for user in range(200) for item in range(3)]
    some = taobao(tmp_path, "".join(lines), user_share=0.3).events()
    again = taobao(tmp_path, "".join(reversed(lines)), user_share=0.3).events()
    assert 30 < some["user"].n_unique() < 90
    assert some.equals(again)
    more = taobao(tmp_path, "".join(lines), user_share=0.6).events()
    assert set(some["user"]) < set(more["user"])
    assert set(some["user"].value_counts()["count"]) == {3}  # users are kept with all their events


SIGNALS = "is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view"
LOG = (
    f"user_id,video_id,date,hourmin,time_ms,{SIGNALS},play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab\n"
)
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    'music_id,music_type,tag\n10,7,NORMAL,2022-03-01,LongImport,0,62830.0,720,1280,99,9.0,"12,65"\n'
    "11,8,AD,2022-03-02,ShortImport,0,,720,1280,98,9.0,\n"
)
USERS = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    f"register_days_range,{','.join(f'onehot_feat{i}' for i in range(18))}\n"
    f'0,full_active,0,0,0,5,"(0,10]",0,0,0,0,107,61-90,{",".join(["1"] * 17)},\n'
)


def exposure(user: int, video: int, time: int, signals: str, tab: int = 1) -> str:
    return f"{user},{video},20220411,800,{time},{','.join(signals)},100,200,0,0,0,0,{tab}\n"


def kuairand(folder: Path, **options: Any) -> KuaiRand:
    first = exposure(0, 10, 1649600000500, "1000001") + exposure(0, 11, 1649600000900, "0000000", tab=4)
    second = exposure(0, 10, 1651000000000, "1100000") + exposure(1, 99, 1650900000000, "0000010")
    (folder / "log_standard_4_22_to_5_08_pure.csv").write_text(LOG + second)
    (folder / "log_standard_4_08_to_4_21_pure.csv").write_text(LOG + first)
    (folder / "log_random_4_22_to_5_08_pure.csv").write_text(LOG + exposure(1, 11, 1650800000000, "1000000"))
    (folder / "video_features_basic_pure.csv").write_text(VIDEOS)
    (folder / "video_features_statistic_pure.csv").write_text("video_id,counts\n10,3\n")
    (folder / "user_features_pure.csv").write_text(USERS)
    return KuaiRand(KuaiRandConfig(path=str(folder), **options))


def test_kuairand_feedback_is_label_and_condition(tmp_path):
    dataset = kuairand(tmp_path)
    assert dataset.events().rows() == [
        ("0", "10", 1649600000, "long_view", "1", 1),
        ("0", "11", 1649600000, "skip", "4", 0),
        ("0", "10", 1651000000, "like", "1", 1),
        ("1", "99", 1650900000, "hate", "1", 0),
    ]
    assert [Path(source.path).name for source in dataset.sources()] == [
        "log_standard_4_08_to_4_21_pure.csv",
        "log_standard_4_22_to_5_08_pure.csv",
        "video_features_basic_pure.csv",
        "user_features_pure.csv",
    ]
    assert kuairand(tmp_path, label="long_view").events()["label"].to_list() == [1, 0, 0, 0]
    assert kuairand(tmp_path, random_exposure=True).events().height == 5


def test_kuairand_rows_have_the_side_of_videos_and_users(tmp_path):
    dataset = kuairand(tmp_path)
    rows = pl.concat(chunk for source in dataset.sources() for chunk in dataset.scan(source, ErrorPolicy()))
    assert rows.columns == [*dataset.columns, "label"]
    last = rows.rows(named=True)[-1]
    assert (last["user"], last["tab"], last["follow_user_num_range"], last["onehot_feat17"]) == (
        "0",
        "1",
        "(0,10]",
        None,
    )
    assert (last["author_id"], last["video_duration"], last["tags"]) == ("7", 62830.0, ["12", "65"])
    # The two exposures of one second are in the history of the third row, and not in that of each other.
    assert (last["history_item"], last["history_action"], last["history_tab"]) == (
        ["10", "11"],
        ["long_view", "skip"],
        ["1", "4"],
    )
    assert rows["history_item"].to_list()[:3] == [[], [], []]
    unknown = rows.filter(pl.col("item") == "99").rows(named=True)[0]
    assert (unknown["author_id"], unknown["video_duration"], unknown["tags"], unknown["user_active_degree"]) == (
        None,
        None,
        [],
        None,
    )
    # What the row's own outcome says is no column of it.
    assert not {"action", "is_click", "long_view"} & set(dataset.columns)


def test_kuairand_logs_may_stand_alone(tmp_path):
    kuairand(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    (tmp_path / "log_standard_4_08_to_4_21_pure.csv").rename(alone / "log.csv")
    dataset = KuaiRand(KuaiRandConfig(path=str(alone / "log.csv")))
    assert list(dataset.columns) == ["user", "item", "time", "tab", "history_item", "history_action", "history_tab"]
    assert dataset.items().is_empty()
    assert set(dataset.default_fields()) == {"user", "item", "tab"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (exposure(0, 1, 1, "2000000"), r"row 2, column is_click: found '2', expected 0 or 1"),
        (exposure(0, 1, 1, "x000000"), r"row 2, column is_click: found 'x', expected an integer"),
        ("0,,20220411,1,5,1,0,0,0,0,0,0,1,1,1,1,1,0,1\n", "row 2, column video_id: found an empty value"),
        ("0,1\n", "row 2, column date: found 2 columns, expected 19"),
    ],
)
def test_bad_exposures_are_told(line, problem, tmp_path):
    (tmp_path / "log_standard_x.csv").write_text(LOG + exposure(0, 1, 1, "0000000") + line)
    with pytest.raises(DataError, match=problem):
        KuaiRand(KuaiRandConfig(path=str(tmp_path))).events()


def test_a_folder_without_logs_and_a_label_that_is_none(tmp_path):
    with pytest.raises(DataError, match="has no log_standard_"):
        KuaiRand(KuaiRandConfig(path=str(tmp_path))).sources()
    with pytest.raises(ConfigError, match="is_clicked"):
        parse_component(default_registry(), "dataset", {"type": "kuairand", "path": "x", "label": "is_clicked"})
