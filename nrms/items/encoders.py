"""How does the content of a news become a vector? An encoder holds the content of all N items and encodes those it is asked for.

Any Hugging Face text model, by hub id or local folder. Its tokens become one vector by additive attention (best in PLM-NR, Wu et al. 2021, fig. 4),
mean, or the first token; a linear map brings it to D.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer
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
    """Token vectors (U, T, W), mask (U, T) -> (U, W): `attention` learns the weights, `mean` takes all alike, `cls` takes the first."""

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


class TextEncoder(nn.Module):
    """Item numbers (U,) -> vectors (U, D) of their titles. Number 0 is padding and must not be asked for."""

    def __init__(self, model: nn.Module, tokenizer, *, dim: int, pooling: str, query_dim: int, title_tokens: int, dropout: float):
        super().__init__()
        self.model, self.tokenizer, self.title_tokens = model, tokenizer, title_tokens
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # BERT's pooler is not used: it would count as weights that do not move
        width = model.config.hidden_size
        self.pool = Pool(pooling, dim=width, query_dim=query_dim)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(width, dim)
        nn.init.normal_(self.project.weight, std=width**-0.5)  # keeps the variance, so that scores start out of order one and learn at once
        nn.init.zeros_(self.project.bias)

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
        return self

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of every item (N + 1,): items of like length are best encoded together."""
        return self.offsets.diff()

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        begin, size = self.offsets[items], self.lengths[items]  # (U,)
        column = torch.arange(int(size.max()), device=items.device)
        mask = column < size[:, None]  # (U, T)
        tokens = torch.where(mask, self.tokens[torch.where(mask, begin[:, None] + column, 0)], self.tokenizer.pad_token_id or 0)
        hidden = self.model(input_ids=tokens.long(), attention_mask=mask.long()).last_hidden_state  # (U, T, W)
        return self.project(self.dropout(self.pool(hidden, mask)))  # (U, D)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable weights by learning-rate group: `encoder` is what came pre-trained."""
        return {"encoder": [p for p in self.model.parameters() if p.requires_grad]}
