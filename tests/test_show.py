"""What notebooks show of data is what is there: the ledger, the checks, the times, one example."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nrms.config import Experiment, load_dataset
from nrms.data import summary
from nrms.data.prepare import load
from nrms.data.tables import Impressions, Interactions, Items, Ragged, Split
from nrms.report import experiment_settings
from nrms.runtime import notebook_output


def ragged(*rows):
    return Ragged(np.concatenate([np.asarray(row) for row in rows]).astype(int), np.r_[0, np.cumsum([len(row) for row in rows])])


def questions(time, history, candidates, clicked):
    names = np.array([f"u{i}" for i in range(len(time))])
    return Impressions(names, names, np.array(time), ragged(*history), ragged(*candidates), np.array(clicked, bool))


@pytest.fixture
def small():
    """Three items; two train impressions, one to choose by, two to judge by, of which one has no history and asks for an item nobody has seen."""
    news = Items(*(np.array(["", f"{k}1", f"{k}2", f"{k}2"], object) for k in ("id", "category", "subcategory", "title", "abstract", "url")))
    train = questions([86400 * 10**4, 86400 * 10**4 + 10], [[1], [1]], [[1, 2], [1, 2]], [1, 0, 0, 1])
    valid = questions([86400 * 10**4 + 20], [[1]], [[1, 2]], [1, 0])
    test = questions([86400 * 10**4 + 30, 86400 * 10**4 + 40], [[1], []], [[1, 2], [1, 3]], [1, 0, 0, 1])
    file = {"file": "train/news.tsv", "rows_in": 10, "rows_out": 7, "set_aside": {"time": 2, "id": 1}, "repaired": {}, "noted": {}, "examples": []}
    tables = SimpleNamespace(items=news, manifest={"files": [file]}, has_image=np.array([False, True, False, False]))
    return tables, Split(train, valid, test)


def test_checks_count_what_they_say(small):
    """Shares by hand: 3 of 10 rows lost, half the test users new, half of what is right never seen, two of three titles the same."""
    found = summary.checks(*small)
    assert found["found"].to_dict() == {
        "rows are kept": "7 of 10",
        "what is asked for comes after all training": "0.0% of it does not",
        "test users have a past": "50.0% have none",
        "what is right was in training": "50.0% never was: ids cannot rank it, content can",
        "items have a title": "0.0% have none",
        "titles tell items apart": "66.7% are shared",
        "few of those shown are clicked": "50.0% (4 % in MIND)",
        "slates have clicked and passed over": "0.0% have one kind alone and are skipped",
    }
    odd = ["rows are kept", "titles tell items apart", "few of those shown are clicked"]
    assert list(found.index[found["verdict"] == "look closer"]) == odd


def test_the_answer_on_data_is_computed(small, tiny, split):
    """Rows, reasons, pictures and what asks for a closer look; nothing suspicious is said where all checks come out well."""
    answer = summary.data_answer("small", *small)
    assert "**small: 10 rows in, 7 out, 3 set aside**, most of them for `time`" in answer
    assert "3 items, 33% of them with a picture; 2 impressions to train on, 1 impressions to choose by, 2 to judge by" in answer
    assert "Look closer at 3 of 8 checks, where it does not hold that rows are kept" in answer
    assert "Nothing looks suspicious: all 8 checks below come out well" in summary.data_answer("newsroom-tiny", tiny, split)


def test_a_log_split_at_random_may_know_the_future(board, monkeypatch):
    """What is asked for before the last training interaction is counted, and asks for a closer look."""
    monkeypatch.setenv("NRMS_HOME", str(board[0]))
    data = load_dataset("movies", split="random")
    tables = load("movies", data)
    split = tables.split(data)
    late = (split.test.time <= split.train.time.max()).mean()
    found = summary.checks(tables, split).loc["what is asked for comes after all training"]
    assert late > 0.5 and found["found"] == f"{late:.1%} of it does not" and found["verdict"] == "look closer"
    assert "interactions to train on" in summary.data_answer("movies", tables, split)


def test_a_table_whose_names_repeat_can_be_shown():
    """Two lines of one name: the name becomes a column."""
    assert notebook_output.readable(pd.DataFrame({"x": [1, 2]}, index=pd.Index(["a", "a"], name="rank"))).to_html().count(">a<") == 2


def test_timeline(small):
    """Each part in its place on one axis, with its size; the highest share of each line is a full block."""
    train, valid, test, axis = summary.timeline(small[1], width=4).split("\n")
    assert train == "train |██  |  2" and valid == "valid |  █ |  1"  # 0 and 10, 20, 30 and 40 of 0 .. 40
    assert test == "test  |   █|  2"
    assert axis.split()[0] == "1997-05-19"


def test_timeline_without_time():
    """A log that only has an order is drawn by places in it."""
    log = Interactions(np.array(["a"]), ragged([1, 2]), np.array([0, 1]))
    asked = questions([2], [[1, 2]], [[3]], [1])
    assert "place 0" in summary.timeline(Split(log, asked, asked)) and "place 2" in summary.timeline(Split(log, asked, asked))


def test_words_are_counted():
    """Words and marks of one title, and over all titles."""
    news = SimpleNamespace(title=np.array(["", "It's a cat", "A `dog`"], object))
    text = summary.words(news, 1)
    assert "`it · ' · s · a · cat` has 5 words and marks" in text and "4.5 on average, 5 at most; 7 different ones make up 2 titles" in text
    assert summary.words(news, 2).count("`") == 2


def test_lines_and_rows_of_the_example(tiny):
    """The line with its tabs marked beside the row it became; data of an earlier version say so."""
    example = tiny.manifest["example"]
    assert " ⇥ ".join(example["lines"][0]["text"].split("\t")[:2]) in summary.raw(tiny.manifest).to_html()
    item = int(np.flatnonzero(tiny.items.id == example["item"])[0])
    assert tiny.items.title[item].split()[0] in summary.record(tiny.items, item).to_html()
    assert "earlier version" in summary.raw({"files": []})


def test_the_picture_of_the_example_stands_first(tiny):
    """If it has one; each picture once."""
    has = np.flatnonzero(tiny.pixels.present)
    assert next(iter(summary.pictures(tiny.items, tiny.pixels, has[3], most=4))) == tiny.items.title[has[3]]
    assert len(summary.pictures(tiny.items, tiny.pixels, has[3], most=4)) == 4 and summary.pictures(tiny.items, None, 1) == {}


def test_a_slate_is_ranked_by_all_digits():
    """0.1004 is above 0.1001, though both read 0.1; equal scores keep the order of the slate."""
    many = np.arange(1, 41)
    news = SimpleNamespace(**{k: np.array([f"{k}{i}" for i in range(41)], object) for k in ("id", "category", "title")})
    shown = questions([0], [[1]], [many], np.zeros(40))
    table = summary.slate(news, shown, 0, np.full(40, 0.1)).data
    assert table["news"].tolist() == [f"id{i}" for i in many] and table.index.tolist() == many.tolist() and table.index.name == "rank"
    table = summary.slate(news, shown, 0, np.where(many == 1, 0.1001, np.where(many == 2, 0.1004, 0.0))).data
    assert table["news"].tolist()[:3] == ["id2", "id1", "id3"] and table["score"].tolist()[:2] == [0.1, 0.1]


def test_what_cannot_be_asked_is_not_checked(small):
    """Where no item has a title, titles tell nothing apart; where nothing is right, nothing right was in training."""
    tables, split = small
    tables.items = replace(tables.items, title=np.array([""] * 4, object))
    nothing = replace(split.test, clicked=np.zeros(4, bool))
    found = summary.checks(tables, replace(split, test=nothing))
    assert not {"titles tell items apart", "what is right was in training"} & set(found.index) and found.loc[
        "items have a title", "found"
    ].startswith("100")
    assert not found["found"].str.contains("nan").any()


def test_words_of_scripts_without_spaces():
    """Each character counts as one, beside the words of other scripts; an item, or a data set, without titles says so."""
    news = SimpleNamespace(title=np.array(["", "iPhone 发布会", "", "한국 뉴스"], object))
    assert "`iphone · 发 · 布 · 会` has 4 characters, words and marks; titles have 2.0 on average, 4 at most; 6 different" in summary.words(news, 1)
    assert summary.words(news, 2).startswith("This item has no title") and "`" not in summary.words(news, 2)
    assert summary.words(SimpleNamespace(title=np.array(["", ""], object)), 1) == "No item has a title."


def test_text_of_strangers_in_markdown():
    """One line, and no backtick inside; nothing is said to be nothing."""
    assert notebook_output.code(" a\r\r`b`\u2028c ") == "`a 'b' c`" and notebook_output.code(" \n") == "(empty)"


def test_an_experiment_may_depart_in_nothing(config):
    """All values as by default: an empty table."""
    table = experiment_settings.settings(SimpleNamespace(**{name: field.default for name, field in Experiment.model_fields.items()}), every=False)
    assert table.data.empty and "<table" in table.to_html()


def test_settings_that_depart_from_the_default(config):
    """every=False leaves out what is as by default."""
    few, all_of_them = experiment_settings.settings(config, every=False).data, experiment_settings.settings(config).data
    assert set(few.index) < set(all_of_them.index) and "dim" in few.index and "clip" not in few.index
