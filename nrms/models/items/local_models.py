"""What stands behind the roles `bert`, `vit` and `blip` where no big model can be had? Small ones, pre-trained here on a data set's own content.

Masked words (Devlin et al. 2019); the class of a picture and the colours of its hidden patches (as in MAE, He et al. 2022); which picture belongs to
which title (BLIP, Li et al. 2022). Without any click, so that "frozen" and "fine-tuned" mean on the demo world what they mean on real data.
Saved in the ordinary save_pretrained form, under a name that changes with the texts and the recipe: a stale one is never used.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import svds
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizerFast,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipTextConfig,
    BlipVisionConfig,
    ViTConfig,
    ViTModel,
)

from nrms.models.items.hub import hush, load_pretrained
from nrms.runtime.files import atomic_folder
from nrms.runtime.progress import progress

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
VISION = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "patch_size": 16}
RECIPE = {
    "vocabulary": 8000,
    "shown": 20_000,
    "batch": 128,
    "lr": 3e-3,
    "masked": 0.3,
    "temperature": 0.1,
    "seed": 0,
}  # `shown`: texts seen in all, repeats counted


def train_tokenizer(texts: Sequence[str]) -> BertTokenizerFast:
    """A lower-case WordPiece tokenizer whose vocabulary is the words of these texts that occur twice, and letters for the rest."""
    basic = BertTokenizerFast(vocab={token: i for i, token in enumerate(SPECIAL)}, do_lower_case=True).backend_tokenizer
    words = Counter(word for text in texts for word, _ in basic.pre_tokenizer.pre_tokenize_str(basic.normalizer.normalize_str(text)))
    letters = sorted({letter for word in words for letter in word})
    common = [word for word, n in words.most_common(RECIPE["vocabulary"]) if n > 1]
    vocabulary = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *common])
    return BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)}, do_lower_case=True)


def word_vectors(ids: Sequence[Sequence[int]], size: int, dim: int) -> torch.Tensor:
    """Vectors (size, dim) of tokens that stand near in the same company: SVD of their positive pointwise mutual information.

    Levy and Goldberg, NIPS 2014. A start from which a small Transformer learns in seconds what would otherwise take it hours.
    Zeros for too few texts.
    """
    owner = np.repeat(np.arange(len(ids)), [len(i) for i in ids])
    there = sparse.csr_matrix((np.ones(len(owner)), (owner, np.concatenate(ids))), shape=(len(ids), size))
    there.data[:] = 1
    pairs = (there.T @ there).tocoo()
    count = np.asarray(there.sum(0)).ravel()
    information = np.log(pairs.data * len(ids) / (count[pairs.row] * count[pairs.col]))
    kept = (information > 0) & (pairs.row != pairs.col)
    if kept.sum() < 4 * dim or size < 2:  # too few texts to say
        return torch.zeros(size, dim)
    matrix = sparse.csr_matrix((information[kept], (pairs.row[kept], pairs.col[kept])), shape=(size, size))
    vectors, strength, _ = svds(matrix, k=min(dim, size - 1), v0=np.ones(size))
    result = np.zeros((size, dim))
    result[:, : len(strength)] = vectors * np.sqrt(strength)
    return torch.from_numpy(result / result.std() * 0.05).float()


def mask_words(ids: torch.Tensor, special: torch.Tensor, tokenizer, share: float, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, labels), both like `ids` (B, T): `share` of the ordinary tokens are to be guessed; labels elsewhere are -100.

    Of the guessed ones 80 % become [MASK], 10 % another token, 10 % stay, so that the vectors of words in plain sight are trained too.
    """
    guessed = (torch.rand(ids.shape, generator=rng) < share) & ~special
    fate = torch.rand(ids.shape, generator=rng)
    other = torch.randint(len(tokenizer), ids.shape, generator=rng)
    inputs = torch.where(guessed & (fate < 0.8), tokenizer.mask_token_id, torch.where(guessed & (fate < 0.9), other, ids))
    return inputs, ids.masked_fill(~guessed, -100)


def descend(loss: Callable[[], torch.Tensor], parameters: Iterable[torch.nn.Parameter], lr: float, what: str) -> float:
    """Steps down `loss` until RECIPE's number of examples has been shown; returns the last value."""
    hush()
    steps, value = RECIPE["shown"] // RECIPE["batch"] + 1, torch.tensor(torch.nan)
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in progress(range(steps), what):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return value.item()


def text_model(texts: Sequence[str], cache: Path) -> Path:
    """Folder of the small text model for these texts, trained now unless `cache` has it."""
    key = hashlib.sha256(json.dumps([TEXT, RECIPE, list(texts)]).encode()).hexdigest()[:12]
    folder = cache / f"bert-{key}"
    if folder.exists():
        return folder
    tokenizer = train_tokenizer(texts)
    with torch.random.fork_rng(devices=[]):  # the caller's randomness must not depend on whether the cache was filled
        torch.manual_seed(RECIPE["seed"])
        model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **TEXT))
        pieces = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            model.get_input_embeddings().weight += word_vectors(pieces, len(tokenizer), TEXT["hidden_size"])
        rng = torch.Generator().manual_seed(RECIPE["seed"])
        encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=TEXT["max_position_embeddings"], return_tensors="pt")
        ids, seen = encoded["input_ids"], encoded["attention_mask"]
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))

        def loss() -> torch.Tensor:
            rows = torch.randint(len(ids), (RECIPE["batch"],), generator=rng)
            width = int(seen[rows].sum(1).max())
            inputs, labels = mask_words(ids[rows, :width], special[rows, :width], tokenizer, RECIPE["masked"], rng)
            states = model.bert(input_ids=inputs, attention_mask=seen[rows, :width]).last_hidden_state
            guessed = labels != -100
            return F.cross_entropy(model.cls(states[guessed]), labels[guessed])  # scores over the vocabulary only where a word is asked for

        last = descend(loss, model.parameters(), RECIPE["lr"], "pre-training bert on texts")
    with atomic_folder(folder) as part:
        model.bert.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / "pretraining.json").write_text(json.dumps({"recipe": RECIPE, "texts": len(texts), "last_loss": last}) + "\n")
    return folder


def vision_model(pixels: np.ndarray, present: np.ndarray, labels: Sequence[str], content: str, cache: Path) -> Path:
    """Folder of the small vision model for these pictures (N + 1, S, S, 3), trained now unless `cache` has it.

    It learns to name the label of each picture and to say the mean colour of every patch, half of the patches being hidden.
    """
    key = hashlib.sha256(json.dumps([VISION, RECIPE, content]).encode()).hexdigest()[:12]
    folder = cache / f"vit-{key}"
    if folder.exists():
        return folder
    rows, size, patch = np.flatnonzero(present), pixels.shape[1], VISION["patch_size"]
    names = {name: i for i, name in enumerate(sorted(set(np.asarray(labels)[rows])))}
    target = torch.tensor([names[name] for name in np.asarray(labels)[rows]])
    x = torch.from_numpy(np.ascontiguousarray(pixels[rows])).permute(0, 3, 1, 2).float() / 127.5 - 1  # (P, 3, S, S)
    colours = F.avg_pool2d(x, patch).flatten(2).transpose(1, 2)  # (P, patches, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RECIPE["seed"])
        model = ViTModel(
            ViTConfig(image_size=size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **VISION),
            add_pooling_layer=False,
            use_mask_token=True,
        )
        heads = torch.nn.ModuleDict(
            {"label": torch.nn.Linear(VISION["hidden_size"], len(names)), "colour": torch.nn.Linear(VISION["hidden_size"], 3)}
        )
        rng = torch.Generator().manual_seed(RECIPE["seed"])

        def loss() -> torch.Tensor:
            at = torch.randint(len(rows), (RECIPE["batch"],), generator=rng)
            hidden = torch.rand((len(at), colours.shape[1]), generator=rng) < 0.5
            states = model(pixel_values=x[at], bool_masked_pos=hidden).last_hidden_state
            return F.cross_entropy(heads["label"](states.mean(1)), target[at]) + F.mse_loss(heads["colour"](states[:, 1:]), colours[at])

        last = descend(loss, [*model.parameters(), *heads.parameters()], RECIPE["lr"], "pre-training vit on pictures")
    with atomic_folder(folder) as part:
        model.embeddings.mask_token = None
        model.save_pretrained(part)
        (part / "preprocessor_config.json").write_text(preprocessor(size, "ViTImageProcessor"))
        (part / "pretraining.json").write_text(json.dumps({"recipe": RECIPE, "pictures": len(rows), "last_loss": last}) + "\n")
    return folder


def preprocessor(size: int, kind: str) -> str:
    facts = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": size, "width": size}, "image_processor_type": kind}
    return json.dumps(facts) + "\n"


BLIP_NAMES = {  # of the parts of a ViT
    "attention.o_proj": "self_attn.projection",
    "layernorm_before": "layer_norm1",
    "layernorm_after": "layer_norm2",
    "cls_token": "class_embedding",
    "position_embeddings": "position_embedding",
    "patch_embeddings.projection": "patch_embedding",
}


def vision_weights(vit: ViTModel) -> dict[str, torch.Tensor]:
    """The weights of a ViT under the names that BLIP's vision model has for them; there query, key and value are one matrix."""
    old, new = vit.state_dict(), {}
    for key in [k for k in old if ".q_proj." in k]:
        parts = [old.pop(key.replace("q_proj", f"{x}_proj")) for x in "qkv"]
        new[f"encoder.{key.replace('attention.q_proj', 'self_attn.qkv')}"] = torch.cat(parts)
    for key, value in old.items():
        for ours, theirs in BLIP_NAMES.items():
            key = key.replace(ours, theirs)
        new[f"encoder.{key}" if key.startswith("layers.") else key.replace("layernorm.", "post_layernorm.")] = value
    return new


def joint_model(bert: Path, vit: Path, titles: Sequence[str], pixels: np.ndarray, present: np.ndarray, content: str, cache: Path) -> Path:
    """Folder of the small BLIP for these titles and pictures, trained now unless `cache` has it.

    It starts from the local `bert` and `vit`, as the real one from BERT and ViT, and learns two of its tasks: by their projected vectors, which
    picture belongs to which title; with the title's words looking at the picture, whether the two belong together.
    """
    key = hashlib.sha256(json.dumps([TEXT, VISION, RECIPE, bert.name, vit.name, content]).encode()).hexdigest()[:12]
    folder = cache / f"blip-{key}"
    if folder.exists():
        return folder
    tokenizer = BertTokenizerFast.from_pretrained(bert)
    text, vision = (load_pretrained(kind, str(path), "blip", add_pooling_layer=False) for kind, path in ((BertModel, bert), (ViTModel, vit)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RECIPE["seed"])
        special = {
            f"{ours}_token_id": getattr(tokenizer, f"{its}_token_id")
            for ours, its in (("bos", "cls"), ("eos", "sep"), ("sep", "sep"), ("pad", "pad"))
        }
        sizes = {"encoder_hidden_size": VISION["hidden_size"], "projection_dim": TEXT["hidden_size"]}
        words = BlipTextConfig(vocab_size=len(tokenizer), **sizes, **special, **TEXT)
        eyes = BlipVisionConfig(image_size=pixels.shape[1], **VISION, hidden_act="gelu", layer_norm_eps=vision.config.layer_norm_eps)
        model = BlipForImageTextRetrieval(
            BlipConfig(text_config=words.to_dict(), vision_config=eyes.to_dict(), image_text_hidden_size=TEXT["hidden_size"])
        )
        left_out = model.text_encoder.load_state_dict(text.state_dict(), strict=False)
        assert all("crossattention" in name for name in left_out.missing_keys), left_out.missing_keys
        model.vision_model.load_state_dict(vision_weights(vision))
        rows, rng = np.flatnonzero(present), torch.Generator().manual_seed(RECIPE["seed"])
        tokens = tokenizer([titles[i] for i in rows], padding=True, return_tensors="pt", truncation=True, max_length=TEXT["max_position_embeddings"])
        x = torch.from_numpy(np.ascontiguousarray(pixels[rows])).permute(0, 3, 1, 2)  # (P, 3, S, S)
        pairs = min(RECIPE["batch"], len(rows))

        def loss() -> torch.Tensor:
            at = torch.randperm(len(rows), generator=rng)[:pairs]
            read = {k: tokens[k][at] for k in ("input_ids", "attention_mask")}
            seen = model.vision_model(pixel_values=x[at].float() / 127.5 - 1).last_hidden_state
            alone = model.text_encoder(**read).last_hidden_state
            a, b = F.normalize(model.text_proj(alone[:, 0]), dim=-1), F.normalize(model.vision_proj(seen[:, 0]), dim=-1)
            near, same = a @ b.T / RECIPE["temperature"], torch.arange(pairs)
            contrast = F.cross_entropy(near, same) + F.cross_entropy(near.T, same)
            together = [model.text_encoder(**read, encoder_hidden_states=p).last_hidden_state[:, 0] for p in (seen, seen.roll(1, 0))]
            belongs = torch.arange(2).repeat_interleave(pairs).flip(0)
            return contrast + F.cross_entropy(model.itm_head(torch.cat(together)), belongs)

        last = descend(loss, model.parameters(), RECIPE["lr"] / 3, "pre-training blip on titles and pictures")
    with atomic_folder(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / "preprocessor_config.json").write_text(preprocessor(pixels.shape[1], "BlipImageProcessor"))
        (part / "pretraining.json").write_text(json.dumps({"recipe": RECIPE, "pairs": len(rows), "last_loss": last}) + "\n")
    return folder
