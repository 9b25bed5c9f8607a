"""What stands behind the roles `bert`, `vit` and `blip` where no big model can be had? Small ones, pre-trained here on a data set's own content.

Masked words (Devlin et al. 2019); the class of an image and the colours of its hidden patches (as in MAE, He et al. 2022); which image belongs to
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
from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizerFast, BlipConfig, BlipForImageTextRetrieval, ViTConfig, ViTModel

from nrms.models.items.hub import hush, load_pretrained
from nrms.runtime.files import atomic_folder
from nrms.runtime.progress import progress

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 40}
TEXT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
VISION = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "patch_size": 16}
# shown: examples seen in all, repeats counted; the names and their order are part of a model's digest
RECIPE = {"vocabulary": 8000, "shown": 20_000, "batch": 128, "lr": 3e-3, "masked": 0.3, "temperature": 0.1, "seed": 0}


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
    occurs = sparse.csr_matrix((np.ones(len(owner)), (owner, np.concatenate(ids))), shape=(len(ids), size))
    occurs.data[:] = 1
    pairs = (occurs.T @ occurs).tocoo()
    count = np.asarray(occurs.sum(0)).ravel()
    information = np.log(pairs.data * len(ids) / (count[pairs.row] * count[pairs.col]))
    positive = (information > 0) & (pairs.row != pairs.col)
    if positive.sum() < 4 * dim or size < 2:  # too few texts to say
        return torch.zeros(size, dim)
    matrix = sparse.csr_matrix((information[positive], (pairs.row[positive], pairs.col[positive])), shape=(size, size))
    vectors, strength, _ = svds(matrix, k=min(dim, size - 1), v0=np.ones(size))
    table = np.zeros((size, dim))
    table[:, : len(strength)] = vectors * np.sqrt(strength)
    return torch.from_numpy(table / table.std() * 0.05).float()


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
    """Steps down `loss` until RECIPE's number of examples has been seen; returns the last value."""
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


def folder_of(role: str, cache: Path, *facts: object) -> Path:
    """Where the small model of a role is kept that is made of these facts."""
    return cache / f"{role}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]}"


def save(folder: Path, *parts, image_size: int | None = None, processor: str = "", **record: object) -> Path:
    """Writes model and tokenizer as save_pretrained does, with what is known of the pre-training; of a model that reads images also how."""
    with atomic_folder(folder) as path:
        for part in parts:
            part.save_pretrained(path)
        if image_size:
            size = {"height": image_size, "width": image_size}
            facts = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": size, "image_processor_type": processor}
            (path / "preprocessor_config.json").write_text(json.dumps(facts) + "\n")
        (path / "pretraining.json").write_text(json.dumps({"recipe": RECIPE, **record}) + "\n")
    return folder


def text_model(texts: Sequence[str], cache: Path) -> Path:
    """Folder of the small text model for these texts, trained now unless `cache` has it."""
    folder = folder_of("bert", cache, TEXT, RECIPE, list(texts))
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
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))

        def loss() -> torch.Tensor:
            rows = torch.randint(len(ids), (RECIPE["batch"],), generator=rng)
            width = int(mask[rows].sum(1).max())
            inputs, labels = mask_words(ids[rows, :width], special[rows, :width], tokenizer, RECIPE["masked"], rng)
            states = model.bert(input_ids=inputs, attention_mask=mask[rows, :width]).last_hidden_state
            guessed = labels != -100
            return F.cross_entropy(model.cls(states[guessed]), labels[guessed])  # scores over the vocabulary only where a word is guessed

        last = descend(loss, model.parameters(), RECIPE["lr"], "pre-training bert on texts")
    return save(folder, model.bert, tokenizer, texts=len(texts), last_loss=last)


def vision_model(pixels: np.ndarray, present: np.ndarray, labels: Sequence[str], content: str, cache: Path) -> Path:
    """Folder of the small vision model for these images (N + 1, S, S, 3), trained now unless `cache` has it.

    It learns to name the label of each image and to say the mean colour of every patch, half of the patches being hidden.
    """
    folder = folder_of("vit", cache, VISION, RECIPE, content)
    if folder.exists():
        return folder
    rows, size, patch = np.flatnonzero(present), pixels.shape[1], VISION["patch_size"]
    names, target = np.unique(np.asarray(labels)[rows], return_inverse=True)
    target = torch.from_numpy(target)
    x = torch.from_numpy(np.ascontiguousarray(pixels[rows])).permute(0, 3, 1, 2).float() / 127.5 - 1  # (P, 3, S, S)
    colours = F.avg_pool2d(x, patch).flatten(2).transpose(1, 2)  # (P, patches, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RECIPE["seed"])
        config = ViTConfig(image_size=size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **VISION)
        model = ViTModel(config, add_pooling_layer=False, use_mask_token=True)
        label_head, colour_head = torch.nn.Linear(VISION["hidden_size"], len(names)), torch.nn.Linear(VISION["hidden_size"], 3)
        rng = torch.Generator().manual_seed(RECIPE["seed"])

        def loss() -> torch.Tensor:
            batch = torch.randint(len(rows), (RECIPE["batch"],), generator=rng)
            hidden = torch.rand((len(batch), colours.shape[1]), generator=rng) < 0.5
            states = model(pixel_values=x[batch], bool_masked_pos=hidden).last_hidden_state
            return F.cross_entropy(label_head(states.mean(1)), target[batch]) + F.mse_loss(colour_head(states[:, 1:]), colours[batch])

        weights = [*model.parameters(), *label_head.parameters(), *colour_head.parameters()]
        last = descend(loss, weights, RECIPE["lr"], "pre-training vit on pictures")
    model.embeddings.mask_token = None
    return save(folder, model, image_size=size, processor="ViTImageProcessor", pictures=len(rows), last_loss=last)


# BLIP's names of the parts of a ViT
BLIP_NAMES = {"attention.o_proj": "self_attn.projection", "layernorm_before": "layer_norm1", "layernorm_after": "layer_norm2"}
BLIP_NAMES |= {"cls_token": "class_embedding", "position_embeddings": "position_embedding", "patch_embeddings.projection": "patch_embedding"}


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
    """Folder of the small BLIP for these titles and images, trained now unless `cache` has it.

    It starts from the local `bert` and `vit`, as the real one from BERT and ViT, and learns two of its tasks: by their projected vectors, which
    image belongs to which title; with the title's words looking at the image, whether the two belong together.
    """
    folder = folder_of("blip", cache, TEXT, VISION, RECIPE, bert.name, vit.name, content)
    if folder.exists():
        return folder
    tokenizer = BertTokenizerFast.from_pretrained(bert)
    text = load_pretrained(BertModel, str(bert), "blip", add_pooling_layer=False)
    vision = load_pretrained(ViTModel, str(vit), "blip", add_pooling_layer=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RECIPE["seed"])
        words = TEXT | {"vocab_size": len(tokenizer), "encoder_hidden_size": VISION["hidden_size"], "projection_dim": TEXT["hidden_size"]}
        words |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        words |= {"sep_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
        eyes = {"image_size": pixels.shape[1], "hidden_act": "gelu", "layer_norm_eps": vision.config.layer_norm_eps} | VISION
        config = BlipConfig(text_config=words, vision_config=eyes, image_text_hidden_size=TEXT["hidden_size"])
        model = BlipForImageTextRetrieval(config)
        left_out = model.text_encoder.load_state_dict(text.state_dict(), strict=False)
        assert all("crossattention" in name for name in left_out.missing_keys), left_out.missing_keys
        model.vision_model.load_state_dict(vision_weights(vision))
        rows, rng = np.flatnonzero(present), torch.Generator().manual_seed(RECIPE["seed"])
        tokens = tokenizer([titles[i] for i in rows], padding=True, return_tensors="pt", truncation=True, max_length=TEXT["max_position_embeddings"])
        x = torch.from_numpy(np.ascontiguousarray(pixels[rows])).permute(0, 3, 1, 2)  # (P, 3, S, S)
        pairs = min(RECIPE["batch"], len(rows))

        def loss() -> torch.Tensor:
            batch = torch.randperm(len(rows), generator=rng)[:pairs]
            title = {k: tokens[k][batch] for k in ("input_ids", "attention_mask")}
            image = model.vision_model(pixel_values=x[batch].float() / 127.5 - 1).last_hidden_state
            alone = model.text_encoder(**title).last_hidden_state
            a, b = F.normalize(model.text_proj(alone[:, 0]), dim=-1), F.normalize(model.vision_proj(image[:, 0]), dim=-1)
            cosines, same = a @ b.T / RECIPE["temperature"], torch.arange(pairs)
            contrast = F.cross_entropy(cosines, same) + F.cross_entropy(cosines.T, same)
            together = [model.text_encoder(**title, encoder_hidden_states=p).last_hidden_state[:, 0] for p in (image, image.roll(1, 0))]
            belongs = torch.arange(2).repeat_interleave(pairs).flip(0)
            return contrast + F.cross_entropy(model.itm_head(torch.cat(together)), belongs)

        last = descend(loss, model.parameters(), RECIPE["lr"] / 3, "pre-training blip on titles and pictures")
    return save(folder, model, tokenizer, image_size=pixels.shape[1], processor="BlipImageProcessor", pairs=len(rows), last_loss=last)
