"""One reader at a time: the list is the evaluator's, and every reason is what leaving something out and scoring again gives."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from nrms import NrmsError
from nrms.__main__ import main
from nrms.config import resolve
from nrms.data.images import Pixels
from nrms.evaluate import evaluate
from nrms.evaluation.ranking import model_scorer, rank_impressions
from nrms.models.build import build
from nrms.models.items.fusion import FUSIONS
from nrms.models.load import find_run
from nrms.pipeline import best_pair
from nrms.runtime import Run, run_folder
from nrms.runtime.files import write_json
from nrms.serve import describe, open_run, recommend
from nrms.serve.one_user import meaning
from nrms.train import train


@pytest.fixture(scope="module")
def text(finished):
    return open_run(finished["exp4"])


@pytest.fixture(scope="module")
def pictures(finished):
    return open_run(finished["exp3_gate"])


def ids(served, numbers):
    return list(served.tables.items.id[numbers])


@pytest.fixture
def reader(text):
    """A user of the test part with a history of some length."""
    row = int(np.flatnonzero(text.test.history.lengths >= 5)[0])
    return text.reader(user=text.test.user[row])


def test_the_list_is_the_evaluators(pictures):
    """For users of the test part, what their latest impression showed comes in the order and with the scores that the evaluation gave it."""
    flat = rank_impressions(pictures.model, pictures.vectors, pictures.test, pictures.config.history)
    for user, row in list(pictures.users.items())[:20]:
        shown = pictures.test.candidates[row]
        begin = pictures.test.candidates.offsets[row]
        scores = flat[begin : begin + len(shown)]
        table = pictures.recommend(user=user, k=len(shown), candidates=ids(pictures, shown))
        order = np.argsort(-scores, kind="stable")
        np.testing.assert_allclose(table["score"], scores[order], atol=6e-4)  # rounded to three digits
        assert set(table["id"][table["clicked"] == "yes"]) == set(ids(pictures, shown[pictures.test.clicked[begin : begin + len(shown)]]))
        assert pictures.test.time[row] == pictures.test.time[pictures.test.user == user].max()


def test_the_whole_catalogue_is_ranked(finished, text, reader):
    """Without candidates all items but the history's are ranked, once each; the one-call form gives the same table."""
    history = ids(text, reader.history)
    table = text.recommend(history, k=10_000)
    assert len(table) == len(text.tables.items) - 1 - len(set(history)) and not set(table["id"]) & set(history) and table["id"].is_unique
    assert list(table.index) == list(range(1, len(table) + 1)) and table["score"].is_monotonic_decreasing
    pd.testing.assert_frame_equal(recommend(finished["exp4"], history=history, k=5), table.head(5), check_index_type=False)
    assert list(table.columns) == ["id", "title", "category", "score"]
    assert len(text.recommend([], k=3)) == 3  # a newcomer


def test_a_click_does_what_leaving_it_out_undoes(text, reader):
    """The brute force: rank everything again for the history without the click, and compare leads."""
    history = ids(text, reader.history)
    ranking = text.rank(reader, 4)

    def leads(past):
        scores = text.scores(reader, [past], everything)[0]
        return (scores - scores.mean())[np.searchsorted(everything, ranking.items)]

    everything = np.setdiff1d(np.arange(1, len(text.tables.items)), reader.history)
    for i in range(len(history)):
        less = leads(np.delete(reader.history, i))
        np.testing.assert_allclose(ranking.clicks[:, i], ranking.leads - less, atol=1e-5)
    np.testing.assert_allclose(ranking.weights, np.abs(ranking.clicks).mean(0))
    assert (ranking.weights > 0).all()


@torch.inference_mode()
def test_attention_is_what_makes_the_state(text, reader):
    """The clicks, after they looked at each other, weighed by the attention that is shown, are the user's state; together the weights are 1."""
    shown = text.rank(reader, 3).attention
    past, users = text.vectors[torch.from_numpy(reader.history)][None], text.model.users
    mask = torch.ones(past.shape[:2], dtype=torch.bool)
    state = (torch.from_numpy(shown)[None, :, None] * (past + users.attend(past, mask))).sum(1)
    torch.testing.assert_close(state, users(past, mask))
    assert shown.shape == reader.history.shape and shown.sum() == pytest.approx(1, abs=1e-5)
    assert text.rank(text.reader(history=[]), 3).attention is None


def test_no_older_click_moves_up(text, reader):
    """A history longer than the model reads is cut first, then one click is left out: what was not read stays unread."""
    length = text.config.history
    longer = np.tile(np.arange(1, 31), 3)
    ranking = text.rank(text.reader(ids(text, longer)), 3)
    assert ranking.clicks.shape == (3, length) and len(ranking.reader.earlier) == 90 - length
    np.testing.assert_allclose(ranking.clicks, text.rank(text.reader(ids(text, longer[-length:])), 3, None).clicks, atol=1e-5)


def test_a_newcomer_has_no_clicks(text):
    """An empty history is ranked, and has nothing to be left out."""
    ranking = text.rank(text.reader([]), 3)
    assert ranking.clicks.shape == (3, 0) and "nothing" in describe(text, ranking)


def test_a_picture_does_what_coming_without_undoes(pictures, reader):
    """The brute force: the same weights on a catalogue in which the listed item has no picture. Text has the rest, all of it where there is none."""
    ranking = pictures.rank(reader, 8)
    assert list(ranking.parts) == ["text", "picture"]
    np.testing.assert_allclose(ranking.parts["text"] + ranking.parts["picture"], ranking.leads, atol=1e-5)
    has = pictures.tables.has_image[ranking.items]
    assert has.any() and (ranking.parts["picture"][~has] == 0).all() and (ranking.parts["picture"][has] != 0).all()
    place = int(np.flatnonzero(has)[0])
    item = ranking.items[place : place + 1]
    present = pictures.tables.pixels.present.copy()
    present[item] = False
    blind = build(pictures.config, replace(pictures.tables, pixels=Pixels(pictures.tables.pixels.values, present)))
    blind.load_state_dict(pictures.model.state_dict())
    with torch.inference_mode():
        vectors = pictures.vectors.clone()
        vectors[item] = blind.eval().items(torch.from_numpy(item))
    asked = pictures.queries(reader, [reader.history], item)
    less = rank_impressions(pictures.model, vectors, asked, pictures.config.history)[0]
    assert ranking.parts["picture"][place] == pytest.approx(ranking.scores[place] - less, abs=1e-5)


@pytest.mark.parametrize("fusion", sorted(FUSIONS.keys() - {"single", "beside"}))
def test_an_item_without_its_picture(fusion, tiny):
    """In every fusion: `without` gives what the tower gives an item that never had a picture, the blank one where the fusion wants that."""
    config = resolve("exp3_gate", "newsroom-tiny", fusion=fusion, device="cpu")
    items = torch.from_numpy(np.flatnonzero(tiny.pixels.present)[:5])
    present = tiny.pixels.present.copy()
    present[items] = False
    towers = []
    for pixels in (tiny.pixels, Pixels(tiny.pixels.values, present)):
        torch.manual_seed(0)
        towers.append(build(config, replace(tiny, pixels=pixels)).eval().items)
    for tower in towers:
        for parameter in tower.fusion.parameters():  # what starts at zero would hide a mistake
            torch.nn.init.constant_(parameter, 0.03)
    with torch.inference_mode():
        torch.testing.assert_close(towers[0].without(items, "image"), towers[1](items))
        assert not torch.allclose(towers[0].without(items, "image"), towers[0](items))


def test_text_alone_has_it_all(text, reader):
    """A model of titles owes the whole lead to the text."""
    ranking = text.rank(reader, 5)
    np.testing.assert_array_equal(ranking.parts["text"], ranking.leads)
    assert list(ranking.parts) == ["text"] and not ranking.notes


def test_a_joint_encoder_says_so(text):
    """Where one encoder reads text and picture together the lead has one part, and a sentence says why."""
    served = loose(text.config.model_copy(update={"text": None, "joint": "blip"}), text.tables, text.model)
    ranking = served.rank(served.reader([]), 3)
    assert list(ranking.parts) == ["text and picture"] and "one encoder reads them together" in ranking.notes[0]


def test_a_candidate_by_candidate_model(tiny):
    """A model that reads history and candidate together is served as well, and its clicks weigh something."""
    config = resolve("exp2_pointwise", "newsroom-tiny", epochs=1, device="cpu")
    model = build(config, tiny).eval()
    row = int(np.flatnonzero(tiny.parts["dev"].history.lengths >= 3)[0])
    served = loose(config, tiny, model)
    reader = served.reader(user=tiny.parts["dev"].user[row])
    ranking = served.rank(reader, 3, reader.slate)
    assert ranking.clicks.shape == (3, len(reader.history)) and (ranking.weights > 0).all() and list(ranking.parts) == ["text", "picture"]


def loose(config, tables, model):
    """A model served as if a run held it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nrms.serve.one_user.load_run", lambda run: (config, tables, model))
        return open_run(Run(tables.folder / "seed0"))


@pytest.mark.parametrize(
    "question, says",
    [
        ({"history": ["N10000x"]}, r"no item 'N10000x'; among the 300 .*: N10"),
        ({"history": [12345]}, "no item '12345'"),
        ({"history": "zebra"}, "no item 'zebra'"),
        ({"user": "nobody"}, "no user in the test part: 'nobody'"),
        ({"user": 7}, "no user in the test part: '7'"),
        ({}, "either a history"),
        ({"history": [], "user": "U1"}, "either a history"),
        ({"history": [], "candidates": ["N-1"]}, "no item 'N-1'"),
        ({"history": [], "candidates": []}, "no candidates"),
        ({"history": [], "k": 0}, "k is 0"),
    ],
)
def test_what_cannot_be_ranked_is_a_sentence(question, says, text):
    """Unknown ids, numbers among them, come with the nearest known ones; so do a list of nothing and a reader who is nobody."""
    with pytest.raises(NrmsError, match=says):
        text.recommend(**question)


def test_a_description_tells_all(pictures, reader):
    """The text for a terminal has the history with its weights, the list with its reasons, and what both mean."""
    said = describe(pictures, pictures.rank(reader, 3))
    title = pictures.tables.items.title
    assert all(title[i] in said for i in reader.history) and "most by" in said and ("picture +" in said or "picture -" in said)
    assert said.count("lead: ") == 1 and "weight of a click" in said and "attention: the weight of a click's place" in said


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (["picture"], ["picture: the whole lead, which has no other part here."]),
        (["text", "picture"], ["text: the rest of the lead, without picture.", "picture: the item's score minus its score if it came without it"]),
        (
            ["text", "identity", "picture"],
            [
                "text: the rest of the lead, without identity and picture.",
                "identity, a vector that the model learned for this item alone: ",
                "picture: ",
            ],
        ),
    ],
)
def test_every_part_is_explained(parts, says, text, reader):
    """A line for each part that there is, in their order, and none for others: the first is what the others leave, one alone is the whole lead."""
    ranking = text.rank(reader, 3)
    lines = meaning(replace(ranking, parts=dict.fromkeys(parts, ranking.leads)))
    assert all(line.startswith(begin) for line, begin in zip(lines[1:], says, strict=False))
    assert lines[1 + len(parts)].startswith("weight of a click")


def test_a_terminal_obeys_no_title(text, reader):
    """Escapes, bells and marks that turn the line around stand as �, spaces of every kind as spaces; other scripts stay as they are."""
    news = replace(text.tables.items, title=np.full_like(text.tables.items.title, "a\x1b[2J\x07\u202eb\u00a0c 新闻 می\u200cروم"))
    wrong = object.__new__(type(text))
    wrong.__dict__ = text.__dict__ | {"tables": replace(text.tables, items=news)}
    said = describe(wrong, wrong.rank(reader, 3))
    assert said.count("a�[2J��b c 新闻 می\u200cروم") == len(reader.history) + 3 and not set("\x1b\x07\u202e\u00a0") & set(said)


def test_the_command(finished, pictures, capsys):
    """`python -m nrms recommend` prints the list of a history or of what a user was shown; without a slate `--shown` is refused."""
    which = ["recommend", "--run", str(finished["exp3_gate"].folder), "--dataset", "newsroom-tiny"]
    user = next(iter(pictures.users))
    assert main([*which, "--user", user, "--shown", "-k", "3"]) == 0
    said = capsys.readouterr().out
    assert f"for user {user}: first 3 of" in said and "clicked" in said
    assert main([*which, "--history", *ids(pictures, [1, 2])]) == 0
    assert pictures.tables.items.title[2] in capsys.readouterr().out
    with pytest.raises(NrmsError, match="`--shown` ranks what a user"):
        main([*which, "--history", "--shown"])


def test_the_two_to_look_at(finished, apart):
    """For the page of a data set: the better of two finished runs first; none whose items take long to encode, none of other values or seeds."""
    assert best_pair("newsroom-tiny", {}) == {}
    means = {}
    for exp, run in finished.items():
        means[exp] = 0.5 + len(means) / 10
        write_json(apart(exp, run).folder / "metrics.json", {"all": {"auc": {"mean": means[exp]}}})
    given = {"epochs": 1, "device": "cpu"}
    assert best_pair("newsroom-tiny", given) == {"exp": "exp3_gate", "other": "exp4", "dataset": "newsroom-tiny", "seed": 0} | given
    assert best_pair("newsroom-tiny", {}) == {}
    gone = Run(shutil.copytree(apart("exp4").folder, apart("exp4").folder.parents[1] / "gone" / "seed0"))
    gone.update(config=gone.record["config"] | {"exp": "gone"})  # its file of parameters has been renamed since
    assert best_pair("newsroom-tiny", given)["exp"] == "exp3_gate"
    apart("exp3_gate").update(evaluation_minutes=30)
    assert best_pair("newsroom-tiny", given) == {"exp": "exp4", "other": None, "dataset": "newsroom-tiny", "seed": 0} | given


@pytest.fixture
def apart(place):
    """Copies a finished run into a home of its own, with pages as the notebooks leave them."""

    def copy(exp, run=None):
        folder = run_folder("newsroom-tiny", resolve(exp, "newsroom-tiny", epochs=1, device="cpu").name, 0)
        if run is not None:
            shutil.copytree(run.folder, folder)
            for name in ("train", "eval"):
                (folder / f"{name}.html").touch()
        return Run(folder)

    return copy


# catalogues ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def catalogue(movies):
    """Serves an experiment, trained for an epoch on the checkerboard."""

    def make(exp, **given):
        config, _ = movies(exp, epochs=1, **given)
        train(config)
        evaluate(config)
        return open_run(find_run(config.name, "movies"))

    return make


@pytest.mark.parametrize("exp", ["idrec_sasrec", "missrec", "lightgcn", "freedom"])
def test_a_catalogue_is_ranked_as_judged(exp, catalogue):
    """Models of catalogues, also those to whom users are nodes: the scores are the evaluator's; the item that was asked for is marked."""
    served = catalogue(exp)
    scorer = model_scorer(served.model, served.vectors, served.test, served.config.history)
    user, row = list(served.users.items())[3]
    with torch.inference_mode():
        scores = scorer(np.array([row]))[0].numpy()
    table = served.recommend(user=user, k=100)
    np.testing.assert_allclose(table["score"], scores[[served.numbers[i] for i in table["id"]]], atol=6e-4)
    assert not set(table["id"]) & set(ids(served, served.test.history[row]))
    assert set(table["id"][table["taken"] == "yes"]) <= set(ids(served, served.test.candidates[row]))


def test_late_parts_are_the_blend(catalogue):
    """Cosines by modality that are blended with equal weights: an item's picture does what the blend says."""
    served = catalogue("missrec_mean_blend")
    reader = served.reader(user=next(iter(served.users)))
    ranking = served.rank(reader, 24)
    has = served.tables.has_image[ranking.items]
    user = served.model.users(
        served.vectors[reader.history][None], torch.ones(1, len(reader.history), dtype=torch.bool), torch.from_numpy(reader.history)[None]
    )
    vectors, _ = served.model.users.split(served.vectors[ranking.items])
    cosine = torch.cosine_similarity(user[:, None, : served.config.dim], vectors, dim=-1).detach().numpy()
    content = [served.config.modalities.index(name) for name in ("text", "image")]
    both = cosine[:, content]
    expected = np.where(has, both.mean(1) - both[:, 0], 0)
    np.testing.assert_allclose(ranking.parts["picture"], expected, atol=1e-5)


@pytest.mark.parametrize(("exp", "parts"), [("idmo_text", ["text", "identity"]), ("alignrec_joint", ["text and picture and identity"])])
def test_parts_name_all_that_is_read(exp, parts, catalogue):
    """Ids beside content are a part of their own, or named where nothing can be told apart; together the parts are the lead."""
    served = catalogue(exp)
    ranking = served.rank(served.reader(user="u1"), 3)
    assert list(ranking.parts) == parts
    np.testing.assert_allclose(sum(ranking.parts.values()), ranking.leads, atol=1e-5)


def test_a_node_has_no_history(catalogue):
    """Where users are nodes a history alone is refused with the name of a user; clicks have no weights, and a sentence says why."""
    served = catalogue("lightgcn")
    with pytest.raises(NrmsError, match="reads no history: .* Give a user of the test part, such as u"):
        served.recommend(["i1"])
    ranking = served.rank(served.reader(user="u1"), 3)
    assert ranking.weights is None and "Clicks have no weights" in ranking.notes[-1] and "Clicks have no weights" in describe(served, ranking)
