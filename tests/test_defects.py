"""The defects of the original code (numbered as in its review), each with a test that the defective behaviour fails."""

import numpy as np
import pytest
import torch

from nrms import NrmsError
from nrms.data.samplers import ClickSampler
from nrms.evaluation.metrics import rank_metrics
from nrms.report.original_thesis import misread
from nrms.training.learning_checks import Movement, check_movement


def test_defect_1_scores_are_not_a_list_of_indices(split):
    """A perfect ranker has AUC 1. The original took the sorted list of item indices for ranks, which gave a perfect ranker 0.57."""
    test = split.test
    perfect = rank_metrics(test.clicked.astype(float), test.clicked, test.candidates.offsets)
    assert np.nanmin(perfect["auc"]) == 1 and np.nanmin(perfect["ndcg5"]) == pytest.approx(1)
    broken = misread(test.clicked.astype(float), test.candidates.offsets)
    assert np.nanmean(rank_metrics(broken, test.clicked, test.candidates.offsets)["auc"]) < 0.7


def test_defect_2_every_row_has_its_own_mask(split):
    """The original's collate returned the mask of the last sample for all. Here each row's mask has as many places as its history."""
    data = split.train
    sampler = ClickSampler(data, batch_size=64, negatives=4, history=50, seed=0)
    batch = next(sampler.epoch(0))
    order = np.random.default_rng([0, 0]).permutation(len(sampler.clicks))[:64]
    lengths = np.minimum(data.history.lengths[sampler.rows[order]], 50)
    assert batch.history_mask.shape == batch.history.shape and batch.history_mask[batch.history_id].sum(1).tolist() == lengths.tolist()
    assert len(set(lengths)) > 5, "the rows do differ"


def test_defect_3_padding_does_not_dilute(model):
    """The original averaged over 50 places, empty ones included. Here a history of one click weighs the same in 1 place and in 50."""
    vector = model.items(torch.tensor([5]))[:, None]
    short = model.users(vector, torch.ones(1, 1, dtype=torch.bool))
    long = model.users(torch.cat([vector, torch.zeros(1, 49, vector.shape[-1])], 1), torch.arange(50)[None] < 1)
    assert torch.allclose(short, long, atol=1e-6)


def test_defect_6_users_are_encoded_apart(model):
    """The original's attention ran over the flattened batch, so user 0 changed with user 1's history."""
    history, mask = torch.randn(2, 50, 32), torch.ones(2, 50, dtype=torch.bool)
    before = model.users(history, mask)[0]
    history[1] = 0
    assert torch.equal(before, model.users(history, mask)[0])


def test_defect_7_padding_takes_no_attention(model):
    """The original encoded padding as an empty title and let it take part. Here what stands at a masked place is never seen."""
    history, mask = torch.randn(1, 50, 32), torch.arange(50)[None] < 7
    before = model.users(history, mask)
    history[:, 7:] = 1e3
    assert torch.allclose(before, model.users(history, mask))


def test_defect_8_no_dummy_candidate(split):
    """The original added an empty candidate with label 0 to every impression, which flatters. Here candidates are what the log shows."""
    batches = list(ClickSampler(split.train, batch_size=128, negatives=4, history=50, seed=0).epoch(0))
    assert all((b.candidates > 0).eq(b.candidate_mask).all() for b in batches), "padding is masked, and only padding"
    assert (split.test.candidates.values > 0).all()


def test_defect_9_weights_that_cannot_move_stop_the_run():
    """Pure bf16 weights at learning rate 1e-6 hardly change; the guard says so. fp32 weights at the same rate pass."""
    torch.manual_seed(0)
    for dtype, fails in ((torch.bfloat16, True), (torch.float32, False)):
        layer = torch.nn.Linear(200, 200).to(dtype)
        torch.nn.init.normal_(layer.weight, std=0.02)
        groups = {"encoder": [layer.weight]}
        optimizer = torch.optim.AdamW([{"params": groups["encoder"], "name": "encoder", "lr": 1e-6}])
        layer(torch.randn(8, 200, dtype=dtype)).square().mean().backward()
        movement = Movement(groups)
        optimizer.step()
        if fails:
            with pytest.raises(NrmsError, match="too small for weights stored as torch.bfloat16"):
                check_movement(movement.measure(), optimizer)
        else:
            check_movement(movement.measure(), optimizer)


def test_defect_10_no_click_is_lost(split):
    """The original drew one click per impression and epoch. Here every click is a row of every epoch."""
    rows = sum(len(b) for b in ClickSampler(split.train, batch_size=128, negatives=4, history=50, seed=0).epoch(1))
    assert rows == split.train.clicked.sum() > len(split.train)
