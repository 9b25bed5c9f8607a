"""Every encoder, fusion and tuning obeys one contract: shapes, presence, padding, save and load."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel

from nrms import NrmsError
from nrms.config import PARAMS, reads_a_log, resolve
from nrms.data import images
from nrms.models.build import build, shuffled
from nrms.models.items.encoders import ImageEncoder
from nrms.models.items.feature_cache import cached
from nrms.models.items.fusion import FUSIONS

TWO = [name for name in FUSIONS if name != "single"]


def fuse(name, dim=8):
    torch.manual_seed(0)
    return FUSIONS[name](dim=dim, modalities=2, dropout=0.5).eval()


@pytest.mark.parametrize("name", TWO)
def test_fusion_shapes_and_gradients(name):
    """(U, 2, D) and presence -> (U, D), wider for `beside` and `late`; finite, with finite gradients, for any mix of present and absent."""
    vectors, present = torch.randn(5, 2, 8, requires_grad=True), torch.tensor([[True, i % 2 == 0] for i in range(5)])
    fused = fuse(name)(vectors, present)
    fused.sum().backward()
    assert fused.shape == (5, fuse(name).width) and torch.isfinite(fused).all() and torch.isfinite(vectors.grad).all()


@pytest.mark.parametrize("name", [n for n in TWO if n != "hadamard_blank"])
def test_a_missing_picture_leaves_the_text_intact(name):
    """Without a picture the fused vector is the text's, whatever stands at the absent place; with one it is not."""
    vectors = torch.randn(3, 2, 8)
    other = vectors.clone()
    other[:, 1] = 1e3 * torch.randn(3, 8)
    absent, fusion = torch.tensor([[True, False]] * 3), fuse(name)
    fused = fusion(vectors, absent)
    assert torch.allclose(fused[:, :8], vectors[:, 0]) and torch.equal(fused, fusion(other, absent))
    if name in ("late", "beside"):
        assert not fused[:, 8:16].any() and (fused[:, 16:] == absent[:, : fused.shape[1] - 16]).all()
        return
    if name != "cross_attention":  # whose output starts at zero
        assert not torch.allclose(fusion(vectors, torch.ones(3, 2, dtype=torch.bool)), vectors[:, 0])


def test_the_original_product_destroys_text_without_a_picture():
    """Hadamard with a blank picture multiplies every text by one constant vector: where that is 0, the text is gone."""
    vectors = torch.randn(2, 2, 8)
    vectors[:, 1, :4] = 0
    assert not fuse("hadamard_blank")(vectors, torch.tensor([[True, False]] * 2))[:, :4].any()


@pytest.mark.parametrize("name", TWO)
def test_fusion_sees_one_item_at_a_time(name):
    """An item's vector does not depend on the others."""
    vectors, present = torch.randn(4, 2, 8), torch.tensor([[True, True], [True, False]] * 2)
    fusion = fuse(name)
    assert torch.allclose(fusion(vectors, present)[1:2], fusion(vectors[1:2], present[1:2]), atol=1e-6)


def test_modality_dropout_hides_pictures_in_training_only():
    """In training about half of the pictures are taken for missing; in evaluation none."""
    vectors, present = torch.randn(1000, 2, 8), torch.ones(1000, 2, dtype=torch.bool)
    gate = fuse("gate")
    hidden = (gate.train()(vectors, present) == vectors[:, 0]).all(1).float().mean()
    assert 0.4 < hidden < 0.6 and torch.equal(gate.eval()(vectors, present), gate(vectors, present))


VISION = {
    "vit": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 16},
    "dinov2": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16},
    "swin": {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "clip_vision_model": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 16,
    },
}


@pytest.mark.parametrize("kind", VISION)
@pytest.mark.parametrize("pooling", ["attention", "mean", "cls"])
def test_any_vision_model(kind, pooling, tmp_path):
    """Any Hugging Face vision model in a local folder is an encoder; a vector does not depend on its company; weights survive saving."""
    AutoModel.from_config(AutoConfig.for_model(kind, **VISION[kind])).save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    options = {"dim": 8, "pooling": pooling, "query_dim": 4, "dropout": 0.0}
    encoder = ImageEncoder(str(tmp_path), **options).bind(pixels, np.array([False, True, True, False])).eval()
    both = encoder(torch.tensor([1, 2]))
    assert both.shape == (2, 8) and torch.allclose(both[:1], encoder(torch.tensor([1])), atol=1e-5)
    twin = ImageEncoder(str(tmp_path), **options).bind(pixels, np.array([False, True, True, False])).eval()
    twin.load_state_dict(encoder.state_dict())
    assert torch.allclose(twin(torch.tensor([1, 2])), both, atol=1e-6)


@pytest.mark.parametrize("exp", sorted(p.stem for p in PARAMS.glob("*.yaml") if not reads_a_log(p.stem)))
def test_experiments_build_and_name_what_trains(exp, tiny):
    """Each experiment builds on the demo world; frozen ones train no pre-trained weight; each group has what it should."""
    config = resolve(exp, "newsroom-tiny")
    model = build(config, tiny).eval()
    items = torch.arange(1, 30)
    assert model.items(items).shape == (29, model.items.fusion.width) and torch.isfinite(model.items(items)).all()
    assert bool(model.groups()["encoder"]) == (config.tuning in ("full", "top"))
    alone = torch.cat([model.items(items[i : i + 1]) for i in range(29)])
    assert torch.allclose(model.items(items), alone, atol=1e-5)


def test_the_report_says_what_becomes_of_lower_layers(tiny):
    """With the upper layer tuned, BERT's and ViT's lower ones were made once; BLIP's two towers run every time."""
    kept = build(resolve(3, "newsroom-tiny", tuning="top", tuned_layers=1), tiny).items.encoders
    assert all("the states below layer 2 were made once" in str(e.report) for e in kept.values())
    joint = build(resolve(1, "newsroom-tiny", tuning="top", tuned_layers=1), tiny).items.encoders["joint"]
    assert "lower layers run every time" in str(joint.report) and joint.report.trainable < joint.report.total


def test_one_encoder_whole_the_other_by_layers(tiny):
    """Text fully tuned beside pictures tuned by layers: every weight of the text encoder trains, none is dropped."""
    encoders = build(resolve(3, "newsroom-tiny", image_tuning="top", tuned_layers=1), tiny).items.encoders
    assert encoders["text"].report.trainable == sum(p.numel() for p in encoders["text"].model.parameters()) and encoders["text"].made_by == 0
    assert encoders["image"].report.trainable < encoders["image"].report.total


def test_shuffling_reaches_every_reader_of_pictures(tiny):
    """With side networks, the one across both modalities sees the pictures in their new places too."""
    plain, moved = (build(resolve("exp3_side", "newsroom-tiny", shuffle_images=s), tiny).items.encoders["both"] for s in (False, True))
    order = torch.from_numpy(shuffled(tiny.pixels.present))
    assert torch.equal(moved.table1, plain.table1[order]) and torch.equal(moved.table0, plain.table0)


def test_shuffled_pictures_stay_among_those_who_have_one():
    """The control permutes pictures and keeps who has one; the permutation is the same every time."""
    present = np.random.default_rng(0).random(100) < 0.5
    order = shuffled(present)
    assert sorted(order) == list(range(100)) and (order[~present] == np.flatnonzero(~present)).all() and present[order[present]].all()
    assert (order == shuffled(present)).all() and (order[present] != np.flatnonzero(present)).mean() > 0.8


def test_the_feature_cache_is_never_stale(tiny, tmp_path):
    """The same encoder and content are computed once; other weights, pooling or content make another file."""
    model = build(resolve(4, "newsroom-tiny", pooling="mean"), tiny)
    encoder = model.items.encoders["text"]
    first = np.array(cached(encoder, "a", tmp_path, "text"))
    path = next(tmp_path.glob("*.npy"))
    stamp = path.stat().st_mtime_ns
    assert (
        np.array_equal(cached(encoder, "a", tmp_path, "text"), first) and path.stat().st_mtime_ns == stamp and len(list(tmp_path.glob("*.npy"))) == 1
    )
    with torch.no_grad():
        assert np.allclose(first[5], encoder.eval().features(torch.tensor([5]))[0], atol=1e-5) and not first[0].any()
        next(encoder.model.parameters()).add_(1.0)
    cached(encoder, "a", tmp_path, "text")
    cached(encoder, "b", tmp_path, "text")
    encoder.pooling = "cls"
    cached(encoder, "b", tmp_path, "text")
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_pictures_as_they_are_met(tmp_path):
    """Upright, RGB, square; grey, palette, CMYK, 16 bit and transparent ones too. Broken, huge and mislabelled ones have a reason."""
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (20, 10), "red").save(folder / "N1.jpg")
    Image.new("L", (8, 8), 200).save(folder / "N2.png")
    Image.new("CMYK", (8, 8)).save(folder / "N3.jpeg")
    Image.new("I;16", (8, 8)).save(folder / "N4.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(folder / "N5.webp")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(folder / "whole.jpg")
    (folder / "N6.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:2000])
    (folder / "N7.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    Image.new("1", (8000, 8000)).save(folder / "N8.png")
    facts = images.write_store(folder, ["", *(f"N{i}" for i in range(1, 10))], 16, tmp_path / "images.npy")
    assert facts == {"found": 5, "missing": 1, "bad": {"broken": 1, "format": 1, "size": 1}, "unknown": 1, "twice": 0, "others": {}}
    store = images.read_store(tmp_path / "images.npy")
    assert store.values.shape == (10, 16, 16, 3) and store.present.tolist() == [False] + [True] * 5 + [False] * 4
    assert (store.values[5] == 255).all(), "transparent is white" and abs(store.values[1].mean((0, 1)) - [254, 0, 0]).max() < 3
    with pytest.raises(NrmsError, match="--images"):
        images.write_store(tmp_path / "nowhere", [""], 16, tmp_path / "x.npy")


def test_grey_in_16_bits_keeps_its_grey(tmp_path):
    """The upper eight of sixteen bits are what is seen."""
    Image.new("I;16", (8, 8), 120 * 257).save(tmp_path / "a.png")
    assert (images.decode(tmp_path / "a.png", 16) == 120).all()


def test_torn_exif_does_not_spoil_a_picture(tmp_path):
    """What the camera said is unreadable; the picture is not."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.webp", lossless=True, exif=b"Exif\0\0MM\0\\\0\0\0\x08")
    assert images.decode(tmp_path / "a.webp", 16)[0, 0].tolist() == [255, 0, 0]


def test_pictures_turned_by_the_camera_are_upright(tmp_path):
    """EXIF says a picture lies on its side: it is turned."""
    picture = Image.new("RGB", (16, 16), "black")
    picture.paste("white", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    picture.save(tmp_path / "a.jpg", exif=exif)
    pixels = images.decode(tmp_path / "a.jpg", 16)
    assert pixels[:, 12:].mean() > 200 > 50 > pixels[:, :4].mean()
