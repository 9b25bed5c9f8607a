"""How does the content of an item become a vector? An encoder holds the content of all N items and encodes some of them.

    states(items (U,)) -> (U, T, W), mask (U, T)         what came pre-trained: any Hugging Face text or vision model, by hub id or local folder
    pool(states, mask) -> (U, W)                         additive attention (best in PLM-NR, Wu et al. 2021, fig. 4), mean, or the first token
    project -> (U, D)

`Frozen` is a table in the place of an encoder that is not trained: it looks the pooled vectors up and only projects them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer
from transformers.image_processing_base import ImageProcessingMixin

from nrms import NrmsError
from nrms.models.items.content import Images, Titles, TitlesAndImages
from nrms.models.items.hub import joint_states, load_pretrained, load_tower, matching_model
from nrms.models.layers import AdditiveAttention, Dropout

PART = 256  # items of like length that are encoded together: more do not fit into the cache of a processor


class MeanPooling(nn.Module):
    """States (U, T, W), mask (U, T) -> (U, W): the mean over the unmasked tokens."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weight = mask / mask.sum(1, keepdim=True).clamp_min(1)  # (U, T)
        return torch.einsum("ut,utw->uw", weight.to(x.dtype), x)


class FirstToken(nn.Module):
    """States (U, T, W), mask (U, T) -> (U, W): what stands first."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


def pooling_of(name: str, *, dim: int, query_dim: int) -> nn.Module:
    """`attention` learns the weights of tokens, `mean` takes all alike, `cls` takes the first, `projected` the only one there is."""
    if name == "attention":
        return AdditiveAttention(dim=dim, query_dim=query_dim)
    return MeanPooling() if name == "mean" else FirstToken()


def projection(width: int, dim: int) -> nn.Linear:
    """A linear map that keeps the variance, so that scores start out of order one and learn at once."""
    layer = nn.Linear(width, dim)
    nn.init.normal_(layer.weight, std=width**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """Item numbers (U,) -> vectors (U, D). Number 0 is padding, and an item without content is absent: neither may be encoded.

    But for blank images, where `content.has_blank`.
    """

    encodes = True  # False where nothing but a table is looked up
    made_by = 0  # parameters of frozen parts that are not here any more

    def __init__(self, model: nn.Module, *, width: int, dim: int, pooling: str, query_dim: int, dropout: float):
        super().__init__()
        self.model, self.pooling, self.pool = model, pooling, pooling_of(pooling, dim=width, query_dim=query_dim)
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
        content, mask = self.content(items)
        out = self.model(**content, **options)
        last = out.last_hidden_state
        last = last.flatten(2).transpose(1, 2) if last.dim() == 4 else last  # of ResNet (U, W, h, w)
        mask = torch.ones(last.shape[:2], dtype=torch.bool, device=last.device) if mask is None else mask[:, : last.shape[1]]
        return (*out.hidden_states[:-1], last) if options else last, mask

    def features(self, items: torch.Tensor) -> torch.Tensor:
        """The pooled states of these items: (U, W). Computed in parts of like length, so that padding costs little."""
        if len(items) <= PART:
            return self.pool(*self.states(items))
        order = self.content.lengths[items].argsort(stable=True)
        pooled = torch.cat([self.pool(*self.states(part)) for part in items[order].split(PART)])
        return pooled.index_select(0, order.argsort())

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.project(self.dropout(self.features(items)))


def width_of(model: nn.Module) -> int:
    return getattr(model.config, "hidden_size", None) or model.config.hidden_sizes[-1]


def check_length(config, title_tokens: int) -> None:
    limit = getattr(config, "max_position_embeddings", title_tokens)
    if title_tokens > limit:
        raise NrmsError(f"title_tokens is {title_tokens}, but the text model reads at most {limit} tokens.")


def pixel_statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of the pixels that a model was trained on: the numbers alone, for building a processor would need torchvision."""
    path, _, revision = name.partition("@")
    try:
        facts, _ = ImageProcessingMixin.get_image_processor_dict(path, revision=revision or None)
    except (OSError, ValueError):
        facts = {}
    return facts.get("image_mean") or [0.5] * 3, facts.get("image_std") or [0.5] * 3


class TextEncoder(Encoder):
    """Titles, read by any encoder of texts, or by the text side of BLIP or CLIP: by the Hugging Face model `name`.

    Raises NrmsError if there is none, or if it is not an encoder.
    """

    def __init__(self, name: str, *, role: str = "bert", title_tokens: int, **options):
        tokenizer = load_pretrained(AutoTokenizer, name, role)
        model = load_tower(name, role, "text", projected=options["pooling"] == "projected")
        super().__init__(model, width=width_of(model), **options)
        self.tokenizer, self.title_tokens = tokenizer, title_tokens

    def bind(self, titles: Sequence[str]) -> "TextEncoder":
        """Tokenises all titles, row 0 included; from now on item i means titles[i]. Returns self."""
        check_length(self.model.config, self.title_tokens)
        return self.put(Titles(titles, self.tokenizer, self.title_tokens))


class ImageEncoder(Encoder):
    """Images, read by any vision model: ViT, DINOv2, Swin, ResNet, the vision side of CLIP or BLIP, ...: by the Hugging Face model `name`.

    Raises NrmsError if there is none.
    """

    def __init__(self, name: str, *, role: str = "vit", **options):
        model = load_tower(name, role, "vision", projected=options["pooling"] == "projected")
        super().__init__(model, width=width_of(model), **options)
        self.mean, self.std = pixel_statistics(name)

    def bind(self, pixels: np.ndarray, present: np.ndarray) -> "ImageEncoder":
        """From now on item i means pixels[i] (S, S, 3) uint8 where present[i]. Pixels stay on disk, memory-mapped. Returns self."""
        return self.put(Images(pixels, present, self.mean, self.std, getattr(self.model.config, "image_size", None)))


class JointEncoder(Encoder):
    """Titles and images together, read by BLIP or CLIP; an item without an image takes the path for text alone.

    BLIP (Li et al. 2022): the states of the title's tokens after they have attended to the image. CLIP (Radford et al. 2021), whose towers
    never meet: two states, the projected title and the projected image. Raises NrmsError if there is no such model `name`.
    """

    def __init__(self, name: str, *, role: str = "blip", title_tokens: int, **options):
        model, tokenizer = matching_model(name, role), load_pretrained(AutoTokenizer, name, role)
        width = model.config.text_config.hidden_size if model.config.model_type == "blip" else model.config.projection_dim
        super().__init__(model, width=width, **options)
        self.tokenizer, self.title_tokens = tokenizer, title_tokens
        self.mean, self.std = pixel_statistics(name)

    def bind(self, titles: Sequence[str], pixels: np.ndarray, present: np.ndarray) -> "JointEncoder":
        """From now on item i means titles[i] and, where present[i], pixels[i] (S, S, 3) uint8. Returns self."""
        check_length(self.model.config.text_config, self.title_tokens)
        size = self.model.config.vision_config.image_size
        images = Images(pixels, present, self.mean, self.std, size)
        return self.put(TitlesAndImages(Titles(titles, self.tokenizer, self.title_tokens), images))

    def states(self, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        text, mask = self.content.titles(items)
        has = self.content.images.present[items]
        pixels = self.content.images(items[has])[0]["pixel_values"] if has.any() else None
        return joint_states(self.model, text, mask, pixels, has)


class Table(nn.Module):
    """Item numbers (U,) -> vectors (U, D) from tables, in the place of an encoder: no pre-trained part runs, or is left here."""

    encodes = False
    made_by = 0
    what_learns = ""  # in words

    @property
    def lengths(self) -> torch.Tensor:
        return torch.ones_like(self.present, dtype=torch.int64)


class Frozen(Table):
    """In the place of an encoder that is not trained: its pooled vectors, made once, and a projection.

    made_by: how many parameters made the features, for the record. depth: hidden layers before the projection, as wide as the features. Each
    dimension is standardised over the items of `reference` (N + 1,): those with content, or all where blanks take part; None: it is not.
    learns: the vectors are weights, which the features only start.
    """

    what_learns = "frozen: its vectors were made once, or came with the data, and are looked up"

    def __init__(
        self, features: np.ndarray, present: torch.Tensor, reference: torch.Tensor | None, *, dim: int, dropout: float, depth: int = 0,
        made_by: int = 0, learns: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.made_by = made_by
        table = torch.from_numpy(np.array(features, np.float32)) if reference is None else standardise(features, reference)
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

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.project(self.dropout(self.hidden(self.table[items])))


def standardise(features: np.ndarray, reference: torch.Tensor) -> torch.Tensor:
    """Features (N + 1, ..., W) as float32, each dimension with mean 0 and the same deviation over the items of `reference` (N + 1,).

    That deviation is 1 where dimensions are independent and less where they say the same, as in narrow pre-trained spaces: so much that the dot
    product of two items has a deviation of sqrt(W), and untrained scores are of order one.
    """
    table = torch.from_numpy(np.array(features, np.float32))
    sample = table[reference.cpu()]
    mean, deviation = sample.mean(0), sample.std(0).clamp_min(1e-6)
    sample = ((sample - mean) / deviation).flatten(0, -2)
    correlation = sample.T @ sample / len(sample)
    return (table - mean) / deviation * (sample.shape[1] / correlation.square().sum()) ** 0.25
