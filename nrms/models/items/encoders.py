"""How does the content of a news become a vector? An encoder holds the content of all N items and encodes those it is asked for.

    trunk(items (U,)) -> states (U, T, W), mask (U, T)   what came pre-trained: any Hugging Face text or vision model, by hub id or local folder
    pool(states, mask) -> (U, W)                         additive attention (best in PLM-NR, Wu et al. 2021, fig. 4), mean, or the first token
    project -> (U, D)

`Frozen` stands in the place of an encoder that is not trained: it looks its pooled vectors up and only projects them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer
from transformers.image_processing_base import ImageProcessingMixin

from nrms import NrmsError
from nrms.models.items.content import Pictures, Titles
from nrms.models.items.hub import joint_states, load_pretrained, load_tower, matching_model
from nrms.models.layers import Dropout

PART = 128  # items of like length that are encoded together


class Pool(nn.Module):
    """States (U, T, W), mask (U, T) -> (U, W).

    `attention` learns the weights, `mean` takes all alike, `cls` takes the first, `projected` the only one there is.
    """

    def __init__(self, how: str, *, dim: int, query_dim: int):
        super().__init__()
        self.how = how
        self.project, self.query = (nn.Linear(dim, query_dim), nn.Linear(query_dim, 1, bias=False)) if how == "attention" else (None, None)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.how in ("cls", "projected"):
            return x[:, 0]
        logit = self.query(torch.tanh(self.project(x))).squeeze(-1) if self.how == "attention" else torch.zeros_like(x[..., 0])
        weight = logit.masked_fill(~mask, torch.finfo(logit.dtype).min).softmax(-1)  # (U, T)
        return torch.einsum("ut,utw->uw", weight.to(x.dtype), x)


def projection(width: int, dim: int) -> nn.Linear:
    """A linear map that keeps the variance, so that scores start out of order one and learn at once."""
    layer = nn.Linear(width, dim)
    nn.init.normal_(layer.weight, std=width**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """Item numbers (U,) -> vectors (U, D). Number 0 is padding, and an item without content is absent: neither may be asked for.

    But for blank pictures, where `content.has_blank`.
    """

    encodes = True  # False where nothing but a table is looked up
    made_by = 0  # parameters of frozen parts that are not here any more

    def __init__(self, model: nn.Module, *, width: int, dim: int, pooling: str, query_dim: int, dropout: float):
        super().__init__()
        self.model, self.pool = model, Pool(pooling, dim=width, query_dim=query_dim)
        if getattr(model, "pooler", None) is not None and any(True for _ in model.pooler.parameters()):
            model.pooler = None  # BERT's and ViT's pooler is not used: it would count as weights that do not move
        self.dropout, self.project = Dropout(dropout), projection(width, dim)

    @property
    def present(self) -> torch.Tensor:
        """(N + 1,) True for items with content."""
        return self.content.present

    @property
    def lengths(self) -> torch.Tensor:
        return self.content.lengths

    def put(self, content: nn.Module) -> "Encoder":
        """From now on item i means row i of `content`. Returns self."""
        self.content = content.to(self.project.weight.device)
        return self

    def shuffle(self, order: np.ndarray) -> None:
        """From now on item i has the content of item order[i]."""
        self.content.shuffle(order)

    def states(self, items: torch.Tensor, **options) -> tuple[tuple[torch.Tensor, ...] | torch.Tensor, torch.Tensor]:
        """Last hidden states (U, T, W) and mask (U, T); with output_hidden_states=True a tuple: embeddings, then each layer's."""
        given, mask = self.content(items)
        out = self.model(**given, **options)
        last = out.last_hidden_state
        last = last.flatten(2).transpose(1, 2) if last.dim() == 4 else last  # of ResNet (U, W, h, w)
        mask = torch.ones(last.shape[:2], dtype=torch.bool, device=last.device) if mask is None else mask[:, : last.shape[1]]
        return (*out.hidden_states[:-1], last) if options else last, mask

    def trunk(self, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.states(items)

    def features(self, items: torch.Tensor) -> torch.Tensor:
        """What the pre-trained part says of these items, pooled: (U, W). Computed in parts of like length, so that padding costs little."""
        lengths = self.content.lengths[items]
        if len(items) <= PART or bool((lengths == lengths[0]).all()):
            return self.pool(*self.trunk(items))
        order = lengths.argsort(stable=True)
        found = torch.cat([self.pool(*self.trunk(part)) for part in items[order].split(PART)])
        return found.index_select(0, order.argsort())

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.project(self.dropout(self.features(items)))


def width_of(model: nn.Module) -> int:
    return getattr(model.config, "hidden_size", None) or model.config.hidden_sizes[-1]


def check_length(config, title_tokens: int) -> None:
    most = getattr(config, "max_position_embeddings", title_tokens)
    if title_tokens > most:
        raise NrmsError(f"title_tokens is {title_tokens}, but the text model reads at most {most} tokens.")


def picture_facts(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of the pixels that a model was trained on: the numbers alone, for building a processor would need torchvision."""
    path, _, revision = name.partition("@")
    try:
        facts, _ = ImageProcessingMixin.get_image_processor_dict(path, revision=revision or None)
    except (OSError, ValueError):
        facts = {}
    return facts.get("image_mean") or [0.5] * 3, facts.get("image_std") or [0.5] * 3


class TextEncoder(Encoder):
    """Titles, read by any encoder of texts, or by the text side of BLIP or CLIP."""

    def __init__(self, model: nn.Module, tokenizer, *, title_tokens: int, **options):
        super().__init__(model, width=width_of(model), **options)
        self.tokenizer, self.title_tokens = tokenizer, title_tokens

    @classmethod
    def from_pretrained(cls, name: str, *, role: str = "bert", **options) -> "TextEncoder":
        """The encoder around the Hugging Face model `name`. Raises NrmsError if there is none, or if it is not an encoder."""
        tokenizer = load_pretrained(AutoTokenizer, name, role)
        model = load_tower(name, role, "text", projected=options["pooling"] == "projected")
        return cls(model, tokenizer, **options)

    def bind(self, titles: Sequence[str]) -> "TextEncoder":
        """Tokenises all titles, row 0 included; from now on item i means titles[i]. Returns self."""
        check_length(self.model.config, self.title_tokens)
        return self.put(Titles(titles, self.tokenizer, self.title_tokens))


class ImageEncoder(Encoder):
    """Pictures, read by any vision model: ViT, DINOv2, Swin, ResNet, the vision side of CLIP or BLIP, ..."""

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], **options):
        super().__init__(model, width=width_of(model), **options)
        self.mean, self.std = mean, std

    @classmethod
    def from_pretrained(cls, name: str, *, role: str = "vit", **options) -> "ImageEncoder":
        """The encoder around the Hugging Face model `name`, with the mean and deviation of its pixels. Raises NrmsError if there is none."""
        model = load_tower(name, role, "vision", projected=options["pooling"] == "projected")
        return cls(model, *picture_facts(name), **options)

    def bind(self, pixels: np.ndarray, present: np.ndarray) -> "ImageEncoder":
        """From now on item i means pixels[i] (S, S, 3) uint8 where present[i]. Pixels stay on disk, memory-mapped. Returns self."""
        return self.put(Pictures(pixels, present, self.mean, self.std, getattr(self.model.config, "image_size", None)))


class Both(nn.Module):
    """Titles, and pictures where there are some."""

    has_blank = False

    def __init__(self, titles: Titles, pictures: Pictures):
        super().__init__()
        self.titles, self.pictures, self.facts = titles, pictures, (titles.facts, pictures.facts)

    @property
    def present(self) -> torch.Tensor:
        return self.titles.present

    @property
    def lengths(self) -> torch.Tensor:
        return self.titles.lengths


class JointEncoder(Encoder):
    """Titles and pictures together, read by BLIP or CLIP; a news without a picture takes the path for text alone.

    BLIP (Li et al. 2022): the states of the title's tokens after they have attended to the picture. CLIP (Radford et al. 2021), whose towers
    never meet: two states, the projected title and the projected picture.
    """

    def __init__(self, model: nn.Module, tokenizer, mean: Sequence[float], std: Sequence[float], *, title_tokens: int, **options):
        width = model.config.text_config.hidden_size if model.config.model_type == "blip" else model.config.projection_dim
        super().__init__(model, width=width, **options)
        self.tokenizer, self.title_tokens, self.mean, self.std = tokenizer, title_tokens, mean, std

    @classmethod
    def from_pretrained(cls, name: str, *, role: str = "blip", **options) -> "JointEncoder":
        """The encoder around the BLIP or CLIP model `name`. Raises NrmsError if there is none."""
        return cls(matching_model(name, role), load_pretrained(AutoTokenizer, name, role), *picture_facts(name), **options)

    def bind(self, titles: Sequence[str], pixels: np.ndarray, present: np.ndarray) -> "JointEncoder":
        """From now on item i means titles[i] and, where present[i], pixels[i] (S, S, 3) uint8. Returns self."""
        check_length(self.model.config.text_config, self.title_tokens)
        size = self.model.config.vision_config.image_size
        return self.put(Both(Titles(titles, self.tokenizer, self.title_tokens), Pictures(pixels, present, self.mean, self.std, size)))

    def trunk(self, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        text, mask = self.content.titles(items)
        has = self.content.pictures.present[items]
        pictures = self.content.pictures(items[has])[0]["pixel_values"] if has.any() else None
        return joint_states(self.model, text, mask, pictures, has)


class Frozen(nn.Module):
    """In the place of an encoder that is not trained: its pooled vectors, made once, and a projection.

    made_by: how many parameters made the features, for the record. depth: hidden layers before the projection, as wide as the features. Each
    dimension is standardised over the items that are `used` (N + 1,): those with content, or all where blanks take part; used None: none is.
    learns: the vectors are weights, which the features only start.
    """

    encodes = False

    def __init__(
        self,
        features: np.ndarray,
        present: torch.Tensor,
        used: torch.Tensor | None,
        *,
        dim: int,
        dropout: float,
        depth: int = 0,
        made_by: int = 0,
        learns: bool = False,
    ):
        super().__init__()
        self.made_by = made_by
        table = torch.from_numpy(np.array(features, np.float32)) if used is None else standardise(features, used)
        if learns:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table, persistent=False)  # (N + 1, W)
        self.register_buffer("present", present.clone(), persistent=False)
        width = self.table.shape[-1]
        self.hidden = nn.Sequential(*(nn.Sequential(Dropout(dropout), nn.Linear(width, width), nn.GELU()) for _ in range(depth)))
        self.dropout, self.project = Dropout(dropout), projection(width, dim)

    def shuffle(self, order: np.ndarray) -> None:
        """From now on item i has the features of item order[i]."""
        self.table.data = self.table.data[torch.from_numpy(order)]

    @property
    def lengths(self) -> torch.Tensor:
        return torch.ones(len(self.table), dtype=torch.int64, device=self.table.device)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.project(self.dropout(self.hidden(self.table[items])))


def standardise(features: np.ndarray, used: torch.Tensor) -> torch.Tensor:
    """Features (N + 1, ..., W) as float32, each dimension with mean 0 and the same deviation over the items that are `used`.

    That deviation is 1 where dimensions are independent and less where they say the same, as in narrow pre-trained spaces: so much that the dot
    product of two items has a deviation of sqrt(W), and untrained scores are of order one.
    """
    table = torch.from_numpy(np.array(features, np.float32))
    known = table[used.cpu()]
    mean, deviation = known.mean(0), known.std(0).clamp_min(1e-6)
    known = ((known - mean) / deviation).flatten(0, -2)
    correlation = known.T @ known / len(known)
    return (table - mean) / deviation * (known.shape[1] / correlation.square().sum()) ** 0.25
