"""What vectors know before training: who is judged, what is asked, the numbers, and the page of all vectors of a data set."""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nrms import NrmsError, __main__
from nrms.config import PARAMS, load_dataset, params_files
from nrms.data.prepare import load
from nrms.data.tables import Impressions, Interactions, Ragged, Split
from nrms.evaluate import evaluate
from nrms.evaluation import probe_vectors
from nrms.evaluation.baselines import score_content
from nrms.evaluation.metrics import rank_metrics
from nrms.evaluation.probe import (
    among_largest,
    beside,
    centred,
    half_masked,
    in_common,
    item_cf,
    probe,
    probe_content,
    probe_one,
    queries_of,
    random_vectors,
    re_encoded,
)
from nrms.evaluation.protocols import ITEM_CF
from nrms.evaluation.ranking import encode_items
from nrms.evaluation.training_items import items_by_user
from nrms.models.build import build_encoder, local_model
from nrms.models.load import load_run
from nrms.report.pages import probe_page
from nrms.report.pages.probe_page import formatted
from nrms.train import train

ONE, SEVERAL, SLATES = (load_dataset(name) for name in ("movies", "movies-random", "newsroom-tiny"))


def write_probe(dataset, *which, **files):
    """(table, sets, paths) of a probe whose page is written."""
    own, common, sets = probe_vectors.probe_all(dataset, *which, **files)
    return own, sets, probe_page.write(dataset, own, common, sets)


def ragged(rows):
    return Ragged(np.array([v for row in rows for v in row], np.int32), np.cumsum([0, *map(len, rows)]))


def asked(history, candidates, clicked=None):
    """Test questions: their histories and what is to be found, or slates with what of them was clicked."""
    names = np.array([f"u{i}" for i in range(len(history))], object)
    flags = np.concatenate([np.ones(len(row), bool) for row in candidates]) if clicked is None else np.array(clicked, bool)
    return Impressions(names, names, np.arange(len(history)), ragged(history), ragged(candidates), flags)


def log_of(rows):
    flat = ragged(rows)
    return Interactions(np.array([f"u{i}" for i in range(len(rows))], object), flat, np.arange(len(flat.values)))


def split_of(train, test):
    return Split(train, test, test)


# who is judged, and what is asked -------------------------------------------------------------------------------------


def test_an_item_without_a_vector_is_neither_judged_nor_offered():
    """Item 3 is asked for and items 4 to 40 have no vector: item 3, whose cosine is -1, is second of the two that could be asked for."""
    vectors = np.zeros((41, 2), np.float32)
    vectors[1], vectors[2], vectors[3] = (1, 0), (1, 0.1), (-1, 0)
    found = probe_one(vectors, split_of(log_of([[1, 2]]), asked([[1, 9]], [[3]])), ONE)
    assert found["zero-shot nDCG@10"] == pytest.approx(1 / np.log2(3))
    assert found["zero-shot nDCG@10, by chance"] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert (found["items"], found["all items"], found["questions"], found["all questions"]) == (3, 40, 1, 1)


def test_questions_that_remain():
    """Without item 2: nothing before it, nothing to be found, and a slate with nothing wrong are no questions; of the others it is taken out."""
    test = asked([[2], [1, 2], [1], [1]], [[1, 3], [2, 3], [2, 3], [1, 3]], [1, 0, 0, 1, 1, 0, 1, 0])
    left = queries_of(test, np.array([0, 1, 0, 2]), slates=True)
    assert left.user.tolist() == ["u3"] and left.candidates.values.tolist() == [1, 2] and left.clicked.tolist() == [True, False]
    log = asked([[2], [1, 2], [1]], [[1], [2, 3], [2]])
    left = queries_of(log, np.array([0, 1, 0, 2]), slates=False)
    assert left.user.tolist() == ["u1"] and left.history[0].tolist() == [1] and left.candidates[0].tolist() == [2]


def test_nothing_that_could_be_asked_has_no_number():
    """No vectors, or one: numbers are missing, coverage is not."""
    for has in (0, 1):
        vectors = np.zeros((4, 2), np.float32)
        vectors[1 : 1 + has] = 1
        table = probe({"none": vectors}, split_of(log_of([[1, 2], [2, 3]]), asked([[1]], [[2]])), SEVERAL)
        assert table.iloc[0, :8].isna().all() and table.loc["none", "items"] == has and table.loc["none", "questions"] == 0
        assert formatted(table).loc["none", ITEM_CF] == ""


rows_of = st.lists(st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=1, max_size=5, unique_by=lambda x: x[0]), min_size=4, max_size=4)


def items(rows):
    return [[int(item) for item, _ in row] for row in rows]


@settings(max_examples=40, deadline=None)
@given(rows_of, rows_of, rows_of, st.integers(0, 99), st.sampled_from([ONE, SEVERAL, SLATES]))
def test_items_without_vectors_change_nothing_but_the_coverage(train, history, candidates, seed, data):
    """Items without a vector, put between the others and anywhere into the log, histories and slates: the same numbers to the last bit."""
    rng, vectors, more = np.random.default_rng(seed), np.zeros((8, 3), np.float32), np.zeros((13, 3), np.float32)
    vectors[1:] = rng.integers(-2, 3, (7, 3)) + np.array([5, 0, 0])  # all have one
    place = np.r_[0, np.sort(rng.choice(np.arange(1, 13), 7, replace=False))]
    absent = np.setdiff1d(np.arange(1, 13), place)
    more[place] = vectors

    def spread(rows, share=0.5):
        return [[x for i, f in row for x in [(place[i], f), (rng.choice(absent), True)][: 1 + (rng.random() < share)]] for row in rows]

    def found(table, train, history, candidates):
        test = asked(items(history), items(candidates), [f or data is not SLATES for row in candidates for _, f in row])
        return probe_one(table, split_of(test if data is SLATES else log_of(items(train)), test), data)

    candidates = [row[: 1 if data is ONE else 5] for row in candidates]
    few = found(vectors, train, history, candidates)
    many = found(more, spread(train), spread(history), spread(candidates, 0 if data is ONE else 0.5))
    assert all(few[k] == many[k] or np.isnan([few[k], many[k]]).all() for k in few if not k.startswith("all "))
    assert few["all items"] == 7 and many["all items"] == 12


def test_in_common_are_the_items_that_every_set_has():
    """One set lacks item 1, the other item 3: item 2 remains in both."""
    a, b = np.array([[0], [0], [1], [1]]), np.array([[0], [2], [2], [0]])
    found = in_common({"a": a, "b": b})
    assert found["a"].tolist() == [[0], [0], [1], [0]] and found["b"].tolist() == [[0], [0], [2], [0]]


# the numbers ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(1, 6))
def test_who_is_among_the_largest_where_ties_are_drawn(values, k):
    """The share of all orders of the values in which a stable sort has it among the first k."""
    k = min(k, len(values))
    orders = list(itertools.permutations(range(len(values))))
    expected = np.zeros(len(values))
    for order in orders:
        expected[sorted(order, key=lambda i: -values[i])[:k]] += 1 / len(orders)
    assert np.allclose(among_largest(torch.tensor(values, dtype=torch.float32), k), expected)


def test_item_cf_by_hand():
    """Items 1 and 2 are taken together twice, 2 and 3 once; by vectors 1 is next to 2, and 3 to 4, which nobody took with another."""
    vectors = np.array([[0, 0], [1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    shares, chance = item_cf(vectors, ragged([[1, 2], [1, 2], [2, 3], [4]]), k=1)
    assert shares.tolist() == [1, 1, 0] and chance == pytest.approx(1 / 3)


def test_vectors_that_are_all_the_same_find_neighbours_by_chance():
    """All neighbours are tied, so the share is the one by chance to the last digit, whatever the order of items; as AUC and Recall are."""
    rng, same = np.random.default_rng(0), np.ones((31, 2), np.float32)
    same[0] = 0
    split = split_of(log_of(rng.integers(1, 31, (20, 5))), asked([[1, 2], [3]], [[4], [5, 6]]))
    found = probe_one(same, split, SEVERAL)
    assert found[ITEM_CF] == pytest.approx(found[f"{ITEM_CF}, by chance"]) == pytest.approx(10 / 29)
    assert found["zero-shot Recall@20"] == pytest.approx(found["zero-shot Recall@20, by chance"]) == pytest.approx((20 / 28 + 20 / 29) / 2)


def test_vectors_of_who_took_what_pass(movies):
    """Vectors that are the users of each item find the neighbours by users, but for ties; random ones do as chance has it."""
    _, tables = movies("lightgcn")
    split = tables.split(ONE)
    has = np.zeros((25, 40), np.float32)
    has[split.train.items.values, split.train.items.rows] = 1
    shares, chance = item_cf(has, split.train.items, k=3)
    assert shares.mean() > 0.5 and chance == pytest.approx(3 / 23)
    assert item_cf(random_vectors(25), split.train.items, k=3)[0].mean() < 0.35
    table = probe_content({"text": has, "image": has[:, ::-1].copy()}, split, ONE)
    assert table.loc["text", "zero-shot nDCG@10"] > table.loc["random", "zero-shot nDCG@10"] and len(table) == 8
    assert (table["zero-shot nDCG@10_low"] <= table["zero-shot nDCG@10"]).all() and (table["questions"] == 40).all()


def test_slates_are_scored_by_the_mean_of_the_history():
    """Products of unit vectors, by brute force; and the AUC of what is judged is theirs."""
    rng = np.random.default_rng(0)
    vectors = np.r_[np.zeros((1, 4)), rng.standard_normal((9, 4))].astype(np.float32)
    history, slates = [rng.integers(1, 10, n) for n in (1, 3, 60)], [rng.permutation(9)[:n] + 1 for n in (2, 5, 9)]
    test = asked(history, slates, np.arange(16) % 2)
    lengths = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)
    expected = np.concatenate([lengths[c] @ lengths[h[-50:]].sum(0) for h, c in zip(history, slates, strict=True)])
    assert np.allclose(score_content(lengths, test, 50), expected, atol=1e-5)
    auc = rank_metrics(expected, test.clicked, test.candidates.offsets)["auc"].mean()
    found = probe_one(vectors, split_of(test, test), SLATES)
    assert found["zero-shot AUC"] == pytest.approx(auc) and found["zero-shot AUC, by chance"] == 0.5


def test_what_users_of_impressions_took():
    """A user's history once, and what they clicked; not what they were only shown."""
    test = asked([[1, 2], [3], [1, 2]], [[4, 5], [6, 7], [8, 9]], [1, 0, 0, 1, 1, 0])
    found = items_by_user(replace(test, user=np.array(["a", "b", "a"], object)))
    assert [sorted(found[row]) for row in range(2)] == [[1, 2, 4, 8], [3, 7]]


# vectors --------------------------------------------------------------------------------------------------------------


def test_centred_vectors_are_those_of_items_that_have_one():
    """The mean is that of items with a vector; others stay without, and so does an item that is the mean itself."""
    found = centred(np.array([[0, 0], [3, 1], [1, 1], [2, 1], [0, 0]], np.float32))
    assert found.tolist() == [[0, 0], [1, 0], [-1, 0], [0, 0], [0, 0]] and not centred(np.zeros((3, 2))).any()


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 29))
def test_the_masked_half_is_the_same_whoever_else_is_there(both, at):
    """Half of those that could lose something, rounded down, no others; an item more that could not changes nothing."""
    flags = half_masked(np.array(both))
    assert flags.sum() == sum(both) // 2 and not (flags & ~np.array(both)).any()
    assert np.array_equal(np.delete(half_masked(np.insert(both, at % len(both), False)), at % len(both)), flags)


def test_an_item_keeps_a_vector_when_it_loses_a_modality():
    """Items 1 and 2 have text alone, 3 to 6 both, 7 a picture alone: two of the four lose one, and all seven still have a vector."""
    rng = np.random.default_rng(0)
    text, image = rng.standard_normal((8, 3)), rng.standard_normal((8, 2))
    text[[0, 7]], image[[0, 1, 2]] = 0, 0
    for name, place in (("text", slice(0, 3)), ("image", slice(3, 5))):
        whole, half = (np.any(beside({"text": text, "image": image}, m)[:, place], axis=1) for m in (None, name))
        lost = whole & ~half
        assert lost.sum() == 2 and set(np.flatnonzero(lost)) <= {3, 4, 5, 6}
        assert np.any(beside({"text": text, "image": image}, name), axis=1).sum() == 7


def test_a_joint_encoder_reads_masked_items_anew(movies):
    """Items that lose their picture get the vector of their text alone, the others keep theirs, and afterwards all is as before."""
    config, tables = movies("alignrec_joint")
    encoder = build_encoder("joint", config, tables)
    masked, everything = half_masked(tables.pixels.present), np.arange(25) > 0
    shown_before = encoder.content.images.present.clone()
    whole = re_encoded(encoder, np.zeros((25, 1 + encoder.project.in_features))[:, 1:], everything)  # all texts alone
    with torch.inference_mode():
        seen = np.r_[np.zeros((1, whole.shape[1])), encoder.features(torch.arange(1, 25)).numpy()].astype(np.float32)
    half = re_encoded(encoder, seen, masked)
    assert masked.sum() == 4 and np.allclose(half[masked], whole[masked], atol=1e-5) and np.array_equal(half[~masked], seen[~masked])
    assert not np.allclose(whole[masked], seen[masked], atol=1e-3) and torch.equal(encoder.content.images.present, shown_before)


# the page -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def probed(movies, board, tmp_path, monkeypatch):
    """The checkerboard in a home of its own, with its encoders, which are pre-trained once for all tests."""
    local_model("blip", movies("alignrec_joint")[1])
    shutil.copytree(board[0] / "data", tmp_path / "data")
    monkeypatch.setenv("NRMS_HOME", str(tmp_path))
    return tmp_path


SMALL = {"dim": 8, "heads": 2, "batch_size": 64, "epochs": 1, "device": "cpu"}


def finish(exp, **given):
    config = params_files.resolve(exp, "movies", **SMALL | given)
    train(config)
    return evaluate(config)


def test_all_vectors_of_a_data_set_are_on_one_page(probed, capsys):
    """Encoders, a run and a file side by side; what a strange name holds is text; the table, and what all sets have in common, as csv too."""
    run = finish("lightgcn_text")
    vectors = np.ones((24, 3))
    tables = load("movies", ONE)
    right = tables.split(ONE).test.candidates.values
    vectors[::2, 0], vectors[right[0] - 1] = -1, 0
    name = "a$_{<script>.npy"
    np.save(probed / name, vectors)
    assert __main__.main(["probe", "movies", "--run", run.folder.parent.name, "--vectors", str(probed / name)]) == 0
    said, text = capsys.readouterr().out, (probed / "reports" / "movies" / "probe.html").read_text()
    run_name = f"{run.folder.parent.name}/seed0"
    names = [
        "random",
        "bert",
        "bert, centred",
        "vit",
        "blip, half without image",
        "bert + vit, half without vit",
        run_name,
        f"{run_name} scored, centred",
    ]
    table = pd.read_csv(probed / "reports" / "movies" / "probe.csv").set_index(["on", "vectors"])
    own = table.loc["the items that it has"]
    assert set(names) <= set(own.index) and all(n in text and n in said for n in names) and "No vectors came with these data." in said
    assert own.loc[name, ["items", "questions"]].tolist() == [23, (right != right[0]).sum()]
    assert own.loc["vit", "items"] == 8 and own.loc["bert", "items"] == 24
    pictured = tables.pixels.present.sum() - tables.pixels.present[right[0]]
    assert table.loc["the items that all have", "items"].eq(pictured).all() and "on the items that all have" in text
    assert "<script>" not in text and "a$_{&lt;script&gt;.npy" in text
    assert 'href="movies/probe.html"' in (probed / "reports" / "index.html").read_text()


def test_vectors_of_a_run_are_those_of_its_model(probed):
    """Of a graph of ids and content the tower without its flags, and what is scored; of another system what its item tower says."""
    for exp, kinds in (("alignrec", ["", " scored"]), ("idmo_text", [""])):
        run = finish(exp)
        config, tables, model = load_run(run)
        found = probe_vectors.vectors_of(model, len(tables.items), late=config.fusion == "late")
        scored = encode_items(model)[:25]
        assert list(found) == kinds and np.allclose(found[kinds[-1]], scored.detach().numpy(), atol=1e-6)
        assert found[""].shape == (25, 8 * (3 if exp == "alignrec" else 1)) and not found[""][0].any()


def test_what_cannot_be_probed_is_said(probed):
    """No file, other rows, two files of one name, no run, and a run that learned from what is asked: a sentence, and no page."""
    np.save(probed / "short.npy", np.ones((5, 3)))
    (probed / "x").mkdir()
    for folder in (probed, probed / "x"):
        np.save(folder / "same.npy", np.ones((24, 3)))
    run = finish("lightgcn")
    config = run.record["config"]
    run.update(config=config | {"data": config["data"] | {"split": "time"}})  # as if the data set's file had said so then
    for runs, files, says in (
        ([], ["gone.npy"], "There is no file"),
        ([], ["short.npy"], "one row for each of 24 items"),
        ([], ["same.npy", "x/same.npy"], "Two files are called same.npy"),
        (["bm3"], [], "There is no run `bm3`"),
        ([run.folder.parent.name], [], "may know what is asked here"),
    ):
        with pytest.raises(NrmsError, match=says):
            write_probe("movies", runs, [probed / f for f in files])
    assert not (probed / "reports" / "movies" / "probe.html").exists()


def test_an_encoder_that_is_not_to_be_had_is_named(probed, monkeypatch):
    """The others are on the page all the same."""
    data = load_dataset("movies").model_copy(update={"vit": "nobody/nothing"})
    monkeypatch.setattr(probe_vectors, "load_dataset", lambda name: data)
    monkeypatch.setattr(probe_vectors, "resolve", lambda exp, dataset, old=params_files.resolve: old(exp, dataset, vit="nobody/nothing"))
    table, _, sets = probe_vectors.probe_all("movies")
    assert "vit" not in table.index and "bert" in table.index and any("The role vit is left out" in s and "nobody/nothing" in s for s in sets.absent)


def test_impressions_are_probed_too(model, place, browser, monkeypatch):
    """By AUC, on slates of items that have a vector; a page that asks nothing of the network and fits a phone."""
    monkeypatch.setattr(probe_vectors, "ROLES", {"text": "bert"})  # the model that the tiny world has by now
    some = random_vectors(len(model.items.lengths))[1:]
    some[::2] = 0
    np.save(place / "some.npy", some)
    table, _, paths = write_probe("newsroom-tiny", files=[place / "some.npy"])
    assert (table["zero-shot AUC, by chance"] == 0.5).all() and table.loc["bert, centred", "zero-shot AUC"] > 0.55
    assert table.loc["some.npy", "items"] == some.any(1).sum() and 0 < table.loc["some.npy", "questions"] < table.loc["bert", "questions"]
    view, requests = browser.new_page(viewport={"width": 360, "height": 700}), []
    view.on("request", lambda request: requests.append(request.url))
    view.goto(paths[0].as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= 360 and "AUC" in view.inner_text("main")
    assert view.evaluate("document.querySelector('img.drawing').naturalWidth") > 300
    assert [url for url in requests if not url.startswith("data:")] == [paths[0].as_uri()]


@pytest.mark.parametrize("path", sorted((PARAMS / "data").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_data_set_has_frozen_encoders(path):
    """The experiment that stands behind a role's features is valid for every data set, reads that one modality, and tunes nothing."""
    data = load_dataset(path.stem)
    for modality, role in probe_vectors.ROLES.items():
        config = probe_vectors.frozen(modality, path.stem, data)
        assert config.modalities == [modality] and getattr(config, modality) == role and config.tuning_of(modality) == "frozen"
