"""From tables to batches: ragged arrays, splits by time, clicks beside what was passed over."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nrms import NrmsError
from nrms.data.batches import ahead
from nrms.data.samplers import ClickSampler, draw_distinct
from nrms.data.splits import split_by_time
from nrms.data.tables import Impressions, Ragged

lists = st.lists(st.lists(st.integers(1, 99), max_size=7), min_size=1, max_size=9)


def ragged(rows):
    return Ragged(np.array([v for row in rows for v in row], np.int32), np.cumsum([0, *map(len, rows)]))


def impressions(rows):
    """Impressions of (user, time, history, candidates, clicked)."""
    user, time, history, candidates, clicked = zip(*rows, strict=True)
    ids = np.array([str(i) for i in range(len(rows))], object)
    flags = np.array([flag for row in clicked for flag in row], bool)
    return Impressions(ids, np.array(user, object), np.array(time), ragged(history), ragged(candidates), flags)


@given(lists, st.data())
def test_ragged_is_a_list_of_lists(rows, data):
    """Rows, taking rows in any order, and lengths agree with plain lists."""
    array = ragged(rows)
    order = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
    assert [array[i].tolist() for i in range(len(array))] == rows
    assert [r.tolist() for r in map(array.take(np.array(order, int)).__getitem__, range(len(order)))] == [rows[i] for i in order]


@given(lists, st.integers(1, 8))
def test_padding_keeps_the_most_recent(rows, last):
    """A padded row holds its last values in order, then zeros, and the mask tells which is which."""
    padded, mask = ragged(rows).pad(np.arange(len(rows)), last)
    assert [p[m].tolist() for p, m in zip(padded, mask, strict=True)] == [row[-last:] for row in rows]
    assert not padded[~mask].any() and padded.shape[1] >= 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 6), st.integers(0, 99))
def test_distinct_draws(count, k, seed):
    """Up to k different numbers below the count; all of them where there are fewer."""
    drawn, mask = draw_distinct(np.array(count), k, np.random.default_rng(seed))
    for n, row, kept in zip(count, drawn, mask, strict=True):
        chosen = row[kept].tolist()
        assert len(chosen) == min(n, k) == len(set(chosen)) and all(0 <= x < n for x in chosen)


def test_draws_are_uniform():
    """Each pair of 2 out of 4 comes equally often."""
    drawn, _ = draw_distinct(np.full(60_000, 4), 2, np.random.default_rng(0))
    pairs = np.unique(np.sort(drawn, 1), axis=0, return_counts=True)[1]
    assert len(pairs) == 6 and np.allclose(pairs / 60_000, 1 / 6, atol=0.01)


ROWS = [
    ("ann", 10, [1, 2], [3, 4, 5, 6, 7, 8], [1, 0, 0, 0, 0, 1]),
    ("bob", 20, [], [3, 9], [0, 1]),
    ("cem", 30, [5], [1, 2, 3], [0, 1, 0]),
    ("ann", 40, [1, 2, 3], [6, 7], [1, 0]),
]


def test_every_click_is_a_row():
    """Four impressions with five clicks make five rows an epoch, each with what that impression showed and the user passed over."""
    data = impressions(ROWS)
    sampler = ClickSampler(data, batch_size=2, negatives=4, history=50, seed=0)
    batches = list(sampler.epoch(0))
    assert [len(b) for b in batches] == [2, 2, 1] and len(sampler) == 3
    rows = {(int(c[0]), tuple(sorted(c[1:][m[1:]].tolist()))) for b in batches for c, m in zip(b.candidates, b.candidate_mask, strict=True)}
    assert rows == {(3, (4, 5, 6, 7)), (8, (4, 5, 6, 7)), (9, (3,)), (2, (1, 3)), (6, (7,))}
    assert all(b.clicked.sum(1).eq(1).all() and b.clicked[:, 0].all() for b in batches)


def test_negatives_are_drawn_anew_each_epoch(split, config):
    """Two epochs differ in order and negatives; the same epoch never does, also when it is entered in the middle."""
    sampler = ClickSampler(split.train, batch_size=64, negatives=4, history=50, seed=3)
    first, again, second = (list(sampler.epoch(e)) for e in (0, 0, 1))
    assert all((a.candidates == b.candidates).all() for a, b in zip(first, again, strict=True))
    assert not all((a.candidates == b.candidates).all() for a, b in zip(first, second, strict=True))
    assert all((a.candidates == b.candidates).all() and (a.history == b.history).all() for a, b in zip(first[3:], sampler.epoch(0, 3), strict=True))


def test_a_history_stands_in_a_batch_once(split):
    """Rows of one user with one history share it; each row's history is that of its impression."""
    data = split.train
    sampler = ClickSampler(data, batch_size=256, negatives=4, history=50, seed=0)
    batch = next(sampler.epoch(0))
    row = sampler.rows[np.random.default_rng([0, 0]).permutation(len(sampler.clicks))[:256]]
    for r, history, mask in zip(row, batch.history[batch.history_id], batch.history_mask[batch.history_id], strict=True):
        assert history[mask].tolist() == data.history[r][-50:].tolist()
    pairs = {(data.user[r], tuple(data.history[r])) for r in row}
    assert len(batch.history) == len(pairs) < len(batch)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(1, 3), max_size=3)), min_size=1, max_size=12))
def test_readers_are_users_with_a_history(rows):
    """Equal numbers for the same user with the same history in the same order, and for nothing else."""
    data = impressions([(user, 1, history, [1], [1]) for user, history in rows])
    for i, a in enumerate(rows):
        assert [data.history_id[i] == r for r in data.history_id] == [a == b for b in rows]


def test_clicks_by_reader_are_the_same_clicks(split):
    """Sorted by reader an epoch has the same clicks; a batch has fewer histories; every epoch has another order of readers."""
    plain, sorted_ = (ClickSampler(split.train, batch_size=64, negatives=4, history=50, seed=0, by_reader=b) for b in (False, True))
    one, two, later = list(plain.epoch(0)), list(sorted_.epoch(0)), list(sorted_.epoch(1))
    clicks = [sorted(int(c) for b in batches for c in b.candidates[:, 0]) for batches in (one, two)]
    assert clicks[0] == clicks[1] and sum(len(b.history) for b in two) < 0.7 * sum(len(b.history) for b in one)
    assert two[0].candidates[:, 0].tolist() != later[0].candidates[:, 0].tolist()


def test_batches_made_ahead(split):
    """The same batches in the same order; an error in the making reaches who waits; leaving early leaves no thread behind."""
    sampler = ClickSampler(split.train, batch_size=64, negatives=4, history=50, seed=0)
    assert all((a.candidates == b.candidates).all() for a, b in zip(sampler.epoch(0), ahead(sampler.epoch(0), pin=False), strict=True))

    def broken():
        yield next(sampler.epoch(0))
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(ahead(broken(), pin=False))
    before, batches = threading.active_count(), ahead(sampler.epoch(0), pin=False)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_three_users_through_time():
    """Ann, Bob and Cem: what comes before the boundary trains, what comes at it or after validates, the dev part tests."""
    train = impressions(
        [("ann", 1, [], [1], [1]), ("bob", 2, [], [1], [1]), ("cem", 3, [], [1], [1]), ("ann", 3, [], [1], [1]), ("bob", 4, [], [1], [1])]
    )
    dev = impressions([("cem", 5, [], [1], [1])])
    split = split_by_time({"train": train, "dev": dev}, 0.4)
    assert [list(p.user) for p in (split.train, split.valid, split.test)] == [["ann", "bob"], ["cem", "ann", "bob"], ["cem"]]


def test_time_never_runs_backwards():
    """A dev part that begins before the train part ends is an error; so is a train part of one moment, and no dev part at all."""
    late, early = impressions([("a", 9, [], [1], [1]), ("b", 10, [], [1], [1])]), impressions([("a", 2, [], [1], [1])])
    with pytest.raises(NrmsError, match="would see the future"):
        split_by_time({"train": late, "dev": early}, 0.5)
    with pytest.raises(NrmsError, match="cannot be split by time"):
        split_by_time({"train": early, "dev": late}, 0.5)
    with pytest.raises(NrmsError, match="no dev part"):
        split_by_time({"train": late}, 0.5)
