"""Pre-trained encoders of every kind, tuned in every way: one contract, with tiny random models in local folders, no network."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, BertTokenizerFast, BlipForImageTextRetrieval, CLIPModel

from nrms import NrmsError
from nrms.models.items import encoders, feature_cache, frozen_prefix
from nrms.models.items.encoders import ImageEncoder, JointEncoder, TextEncoder, standardise
from nrms.models.items.fine_tuning import tune
from nrms.models.items.frozen_prefix import prefix, rest_on
from nrms.models.items.side_network import SideNetwork

TITLES = ["", "the cat sat", "a dog", "the cat and the dog sat in the sun", "sun"]
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)
PRESENT = np.array([False, True, False, True, True])
OPTIONS = {"dim": 8, "query_dim": 4, "dropout": 0.0}
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
SEEN = {**SMALL, "intermediate_size": 32, "image_size": 32, "patch_size": 16}
READ = {**SMALL, "intermediate_size": 32, "vocab_size": 30, "max_position_embeddings": 20}
TEXT = {
    "bert": READ,
    "roberta": READ | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "vocab_size": 30, "max_position_embeddings": 20},
    "electra": READ | {"embedding_size": 32},
}
VISION = {"vit": SEEN, "dinov2": SEEN, "clip_vision_model": SEEN}
MATCHING = ("blip", "clip")
TUNINGS = ("full", "top", "lora", "adapter")


def tokenizer() -> BertTokenizerFast:
    words = sorted({word for title in TITLES for word in title.split()})
    return BertTokenizerFast(vocab={w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])})


def matching(kind: str):
    """A tiny random BLIP or CLIP."""
    if kind == "blip":
        text = READ | {"encoder_hidden_size": 32, "projection_dim": 16, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
        return BlipForImageTextRetrieval(
            AutoConfig.for_model("blip", text_config=text, vision_config=SEEN | {"initializer_range": 0.1}, image_text_hidden_size=16)
        )
    text = READ | {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    return CLIPModel(AutoConfig.for_model("clip", text_config=text, vision_config=SEEN, projection_dim=16))


def saved(kind: str, folder) -> str:
    torch.manual_seed(0)
    model = matching(kind) if kind in MATCHING else AutoModel.from_config(AutoConfig.for_model(kind, **(TEXT | VISION)[kind]))
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def make(kind: str, folder, side: str = "", pooling: str = "mean"):
    """An encoder around a tiny random model of this kind; `side` picks a tower of a BLIP or CLIP, else both are joined."""
    name = saved(kind, folder) if not (folder / "config.json").exists() else str(folder)
    torch.manual_seed(1)
    if kind in TEXT or side == "text":
        return TextEncoder(name, title_tokens=10, pooling=pooling, **OPTIONS).bind(TITLES).eval()
    if kind in VISION or side == "vision":
        return ImageEncoder(name, pooling=pooling, **OPTIONS).bind(PIXELS, PRESENT).eval()
    return JointEncoder(name, title_tokens=10, pooling=pooling, **OPTIONS).bind(TITLES, PIXELS, PRESENT).eval()


ALL = [(kind, "", "mean") for kind in (*TEXT, *VISION, *MATCHING)] + [(kind, side, "projected") for kind in MATCHING for side in ("text", "vision")]
ids = torch.tensor([3, 1, 4])  # all have a picture; titles of unlike length


@pytest.mark.parametrize(("kind", "side", "pooling"), ALL)
def test_an_encoder_gives_a_vector_to_each_item_whatever_its_company(kind, side, pooling, tmp_path):
    """(U, D), finite; padding to the longest of a batch changes nothing; weights survive saving."""
    encoder = make(kind, tmp_path, side, pooling)
    together = encoder(ids)
    assert together.shape == (3, 8) and torch.isfinite(together).all()
    assert torch.allclose(together, torch.cat([encoder(i[None]) for i in ids]), atol=1e-5)
    twin = make(kind, tmp_path, side, pooling)
    torch.nn.init.ones_(twin.project.weight)
    twin.load_state_dict(encoder.state_dict())
    assert torch.allclose(twin(ids), together, atol=1e-6)


def test_parts_of_like_length_are_exact(tmp_path, monkeypatch):
    """Encoded in parts of like length, items have the vectors and the encoder the gradients of one padded batch, to 1e-5."""
    encoder, results = make("bert", tmp_path), []
    many = torch.tensor([3, 1, 4, 2, 3, 1])
    for part in (99, 2):
        monkeypatch.setattr(encoders, "PART", part)
        encoder.zero_grad()
        vectors = encoder(many)
        vectors.square().sum().backward()
        results.append((vectors.detach(), [p.grad.clone() for p in encoder.parameters() if p.grad is not None]))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("kind", MATCHING)
def test_a_news_without_a_picture_takes_the_text_path(kind, tmp_path):
    """No pixel reaches the vector of an item that has no picture; one that has a picture changes with it."""
    encoder = make(kind, tmp_path)
    before = encoder(torch.tensor([2, 3]))
    encoder.bind(TITLES, 255 - PIXELS, PRESENT)
    after = encoder(torch.tensor([2, 3]))
    assert torch.equal(before[0], after[0]) and not torch.allclose(before[1], after[1], atol=1e-5)
    encoder.bind(TITLES, PIXELS, np.zeros(5, bool))
    assert torch.allclose(encoder(torch.tensor([2])), before[:1], atol=1e-6) and encoder(ids).shape == (3, 8)


@pytest.mark.parametrize("kind", MATCHING)
def test_projected_vectors_are_those_that_the_model_compares(kind, tmp_path):
    """The inner products of our text and image vectors are the similarities that transformers computes."""
    text, image = (make(kind, tmp_path, side, "projected") for side in ("text", "vision"))
    a, b = text.features(ids), image.features(ids)
    model = matching(kind).from_pretrained(tmp_path).eval()
    (read, _), (seen, _) = text.content(ids), image.content(ids)
    if kind == "blip":
        expected = model(**read, **seen, use_itm_head=False).itm_score.T
    else:
        expected = model(**read, **seen).logits_per_text / model.logit_scale.exp()
    assert torch.allclose(a @ b.T, expected, atol=1e-5)


def test_a_joint_blip_is_what_transformers_matches_with(tmp_path):
    """The states of title tokens that looked at the picture are those below BLIP's matching head."""
    encoder = make("blip", tmp_path)
    states, mask = encoder.states(ids)
    (read, _), (seen, _) = encoder.content.titles(ids), encoder.content.images(ids)
    expected = encoder.model(**read, **seen).question_embeds
    assert torch.allclose(states[mask], expected[mask], atol=1e-5)


@pytest.mark.parametrize("how", TUNINGS)
@pytest.mark.parametrize(("kind", "side", "pooling"), ALL)
def test_tuning_changes_nothing_at_step_0_and_trains_what_it_says(kind, side, pooling, how, tmp_path):
    """The same vectors before and after; the report counts what has a gradient after one backward pass, and that is what a step moves."""
    encoder = make(kind, tmp_path, side, pooling)
    before = encoder(ids)
    report = tune(encoder, how, layers=1 if how == "top" else None, rank=2)
    assert torch.allclose(encoder(ids), before, atol=1e-6)
    encoder(ids).square().sum().backward()
    trained = {n: p for n, p in encoder.model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == report.trainable
    assert all(p.grad is None for p in encoder.model.parameters() if not p.requires_grad)
    assert (how == "full") == (report.trainable == report.total) and how in str(report)
    driven = [n for n, p in trained.items() if p.grad is not None and p.grad.abs().sum() > 0]
    assert driven
    if how in ("lora", "adapter"):
        assert report.matched and report.unmatched and all("lora" in n or "bottleneck" in n for n in trained)
    torch.optim.SGD(trained.values(), lr=1.0).step()
    assert not torch.allclose(encoder(ids), before, atol=1e-6)


@pytest.mark.parametrize("how", ["top", "lora", "adapter"])
@pytest.mark.parametrize("kind", [*TEXT, *VISION])
def test_a_kept_prefix_is_exact(kind, how, tmp_path):
    """Upper layers that rest on kept states give the vectors and the gradients of the whole encoder, to 1e-5."""
    whole, upper = make(kind, tmp_path), make(kind, tmp_path)
    below = prefix(upper, 1)
    assert below == 2
    states = frozen_prefix.cached_states(upper, below, "content", tmp_path, "x")
    for encoder in (whole, upper):
        torch.manual_seed(0)
        tune(encoder, how, layers=1, rank=2)
    rest_on(upper, states, below)
    a, b = whole(ids), upper(ids)
    assert torch.allclose(a, b, atol=1e-5)
    a.square().sum().backward()
    b.square().sum().backward()
    grads = [[p.grad for p in e.model.parameters() if p.requires_grad and p.grad is not None] for e in (whole, upper)]
    assert len(grads[0]) == len(grads[1]) > 0 and all(torch.allclose(x, y, atol=1e-5) for x, y in zip(*grads, strict=True))
    assert sum(p.numel() for p in upper.model.parameters()) < sum(p.numel() for p in whole.model.parameters())


def test_a_kept_prefix_knows_blank_pictures(tmp_path):
    """A news without a picture that is asked for all the same is a blank one, with a kept prefix too."""
    whole, upper = make("vit", tmp_path), make("vit", tmp_path)
    states = frozen_prefix.cached_states(upper, 2, "content", tmp_path, "x")
    tune(upper, "top", layers=1)
    rest_on(upper, states, 2)
    assert torch.allclose(whole(torch.tensor([2, 3])), upper(torch.tensor([2, 3])), atol=1e-5)


@pytest.mark.parametrize("kind", [*TEXT, *VISION])
def test_a_side_network_starts_as_the_frozen_encoder(kind, tmp_path):
    """At step 0 a side network gives the encoder's own pooled vector, standardised; every bottleneck gets a gradient."""
    encoder = make(kind, tmp_path)
    layers = feature_cache.cached_layers(encoder, "content", tmp_path, "x")
    assert layers.shape == (5, 4, 32) and np.allclose(layers[:, -1], feature_cache.cached(encoder, "content", tmp_path, "x"), atol=1e-6)
    side = SideNetwork([layers], encoder.present, encoder.present, dim=8, rank=2, layers=6, dropout=0.0)
    expected = standardise(layers, encoder.present)[ids, -1]
    assert torch.allclose(side.features(ids), expected, atol=1e-4)
    side(ids).square().sum().backward()
    assert all(up.weight.grad.abs().sum() > 0 for up in side.up)


def test_side_networks_of_unlike_encoders_meet(tmp_path):
    """Across modalities: tables of different depth and width are read at the same relative heights."""
    tables = [np.random.default_rng(i).normal(size=(5, layers, width)).astype(np.float32) for i, (layers, width) in enumerate([(4, 6), (7, 10)])]
    present = torch.tensor(PRESENT)
    side = SideNetwork(tables, present, present, dim=8, rank=2, layers=6, dropout=0.0)
    assert side(ids).shape == (3, 8) and len(side.up) == 4
    side.shuffle(np.array([0, 3, 2, 4, 1]))
    assert torch.equal(side.table1[1], side.table1[1]) and side(ids).shape == (3, 8)


def test_wrong_tunings_are_sentences(tmp_path):
    """More layers than there are, a pattern that matches nothing, a model of another kind: each says what there is."""
    encoder = make("bert", tmp_path / "bert")
    with pytest.raises(NrmsError, match="only 3 layers"):
        tune(encoder, "top", layers=4)
    with pytest.raises(NrmsError, match="dense, key, query, value"):
        tune(encoder, "lora", modules="q_proj")
    with pytest.raises(NrmsError, match="give a BLIP or a CLIP"):
        make("bert", tmp_path / "bert", pooling="projected")
    with pytest.raises(NrmsError, match="give a BLIP or a CLIP"):
        JointEncoder(str(tmp_path / "bert"), title_tokens=10, pooling="mean", **OPTIONS)


def test_a_model_that_lacks_weights_is_refused(tmp_path):
    """transformers would fill a gap with random numbers: we do not."""
    from safetensors.torch import load_file, save_file

    name = saved("bert", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(next(k for k in weights if "layer.1.output.dense.weight" in k))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NrmsError, match="lacks 1 of the weights"):
        TextEncoder(name, title_tokens=10, pooling="mean", **OPTIONS)
