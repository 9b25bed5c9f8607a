"""Where do pre-trained models come from, and how is each kind asked? Hugging Face folders and hub ids; BLIP and CLIP have two towers each.

A tower is asked like any other encoder: tokens or pixels in, `last_hidden_state` (U, T, W) out.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, BlipForImageTextRetrieval, CLIPModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from nrms import NrmsError

MATCHING = {"blip": BlipForImageTextRetrieval, "clip": CLIPModel}  # models that match images with texts
TOWERS = {
    "blip": {"text": ("text_encoder", "text_proj"), "vision": ("vision_model", "vision_proj")},
    "clip": {"text": ("text_model", "text_projection"), "vision": ("vision_model", "visual_projection")},
}


def hush() -> None:
    """Keeps transformers from writing bars and remarks of its own on the terminal: what matters is checked and said here."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_pretrained(auto, name: str, role: str, **options):
    """`auto.from_pretrained(name)`; `name` is a local folder or a hub id, `id@revision` pins one. Custom code is never run, nothing is unpickled.

    Raises NrmsError when it is neither on disk nor to be had, not a model, or a model that lacks weights which `auto` needs.
    """
    hush()
    path, _, revision = name.partition("@")
    is_model = auto is AutoModel or (isinstance(auto, type) and issubclass(auto, PreTrainedModel))
    if is_model:
        options |= {"dtype": torch.float32, "output_loading_info": True, "use_safetensors": True}
    try:
        loaded = auto.from_pretrained(path, revision=revision or None, trust_remote_code=False, **options)
    except Exception as error:  # libraries raise whatever a damaged or hostile folder makes them trip over
        reason = " ".join(str(error).split())[:200]
        if Path(path).is_dir():
            raise NrmsError(
                f"The folder {name!r} for `{role}` cannot be read: it must be as save_pretrained writes it, complete, with weights in safetensors "
                f"(pickles such as pytorch_model.bin are not opened) and without code of its own. ({reason})"
            ) from error
        raise NrmsError(
            f"The model {name!r} for `{role}` is no local folder, not in the local cache, and cannot be downloaded now. Give a folder written by "
            f"save_pretrained, for example `-p {role} FOLDER`, or fetch it once with a network: `hf download {path}`; its weights must be there as "
            f"safetensors. Without either, `{role}: local` in the data set's file in params/data trains a small one on your own titles and pictures."
        ) from error
    if not is_model:
        return loaded
    model, report = loaded
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key and "position_ids" not in key)
    if missing:  # transformers would draw them at random and go on
        raise NrmsError(
            f"The model {name!r} for `{role}` lacks {len(missing)} of the weights of a {type(model).__name__}, {missing[0]} among them: "
            "it was saved from another kind of model."
        )
    return model


def matching_model(name: str, role: str) -> nn.Module:
    """A BLIP (image-text retrieval) or CLIP model. Raises NrmsError for any other."""
    kind = load_pretrained(AutoConfig, name, role).model_type
    if kind not in MATCHING:
        raise NrmsError(f"The model {name!r} for `{role}` is a {kind}, which was not trained to match pictures with texts: give a BLIP or a CLIP.")
    return load_pretrained(MATCHING[kind], name, role)


class Projected(nn.Module):
    """One tower of BLIP or CLIP with its projection: one state (U, 1, P) of unit length, in the space where the two towers are compared."""

    base_model_prefix = "tower"  # peft asks for it

    def __init__(self, tower: nn.Module, projection: nn.Linear):
        super().__init__()
        self.tower, self.projection = tower, projection
        self.config = SimpleNamespace(**{k: v for k, v in vars(tower.config).items() if not k.startswith("_")})
        self.config.hidden_size = projection.out_features

    def forward(self, **content: Tensor) -> SimpleNamespace:
        out = self.tower(**content)
        # CLIP pools by itself (the end of the text, the normed first patch); BLIP's vectors are those of the first token
        pooled = out.pooler_output if "clip" in self.config.model_type else out.last_hidden_state[:, 0]
        return SimpleNamespace(last_hidden_state=F.normalize(self.projection(pooled), dim=-1)[:, None])


def load_tower(name: str, role: str, side: str, *, projected: bool) -> nn.Module:
    """The model `name` as an encoder of one `side`, text or vision: itself, or the tower of a BLIP or CLIP, `projected` or not.

    Raises NrmsError if there is none, or if it is not an encoder.
    """
    kind = load_pretrained(AutoConfig, name, role).model_type
    if kind in MATCHING:
        model = load_pretrained(MATCHING[kind], name, role)
        tower, projection = (getattr(model, part) for part in TOWERS[kind][side])
        return Projected(tower, projection) if projected else tower
    if projected:
        raise NrmsError(f"pooling is projected, but the model {name!r} for `{role}` is a {kind}, which projects nothing: give a BLIP or a CLIP.")
    model = load_pretrained(AutoModel, name, role)
    if model.config.is_encoder_decoder:
        raise NrmsError(f"The model {name!r} for `{role}` is an encoder with a decoder; give one that is an encoder alone, such as BERT.")
    return model


def joint_states(model: nn.Module, text: dict[str, Tensor], mask: Tensor, pixels: Tensor | None, has: Tensor) -> tuple[Tensor, Tensor]:
    """States and mask of items with a title and, where `has` (U,), an image, `pixels` (sum of has, 3, S, S).

    BLIP: (U, T, W), the title's tokens, after looking at the image if there is one. CLIP: (U, 2, P), the second masked where there is none.
    """
    if model.config.model_type == "blip":
        states = None
        for rows, seen in ((~has, None), (has, pixels)):
            if rows.any():
                image = {} if seen is None else {"encoder_hidden_states": model.vision_model(pixel_values=seen).last_hidden_state}
                some = model.text_encoder(**{k: v[rows] for k, v in text.items()}, **image).last_hidden_state
                states = some.new_zeros(*mask.shape, some.shape[-1]) if states is None else states
                states = states.index_copy(0, rows.nonzero()[:, 0], some)
        return states, mask
    title = F.normalize(model.text_projection(model.text_model(**text).pooler_output), dim=-1)
    image = torch.zeros_like(title)
    if pixels is not None:
        vectors = F.normalize(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output), dim=-1)
        image = image.index_copy(0, has.nonzero()[:, 0], vectors.to(image.dtype))
    return torch.stack([title, image], 1), torch.stack([torch.ones_like(has), has], 1)
