"""How does the content of a news become a vector? An encoder holds the content of all N items and encodes those it is asked for.

    trunk(ids (U,)) -> states (U, T, W), mask (U, T)     what came pre-trained: any Hugging Face text or vision model, by hub id or local folder
    pool(states, mask) -> (U, W)                         additive attention (best in PLM-NR, Wu et al. 2021, fig. 4), mean, or the first token
    project -> (U, D)

`Frozen` stands in the place of an encoder that is not trained: it looks its pooled vectors up and only projects them.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging as transformers_logging

from nrms import NrmsError


def load_pretrained(auto, name: str, role: str, **options):
    """`auto.from_pretrained(name)`; `name` is a local folder or a hub id, `id@revision` pins one. Custom code is never run.

    Raises NrmsError when it is neither on disk nor to be had, or not a model.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    path, _, revision = name.partition("@")
    try:
        return auto.from_pretrained(path, revision=revision or None, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise NrmsError(
            f"The model {name!r} for `{role}` is no local folder, not in the local cache, and cannot be downloaded now. Give a folder written by "
            f"save_pretrained, for example `-p {role} FOLDER`, or fetch it once with a network: `hf download {path}`. ({reason})"
        ) from None


class Pool(nn.Module):
    """States (U, T, W), mask (U, T) -> (U, W): `attention` learns the weights, `mean` takes all alike, `cls` takes the first."""

    def __init__(self, how: str, *, dim: int, query_dim: int):
        super().__init__()
        self.how = how
        self.project, self.query = (nn.Linear(dim, query_dim), nn.Linear(query_dim, 1, bias=False)) if how == "attention" else (None, None)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.how == "cls":
            return x[:, 0]
        logit = self.query(torch.tanh(self.project(x))).squeeze(-1) if self.how == "attention" else torch.zeros_like(x[..., 0])
        weight = logit.masked_fill(~mask, torch.finfo(logit.dtype).min).softmax(-1)  # (U, T)
        return torch.einsum("ut,utw->uw", weight, x)


def projection(width: int, dim: int) -> nn.Linear:
    """A linear map that keeps the variance, so that scores start out of order one and learn at once."""
    layer = nn.Linear(width, dim)
    nn.init.normal_(layer.weight, std=width**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """Item numbers (U,) -> vectors (U, D). Number 0 is padding, and an item without content is absent: neither may be asked for."""

    has_blank = False  # True where absent items may be asked for after all, and are blank

    def __init__(self, model: nn.Module, *, width: int, dim: int, pooling: str, query_dim: int, dropout: float):
        super().__init__()
        self.model, self.pool = model, Pool(pooling, dim=width, query_dim=query_dim)
        if getattr(model, "pooler", None) is not None and any(True for _ in model.pooler.parameters()):
            model.pooler = None  # BERT's and ViT's pooler is not used: it would count as weights that do not move
        self.dropout, self.project = nn.Dropout(dropout), projection(width, dim)

    def features(self, items: torch.Tensor) -> torch.Tensor:
        """What the pre-trained part says of these items, pooled: (U, W)."""
        return self.pool(*self.trunk(items))

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.project(self.dropout(self.features(items)))


class TextEncoder(Encoder):
    """Titles."""

    def __init__(self, model: nn.Module, tokenizer, *, title_tokens: int, **options):
        super().__init__(model, width=model.config.hidden_size, **options)
        self.tokenizer, self.title_tokens = tokenizer, title_tokens

    @classmethod
    def from_pretrained(cls, name: str, **options) -> "TextEncoder":
        """The encoder around the Hugging Face model `name`. Raises NrmsError if there is none, or if it is not an encoder."""
        tokenizer = load_pretrained(AutoTokenizer, name, "bert")
        model = load_pretrained(AutoModel, name, "bert", dtype=torch.float32)
        if model.config.is_encoder_decoder:
            raise NrmsError(f"The model {name!r} for `bert` is an encoder with a decoder; give one that is an encoder alone, such as BERT.")
        return cls(model, tokenizer, **options)

    def bind(self, titles: Sequence[str]) -> "TextEncoder":
        """Tokenises all titles, row 0 included; from now on item i means titles[i]. Returns self."""
        most = getattr(self.model.config, "max_position_embeddings", self.title_tokens)
        if self.title_tokens > most:
            raise NrmsError(f"title_tokens is {self.title_tokens}, but the text model reads at most {most} tokens.")
        tokens = self.tokenizer(list(titles), truncation=True, max_length=self.title_tokens, return_attention_mask=False)["input_ids"]
        device = self.project.weight.device
        length = torch.tensor([len(t) for t in tokens])
        self.register_buffer("tokens", torch.tensor([i for t in tokens for i in t], dtype=torch.int32, device=device), persistent=False)
        self.register_buffer("offsets", torch.cat([torch.zeros(1, dtype=torch.int64), length.cumsum(0)]).to(device), persistent=False)
        self.register_buffer("present", torch.arange(len(length), device=device) > 0, persistent=False)
        return self

    @property
    def preprocessing(self) -> tuple:
        """What, besides weights and content, decides the vectors."""
        return (self.title_tokens, hashlib.sha256(self.tokens.cpu().numpy().tobytes()).hexdigest())

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of every item (N + 1,): items of like length are best encoded together."""
        return self.offsets.diff()

    def trunk(self, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        begin, size = self.offsets[items], self.lengths[items]  # (U,)
        column = torch.arange(int(size.max()), device=items.device)
        mask = column < size[:, None]  # (U, T)
        tokens = torch.where(mask, self.tokens[torch.where(mask, begin[:, None] + column, 0)], self.tokenizer.pad_token_id or 0)
        return self.model(input_ids=tokens.long(), attention_mask=mask.long()).last_hidden_state, mask


class ImageEncoder(Encoder):
    """Pictures. Any vision model whose last hidden state is (U, T, W), as of ViT, DINOv2, Swin and CLIP, or (U, W, h, w), as of ResNet.

    An item without a picture that is asked for all the same is a blank white one.
    """

    has_blank = True

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], **options):
        sizes = model.config
        super().__init__(model, width=getattr(sizes, "hidden_size", None) or sizes.hidden_sizes[-1], **options)
        self.size = getattr(sizes, "image_size", None)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @classmethod
    def from_pretrained(cls, name: str, **options) -> "ImageEncoder":
        """The encoder around the Hugging Face model `name`, with the mean and deviation of its pixels. Raises NrmsError if there is none."""
        path, _, revision = name.partition("@")
        model = load_pretrained(AutoModel, name, "vit", dtype=torch.float32)
        model = getattr(model, "vision_model", model)  # of CLIP
        try:  # the numbers alone: building a processor would need torchvision
            facts, _ = ImageProcessingMixin.get_image_processor_dict(path, revision=revision or None)
        except (OSError, ValueError):
            facts = {}
        return cls(model, facts.get("image_mean") or [0.5] * 3, facts.get("image_std") or [0.5] * 3, **options)

    def bind(self, pixels: np.ndarray, present: np.ndarray) -> "ImageEncoder":
        """From now on item i means pixels[i] (S, S, 3) uint8 where present[i]. Pixels stay on disk, memory-mapped. Returns self."""
        self.pixels, self.order = pixels, np.arange(len(pixels))
        self.register_buffer("present", torch.from_numpy(present).to(self.mean.device), persistent=False)
        return self

    def shuffle(self, order: np.ndarray) -> None:
        """From now on item i has the picture of item order[i]."""
        self.order = order

    @property
    def preprocessing(self) -> tuple:
        return (self.mean.flatten().tolist(), self.std.flatten().tolist(), self.size)

    @property
    def lengths(self) -> torch.Tensor:
        return torch.ones(len(self.pixels), dtype=torch.int64, device=self.mean.device)

    def trunk(self, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.order[items.cpu().numpy()]
        raw = torch.from_numpy(self.pixels[rows]).to(items.device, non_blocking=True)  # (U, S, S, 3)
        raw[~self.present[items]] = 255
        x = (raw.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        if isinstance(self.size, int) and x.shape[-1] != self.size:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
        states = self.model(pixel_values=x).last_hidden_state
        states = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states  # (U, T, W)
        return states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)


class Frozen(nn.Module):
    """In the place of an encoder that is not trained: its pooled vectors, made once, and a projection.

    Each dimension is standardised over the items that are `used` (N + 1,): those with content, or all where blanks take part.
    """

    def __init__(self, features: np.ndarray, present: torch.Tensor, used: torch.Tensor, *, dim: int, dropout: float):
        super().__init__()
        table = torch.from_numpy(np.array(features, np.float32))
        known = table[used.cpu()]
        self.register_buffer("table", (table - known.mean(0)) / known.std(0).clamp_min(1e-6), persistent=False)  # (N + 1, W)
        self.register_buffer("present", present.clone(), persistent=False)
        self.dropout, self.project = nn.Dropout(dropout), projection(table.shape[1], dim)

    def shuffle(self, order: np.ndarray) -> None:
        """From now on item i has the features of item order[i]."""
        self.table = self.table[torch.from_numpy(order)]

    @property
    def lengths(self) -> torch.Tensor:
        return torch.ones(len(self.table), dtype=torch.int64, device=self.table.device)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.project(self.dropout(self.table[items]))


class ItemTower(nn.Module):
    """Item numbers (U,) -> (U, D): each modality's encoder sees the items that have it, then their vectors are fused."""

    def __init__(self, encoders: dict[str, nn.Module], fusion: nn.Module):
        super().__init__()
        self.encoders, self.fusion = nn.ModuleDict(encoders), fusion

    @property
    def lengths(self) -> torch.Tensor:
        return next(iter(self.encoders.values())).lengths

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        vectors, present = [], []
        for encoder in self.encoders.values():
            has = encoder.present[items]
            vectors.append(encoder(items) if has.all() else self.encode_some(encoder, items, has))
            present.append(has)
        return self.fusion(torch.stack(vectors, 1), torch.stack(present, 1))

    def encode_some(self, encoder: nn.Module, items: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
        """Vectors (U, D): items that the encoder has content for get theirs, the others zeros, or that of blank content, encoded once for all."""
        rest = encoder(items[~has][:1]) if self.fusion.wants_blank else encoder.project.weight.new_zeros(1, encoder.project.out_features)
        if not has.any():
            return rest.expand(len(items), -1)
        found = encoder(items[has])
        return rest.to(found.dtype).repeat(len(items), 1).index_copy(0, has.nonzero()[:, 0], found)

    def groups(self) -> list[nn.Parameter]:
        """Trainable weights that came pre-trained."""
        return [p for e in self.encoders.values() if hasattr(e, "model") for p in e.model.parameters() if p.requires_grad]
