"""Users as nodes: splits into sets, their metrics, graphs, what is added to them, and the terms of their losses."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import write_log
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import ndcg_score
from torch.nn import functional as F

from nrms import NrmsError, pipeline, report
from nrms.config import load_dataset, parameters, resolve
from nrms.data.prepare import load, prepare
from nrms.data.samplers import PairSampler
from nrms.data.splits import split_log
from nrms.data.tables import Impressions, Interactions, Ragged
from nrms.evaluation import ensemble
from nrms.evaluation.ensemble import together
from nrms.evaluation.metrics import SETS, set_metrics
from nrms.evaluation.protocols import DIAGNOSTICS
from nrms.evaluation.ranking import encode_items, model_scorer, rank_catalogue, states_of
from nrms.evaluation.vector_diagnostics import alignment, diagnose, uniformity
from nrms.models.build import build
from nrms.models.load import check_fits
from nrms.models.users import graphs
from nrms.models.users.alignrec import AlignRec
from nrms.models.users.freedom import FREEDOM
from nrms.models.users.graphs import Links, adjacency, item_graph, nearest
from nrms.models.users.lightgcn import LightGCN
from nrms.runtime.files import read_json
from nrms.train import sampler_of
from nrms.training import losses
from nrms.training.gradients import auxiliary_losses
from nrms.training.losses import Rows, info_nce

torch.manual_seed(0)
pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=14)


def ragged(rows):
    return Ragged(np.array([v for row in rows for v in row], np.int32), np.cumsum([0, *map(len, rows)]))


def log_of(rows, times=None, part=None):
    times = [range(len(row)) for row in rows] if times is None else times
    flat = np.array([t for row in times for t in row], np.int64)
    return Interactions(np.array([f"u{i}" for i in range(len(rows))], object), ragged(rows), flat, part)


def links_of(pairs, content=None, users=4, size=6):
    owner, item = (torch.tensor(x) for x in zip(*pairs, strict=True))
    return Links(owner, item, users, size, content or {})


# splits into sets ----------------------------------------------------------------------------------------------------


def test_labels_say_what_trains():
    """Ann has two in the test, Bob none; the history is what trains, whatever the order."""
    split = split_log(log_of([[1, 2, 3, 4], [5, 6]], part=np.array([2, 0, 1, 2, 0, 0], np.int8)), "labelled", 0.1, 0.1)
    assert [split.train.items[r].tolist() for r in range(2)] == [[2], [5, 6]]
    assert split.valid.candidates[0].tolist() == [3] and split.test.candidates[0].tolist() == [1, 4] and split.test.history[0].tolist() == [2]
    assert len(split.test) == 1 and split.test.owner.tolist() == [0] and split.test.clicked.all()
    with pytest.raises(NrmsError, match="no column x_label"):
        split_log(log_of([[1, 2, 3]]), "labelled", 0.1, 0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=6))
def test_a_random_split_loses_nothing(sizes):
    """Every interaction is in one part; who has three or more has at least one in each; the same every time."""
    log = log_of([range(1, n + 1) for n in [*sizes, 5]])
    found = [split_log(log, "random", 0.1, 0.1) for _ in range(2)]
    for part in ("valid", "test"):
        a, b = (getattr(split, part).candidates.values for split in found)
        assert np.array_equal(a, b)
    split = found[0]
    total = len(split.train.items.values) + len(split.valid.candidates.values) + len(split.test.candidates.values)
    assert total == sum(sizes) + 5
    enough = [i for i, n in enumerate([*sizes, 5]) if n >= 3]
    assert split.valid.owner.tolist() == enough == split.test.owner.tolist()


def test_a_period_is_the_same_for_all():
    """All behind the second moment tests, all between the two validates; who took nothing before is asked without a history."""
    log = log_of([[1, 2, 3, 4, 5, 6], [7, 8, 9, 1]], [[0, 1, 2, 3, 8, 9], [6, 7, 8, 9]])
    split = split_log(log, "period", 0.2, 0.4)
    assert split.train.time.max() < split.valid.time.min() and split.test.candidates[0].tolist() == [5, 6]
    assert split.test.candidates[1].tolist() == [9, 1] or split.test.candidates[1].tolist() == [8, 9, 1]
    assert split.test.history[1].tolist() == []


def test_pairs_of_a_real_file(real_data, home):
    """The maker's parts of the real pairs, 13,570, 2,999 and 2,999, and the vectors beside them."""
    data = load_dataset("scientific-pairs")
    prepare("scientific-pairs", data, real_data / "scientific")
    split = load("scientific-pairs", data).split(data)
    assert [len(split.train.items.values), len(split.valid.candidates.values), len(split.test.candidates.values)] == [13_570, 2_999, 2_999]


def test_a_bad_label_is_set_aside(home, tmp_path):
    """A label that is none of 0, 1, 2, train, valid, test is counted and its row left out."""
    (tmp_path / "pairs.tsv").write_text("user\titem\ttime\tx_label\nu\ta\t0\ttrain\nu\tb\t0\t1\nu\tc\t0\ttest\nu\td\t0\tmaybe\n")
    manifest = prepare("scientific-pairs", load_dataset("scientific-pairs", max_bad=0.5, given=[]), tmp_path)
    assert manifest["files"][-1]["set_aside"] == {"part": 1} and manifest["interactions"] == 3


# metrics of sets -----------------------------------------------------------------------------------------------------


def test_set_metrics_by_hand():
    """Two right items at ranks 1 and 12, and one right item at rank 3."""
    rows = set_metrics(np.array([0, 11, 2]), np.zeros(3, int), np.array([0, 2, 3]))
    assert set(rows) == set(SETS) and rows["recall10"].tolist() == [0.5, 1] and rows["recall20"].tolist() == [1, 1]
    ideal = 1 + 1 / math.log2(3)
    assert rows["ndcg10"] == pytest.approx([1 / ideal, 1 / 2]) and rows["ndcg20"] == pytest.approx([(1 + 1 / math.log2(13)) / ideal, 1 / 2])
    assert rows["mrr"] == pytest.approx([(1 + 1 / 12) / 2, 1 / 3])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(0, 99), st.integers(2, 50))
def test_set_metrics_are_those_of_sklearn(users, seed, levels):
    """Ranks of several right items, with ties, through the ranking itself: nDCG as scikit-learn has it, recall by brute force."""
    rng, size = np.random.default_rng(seed), 31
    scores = rng.integers(0, levels, (users, size)).astype(np.float32)
    chosen = [rng.permutation(np.arange(1, size))[: rng.integers(2, 9)].tolist() for _ in range(users)]
    right, past = [c[: rng.integers(1, len(c))] for c in chosen], []
    past = [c[len(r) :] for c, r in zip(chosen, right, strict=True)]
    name = np.arange(users).astype(str)
    part = Impressions(name, name, np.zeros(users, int), ragged(past), ragged(right), np.ones(sum(map(len, right)), bool))
    found = rank_catalogue(lambda rows: torch.from_numpy(scores[rows].copy()), part, size)
    rows = set_metrics(found.better, found.tied, part.candidates.offsets)
    for u in range(users):
        left = [i for i in range(1, size) if i not in past[u]]
        wanted = [[i in right[u] for i in left]]
        assert rows["ndcg10"][u] == pytest.approx(ndcg_score(wanted, [scores[u, left]], k=10))
        sure = [i for i in right[u] if sum(scores[u, left] >= scores[u, i]) <= 10]
        maybe = [i for i in right[u] if sum(scores[u, left] > scores[u, i]) < 10]
        assert len(sure) / len(right[u]) - 1e-9 <= rows["recall10"][u] <= len(maybe) / len(right[u]) + 1e-9


# graphs --------------------------------------------------------------------------------------------------------------


def test_the_graph_by_hand():
    """User 0 took items 1 and 2, user 1 item 2, twice: that is one edge. Weights are 1 / sqrt of the degrees."""
    edges = adjacency(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 2, 2]), 2, 3).to_dense()
    expected = torch.zeros(5, 5)
    expected[1, 3] = 1 / math.sqrt(2)
    expected[2, 3] = 1 / 2
    expected[2, 4] = 1 / math.sqrt(2)
    assert torch.allclose(edges, expected + expected.T)


@settings(max_examples=30, deadline=None)
@given(pairs, st.integers(0, 4))
def test_propagation_is_that_of_dense_powers(pairs, layers):
    """The mean of A^0 X, ..., A^L X, whatever the graph; its gradient too."""
    users = LightGCN(dim=4, layers=layers, links=links_of(pairs), modalities=["ids"], width=4)
    nodes = torch.randn(10, 4, requires_grad=True)
    dense = users.edges.to_dense()
    expected = sum(torch.linalg.matrix_power(dense, n) for n in range(layers + 1)) / (layers + 1)
    found, weight = users.propagate(nodes), torch.randn(10, 4)
    assert torch.allclose(found, expected @ nodes, atol=1e-5)
    gradient = torch.autograd.grad((found * weight).sum(), nodes)[0]
    assert torch.allclose(gradient, expected.T @ weight, atol=1e-5)


def test_a_user_without_training_is_the_mean_of_the_others():
    """User 3 has taken nothing yet: there is nothing to tell them by."""
    users = LightGCN(dim=4, layers=1, links=links_of([(0, 1), (1, 2), (2, 1)]), modalities=["ids"], width=4)
    nodes = users.views(torch.randn(6, 4))["ego"]
    assert torch.allclose(nodes[9], users.user.weight[:3].mean(0)) and torch.equal(nodes[6:9], users.user.weight[:3])


@pytest.mark.parametrize("block", [1, 40, 1 << 24])
def test_nearest_items_are_those_of_brute_force(block, monkeypatch):
    """The k of largest cosine, the item itself among them, block by block; an item without content has none and is nobody's."""
    monkeypatch.setattr(graphs, "BLOCK", block)
    content = torch.randn(20, 8)
    content[[0, 7]] = 0
    row, column = nearest(content, 4)
    cosines = F.normalize(content, dim=1) @ F.normalize(content, dim=1).T
    cosines[:, [0, 7]] = -2
    for i in set(range(20)) - {0, 7}:
        assert set(column[row == i].tolist()) == set(cosines[i].topk(4).indices.tolist()) and i in column[row == i]
    assert not {0, 7} & (set(row.tolist()) | set(column.tolist()))


def test_the_item_graph_is_a_mean():
    """Every row adds up to 1; where the picture is missing text alone has its say; an item with neither has no row."""
    text, image = torch.randn(12, 6), torch.randn(12, 5)
    text[0] = image[0] = 0
    image[3] = 0
    text[5] = image[5] = 0
    near = item_graph({"text": text, "image": image}, {"text": 0.9, "image": 0.1}, 3).to_dense()
    total = near.sum(1)
    assert torch.allclose(total[[i for i in range(12) if i not in (0, 5)]], torch.ones(10)) and total[0] == total[5] == 0
    assert torch.allclose(near[3][near[3] > 0], torch.full((3,), 1 / 3)), "an item without a picture"


def test_an_item_is_its_own_neighbour_among_equals():
    """Five items of one vector, k = 2: each has itself and one other."""
    content = torch.cat([torch.zeros(1, 3), torch.ones(5, 3)])
    row, column = nearest(content, 2)
    assert all(i in column[row == i].tolist() and (row == i).sum() == 2 for i in range(1, 6))


@pytest.mark.parametrize("image_share", [0.0, 0.3, 1.0])
def test_shares_at_their_ends(image_share):
    """By hand, k = 1, so an item's only neighbour is itself: every row with content adds up to 1, whatever the share and what is missing."""
    content = {"text": torch.eye(5, 4), "image": torch.eye(5, 3)}
    content["text"][0] = content["image"][0] = 0
    content["text"][1] = 0  # a picture alone
    content["image"][2] = 0  # text alone
    for some in (content, {"text": content["text"]}, {"image": content["image"]}):
        near = item_graph(some, {"text": 1 - image_share, "image": image_share}, 1).to_dense()
        has = torch.stack([t.any(1) for t in some.values()]).any(0).float()
        assert torch.allclose(near, torch.diag(has)), image_share


def test_what_has_no_picture_is_nobodys_neighbour_by_picture(movies):
    """The blank picture that stands in features for a missing one is not content: such items have rows of zeros, and so has padding."""
    config, tables = movies("freedom", image_share=1.0)
    model, without = build(config, tables), ~torch.from_numpy(tables.pixels.present)
    content = model.users.links.content
    assert without.sum() > 2 and not content["image"][without].any() and content["image"][~without].any(1).all()
    assert not content["text"][0].any() and content["text"][1:].any(1).all()
    near = model.users.near.to_dense()
    assert not near[0].any() and not near[:, 0].any()
    assert not near[~without][:, without].any(), "an item with a picture has neighbours by picture alone here"


def content_of(size=6):
    content = {"text": torch.randn(size, 7), "image": torch.randn(size, 5)}
    for table in content.values():
        table[0] = 0
    return content


def late(ids, content):
    """Items as fusion `late` hands them over: text, ids, image, each 4 wide, then three flags."""
    flags = torch.ones(len(ids), 3)
    flags[0] = 0
    return torch.cat([content[0], ids, content[1], flags], 1)


TOGETHER = {"dim": 4, "modalities": ["text", "ids", "image"], "width": 15, "neighbours": 2}
EDGES = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (3, 1), (2, 2)]


def test_a_thinned_graph_is_drawn_by_seed_and_epoch():
    """As many edges as asked for, from the graph; the same for the same seed and epoch, another the next; evaluation sees the whole graph."""
    users = FREEDOM(layers=1, links=links_of(EDGES, content_of()), pruned=0.5, **TOGETHER)
    items, seen = late(torch.randn(6, 4), torch.randn(2, 6, 4)), []
    whole = users.eval().views(items)["final"]
    for epoch in (0, 1, 0):
        users.on_epoch_start(None, [7, epoch], resumed=False)
        dense = users.thin.to_dense()
        assert (dense[6:] > 0).sum() == 4 and not ((dense > 0) & ~(users.edges.to_dense() > 0)).any()
        seen.append(dense)
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])
    assert torch.equal(users.eval().views(items)["final"], whole) and not torch.equal(users.train().views(items)["final"], whole)


def test_popular_edges_are_left_out_first():
    """An edge between a much-taken item and a busy user stays more seldom than one between rare ones."""
    edges = [(0, i) for i in range(1, 30)] + [(1, 30)]
    users = FREEDOM(
        dim=4, layers=1, links=links_of(edges, content_of(31), users=2, size=31), pruned=0.9, modalities=["text", "ids", "image"], width=15
    )
    kept = 0
    for epoch in range(60):
        users.on_epoch_start(None, [0, epoch], resumed=False)
        kept += int(users.thin.to_dense()[30, 32] > 0)
    assert kept > 3 * 60 * 0.1, kept  # with equal chances it would stay in one epoch of ten


def test_the_content_branch_by_hand():
    """Item 1's branch is the mean over its neighbours of gated ids; a user's is what they took, by the graph's weights; the score adds both."""
    content, ids, parts = content_of(), torch.randn(6, 4), torch.randn(2, 6, 4)
    ids[0] = parts[:, 0] = 0
    users = AlignRec(layers=1, links=links_of(EDGES, content), **TOGETHER).eval()
    views = users.views(late(ids, parts))
    gated = ids * torch.sigmoid(parts[0] + parts[1])
    own = users.near.to_dense() @ gated
    assert torch.allclose(views["content"][:6], own, atol=1e-6)
    assert torch.allclose(views["content"][6:], users.edges.to_dense()[6:, :6] @ own, atol=1e-6)
    assert torch.allclose(views["final"], views["graph"] + views["content"])
    raw = F.normalize(torch.cat([F.normalize(content["text"], dim=1), F.normalize(content["image"], dim=1)], 1), dim=1)
    assert torch.allclose(views["raw"], raw)


@pytest.mark.parametrize("exp", ["lightgcn", "vbpr", "bm3", "freedom", "alignrec"])
def test_rows_of_a_batch_do_not_meet(exp, movies):
    """A row's scores are the same alone; those of ranking are those of training, dropout aside; frozen content is no weight."""
    config, tables = movies(exp, negatives=3)
    model, split = build(config, tables).eval(), tables.split(config.data)
    batch = next(sampler_of(config, split, len(tables.items)).epoch(0))
    scores = model(batch).scores
    one = type(batch)(**{k: None if v is None else v[:1] for k, v in vars(batch).items()})
    assert torch.allclose(model(one).scores, scores[:1], atol=1e-6)
    vectors = encode_items(model)
    ranked = model_scorer(model, vectors, split.test, config.history)(np.arange(len(split.test)))
    row = {int(owner): i for i, owner in enumerate(split.test.owner)}
    for r in range(3):
        user = int(batch.history[r, 0]) - len(tables.items)
        assert torch.allclose(ranked[row[user], batch.candidates[r]], scores[r], atol=1e-5)
    assert not any("text.table" in name or "image.table" in name or "joint.table" in name for name, _ in model.named_parameters())


def test_vectors_of_other_users_are_refused(movies):
    """A checkpoint of a graph has a vector for each user of its log, and fits no other log."""
    config, tables = movies("lightgcn")
    state = {"config": config.model_dump(), "content": tables.content_digest, "log": tables.log_digest}
    check_fits("best.safetensors", state, config, tables)
    with pytest.raises(NrmsError, match="its log was another"):
        check_fits("best.safetensors", state | {"log": "other"}, config, tables)


def test_features_are_weights_only_where_that_is_said(movies):
    """With `features_learn` the vectors of text and picture are weights that a step moves; the item graph keeps what they were at first."""
    config, tables = movies("freedom", features_learn=True)
    model = build(config, tables)
    table, near = model.items.encoders["text"].table, model.users.near.to_dense()
    before = table.detach().clone()
    batch = next(sampler_of(config, tables.split(config.data), len(tables.items)).epoch(0))
    parts = auxiliary_losses(config, batch, model(batch).views, is_graph=True)
    parts["content_bpr"].backward()
    assert isinstance(table, torch.nn.Parameter) and table.grad.abs().sum() > 0
    torch.optim.SGD([table], lr=1.0).step()
    assert not torch.equal(table, before) and torch.equal(model.users.near.to_dense(), near)


def test_every_pair_is_a_row_once_an_epoch():
    """Each interaction is a row; its history is the user's own node; no negative is the user's own."""
    rows, seen = [[1, 2, 3], [3, 4], [5]], []
    for batch in PairSampler(log_of(rows), size=7, batch_size=4, history=1, seed=0, candidates="drawn", negatives=2).epoch(1):
        users = (batch.history[:, 0] - 7).tolist()
        seen += list(zip(users, batch.target.tolist(), strict=True))
        for u, others, mask in zip(users, batch.candidates[:, 1:].tolist(), batch.candidate_mask[:, 1:].tolist(), strict=True):
            assert not {i for i, m in zip(others, mask, strict=True) if m} & set(rows[u])
    assert sorted(seen) == [(u, i) for u, row in enumerate(rows) for i in row]


# terms ---------------------------------------------------------------------------------------------------------------

ROWS = Rows(
    torch.tensor([4, 5, 4]),
    torch.tensor([1, 2, 1]),
    torch.tensor([[2, 3], [3, 0], [3, 2]]),
    torch.tensor([[True, True], [True, False], [True, True]]),
)


def test_every_term_is_known_to_the_parameters():
    """What a params file may name is what there is."""
    assert set(parameters.TERMS) == set(losses.TERMS)


def test_alignment_and_uniformity_are_those_of_their_definition():
    """Mean squared distance on the sphere; log mean of exp(-2 d^2) over pairs: 0 for equal rows, log of the mean by hand for three."""
    x, y = torch.tensor([[2.0, 0], [0, 3]]), torch.tensor([[0.0, 1], [0, 5]])
    assert alignment(x, y).item() == pytest.approx((2 + 0) / 2)
    assert uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-5) and uniformity(x[:1]) == 0
    three = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    assert uniformity(three).item() == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3), abs=1e-5)


def test_l2_by_hand():
    """Half the squared lengths of user, clicked item, and the mean of the others; what is masked out has no part."""
    ego = torch.arange(6.0)[:, None].sqrt()
    assert losses.l2({"ego": ego}, ROWS).item() == pytest.approx(((4 + 1 + 2.5) + (5 + 2 + 3) + (4 + 1 + 2.5)) / 6)


def test_a_duplicate_is_not_its_own_negative():
    """User 4 and item 1 stand twice in the batch: alignments are those of the different ones alone."""
    views = {"content": torch.randn(6, 3), "graph": torch.randn(6, 3), "raw": F.normalize(torch.randn(6, 3), dim=1)}
    once = Rows(ROWS.user[:2], ROWS.clicked[:2], ROWS.others[:2], ROWS.mask[:2])
    for term in (losses.cca, losses.similarity):
        assert term(views, ROWS).item() == pytest.approx(term(views, once).item(), abs=1e-6)
    expected = sum(info_nce(views["content"][own], views["graph"][own]) for own in (torch.tensor([1, 2]), torch.tensor([4, 5])))
    assert losses.cca(views, ROWS).item() == pytest.approx(expected.item(), abs=1e-6)


def test_info_nce_is_a_slow_loop():
    """Cross entropy of each pair among all, by cosine over the temperature."""
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    total = 0.0
    for i in range(4):
        cosines = [F.cosine_similarity(a[i], b[j], dim=0).item() / 0.2 for j in range(4)]
        total -= cosines[i] - math.log(sum(map(math.exp, cosines)))
    assert info_nce(a, b).item() == pytest.approx(total / 4, abs=1e-5)


def test_what_is_missing_is_held_against_nothing():
    """Item 2 has no text: terms are those of the rows, and of the pairs, that have it; where nobody has it they are 0, not NaN."""
    views = {"final": torch.randn(6, 3), "text": torch.randn(6, 3), "online": torch.randn(6, 3), "target": torch.randn(6, 3)}
    views |= {"online text": torch.randn(6, 3), "target text": torch.randn(6, 3)}
    views["text"][2] = 0
    gap = {j: views["final"][4] @ (views["text"][j] - views["text"][1]) for j in (3,)}  # rows 0 and 2: user 4, item 1; of the others item 3 has text
    assert losses.content_bpr(views, ROWS).item() == pytest.approx(F.softplus(gap[3]).item(), abs=1e-5)
    some = Rows(ROWS.user[:1], ROWS.clicked[:1], ROWS.others[:1], ROWS.mask[:1])
    assert losses.bootstrap_content(views, ROWS).item() == pytest.approx(losses.bootstrap_content(views, some).item(), abs=1e-5)
    nothing = views | {"text": torch.zeros(6, 3)}
    assert losses.content_bpr(nothing, ROWS) == 0 and losses.bootstrap_content(nothing, ROWS) == 0
    views = {"content": torch.randn(6, 3), "graph": torch.randn(6, 3), "raw": F.normalize(torch.randn(6, 3), dim=1)}
    views["content"][2] = views["raw"][2] = 0
    assert losses.similarity(views, ROWS).item() == pytest.approx(0, abs=1e-6), "one item's cosine with itself"
    users = info_nce(views["content"][[4, 5]], views["graph"][[4, 5]]).item()
    assert losses.cca(views, ROWS).item() == pytest.approx(users, abs=1e-5)
    empty = {name: torch.zeros(6, 3) for name in views}
    assert losses.cca(empty, ROWS) == 0 and losses.similarity(empty, ROWS) == 0


def test_terms_have_their_least_value_where_they_should():
    """Same cosines as raw content: similarity 0. User on the item: uia 0. Predicted targets: bootstrap 0. Equal content: content_bpr log 2 each."""
    same = F.normalize(torch.randn(6, 3), dim=1)
    assert losses.similarity({"content": 5 * same, "raw": same}, ROWS).item() == pytest.approx(0, abs=1e-5)
    one = torch.ones(6, 3)
    assert losses.uia({"final": one}, ROWS).item() == pytest.approx(0, abs=1e-6)
    views = {"online": one, "target": one, "text": one, "online text": one, "target text": 2 * one}
    assert losses.bootstrap(views, ROWS).item() == pytest.approx(0, abs=1e-6)
    assert losses.bootstrap_content(views, ROWS).item() == pytest.approx(0, abs=1e-6)
    assert losses.content_bpr({"final": one, "text": one, "image": one}, ROWS).item() == pytest.approx(2 * math.log(2), abs=1e-6)


def test_values_that_do_not_go_with_a_graph():
    """A term the system does not have, an unknown one, no ids, a tuned encoder, impressions: each is a sentence."""
    for exp, dataset, given_, says in (
        ("lightgcn", "movies", {"terms": {"cca": 0.1}}, "goes with users alignrec"),
        ("lightgcn", "movies", {"terms": {"l3": 0.1}}, "did you mean `l2`"),
        ("lightgcn", "movies", {"objective": "none", "terms": {}}, "nothing would be learned"),
        ("freedom", "movies", {"ids": False}, "give ids true"),
        ("freedom", "movies", {"tuning": "full"}, "give tuning frozen"),
        ("freedom", "movies", {"fusion": "sum"}, "one by one"),
        ("bm3", "movies", {"image": None, "text": None}, "give text, image or joint"),
        ("idrec_sasrec", "movies", {"layers": 0}, "which only users lightgcn"),
        ("missrec", "movies", {"item_drop": 0.2}, "go together"),
        ("missrec", "movies", {"layers": 3}, "give an even number"),
        ("idmo_both", "movies", {"fusion": "beside"}, "give users lightgcn"),
        ("missrec", "movies", {"mask_history": True, "repeats": True}, "goes with mask_history false"),
        ("lightgcn", "newsroom-tiny", {"candidates": "slate"}, "learns from a log"),
    ):
        with pytest.raises(NrmsError, match=says):
            resolve(exp, dataset, **given_)


# several models, vectors -------------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_standardised_scores():
    """Two scorers of different scale count alike; padding has no part."""
    a = torch.tensor([[100.0, 1, 2, 3]])
    b = torch.tensor([[-9.0, 300, 0, 300]])
    found = together([lambda rows: a.clone(), lambda rows: b.clone()])(np.array([0]))[0, 1:]
    expected = (torch.tensor([-1.0, 0, 1]) + torch.tensor([1.0, -2, 1]) / math.sqrt(3)) / 2
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("exp", ["lightgcn", "missrec_id", "idmo_both", "exp4"])
def test_diagnostics_are_those_of_their_definitions(exp, movies):
    """Every system has them; alignment and norms by hand from the vectors that are scored."""
    config, tables = movies(exp)
    model, split = build(config, tables).eval(), tables.split(config.data)
    vectors = encode_items(model)
    first = np.tile(np.arange(1, 11), (len(split.test), 1))
    found = diagnose(model, vectors, split, config.history, first)
    assert found.keys() <= DIAGNOSTICS.keys() and found["coverage"] == 10 / 24 and ("modality_gap" in found) == (len(config.modalities) > 1)
    with torch.no_grad():
        users, items = model.users.comparable(
            states_of(model, vectors, split.test, np.arange(len(split.test)), config.history), vectors[: len(tables.items)]
        )
    right = torch.from_numpy(split.test.candidates.values.astype(np.int64))
    expected = (F.normalize(users, dim=1) - F.normalize(items[right], dim=1)).square().sum(1).mean()
    assert found["alignment"] == pytest.approx(expected.item(), abs=1e-4)
    count = np.bincount(split.train.items.values, minlength=25)
    assert found["popularity_lift"] == pytest.approx(count[1:11].mean() / count[split.test.candidates.values].mean())
    norms, known = items.norm(dim=1).numpy(), np.flatnonzero(count)
    if found["norm_popularity"] is not None:
        assert found["norm_popularity"] == pytest.approx(stats.spearmanr(norms[known], count[known]).statistic, abs=1e-6)


def test_notebooks_and_pages_understand_sets(home, hasty, without_kernels):
    """A graph on users who are asked for several items: notebooks run, tables have Recall, slices and diagnostics; an ensemble is one more row."""
    write_log(home / "in", items=60)
    prepare("movies-random", load_dataset("movies-random"), home / "in")
    small = {"dim": 8, "heads": 2, "batch_size": 64, "epochs": 2, "device": "cpu"}
    said = []
    for _ in range(2):  # the second time there is nothing to do
        assert pipeline.run(["lightgcn"], "movies-random", [0], together=["lightgcn", "alignrec"], say=said.append, **small) == 0, said
    assert sum("nothing changed" in line for line in said) == 3
    both = ensemble.named([resolve(exp, "movies-random", 0, **small) for exp in ("lightgcn", "alignrec")])
    table = report.comparison("movies-random")
    assert list(table)[3:7] == ["Recall@20", "Recall@10", "nDCG@20", "nDCG@10"] and {both, "cooccurrence"} <= set(table.index)
    for page_of in (home / "reports" / "movies-random").glob("*/seed0/eval.html"):
        assert "uniformity, items" in page_of.read_text() and "Traceback" not in page_of.read_text()
    run = next((home / "reports" / "movies-random").glob("alignrec*/seed0"))
    metrics = read_json(run / "metrics.json")
    assert {"all", "item with a picture", "item in training 6-20"} <= set(metrics) and metrics["all"]["recall20"]["n"] == 40
    rows = pq.read_table(run / "rows.parquet").to_pandas()
    assert "recall20: item with a picture" in rows and all(len(r) == len(i) for r, i in zip(rows["ranks"], rows["items"], strict=True))
    assert len(report.diagnostics("movies-random")) == 2
    with pytest.raises(NrmsError, match="holds no run trained"):
        ensemble.ensemble([resolve(exp, "movies-random", 1, **small) for exp in ("lightgcn", "alignrec")])
