"""The contract of a recommender: shapes, masks, users apart, items once, any text model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoTokenizer

from nrms import NrmsError
from nrms.data.batches import Batch
from nrms.data.samplers import ClickSampler
from nrms.evaluation.ranking import encode_items, rank_impressions
from nrms.models.items.encoders import TextEncoder, pooling_of
from nrms.models.items.local_models import word_vectors
from nrms.models.layers import Dropout
from nrms.models.users import USERS, base
from nrms.models.users.late_fusion import LateFusion
from nrms.training.losses import OBJECTIVES, listwise, pointwise

D = 16


def batch_of(histories, candidates):
    """A batch of these histories (any lengths) and candidates (equal lengths)."""
    width = max(1, *map(len, histories))
    history = torch.tensor([[*h, *[0] * (width - len(h))] for h in histories])
    mask = torch.tensor([[True] * len(h) + [False] * (width - len(h)) for h in histories])
    shown = torch.tensor(candidates)
    return Batch(history, mask, torch.arange(len(shown)), shown, torch.ones_like(shown, dtype=torch.bool), torch.zeros_like(shown, dtype=torch.bool))


PLAIN = {
    name for name, users in USERS.items() if not (users.is_graph or users.reads_item_ids)
}  # of the others test_graphs and test_interests say the same
MASKED = sorted(PLAIN - {"pointwise_unmasked"})  # which is there to show the harm
CANDIDATES = torch.randn(1, 3, D, generator=torch.Generator().manual_seed(0))


def encoder_of(name, seed=0):
    torch.manual_seed(seed)
    if name == "late":
        return LateFusion(lambda: encoder_of("nrms"), 2).eval()
    more = {"layers": 2} if USERS[name].per_position else {}
    return USERS[name](dim=D, heads=4, query_dim=8, dropout=0.1, history=20, **more).eval()


def ranked(encoder, history, mask):
    """Scores (B, 3) of the same three candidates for all rows."""
    form = late if isinstance(encoder, LateFusion) else torch.Tensor.contiguous
    return encoder.score(encoder.at_end(encoder(form(history), mask), mask), form(CANDIDATES).expand(len(history), -1, -1))


def late(x):
    """Items with two modalities, both there."""
    return torch.cat([x, x.flip(-1), torch.ones(*x.shape[:-1], 2)], -1)


@pytest.fixture(params=[*MASKED, "late"])
def users(request):
    return encoder_of(request.param)


def test_dropout_is_dropout():
    """The share and the mean of torch's, by torch's generator; each value for itself, the identity in evaluation; no zero where p is 0."""
    layer, x = Dropout(0.3), torch.ones(300, 333)
    torch.manual_seed(0)
    first = layer(x)
    torch.manual_seed(0)
    assert torch.equal(first, layer(x)) and not torch.equal(first, layer(x))
    assert (first == 0).float().mean().item() == pytest.approx(77 / 256, abs=0.01) and first.mean().item() == pytest.approx(1, abs=0.01)
    assert (first[0] == first[1]).float().mean() < 0.7 and torch.equal(layer.eval()(x), x) and torch.equal(Dropout(0.0)(x), x)


def test_histories_in_parts_of_like_length_are_exact(model, split, monkeypatch):
    """States computed in parts of like length give the scores and the gradients of one padded batch, to 1e-5."""
    batch, results = next(ClickSampler(split.train, batch_size=40, negatives=4, history=50, seed=0).epoch(0)), []
    for part in (999, 7):
        monkeypatch.setattr(base, "HISTORIES", part)
        model.zero_grad()
        scores = model(batch).scores
        scores[batch.candidate_mask].square().sum().backward()
        results.append((scores.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(results[0][1], results[1][1], strict=True))


@settings(max_examples=30, deadline=None)
@given(length=st.integers(0, 6), extra=st.integers(0, 5), seed=st.integers(0, 9))
def test_padding_changes_no_user(length, extra, seed):
    """More masked places, whatever stands there, and the scores are the same."""
    for name in (*MASKED, "late"):
        encoder, history = encoder_of(name, seed), torch.randn(1, length, D)
        padded = torch.cat([history, 100 * torch.randn(1, extra + 1, D)], 1)
        mask = torch.arange(length + extra + 1)[None] < length
        short = torch.cat([history, torch.zeros(1, 1, D)], 1), torch.arange(length + 1)[None] < length
        assert torch.allclose(ranked(encoder, padded, mask), ranked(encoder, *short), atol=1e-5)


def test_the_original_ranker_reads_padding():
    """Without masks, what stands at masked places changes scores; with masks it does not (defects 2 and 3)."""
    history, mask = torch.randn(1, 6, D), torch.tensor([[True, True, False, False, False, False]])
    other = torch.where(mask[..., None], history, torch.randn(1, 6, D))
    for name, same in (("pointwise", True), ("pointwise_unmasked", False)):
        encoder = encoder_of(name)
        assert torch.allclose(ranked(encoder, history, mask), ranked(encoder, other, mask), atol=1e-5) == same


def test_blended_scores_by_hand():
    """Late: the sum of weighted dot products, of the modalities that the candidate has; a click without a picture is masked for pictures."""
    encoder = encoder_of("late")
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([1.0, 2.0]))
    text, image = torch.randn(1, 3, D), torch.randn(1, 3, D)
    has = torch.tensor([[True, False, True]])
    history = torch.cat([text, torch.where(has[..., None], image, 0), torch.ones(1, 3, 1), has[..., None].float()], -1)
    mask = torch.tensor([[True, True, False]])
    a, b = (user(v, m)[0] for user, v, m in zip(encoder.users, (text, image), (mask, mask & has), strict=True))
    expected = [a @ text[0, i] + (2 * b @ image[0, i] if has[0, i] else 0) for i in range(3)]
    scores = encoder.score(encoder(history, mask), history)[0] * history.shape[-1] ** 0.5
    assert torch.allclose(scores, torch.stack(expected), atol=1e-4)


def test_users_do_not_see_each_other(users):
    """Changing one user's history changes no other user's vector; nor does leaving them out."""
    history, mask = torch.randn(3, 5, D), torch.ones(3, 5, dtype=torch.bool)
    before = ranked(users, history, mask)
    history[1] = torch.randn(5, D)
    assert torch.equal(before[[0, 2]], ranked(users, history, mask)[[0, 2]])
    assert torch.allclose(before[:1], ranked(users, history[:1], mask[:1]), atol=1e-6)


def test_empty_history_is_finite_and_learns(users):
    """A user without clicks has finite scores, and gradients are finite; those of NRMS reach the newcomer's vector."""
    history, mask = torch.randn(2, 4, D, requires_grad=True), torch.tensor([[False] * 4, [True] * 4])
    scores = ranked(users, history, mask)
    scores.square().sum().backward()
    assert torch.isfinite(scores).all() and all(torch.isfinite(p.grad).all() for p in users.parameters())
    assert all(p.grad.abs().sum() > 0 for n, p in users.named_parameters() if "newcomer" in n)
    assert not history.grad[0].any(), "what is masked gets no gradient"


def test_rows_of_one_reader_share_a_history(model):
    """A batch that holds a history once for two rows scores as one that holds it twice."""
    batch = batch_of([[5, 5, 7], [3], [5, 5, 7]], [[7, 9], [5, 9], [1, 2]])
    shared = replace(batch, history=batch.history[:2], history_mask=batch.history_mask[:2], history_id=torch.tensor([0, 1, 0]))
    assert torch.allclose(model(batch)[0], model(shared)[0], atol=1e-6)


def test_items_are_encoded_once(model):
    """A batch with repeats encodes every different item once, padding never."""
    seen = []
    model.items.register_forward_pre_hook(lambda _, args: seen.append(args[0].tolist()))
    scores, encoded, _ = model(batch_of([[5, 5, 7], []], [[7, 9], [5, 9]]))
    assert seen == [[5, 7, 9]] and encoded == 3 and scores.shape == (2, 2)


def test_batch_scores_equal_evaluation_scores(model, split, config):
    """The training path (unique items of a batch) and the evaluation path (all items once) give the same scores."""
    few = split.test.take(np.arange(20))
    flat = rank_impressions(model, encode_items(model), few, config.history)
    for row in range(len(few)):
        batch = batch_of([few.history[row][-config.history :].tolist()], [few.candidates[row].tolist()])
        with torch.inference_mode():
            scores = model(batch)[0][0].numpy()
        assert np.allclose(flat[few.candidates.offsets[row] : few.candidates.offsets[row + 1]], scores, atol=1e-5)


def test_masked_candidates_change_nothing(model):
    """The loss is the same whatever item stands at a masked place."""
    batch = batch_of([[3, 4], [8]], [[1, 2, 6], [2, 1, 9]])
    batch = replace(batch, candidate_mask=torch.tensor([[True, True, False]] * 2), clicked=torch.tensor([[True, False, False]] * 2))
    other = replace(batch, candidates=torch.tensor([[1, 2, 11], [2, 1, 0]]))
    losses = [listwise(model(b)[0], b.candidate_mask, b.clicked) for b in (batch, other)]
    assert torch.allclose(*losses)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=12, unique=True))
def test_an_item_does_not_depend_on_its_company(tiny_model, ids):
    """A title's vector is the same alone and beside longer titles: token padding changes nothing."""
    with torch.inference_mode():
        together = tiny_model.items(torch.tensor(ids))
        alone = torch.cat([tiny_model.items(torch.tensor([i])) for i in ids])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.fixture(scope="module")
def tiny_model(config, tiny):
    from nrms.models.build import build

    return build(config, tiny).eval()


@pytest.mark.parametrize("how", ["attention", "mean", "cls"])
def test_pooling_by_hand(how):
    """`mean` is the mean of unmasked tokens, `cls` the first token, `attention` lies between the smallest and the largest."""
    x, mask = torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[True, True, False]])
    value = pooling_of(how, dim=1, query_dim=4)(x, mask).item()
    assert {"mean": value == 2, "cls": value == 1, "attention": 1 <= value <= 3}[how]


@pytest.mark.parametrize(
    "kind, more", [("bert", {}), ("roberta", {"pad_token_id": 0}), ("distilbert", {"dim": 32, "n_heads": 2, "n_layers": 1, "hidden_dim": 32})]
)
def test_any_text_model(kind, more, tmp_path, tiny_model):
    """Any Hugging Face text model in a local folder is an encoder; a token it was not given changes nothing."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 2000,
        "max_position_embeddings": 64,
    }
    sizes = more if kind == "distilbert" else sizes | more
    config = AutoConfig.for_model(kind, **(sizes | {"vocab_size": 2000}))
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_model.items.encoders["text"].tokenizer.save_pretrained(tmp_path)
    encoder = (
        TextEncoder(str(tmp_path), dim=8, pooling="attention", query_dim=4, title_tokens=12, dropout=0.0).bind(["", "one", "a longer title"]).eval()
    )
    both, one = encoder(torch.tensor([1, 2])), encoder(torch.tensor([1]))
    assert both.shape == (2, 8) and torch.allclose(both[:1], one, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token_id is not None


def test_a_missing_model_is_one_sentence():
    """A name that is no folder and not in the cache says what to put where."""
    with pytest.raises(NrmsError, match="-p bert FOLDER"):
        TextEncoder("nobody/no-such-model", dim=8, pooling="cls", query_dim=4, title_tokens=9, dropout=0.0)


def test_padding_row_of_the_item_table_is_zero(model):
    """Row 0 of the table of all items is padding: zeros."""
    table = encode_items(model)
    assert not table[0].any() and table[1:].abs().sum(1).gt(0).all()


def test_loss_by_hand():
    """Equal scores give log(number of candidates); a masked place does not count; a sure hit costs nothing."""
    mask, clicked = torch.tensor([[True, True, True], [True, True, False]]), torch.tensor([[True, False, False]] * 2)
    expected = pytest.approx((np.log(3) + np.log(2)) / 2)
    assert listwise(torch.zeros(2, 3), mask, clicked).item() == expected
    assert listwise(torch.tensor([[50.0, 0, 0], [50.0, 0, 99]]), mask, clicked).item() == pytest.approx(0, abs=1e-6)


def test_pointwise_loss_by_hand():
    """One click and one pass: (25 log(1 + exp(-s)) + log(1 + exp(t))) / 26; log 2 at chance; masked places do not count."""
    scores, mask, clicked = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]])
    assert pointwise(scores, mask, clicked).item() == pytest.approx((25 * np.log1p(np.exp(-1)) + np.log1p(np.exp(2))) / 26)
    assert pointwise(torch.zeros(mask.shape), mask, clicked).item() == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    "objective", [OBJECTIVES[name] for name in OBJECTIVES if name != "none"], ids=[name for name in OBJECTIVES if name != "none"]
)
def test_loss_pulls_the_click_up(objective):
    """The gradient raises the clicked score, lowers the others, and leaves masked ones alone."""
    scores = torch.zeros(1, 3, requires_grad=True)
    objective(scores, torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]])).backward()
    assert scores.grad[0, 0] < 0 < scores.grad[0, 1] and scores.grad[0, 2] == 0


def test_word_vectors_see_company():
    """Words that stand with the same words are near, others are not."""
    texts = [[0, 2], [1, 2], [0, 3], [1, 3], [4, 6], [5, 6], [4, 7], [5, 7]] * 5
    v = torch.nn.functional.normalize(word_vectors(texts, 8, 4), dim=1)
    assert v[0] @ v[1] > 0.9 > 0.1 > abs(v[0] @ v[4])
