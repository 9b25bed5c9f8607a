"""The next item of a log: splits, windows, candidates, user encoders by place, ranks in the whole catalogue."""

import itertools
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nrms import NrmsError, pipeline, report
from nrms.config import PARAMS, load_dataset, reads_a_log, resolve
from nrms.config.parameters import ORDERED
from nrms.data.prepare import load, prepare
from nrms.data.samplers import SequenceSampler
from nrms.data.splits import leave_one_out, split_log, split_log_by_time
from nrms.data.tables import Impressions, Interactions, Ragged
from nrms.evaluate import evaluate_references
from nrms.evaluation.baselines import cooccurrence
from nrms.evaluation.metrics import CATALOGUE, catalogue_metrics
from nrms.evaluation.ranking import encode_items, evaluate_model, model_scorer, rank_catalogue
from nrms.models.build import build
from nrms.models.items.ids import IdTable
from nrms.models.load import check_fits
from nrms.models.users import USERS
from nrms.train import sampler_of
from nrms.training.gradients import backward, chance_of, loss_of
from nrms.training.losses import bce, bpr

CAUSAL = sorted(name for name in ORDERED if USERS[name].is_causal)
logs = st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=12), min_size=1, max_size=6)


def ragged(rows):
    return Ragged(np.array([v for row in rows for v in row], np.int32), np.cumsum([0, *map(len, rows)]))


def log_of(rows, times=None):
    """A log of these sequences; time is the place unless given."""
    times = [range(len(row)) for row in rows] if times is None else times
    return Interactions(np.array([f"u{i}" for i in range(len(rows))], object), ragged(rows), np.array([t for row in times for t in row], np.int64))


def sampler(rows, **options):
    defaults = {"size": 10, "batch_size": 4, "history": 4, "seed": 0, "candidates": "all"}
    return SequenceSampler(log_of(rows), **defaults | options)


# splits --------------------------------------------------------------------------------------------------------------


def test_the_last_is_left_out_and_the_last_but_one():
    """Ann, Bob and Cem: the last item is asked for in the test, given all before it; the last but one in the validation; the rest trains."""
    split = leave_one_out(log_of([[1, 2, 3, 4, 5], [6, 7, 8], [9, 8, 7, 6]]))
    assert [split.train.items[r].tolist() for r in range(3)] == [[1, 2, 3], [6], [9, 8]]
    for part, past, asked in ((split.valid, [[1, 2, 3], [6], [9, 8]], [4, 7, 7]), (split.test, [[1, 2, 3, 4], [6, 7], [9, 8, 7]], [5, 8, 6])):
        assert [part.history[r].tolist() for r in range(3)] == past and part.candidates.values.tolist() == asked and part.clicked.all()
    with pytest.raises(NrmsError, match="'u1' has 2 interactions"):
        leave_one_out(log_of([[1, 2, 3], [4, 5]]))


def test_by_time_nobody_sees_the_future():
    """Two moments for all: train lies before the first, the questions are users' first items behind one, their histories all that is before it."""
    log = log_of([[1, 2, 3, 4, 5], [6, 7], [8, 9, 1]], [[0, 10, 75, 85, 95], [20, 91], [30, 40, 80]])
    split = split_log_by_time(log, 0.2, 0.3)
    assert [split.train.items[r].tolist() for r in range(3)] == [[1, 2], [6], [8, 9]]
    assert split.valid.candidates.values.tolist() == [3, 1] and [split.valid.history[r].tolist() for r in range(2)] == [[1, 2], [8, 9]]
    assert split.test.candidates.values.tolist() == [4, 7] and [split.test.history[r].tolist() for r in range(2)] == [[1, 2, 3], [6]]
    assert split.train.time.max() < split.valid.time.min() <= split.valid.time.max() < split.test.time.min()
    with pytest.raises(NrmsError, match="cannot be split by time"):
        split_log_by_time(log_of([[1, 2, 3]], [[5, 5, 5]]), 0.1, 0.1)


@pytest.mark.parametrize("how", ["leave_one_out", "time"])
def test_no_test_interaction_is_seen_in_training(real_data, home, how):
    """Three users of a real log, drawn: what trains is a beginning of their timeline, before what validates, which is before what tests."""
    data = load_dataset("movies", split=how)
    prepare("movies", data, real_data / "movies")
    log = load("movies", data).log
    split = split_log(log, how, data.valid_share, data.test_share)
    asked = {name: {u: i for i, u in enumerate(getattr(split, name).user)} for name in ("valid", "test")}
    users = [u for u in range(len(log)) if all(log.user[u] in asked[name] for name in asked)]
    for u in np.random.default_rng(0).choice(users, 3, replace=False):
        timeline, time = log.items[u].tolist(), log.time[log.items.offsets[u] : log.items.offsets[u + 1]]
        trained = split.train.items[u].tolist()
        valid, test = (getattr(split, name) for name in asked)
        v, t = asked["valid"][log.user[u]], asked["test"][log.user[u]]
        assert timeline[: len(trained)] == trained == valid.history[v].tolist()
        assert timeline[len(trained)] == valid.candidates.values[v] and timeline[: len(test.history[t])] == test.history[t].tolist()
        assert timeline[len(test.history[t])] == test.candidates.values[t] and len(test.history[t]) > len(trained)
        assert (not trained or time[len(trained) - 1] <= valid.time[v]) and valid.time[v] <= test.time[t]
        assert how == "leave_one_out" or split.train.time.max() < valid.time[v] < test.time[t]


# what a batch holds --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(logs, st.integers(2, 6), st.integers(0, 3), st.booleans())
def test_every_interaction_is_a_row_once_an_epoch(rows, history, epoch, per_position):
    """Each item of each sequence is a target once; its history is what stands before it, at most L, at least half of L where there is as much."""
    batches = sampler(rows, history=history, per_position=per_position, batch_size=3).epoch(epoch)
    found = []
    for batch in batches:
        places = batch.history_mask.sum(1)[batch.history_id] if not per_position else batch.position
        for reader, place, target in zip(batch.history_id.tolist(), places.tolist(), batch.target.tolist(), strict=True):
            found.append((tuple(batch.history[reader][:place].tolist()), target))
            assert batch.history_mask[reader][:place].all() and place <= history
    expected = [(tuple(row[:i]), item) for row in rows for i, item in enumerate(row)]
    assert len(found) == len(expected)
    rest = list(expected)
    for past, target in sorted(found, key=lambda f: -len(f[0])):
        match = next(
            (e for e in rest if e[1] == target and e[0][len(e[0]) - len(past) :] == past and len(past) >= min(len(e[0]), history // 2)), None
        )
        assert match is not None
        rest.remove(match)


def test_an_epoch_is_entered_in_the_middle():
    """The batches from number 2 on are those of the whole epoch; another epoch has others."""
    make = sampler([list(range(1, 10))] * 6, candidates="drawn", negatives=2, batch_size=2)
    whole, rest, other = list(make.epoch(1)), list(make.epoch(1, 2)), list(make.epoch(2))
    assert len(whole) == len(make) and len(rest) == len(whole) - 2
    for a, b in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("history", "candidates", "history_id", "position"))
    assert any(a.history.shape != b.history.shape or not torch.equal(a.history, b.history) for a, b in zip(whole, other, strict=True))


def test_drawn_negatives_are_not_the_users_own():
    """No drawn item is one that the user has in the training part; who has everything gets none."""
    rows = [[1, 2, 3], [3, 4, 5, 1], [1, 2, 3, 4, 5]]
    for batch in sampler(rows, candidates="drawn", negatives=3, history=9, batch_size=1).epoch(0):
        own = set(batch.history[0].tolist()) | set(batch.target.tolist())
        drawn = batch.candidates[:, 1:][batch.candidate_mask[:, 1:]]
        assert not own & set(drawn.tolist()) and (len(drawn) == 0) == (len(own - {0}) == 5)
        assert set(drawn.tolist()) <= {1, 2, 3, 4, 5}


def test_new_items_are_no_candidates_in_training():
    """A softmax over all items runs over those of the training part: an item that nobody took there is neither pushed down nor up."""
    batch = next(sampler([[1, 2, 5], [5, 2]], size=9).epoch(0))
    assert batch.candidates.tolist() == [1, 2, 5]


@pytest.mark.parametrize("popularity", [False, True])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_in_batch_softmax_is_that_of_a_slow_loop(popularity, same, own):
    """Every place of the batch is a negative; switches leave out other places of the same item, leave out own items, take log popularity off."""
    rows = [[1, 2, 3, 2], [2, 4], [5, 1, 2], [3, 3, 6]]
    make = sampler(rows, candidates="batch", history=9, batch_size=9, mask_history=own, mask_same=same, popularity=popularity)
    batch = next(make.epoch(0))
    score = torch.randn(len(batch), 10, generator=torch.Generator().manual_seed(0))  # of any item in any row
    config = resolve("idrec_sasrec", "movies", candidates="batch", temperature=0.5)
    found = loss_of(config, batch, score[:, batch.candidates])
    count = np.bincount([i for row in rows for i in row], minlength=10)
    losses = []
    target, reader = batch.target.tolist(), batch.history_id.tolist()
    for b, item in enumerate(target):
        owned = {*batch.history[reader[b]].tolist(), *(t for t, r in zip(target, reader, strict=True) if r == reader[b])} - {0}

        def logit(i, b=b):
            return score[b, i].item() / 0.5 - (math.log(count[i] / count.sum()) if popularity else 0)

        total = math.exp(logit(item))
        for j, other in enumerate(target):
            if j == b or (same and other == item) or (own and other != item and other in owned):
                continue
            total += math.exp(logit(other))
        # without the mask for the same item, its other places are right answers that count as wrong ones, and its own logit has their number
        losses.append(math.log(total) - logit(item) - (0 if same else math.log(target.count(item))))
    assert found.item() == pytest.approx(np.mean(losses), abs=1e-4)


def test_losses_by_hand():
    """bce: softplus(-s) of the click plus the mean softplus(s) of the others; bpr: softplus of other minus click; masked places have no part."""
    scores, mask = torch.tensor([[2.0, -1.0, 9.0], [0.5, 0.5, 1.0]]), torch.tensor([[True, True, False], [True, True, True]])
    clicked = torch.tensor([[True, False, False], [False, True, False]])
    plus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    assert bce(scores, mask, clicked).item() == pytest.approx((plus(-2) + plus(-0.5)) / 2 + (plus(-1) + plus(0.5) + plus(1)) / 3)
    assert bpr(scores, mask, clicked).item() == pytest.approx((plus(-3) + plus(0) + plus(0.5)) / 3)


# user encoders -------------------------------------------------------------------------------------------------------


def users_of(name):
    torch.manual_seed(0)
    return USERS[name](dim=16, heads=2, query_dim=8, dropout=0.1, history=12, layers=2).eval()


@pytest.mark.parametrize("name", CAUSAL)
def test_a_place_sees_the_past_alone(name):
    """The state at every place is that at the end of the history cut off there; what comes later, padding included, changes nothing."""
    users, history = users_of(name), torch.randn(2, 7, 16)
    mask = torch.ones(2, 7, dtype=torch.bool)
    states = users(history, mask)
    assert states.shape == (2, 8, 16)
    for p in range(8):
        few, some = max(p, 1), mask[:, : max(p, 1)] & (p > 0)
        cut = users.at_end(users(history[:, :few], some), some)
        assert torch.allclose(states[:, p], cut, atol=1e-5), p
    other = history.clone()
    other[:, 4:] = torch.randn(2, 3, 16)
    assert torch.allclose(users(other, mask)[:, :5], states[:, :5], atol=1e-5) and not torch.allclose(
        users(other, mask)[:, 5:], states[:, 5:], atol=1e-3
    )


@pytest.mark.parametrize("name", [n for n in CAUSAL if n != "dssm"])
def test_order_is_read(name):
    """The same clicks in another order are another user; but for DSSM, which takes their mean."""
    users, history, mask = users_of(name), torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.bool)
    assert not torch.allclose(users(history, mask)[:, 5], users(history[:, [1, 0, 2, 3, 4]], mask)[:, 5], atol=1e-4)
    assert torch.allclose(users_of("dssm")(history, mask)[:, 5], users_of("dssm")(history.flip(1), mask)[:, 5], atol=1e-5)


def test_bert4rec_sees_both_sides_but_not_what_is_hidden(movies):
    """What stands at a hidden place changes no state; what stands beside it does; and the place behind the last click is hidden always."""
    config, tables = movies("idrec_bert4rec")
    model = build(config, tables).eval()
    batch = next(sampler_of(config, tables.split(config.data), len(tables.items)).epoch(0))
    scores = model(batch).scores
    assert batch.hidden.any() and (batch.hidden <= batch.history_mask).all()
    behind = batch.history_mask.sum(1)[batch.history_id] == batch.position
    assert (batch.hidden[batch.history_id[~behind], batch.position[~behind]]).all() and behind.sum() == len(batch.history)
    other = torch.where(batch.hidden, 1 + batch.history % 3, batch.history)
    assert torch.allclose(model(type(batch)(**{**vars(batch), "history": other}))[0], scores, atol=1e-5)
    beside = torch.where(batch.hidden | ~batch.history_mask, batch.history, 1 + batch.history % 3)
    assert not torch.allclose(model(type(batch)(**{**vars(batch), "history": beside}))[0], scores, atol=1e-3)


# ranks in the whole catalogue ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_ranks_are_those_of_sorting(items, users, seen, seed):
    """Counted in one pass, with ties: as many better and as many level as a sorted list has, own items and padding left out."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (users, items + 1)).astype(np.float32)
    history = [rng.choice(np.arange(1, items + 1), rng.integers(0, items), replace=False).tolist() for _ in range(users)]
    right = rng.integers(1, items + 1, users)
    part = Impressions(
        *(np.arange(users).astype(str),) * 2, np.zeros(users, int), ragged(history), ragged([[r] for r in right]), np.ones(users, bool)
    )
    found = rank_catalogue(lambda rows: torch.from_numpy(scores[rows].copy()), part, items + 1, seen=seen, top=3)
    for u in range(users):
        others = [i for i in range(1, items + 1) if i != right[u] and (seen or i not in history[u])]
        assert found.better[u] == sum(scores[u, i] > scores[u, right[u]] for i in others)
        assert found.tied[u] == sum(scores[u, i] == scores[u, right[u]] for i in others)
        assert scores[u, found.first[u, 0]] == max(scores[u, i] for i in [*others, right[u]])


def test_pieces_do_not_matter(movies, monkeypatch):
    """The same ranks whatever the number of users that are ranked at a time."""
    config, tables = movies("idrec_sasrec")
    model, part = build(config, tables).eval(), tables.split(config.data).test
    vectors, found = encode_items(model), []
    for block in (1, 1 << 20):
        monkeypatch.setattr("nrms.evaluation.ranking.BLOCK", block)
        found.append(rank_catalogue(model_scorer(model, vectors, part, config.history), part, len(vectors)))
    assert all(np.array_equal(getattr(found[0], k), getattr(found[1], k)) for k in ("better", "tied"))


def test_catalogue_metrics_by_hand():
    """Rank 1, rank 6, rank 3 tied with one more (ranks 3 and 4 alike), rank 100."""
    rows = catalogue_metrics(np.array([0, 5, 2, 99]), np.array([0, 0, 1, 0]))
    assert set(rows) == set(CATALOGUE)
    assert rows["hr5"].tolist() == [1, 0, 1, 0] and rows["hr10"].tolist() == [1, 1, 1, 0] and rows["hr50"].tolist() == [1, 1, 1, 0]
    assert rows["ndcg10"] == pytest.approx([1, 1 / math.log2(7), (1 / 2 + 1 / math.log2(5)) / 2, 0])
    assert rows["mrr"] == pytest.approx([1, 1 / 6, (1 / 3 + 1 / 4) / 2, 1 / 100])


def test_a_tie_at_the_cut_counts_by_its_share():
    """A constant scorer over 100 items has HR@10 of 0.1, and no luck."""
    assert catalogue_metrics(np.array([0]), np.array([99]))["hr10"][0] == pytest.approx(0.1)


def test_cooccurrence_by_hand():
    """Cosine of the sets of users: 1 and 2 share one user; 1 has two users, 2 has one."""
    table = cooccurrence(ragged([[1, 2, 2], [1, 3]]), 4).toarray()
    assert table[1, 2] == pytest.approx(1 / math.sqrt(2)) and table[1, 1] == 0 and table[2, 3] == 0 and not table[0].any()


# items ---------------------------------------------------------------------------------------------------------------


def test_an_unknown_id_is_the_mean_of_the_known():
    """Ids of items that training never saw are alike, and their table rows do not matter."""
    table = IdTable(torch.tensor([False, True, True, False, False]), dim=4)
    mean = table.table.weight[1:3].mean(0)
    assert torch.allclose(table(torch.tensor([3, 1, 4])), torch.stack([mean, table.table.weight[1], mean]))


class Plain:
    """An accelerator that does nothing."""

    backward = staticmethod(torch.Tensor.backward)

    @staticmethod
    def unwrap_model(model):
        return model


ON_THE_BOARD = [
    *("idrec_sasrec", "idrec_bert4rec", "idrec_gru4rec", "idrec_nextitnet", "idrec_dssm", "morec_ts_sasrec", "idmo_both"),
    *("missrec", "missrec_id", "lightgcn", "vbpr", "bm3", "freedom", "alignrec"),
]


@pytest.mark.parametrize("exp", ON_THE_BOARD)
def test_checkerboard(exp, board, movies):
    """Every model puts the withheld item of a user's kind above all items of the other kind."""
    config, tables = movies(exp)
    model, split = build(config, tables), tables.split(config.data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr)
    for epoch in range(30):
        model.on_epoch_start([0, epoch], resumed=False)
        for batch in sampler_of(config, split, len(tables.items)).epoch(epoch):
            optimizer.zero_grad()
            parts, _ = backward(model.train(), batch, config, Plain, None)
            loss = parts[config.objective]
            assert optimizer.state or loss.item() < chance_of(config, batch) + 0.35, "untrained it is no worse than chance; content may be better"
            optimizer.step()
    model.eval()
    number = {name: i for i, name in enumerate(tables.items.id)}
    with torch.inference_mode():
        scores = model_scorer(model, encode_items(model), split.test, config.history)(np.arange(len(split.test))).numpy()
    for u, item in enumerate(board[1]):
        wrong = [number[f"i{i}"] for i in range(24) if i % 2 != item % 2]
        assert scores[u, number[f"i{item}"]] > scores[u, wrong].max(), (exp, u)


def test_items_appended_at_the_test_are_ranked_by_content(movies, monkeypatch):
    """Two items that no training row has: content tells them apart and can put the right kind first, ids give both one score."""
    found = {}
    for exp in ("idrec_sasrec", "morec_ts_sasrec"):
        config, tables = movies(exp)
        log = tables.log
        kept = ~np.isin(log.items.values, [1, 2])  # i0 and i1 are new
        cut = Interactions(log.user, Ragged(log.items.values[kept], np.r_[0, np.cumsum(np.bincount(log.items.rows[kept]))]), log.time[kept])
        tables = type(tables)(**{**vars(tables), "log": cut})
        model, part = build(config, tables).eval(), tables.split(config.data).test
        with torch.inference_mode():
            found[exp] = model_scorer(model, encode_items(model), part, config.history)(np.arange(len(part)))
    assert torch.allclose(found["idrec_sasrec"][:, 1], found["idrec_sasrec"][:, 2]) and not torch.allclose(*found["morec_ts_sasrec"][:, 1:3].T)


@pytest.mark.parametrize("exp", ["exp1", "exp3_late", "exp4", *sorted(p.stem for p in PARAMS.glob("*.yaml") if reads_a_log(p.stem))])
def test_every_experiment_learns_and_ranks(exp, movies):
    """Each experiment on a log, and some made for impressions: a step reaches every group; an item is the same alone; every user has a rank."""
    config, tables = movies(exp)
    model, split = build(config, tables), tables.split(config.data)
    batch = next(sampler_of(config, split, len(tables.items)).epoch(0))
    backward(model, batch, config, Plain, None)
    assert all(any(p.grad is not None and p.grad.abs().sum() > 0 for p in group) for group in model.groups().values() if group)
    items = torch.arange(1, 25)
    model.eval()
    alone = torch.cat([model.items(items[i : i + 1]) for i in range(24)])
    assert torch.allclose(model.items(items), alone, atol=1e-5)
    ranks = evaluate_model(model, split.test, config)
    assert all(np.isfinite(v).all() for v in ranks.metrics().values()) and ranks.first.shape == (40, 10)


@pytest.mark.parametrize("exp", ["missrec", "idrec_sasrec"])
@pytest.mark.parametrize("candidates", ["all", "batch"])
def test_repeats_are_learned_of_what_stands_before(exp, candidates, movies):
    """One number is added to the scores of items that a row's history has, and to no other, in training as in the ranking; it has a gradient."""
    config, tables = movies(exp, repeats=True, mask_history=False, candidates=candidates)
    split, model = tables.split(config.data), build(config, tables)
    batch = next(sampler_of(config, split, len(tables.items)).epoch(0))
    states = torch.get_rng_state()
    plain = model(batch).scores
    with torch.no_grad():
        model.repeats.fill_(-3.0)
    torch.set_rng_state(states)
    added = (model(batch).scores - plain).detach()
    for row, reader in enumerate(batch.history_id.tolist()):
        before = set(batch.history[reader, : int(batch.position[row])].tolist())
        expected = torch.tensor([-3.0 if int(item) in before else 0.0 for item in batch.candidates])
        assert torch.allclose(added[row], expected, atol=1e-5)
    loss_of(config, batch, model(batch).scores).backward()
    assert model.repeats.grad.abs() > 0
    rows, vectors = np.arange(5), encode_items(model)
    with torch.no_grad():
        scores = model_scorer(model, vectors, split.test, config.history)(rows)
        model.repeats.fill_(0.0)
        change = scores - model_scorer(model, vectors, split.test, config.history)(rows)
    for row in rows:
        past = torch.from_numpy(split.test.history[row][-config.history :].astype(np.int64))
        assert torch.allclose(change[row].nonzero()[:, 0], past.unique()) and torch.allclose(change[row, past], torch.tensor(-3.0))


def test_two_passes_serve_logs_too(movies):
    """Items encoded in parts, gradients in two passes: those of one pass."""
    results = []
    for given_ in ({}, {"encode_at_once": 5}):
        config, tables = movies("morec_e2e_sasrec", **given_)
        model = build(config, tables).eval()
        batch = next(sampler_of(config, tables.split(config.data), len(tables.items)).epoch(0))
        from accelerate import Accelerator

        parts, _ = backward(model, batch, config, Accelerator(cpu=True), None)
        results.append((parts[config.objective].item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_ids_of_other_items_are_refused(movies):
    """Weights with ids fit the items they were learned for, and no others, be they as many."""
    config, tables = movies("idrec_sasrec")
    state = {"config": config.model_dump(), "content": tables.content_digest}
    check_fits("best.safetensors", state, config, tables)
    with pytest.raises(NrmsError, match="its ids are those of the items of movies as they were then"):
        check_fits("best.safetensors", state | {"content": "other"}, config, tables)


def test_values_that_do_not_go_with_a_log():
    """Experiments of slates on a log, of logs on slates, a softmax without candidates: each is a sentence."""
    for exp, dataset, given_, says in (
        ("idrec_sasrec", "newsroom-tiny", {"candidates": "slate"}, "learns from a log"),
        ("idrec_sasrec", "newsroom-tiny", {"candidates": "all"}, "give candidates slate"),
        ("idrec_sasrec", "movies", {"candidates": "slate"}, "give candidates drawn, batch or all"),
        ("idrec_sasrec", "movies", {"objective": "bce"}, "give candidates drawn"),
        ("exp2_pointwise", "movies", {"candidates": "drawn"}, "cannot rank a catalogue"),
        ("idrec_sasrec", "movies", {"text": "bert"}, "`single` goes with one"),
        ("idrec_sasrec", "movies", {"ids": False}, "reads nothing"),
        ("morec_e2e_sasrec", "movies", {"depth": 1}, "tuning frozen"),
    ):
        with pytest.raises(NrmsError, match=says):
            resolve(exp, dataset, **given_)
    assert resolve("exp4", "movies", heads=8).candidates == "all", "the original's user encoder serves a log too"


def test_history_and_targets_meet_the_papers_example():
    """A window of three: place p has seen p clicks, and the item at p is what it is to find."""
    batch = next(sampler([[7, 8, 9]], history=5, batch_size=1).epoch(0))
    assert batch.history.tolist() == [[7, 8]] and batch.position.tolist() == [0, 1, 2] and batch.target.tolist() == [7, 8, 9]
    assert [c for c in itertools.chain(batch.candidates.tolist())] == [7, 8, 9]


def test_references_are_those_of_the_data_set(movies):
    """What one experiment reads of a history, or is given by hand, changes no baseline of the others; each says what was asked of it."""
    runs = evaluate_references(movies("idrec_sasrec", history=12)[0])
    before = [(run.folder / "run.json").stat().st_mtime_ns for run in runs]
    again = evaluate_references(movies("idrec_sasrec", history=3)[0])
    assert [(run.folder / "run.json").stat().st_mtime_ns for run in again] == before
    assert all(run.record["config"]["data"] == load_dataset("movies").test_settings and run.record["hash"].startswith("0.1-50-") for run in runs)


def test_notebooks_and_pages_understand_logs(board, hasty, without_kernels, monkeypatch):
    """Train, eval, analysis and data_prep run on a log; the tables have its metrics and its baselines; the index page shows both."""
    monkeypatch.setenv("NRMS_HOME", str(board[0]))
    small = {"dim": 16, "heads": 2, "history": 12, "batch_size": 16, "epochs": 2, "temperature": 0.5}
    said = []
    assert pipeline.run(["idrec_sasrec", "morec_ts_both"], "movies", [0], say=said.append, **small) == 0, said
    table = report.comparison("movies")
    assert set(table.index) >= {"random", "popularity", "cooccurrence", "content"} and list(table)[3:7] == ["nDCG@10", "HR@10", "HR@50", "MRR"]
    reports = board[0] / "reports"
    for page in (reports / "index.html", reports / "movies" / "analysis.html", *reports.glob("movies/*/seed0/eval.html")):
        text = page.read_text()
        assert "nDCG@10" in text and "Traceback" not in text, page
    run = next(reports.glob("movies/idrec_sasrec-*/seed0"))
    rows = pq.read_table(run / "rows.parquet").to_pandas()
    assert len(rows) == 40 and all(len(r) == 1 and r[0] >= 1 for r in rows["ranks"]) and {"in: item new", "in: item with a picture"} <= set(rows)
