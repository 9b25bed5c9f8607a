"""What stands behind the roles `bert` and `vit` where no big model can be had? Small ones, pre-trained here on the data set's own texts and pictures.

Masked words (Devlin et al. 2019); the class of a picture and the colours of its hidden patches (as in MAE, He et al. 2022). Without any click, so
that "frozen" and "fine-tuned" mean on the demo world what they mean on real data.
Saved in the ordinary save_pretrained form, under a name that changes with the texts and the recipe: a stale one is never used.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import svds
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, ViTConfig, ViTModel

from nrms.runtime import atomic_folder, progress

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
RECIPE = {"vocabulary": 8000, "shown": 20_000, "batch": 128, "lr": 3e-3, "masked": 0.3, "seed": 0}  # `shown`: texts seen in all, repeats counted


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
        steps = RECIPE["shown"] // RECIPE["batch"] + 1
        optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE["lr"])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RECIPE["lr"], total_steps=steps)
        for _ in progress(range(steps), "pre-training bert on texts"):
            rows = torch.randint(len(ids), (RECIPE["batch"],), generator=rng)
            rows = rows[seen[rows].sum(1).argsort()]
            width = int(seen[rows].sum(1).max())
            inputs, labels = mask_words(ids[rows, :width], special[rows, :width], tokenizer, RECIPE["masked"], rng)
            states = model.bert(input_ids=inputs, attention_mask=seen[rows, :width]).last_hidden_state
            guessed = labels != -100
            loss = F.cross_entropy(model.cls(states[guessed]), labels[guessed])  # scores over the vocabulary only where a word is asked for
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with atomic_folder(folder) as part:
        model.bert.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / "pretraining.json").write_text(json.dumps({"recipe": RECIPE, "texts": len(texts), "steps": steps, "last_loss": loss.item()}) + "\n")
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
        steps = RECIPE["shown"] // RECIPE["batch"] + 1
        optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=RECIPE["lr"])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RECIPE["lr"], total_steps=steps)
        for _ in progress(range(steps), "pre-training vit on pictures"):
            at = torch.randint(len(rows), (RECIPE["batch"],), generator=rng)
            hidden = torch.rand((len(at), colours.shape[1]), generator=rng) < 0.5
            states = model(pixel_values=x[at], bool_masked_pos=hidden).last_hidden_state
            loss = F.cross_entropy(heads["label"](states.mean(1)), target[at]) + F.mse_loss(heads["colour"](states[:, 1:]), colours[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with atomic_folder(folder) as part:
        model.embeddings.mask_token = None
        model.save_pretrained(part)
        facts = {
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "size": {"height": size, "width": size},
            "image_processor_type": "ViTImageProcessor",
        }
        (part / "preprocessor_config.json").write_text(json.dumps(facts) + "\n")
        (part / "pretraining.json").write_text(json.dumps({"recipe": RECIPE, "pictures": len(rows), "steps": steps, "last_loss": loss.item()}) + "\n")
    return folder
