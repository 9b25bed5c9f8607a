"""The demo world: deterministic, in the shape of MIND, of a difficulty that nobody can tune."""

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from nrms.config import World, load_dataset
from nrms.data import newsroom
from nrms.data.newsroom import world as world_file
from nrms.data.sources.mind import convert
from nrms.data.tables import read_impressions, read_items
from nrms.data.text_vectors import tfidf
from nrms.evaluation.baselines import score_content
from nrms.evaluation.metrics import rank_metrics

SMALL = World(news=200, users=100, train=300, dev=100)


def digest(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes(tmp_path):
    """A world is a function of its parameters, pictures included; another seed is another world."""
    for name, world in (("a", SMALL), ("b", SMALL), ("c", SMALL.model_copy(update={"seed": 1}))):
        newsroom.generate(world, tmp_path / name)
    a, b, c = (digest(tmp_path / name) for name in "abc")
    assert a == b and a["train/behaviors.tsv"] != c["train/behaviors.tsv"]
    assert {"dev/news.tsv", "truth.parquet"} <= set(a) and 60 <= sum(name.startswith("images/") for name in a) <= 120


@pytest.fixture(scope="module", params=["newsroom seed 0", "newsroom seed 1", "no pictures"])
def world(request, tmp_path_factory):
    """(test impressions, train impressions, news, truth) of a world at demo size, without drawing its pictures."""
    data = load_dataset("newsroom-large" if request.param == "no pictures" else "newsroom")
    sizes = {"news": 3000, "users": 4000, "train": 6000, "dev": 4000}
    world = data.world.model_copy(update=sizes | {"seed": int(request.param.endswith("1"))})
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world_file, "write_images", lambda *_: None)
        newsroom.generate(world, folder / "raw")
    convert(folder / "raw", folder, 0.0)
    truth = pq.read_table(folder / "raw" / "truth.parquet")
    truth = {name: truth[name].combine_chunks().flatten().to_numpy() for name in truth.column_names[1:]}
    return read_impressions(folder / "dev.parquet"), read_impressions(folder / "train.parquet"), read_items(folder / "news.parquet"), truth, world


def auc(test, scores):
    return np.nanmean(rank_metrics(scores, test.clicked, test.candidates.offsets)["auc"])


def test_difficulty_is_fixed(world):
    """All signals reach AUC 0.85 +- 0.02, text alone 0.80 +- 0.02, similarity of content at most 0.65; reading the history lies between."""
    test, _, news, truth, _ = world
    ceiling, text = auc(test, truth["text"] + truth["image"] + truth["freshness"]), auc(test, truth["text"])
    assert abs(ceiling - 0.85) <= 0.02 and abs(text - 0.80) <= 0.02
    assert auc(test, score_content(tfidf(news.title), test, 50)) <= 0.65
    assert 0.70 < auc(test, truth["history"]) < ceiling


def test_small_worlds_show_only_what_is_published(tmp_path):
    """In the smallest world too nobody clicks tomorrow's news, and every utility is a number."""
    world = World(news=50, users=50, train=60, dev=20)
    rng = np.random.default_rng(0)
    stories, (tastes, _) = world_file.draw_stories(world, rng), world_file.draw_readers(world, rng)
    _, time, story = world_file.draw_histories(world, stories, tastes, rng)
    assert (stories.published[story] <= time).all() and np.isfinite(world_file.freshness(world, stories, story, time)).all()


@pytest.mark.slow
def test_the_shape_of_mind_small(tmp_path):
    """newsroom-large as shipped: the ceilings where they are promised, at full size."""
    world = load_dataset("newsroom-large").world
    newsroom.generate(world, tmp_path / "raw")
    convert(tmp_path / "raw", tmp_path, 0.0)
    test, truth = read_impressions(tmp_path / "dev.parquet"), pq.read_table(tmp_path / "raw" / "truth.parquet")
    text, fresh = (truth[name].combine_chunks().flatten().to_numpy() for name in ("text", "freshness"))
    assert (len(test), world.news) == (73_000, 51_000) and abs(auc(test, text + fresh) - 0.85) <= 0.02 and abs(auc(test, text) - 0.80) <= 0.02


def test_to_have_a_picture_says_nothing(world):
    """Stories with and without a picture are clicked alike: only what it shows matters."""
    test, _, _, truth, drawn = world
    if drawn.image_share == 0:
        return
    pictured = np.unique(test.candidates.values[truth["image"] != 0])
    flag = np.isin(test.candidates.values, pictured)
    assert 0.3 < flag.mean() < 0.6 and abs(auc(test, flag.astype(float)) - 0.5) < 0.02


def test_shape_follows_mind(world):
    """Means and medians of lengths and clicks within 15 % of MIND-small's, a third of the dev day's news unseen in training."""
    test, train, _, _, _ = world
    clicks = np.bincount(train.candidates.rows[train.clicked], minlength=len(train))
    for values, mean, median in ((train.history.lengths, 32, 18), (train.candidates.lengths, 38, 24)):
        assert values.mean() == pytest.approx(mean, rel=0.15) and np.median(values) == pytest.approx(median, rel=0.15)
    assert clicks.mean() == pytest.approx(1.51, rel=0.05) and train.clicked.mean() == pytest.approx(0.04, rel=0.1)
    shown = np.unique(test.candidates.values)
    new = ~np.isin(shown, np.concatenate([train.candidates.values, train.history.values]))
    assert 0.25 < new.mean() < 0.45


def test_no_one_reads_tomorrows_news(world):
    """Train ends before dev begins, and a dev history holds what its reader clicked in the train days."""
    test, train, _, _, _ = world
    assert train.time.max() < test.time.min()
    row = next(r for r in range(len(train)) if train.user[r] in set(test.user))
    begin = train.candidates.offsets[row]
    clicked = train.candidates[row][train.clicked[begin : begin + len(train.candidates[row])]]
    dev = int(np.flatnonzero(test.user == train.user[row])[0])
    assert np.isin(clicked, test.history[dev]).all()


def test_without_weight_pictures_do_not_matter(tmp_path):
    """The control world: with image weight 0 the image term is 0 everywhere, though pictures are there."""
    newsroom.generate(SMALL.model_copy(update={"image_weight": 0.0}), tmp_path / "w")
    truth = pq.read_table(tmp_path / "w" / "truth.parquet")
    assert not truth["image"].combine_chunks().flatten().to_numpy().any() and any((tmp_path / "w" / "images").iterdir())


def test_quoted_statistics_are_those_of_mind(real_data):
    """REAL_MIND holds what can be counted on 5,000 real impressions."""
    rows = [line.rstrip("\n").split("\t") for line in (real_data / "mind-shape" / "behaviors.tsv").open()]
    counted = {
        "history length": [len(r[3].split()) for r in rows],
        "candidates per impression": [len(r[4].split()) for r in rows],
        "clicks per impression": [r[4].count("-1") for r in rows],
    }
    for name, values in counted.items():
        assert np.quantile(values, newsroom.QUANTILES).round().astype(int).tolist() == list(newsroom.REAL_MIND[name])
