"""Interests: clusters, memory, blended scores, two views, and what is taken along to other data."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from nrms import NrmsError
from nrms.config import PARAMS, resolve
from nrms.models.build import build
from nrms.models.items.encoders import Frozen
from nrms.models.items.fusion import FUSIONS
from nrms.models.items.tower import ItemTower
from nrms.models.recommender import Recommender
from nrms.models.users import clustering
from nrms.models.users.clustering import CLUSTERS, distances, dpc_knn, kmeans, peaks
from nrms.models.users.missrec import MISSRec, measures
from nrms.models.warm_start import copy_weights, narrow
from nrms.train import sampler_of
from nrms.training import losses
from nrms.training.losses import Rows

FINE = ["items.encoders.*.project.*", "users.norm.*", "users.blend"]


def interests_of(present, modalities=("text", "image"), **options):
    torch.manual_seed(0)
    sizes = {"dim": 8, "heads": 2, "layers": 1, "wide": 12, "dropout": 0.0, "history": 6, "interests": "kmeans", "ratio": 0.5}
    return MISSRec(modalities=list(modalities), present=present, **sizes | options)


def test_as_many_weights_as_the_released_code():
    """4,385 items with text and image of 512: 1,719,513 weights, of which fine-tuning without ids trains 308,401."""
    present = torch.arange(4386) > 0
    table = np.zeros((4386, 512), np.float32)
    encoders = {m: Frozen(table, present, None, dim=300, dropout=0.5) for m in ("text", "image")}
    fusion = FUSIONS["late"](dim=300, modalities=2, dropout=0.0)
    sizes = {"dim": 300, "heads": 4, "wide": 256, "dropout": 0.5, "history": 50}
    model = Recommender(ItemTower(encoders, fusion), interests_of(torch.stack([present] * 2, 1), **sizes))
    assert sum(p.numel() for p in model.parameters()) == 1_719_513
    narrow(model, FINE)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 308_401


def test_no_weights_for_what_is_not_there():
    """Without clusters there is no encoder and no attention to a memory; every weight that is counted learns from one step."""
    present = torch.arange(11)[:, None].repeat(1, 2) > 0
    users, whole = (interests_of(present, interests=how) for how in ("none", "kmeans"))
    count, wanted = (sum(p.numel() for p in own.parameters()) for own in (users, whole))
    layer, attention, norm = 4 * 8 * 8 + 4 * 8 + 2 * 8 * 12 + 12 + 8 + 2 * 16, 4 * 8 * 8 + 4 * 8, 16
    assert wanted - count == layer + norm + attention + norm  # the encoder with its last norm; what reads the memory, with its norm
    history, mask, items = history_of(users, [[1, 2, 4], [5]])
    (users.score(users(history, mask, items), history[0]) * torch.randn(2, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in users.named_parameters())


def test_norms_are_those_of_the_released_code():
    """Every LayerNorm adds 1e-12 to the variance, the last ones of both stacks too."""
    norms = [m for m in interests_of(torch.ones(3, 2, dtype=torch.bool)).modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 1 + 2 + 3 + 2 and {m.eps for m in norms} == {1e-12}


def test_no_more_interests_than_a_number():
    """Half of 20 vectors are ten clusters, unless fewer are allowed."""
    present = torch.arange(11)[:, None].repeat(1, 2) > 0
    assert [len(interests_of(present, max_interests=most).prototypes) - 1 for most in (20, 10, 4)] == [10, 10, 4]


# clusters ------------------------------------------------------------------------------------------------------------


def blobs(scale: float = 1.0, offset: float = 0.0):
    """300 tokens of three Gaussian blobs far from each other, and the number of each one's own."""
    own = torch.arange(3).repeat_interleave(100)
    tokens = torch.randn(300, 5, generator=torch.Generator().manual_seed(1)) * 0.3 + 6 * torch.eye(3, 5)[own]
    return scale * tokens + offset, own


@pytest.mark.parametrize("how", CLUSTERS)
@pytest.mark.parametrize("exact", [20_000, 120])
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-3, 0), (60, 0), (1e6, 0), (1, 1000), (1, -1e4), (60, 1e5)])
def test_three_blobs_are_found(how, exact, scale, offset, monkeypatch):
    """Three Gaussian blobs, K = 3: every token is with its own, in whatever unit and wherever they lie, also where centres come from a sample."""
    monkeypatch.setattr(clustering, "EXACT", exact)
    tokens, own = blobs(scale, offset)
    label, centres = CLUSTERS[how](tokens, 3, torch.Generator().manual_seed(4))  # from which k-means starts in all three
    for blob in range(3):
        assert len(label[own == blob].unique()) == 1, how
        assert torch.allclose(centres[label[own == blob][0]], tokens[own == blob].mean(0), rtol=1e-5, atol=1e-5 * scale)


@settings(deadline=None)
@given(scale=st.floats(0.01, 100), offset=st.floats(-1000, 1000), seed=st.integers(0, 99))
def test_distances_do_not_depend_on_where_tokens_lie(scale, offset, seed):
    """Squared distances are those in 64 bits, to a millionth of the largest, and what the offset takes from the tokens themselves."""
    tokens = scale * torch.randn(30, 4, generator=torch.Generator().manual_seed(seed)) + offset
    found = torch.cat([d for _, d in distances(tokens, tokens[:7])])
    exact = (tokens.double()[:, None] - tokens[:7].double()).square().sum(-1)
    assert (found - exact).abs().max() < 1e-6 * exact.max() + 2e-6 * abs(offset) * exact.max().sqrt()


def test_equal_tokens_are_one_cluster():
    """Nothing lies apart: all tokens are in one cluster, whose mean is the token, however many were asked for."""
    for find in (kmeans, dpc_knn):
        label, centres = find(torch.full((10, 3), 7.0), 4, torch.Generator().manual_seed(0))
        assert len(label.unique()) == 1 and torch.equal(centres, torch.full((4, 3), 7.0))


@pytest.mark.parametrize("count", [40, 100, 130])
def test_a_sample_bounds_dpc(count, monkeypatch):
    """Of more tokens than EXACT no more than that are held against each other; clusters that the sample cannot give begin at drawn tokens."""
    monkeypatch.setattr(clustering, "EXACT", 100)
    held = []
    monkeypatch.setattr(clustering, "peaks", lambda tokens, share: held.append(len(tokens)) or peaks(tokens, share))
    tokens = torch.randn(250, 3)
    label, centres = dpc_knn(tokens, count, torch.Generator().manual_seed(0))
    assert held == [100] and centres.shape == (count, 3) and len(label.unique()) == count


def test_peaks_are_those_of_the_formula():
    """Density from the k nearest, itself counted; distance to the nearest denser; both over sqrt(d), token by token; the log of their product."""
    tokens, share = torch.randn(17, 4), 0.2
    d = torch.cdist(tokens, tokens) / 2
    k = math.ceil(share * 17)
    rho = [math.exp(-sum(sorted((d[i] ** 2).tolist())[:k]) / k) for i in range(17)]
    for i, found in enumerate(peaks(tokens, share).tolist()):
        denser = [d[i, j].item() for j in range(17) if rho[j] > rho[i]]
        assert math.exp(found) == pytest.approx(rho[i] * (min(denser) if denser else d[i].max().item()), abs=1e-4)


@pytest.mark.parametrize("block", [1, 100])
def test_blocks_do_not_matter(block, monkeypatch):
    """The same clusters whatever the number of distances that are made at a time; the same seed gives the same clusters."""
    tokens = torch.randn(40, 3)
    whole = [f(tokens, 6, torch.Generator().manual_seed(0)) for f in (kmeans, dpc_knn)]
    monkeypatch.setattr(clustering, "BLOCK", block)
    again = [f(tokens, 6, torch.Generator().manual_seed(0)) for f in (kmeans, dpc_knn)]
    assert all(torch.equal(a[0], b[0]) and torch.allclose(a[1], b[1], atol=1e-6) for a, b in zip(whole, again, strict=True))


def test_a_cluster_is_the_mean_of_its_tokens():
    """Prototypes are means, not the tokens that were the centres; one cluster is the mean of all."""
    tokens = torch.randn(30, 3)
    for find in (kmeans, dpc_knn):
        label, centres = find(tokens, 4, torch.Generator().manual_seed(0))
        assert all(torch.allclose(centres[c], tokens[label == c].mean(0), atol=1e-6) for c in label.unique())
        assert torch.allclose(find(tokens, 1, torch.Generator())[1][0], tokens.mean(0), atol=1e-6)


# the memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sum", "separate"])
def users(request):
    """Ten items, 3 and 7 without a picture, clusters by hand: text of item i is in cluster 1 + i % 3, pictures in cluster 4."""
    present = torch.ones(11, 2, dtype=torch.bool)
    present[0] = False
    present[[3, 7], 1] = False
    made = interests_of(present, ratio=0.25, item_tokens=request.param).eval()
    made.lookup[:, 0] = 1 + torch.arange(11) % 3
    made.lookup[:, 1] = 4
    made.lookup[~present] = 0
    made.prototypes[1:] = torch.randn_like(made.prototypes[1:])
    return made


def history_of(users, rows, width=None):
    """Vectors (R, L, W) and mask of histories of items, whose vectors are drawn by number."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(11, 2, 8, generator=generator)
    flags = torch.ones(11, 2)
    flags[0] = flags[[3, 7], 1] = 0
    table = torch.cat([torch.where(flags[..., None] > 0, table, 0).flatten(1), flags], 1)
    width = width or max(map(len, rows))
    items = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return table[items], items > 0, items


def test_interests_are_different_and_without_padding(users):
    """Items 3, 6 and 9 share a text cluster; their pictures, where there are any, another: two interests, whatever stands behind the history."""
    memory, seen = users.remember(torch.tensor([[3, 6, 9, 0, 0], [3, 0, 0, 0, 0]]))
    assert seen.sum(1).tolist() == [2, 1]
    alone, _ = users.remember(torch.tensor([[3]]))
    assert torch.allclose(memory[1, :1], alone[0, :1], atol=1e-6)


def test_padding_and_others_change_nothing(users):
    """A state is the same alone, beside other users and with more padding; a history without items has one, too."""
    rows = [[3, 6], [1, 2, 4, 5], [], [9]]
    states = users(*history_of(users, rows))
    for r, row in enumerate(rows):
        assert torch.allclose(users(*history_of(users, [row], width=max(len(row), 1)))[0], states[r], atol=1e-5), r
    wide = users(*history_of(users, rows, width=6))
    assert torch.allclose(wide[:, :8], states[:, :8], atol=1e-5) and torch.isfinite(states).all()
    assert not torch.allclose(users(*history_of(users, [[6, 3]]))[0, :8], states[0, :8], atol=1e-3), "order is read"


def test_separate_tokens_are_those_that_are_there():
    """A token for each modality that an item has: what stands where a picture is missing is not read, and order within an item is not told."""
    users = interests_of(torch.arange(11)[:, None].repeat(1, 2) > 0, interests="none", item_tokens="separate").eval()
    history, mask, items = history_of(users, [[3, 6]])
    state = users(history, mask, items)
    spoilt, swapped = history.clone(), history.clone()
    spoilt[0, 0, 8:16] = 99.0  # item 3 has no picture
    swapped[0, 1, :16] = history[0, 1, :16].roll(8)
    assert torch.allclose(users(spoilt, mask, items), state, atol=1e-6) and torch.allclose(users(swapped, mask, items), state, atol=1e-5)
    users.item_tokens = "sum"
    assert not torch.allclose(users(history, mask, items)[:, :8], state[:, :8], atol=1e-3)


def test_an_item_that_shows_nothing_has_a_place():
    """Neither text nor picture: the item's position is read all the same, with and without separate tokens."""
    present = torch.zeros(11, 2, dtype=torch.bool)
    for tokens in ("sum", "separate"):
        users = interests_of(present, interests="none", item_tokens=tokens).eval()
        bare = torch.zeros(1, 2, 18)
        states = [users(bare[:, :n], torch.ones(1, n, dtype=torch.bool), torch.ones(1, n, dtype=torch.int64)) for n in (1, 2)]
        assert torch.isfinite(states[1]).all() and not torch.allclose(states[0][:, :8], states[1][:, :8], atol=1e-4)


def test_without_clusters_memory_is_empty():
    """The control `none`: no clusters are made, the measures of the memory are 0, and the state is finite."""
    present = torch.arange(11)[:, None].repeat(1, 2) > 0
    users = interests_of(present, interests="none").eval()
    users.on_epoch_start(torch.randn(11, 18), [0, 0], resumed=False)
    assert len(users.prototypes) == 1 and not users.lookup.any()
    states = users(*history_of(users, [[1, 2], []]))
    assert torch.isfinite(states).all() and not states[:, 16:].any()


def test_an_epoch_that_goes_on_keeps_its_clusters(movies):
    """Clusters are made at the start of an epoch, by seed and weights; in its middle they are those that were saved with the weights."""
    config, tables = movies("missrec")
    model = build(config, tables)
    assert not model.users.lookup.any()
    model.on_epoch_start([0, 0], resumed=False)
    first = {k: v.clone() for k, v in model.state_dict().items() if k in ("users.lookup", "users.prototypes")}
    assert len(first) == 2 and first["users.lookup"][1:].any() and model.training
    with torch.no_grad():
        for p in model.items.parameters():
            p.add_(torch.randn_like(p))
    model.on_epoch_start([0, 1], resumed=True)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in first.items())
    model.on_epoch_start([0, 1], resumed=False)
    assert not torch.equal(model.users.prototypes, first["users.prototypes"])


@pytest.mark.parametrize("term", ["interest_norm", "interest_overlap"])
def test_nothing_to_look_at_is_a_sentence(term):
    """A term that looks at interests does not go with `interests: none`; with others it does."""
    assert resolve("missrec", "movies", terms={term: 0.1}).terms == {term: 0.1}
    with pytest.raises(NrmsError, match=f"nothing that the term {term} could look at"):
        resolve("missrec", "movies", terms={term: 0.1}, interests="none")


# scores --------------------------------------------------------------------------------------------------------------


def test_blend_goes_from_the_mean_to_the_maximum(users):
    """0: the mean of the cosines; a large weight: the larger; a missing picture has no part; (B, C) and (C,) candidates agree."""
    state = users(*history_of(users, [[1, 2], [4]]))
    items, _, _ = history_of(users, [[1, 3, 5]])
    user = F.normalize(state[:, :8], dim=1)
    cosines = torch.stack([user @ F.normalize(items[0, :, 8 * m : 8 * m + 8], dim=1).T for m in range(2)], -1)
    for blend, expected in ((0.0, cosines.mean(-1)), (1e4, cosines.max(-1).values)):
        users.blend.data.fill_(blend)
        expected = torch.where(torch.tensor([False, True, False]), cosines[..., 0], expected)
        assert torch.allclose(users.score(state, items[0]), expected, atol=1e-5)
        assert torch.allclose(users.score(state, items.expand(2, -1, -1)), expected, atol=1e-5)


def test_ids_have_a_third():
    """With ids the score is (cosine with the id + 2 * blend) / 3."""
    present = torch.ones(5, 3, dtype=torch.bool)
    users = interests_of(present, ("text", "ids", "image"))
    state, items = torch.randn(2, 18), torch.cat([torch.randn(4, 24), torch.ones(4, 3)], 1)
    cosines = [F.normalize(state[:, :8], dim=1) @ F.normalize(items[:, 8 * m : 8 * m + 8], dim=1).T for m in range(3)]
    assert torch.allclose(users.score(state, items), (cosines[1] + cosines[0] + cosines[2]) / 3, atol=1e-5)


@pytest.mark.parametrize("modalities", [("text",), ("text", "image"), ("ids", "text", "image"), ("text", "ids")])
def test_what_can_be_compared_makes_up_the_score(modalities):
    """The product of unit users and `comparable` items is the score where blend is 0: whatever modalities an item has, and if it has none."""
    count = len(modalities)
    flags = torch.tensor(list(itertools.product([1.0, 0.0], repeat=count)))  # every set of modalities
    vectors = torch.randn(len(flags), count, 8) * flags[..., None]
    items = vectors[:, 0] if count == 1 else torch.cat([vectors.flatten(1), flags], 1)
    users, state = interests_of(torch.ones(5, count, dtype=torch.bool), modalities), torch.randn(3, 18)
    unit, made = users.comparable(state, items)
    assert torch.allclose(unit.norm(dim=1), torch.ones(3)) and torch.allclose(unit @ made.T, users.score(state, items), atol=1e-6)


# losses --------------------------------------------------------------------------------------------------------------


def test_two_views_in_training_alone(users):
    """In training the second view has items left out, of all modalities at once; without `item_drop`, and in evaluation, it is the first."""
    parts = history_of(users, [[1, 2, 4, 5], [9]])
    users.item_drop = 0.5
    states = users(*parts)
    assert torch.equal(states[:, :8], states[:, 8:16])
    states = users.train()(*parts)
    assert not torch.allclose(states[0, :8], states[0, 8:16], atol=1e-3) and torch.allclose(states[1, :8], states[1, 8:16], atol=1e-5)


def test_what_is_left_out_is_not_remembered(users, monkeypatch):
    """The memory of the second view holds the interests of the items that are kept, and no others; where nothing is there, none."""
    history, mask, items = history_of(users, [[1, 2, 5, 0], [3, 6, 9, 4], []])
    kept = torch.tensor([[True, False, False, False], [False, True, True, False], [False] * 4])
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: kept.float())
    seen, remember = [], users.remember
    monkeypatch.setattr(users, "remember", lambda items: seen.append(remember(items)) or seen[-1])
    users.item_drop = 0.5
    users.train()(history, mask, items)
    for (memory, there), numbers in zip(seen, (items, torch.tensor([[1, 0], [6, 9], [0, 0]])), strict=True):
        expected, where = remember(numbers)
        assert torch.equal(there, where) and torch.allclose(memory, expected, atol=1e-6)
    assert seen[1][1].sum(1).tolist() == [2, 2, 1] and not seen[1][0][2].any()


def test_both_views_are_measured(users):
    """In training with `item_drop` norm and overlap are sums over the two views, in evaluation those of the one there is."""
    parts = history_of(users, [[1, 2, 4, 5], [9, 0, 0, 0]])
    users.item_drop = 0.5
    one = users(*parts)[:, 16:]
    two = users.train()(*parts)[:, 16:]
    assert torch.allclose(two[1], 2 * one[1], atol=1e-6) and (two[0, 0] > one[0, 0]) and one[1, 0] > 0  # of one item, which has to stay


def test_measures_by_hand():
    """Interests (1, 0) and (0, 1): overlap 0; (1, 0) and (1, 1): 1/2. The norm is that of the mean, over D, times the share of places."""
    memory = torch.tensor([[[1.0, 0], [0, 1]], [[1, 0], [1, 1]], [[2, 0], [9, 9]]])
    seen = torch.tensor([[True, True], [True, True], [True, False]])
    norm, overlap = measures(memory, seen, 2).T
    assert overlap.tolist() == pytest.approx([0, 0.5, 0], abs=1e-6)
    assert norm.tolist() == pytest.approx([(0.25 + 0.25) / 2, (1 + 0.25) / 2, (4 / 2) * 0.5])


def test_rows_with_the_same_target_are_not_held_against_each_other():
    """Rows 0 and 2 have one target: two views are judged as if the other were not there."""
    views = {"final": torch.randn(3, 4), "second": torch.randn(3, 4)}
    none = torch.zeros(3, 0, dtype=torch.int64)
    found = losses.two_views(views, Rows(torch.arange(3), torch.tensor([5, 6, 5]), none, none.bool()))
    cosines = F.normalize(views["final"], dim=1) @ F.normalize(views["second"], dim=1).T / 0.07
    rows = [cosines[0, :2], cosines[1], cosines[2, 1:]], [cosines[:2, 0], cosines[:, 1], cosines[1:, 2]]
    expected = sum(-(r.log_softmax(0)[i]) for side in rows for i, r in zip((0, 1, 1), side, strict=True)) / 6
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


# other data ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["scientific-pairs", "movies-random", "movies-period"])
def test_every_missrec_goes_with_every_log(dataset):
    """A data set that gives graphs three layers does not keep MISSRec from its two."""
    names = [path.stem for path in PARAMS.glob("missrec*.yaml")]
    assert "missrec" in names and {resolve(name, dataset).layers for name in names} == {2}


def test_weights_are_taken_and_few_learn(movies, tmp_path):
    """All that is not bound to items comes along; then one step moves adapters, input norm and blend, and nothing else."""
    config, tables = movies("missrec")
    model = build(config, tables)
    model.on_epoch_start([0, 0], resumed=False)
    other = build(config, tables)
    taken = copy_weights(other, model.state_dict(), tmp_path)
    assert "users.decoder.layers.0.linear1.weight" in taken and not {"users.lookup", "users.prototypes"} & set(taken)
    assert torch.equal(other.users.position.weight, model.users.position.weight) and not other.users.lookup.any()
    narrow(other, FINE)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    other.on_epoch_start([0, 0], resumed=False)
    optimizer = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], lr=1.0)
    batch = next(sampler_of(config, tables.split(config.data), len(tables.items)).epoch(0))
    other(batch).scores.square().sum().backward()
    optimizer.step()
    moved = {k for k, v in other.state_dict().items() if not torch.equal(v, before[k])} - {"users.lookup", "users.prototypes"}
    assert moved >= {"users.norm.weight", "users.blend"} and all(k.startswith(("items.encoders", "users.norm", "users.blend")) for k in moved)


def test_what_does_not_fit_is_a_sentence(movies, tmp_path):
    """A pattern that matches nothing, weights of which none fits."""
    config, tables = movies("missrec")
    model = build(config, tables)
    with pytest.raises(NrmsError, match=r"the pattern 'adapters.\*', which no weight matches"):
        narrow(model, ["adapters.*"])
    with pytest.raises(NrmsError, match="None of the weights"):
        copy_weights(model, {"x": torch.zeros(2)}, tmp_path / "other.safetensors")


def test_a_row_without_history_is_left_out(movies):
    """Every training item but each user's first is a row, with all before it."""
    config, tables = movies("missrec")
    split = tables.split(config.data)
    rows = sum(len(b) for b in sampler_of(config, split, len(tables.items)).epoch(0))
    assert rows == len(split.train.items.values) - len(split.train)
    assert all(b.history_mask.any(1).all() for b in sampler_of(config, split, len(tables.items)).epoch(1))
