"""What is one run? A Config: a resolved experiment, whose values go together, with a digest that tells it from others.

Errors are sentences that name what is wrong, the nearest valid value, and what to do.
"""

import hashlib
import json
from typing import Any

from pydantic import Field, model_validator

from nrms import NrmsError
from nrms.config.names import nearest
from nrms.config.parameters import DIGEST, GRAPHS, LOGS, READS_MODALITIES, ROLES, TERMS, Dataset, Experiment

GENERATION = 0  # of the code that trains; to be raised where equal values come to train to other weights: runs from before are then made anew
NO_PART_OF_A_RUN: dict[str, Any] = {  # what changes no result: words, addresses, and how training is spread over processes and time
    **dict.fromkeys(("question", "name", "given", "processes", "save_minutes", "start", "start_sha256"), True),
    "data": {"about", "download", "other_split"},
}


def digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


class Config(Experiment):
    """A resolved experiment: what to run, on which data, with which seed. Saved as `config` in run.json."""

    exp: str
    dataset: str
    seed: int = Field(0, ge=0)
    name: str = Field(description="folder of the run under reports/<dataset>: the experiment's name, with a suffix when values are given by hand")
    given: dict[str, Any] = Field({}, description="the values given by hand")
    checkpoint: str | None = Field(None, description="a best.safetensors to evaluate, trained elsewhere")
    start_sha256: str | None = Field(None, description="of the file `start`: what is there, not where it is, makes a run another")
    data: Dataset

    @model_validator(mode="after")
    def check(self) -> "Config":
        """No config exists whose values do not go together."""
        check_together(self)
        return self

    def comes_as_vectors(self, modality: str) -> bool:
        """Whether frozen vectors that came with the data stand for it; text and image side by side are read together."""
        needed = {"text", "image"} if modality == "joint" else {modality}
        return needed <= set(self.data.given) and self.tuning_of(modality) == "frozen"

    def model_of(self, modality: str) -> str:
        """The pre-trained model that reads it, `local` for one that is pre-trained here: where it is a role's, the data set names it."""
        name = getattr(self, modality)
        return getattr(self.data, name) if name in ROLES else name

    def is_large(self, modality: str) -> bool:
        """Whether an encoder that came from elsewhere reads it: not one of the small ones that are pre-trained here, nor a table."""
        return modality != "ids" and not self.comes_as_vectors(modality) and self.model_of(modality) != "local"

    @property
    def tuned(self) -> list[str]:
        """The modalities whose encoders learn, and so run at every step: what takes time."""
        return [m for m in self.modalities if m != "ids" and self.tuning_of(m) not in ("frozen", "side")]

    @property
    def local_roles(self) -> list[str]:
        """The roles whose small models it needs, each after those that it is made from."""
        roles = {getattr(self, m) for m in self.modalities if m != "ids" and not self.comes_as_vectors(m) and self.model_of(m) == "local"}
        return [role for role in ROLES if role in roles or "blip" in roles]

    @property
    def threads(self) -> int | None:
        """Threads of the CPU with which it trains and is evaluated: it decides the last bits. None: as many as torch takes by default.

        Small models gain nothing from a second thread: it is better spent on another run. Large ones that are tuned need all there are.
        """
        return None if any(map(self.is_large, self.tuned)) else 1

    @property
    def encoding_threads(self) -> int | None:
        """The same for what is encoded once, before it trains."""
        return None if any(map(self.is_large, self.modalities)) else 1

    @property
    def hash(self) -> str:
        """Twelve hex digits that change when any value changes that can change a result."""
        return self.digest(NO_PART_OF_A_RUN)

    @property
    def family(self) -> str:
        """The same for all seeds: runs of one family are averaged, others never."""
        return self.digest(NO_PART_OF_A_RUN | {"seed": True})

    def digest(self, left_out: dict[str, Any]) -> str:
        """Digest of all values but those `left_out`, and of the generation of the code."""
        generation = {"generation": GENERATION} if GENERATION else {}
        return digest(self.model_dump(exclude=left_out, context=DIGEST) | {"start": self.start_sha256} | generation)

    def identity(self, tables: dict[str, str]) -> dict[str, Any]:
        """What a model's run is, for its record: these values, on the data of these digests, {file: SHA-256}."""
        values = {"config": self.model_dump(), "hash": self.hash, "family": self.family, "data": tables}
        return {"kind": "model", "protocol": self.data.protocol, **values}


def check_together(config: Config) -> None:
    """Raises NrmsError for values that are each valid but do not go together."""
    if config.joint and (config.text or config.image):
        raise NrmsError("joint reads text and image with one encoder: with it, text and image must be null.")
    if not config.modalities:
        raise NrmsError(f"{config.exp} reads nothing of an item: give text, image, joint or ids.")
    if config.modalities == ["ids"] and config.users in READS_MODALITIES:
        raise NrmsError(f"users {config.users} needs what an item shows, and {config.exp} reads ids alone: give text, image or joint.")
    if (config.fusion == "single") != (len(config.modalities) == 1):
        raise NrmsError(
            f"fusion is {config.fusion}, but {config.exp} reads {' and '.join(config.modalities)}: `single` goes with one of text, image, joint "
            "and ids, the others with several."
        )
    check_protocol(config)
    tunings = {config.tuning_of(m) for m in config.modalities if m != "ids"}
    for how in ("frozen", "side"):
        if how in tunings and config.pooling == "attention":
            raise NrmsError(f"tuning is {how}, but pooling is attention, which learns: give mean, cls or projected, whose vectors can be kept.")
    if "side" in tunings and (config.joint or config.pooling == "projected"):
        raise NrmsError("tuning side reads the layers of one encoder of text or image: give neither joint nor pooling projected.")
    if ("top" in tunings) > (config.tuned_layers is not None) or (config.tuned_layers and not tunings & {"top", "lora", "adapter"}):
        raise NrmsError(f"tuned_layers is {config.tuned_layers}: tuning top needs a number, lora and adapter can have one, the others none.")
    if config.tuned_modules and not tunings & {"lora", "adapter"}:
        raise NrmsError("tuned_modules goes with tuning lora or adapter.")
    if config.reuse_steps and config.encode_at_once:
        raise NrmsError("reuse_steps and encode_at_once do not go together: give one of them.")
    for name in ("image_tuning", "shuffle_images"):
        if getattr(config, name) and not config.image:
            raise NrmsError(f"{name} needs an image encoder: `image` is null.")
    if config.fusion == "late" and config.users not in ("nrms", *READS_MODALITIES):
        raise NrmsError(f"fusion late hands modalities over one by one, which users {config.users} does not read: give users nrms.")
    if config.fusion == "beside" and config.users != "lightgcn":
        raise NrmsError(f"fusion beside makes item vectors as wide as all modalities, which users {config.users} does not read: give users lightgcn.")
    check_terms(config)
    if config.dim % config.heads:
        raise NrmsError(f"heads is {config.heads} and does not divide dim, {config.dim}.")


def check_terms(config: Config) -> None:
    """Raises NrmsError for terms of the loss, or modalities, that the user encoder does not have."""
    for name in config.terms:
        if name not in TERMS:
            raise NrmsError(f"`terms` names {name!r}, which is no term{nearest(name, TERMS)}")
        if config.users not in TERMS[name]:
            raise NrmsError(f"The term {name} looks at what users {config.users} does not have; it goes with users {', '.join(TERMS[name])}.")
    if config.objective == "none" and not config.terms:
        raise NrmsError("objective is none and there are no terms: nothing would be learned.")
    if config.interests == "none" and (named := [name for name in config.terms if name.startswith("interest_")]):
        raise NrmsError(f"interests is none, so there is nothing that the term {named[0]} could look at: take it out of `terms`.")
    if ("two_views" in config.terms) != (config.item_drop > 0):
        raise NrmsError("The term two_views and item_drop go together: a second view is the history with items left out.")
    if config.terms and config.encode_at_once:
        raise NrmsError("encode_at_once makes gradients in two passes, which terms do not have: give one of them.")
    if not config.layers and config.users not in GRAPHS:
        raise NrmsError(f"layers is 0, which only users {', '.join(GRAPHS)} can be without.")
    if config.layers % 2 and config.users == "missrec":
        raise NrmsError(f"layers is {config.layers}, but users missrec has half of them in its encoder, half in its decoder: give an even number.")
    if config.users in GRAPHS and any(config.tuning_of(m) != "frozen" for m in config.modalities if m != "ids"):
        raise NrmsError(f"users {config.users} reads the vectors of all items at every step: give tuning frozen.")
    if config.users in ("bm3", "freedom", "alignrec") and not config.ids:
        raise NrmsError(f"users {config.users} propagates ids: give ids true.")
    fusions = ("late", "single") if config.users == "missrec" else ("late",)
    if config.users in READS_MODALITIES and config.fusion not in fusions:
        raise NrmsError(f"users {config.users} reads the modalities of an item one by one: give text, image or joint, and fusion late.")


def check_protocol(config: Config) -> None:
    """Raises NrmsError for values that do not go with the kind of data: impressions, or a log of interactions."""
    if (config.candidates == "slate") != (config.data.protocol == "impressions"):
        fits = "slate" if config.data.protocol == "impressions" else "drawn, batch or all"
        raise NrmsError(f"candidates is {config.candidates}, but {config.dataset} has {config.data.source} data: give candidates {fits}.")
    if config.objective in ("bce", "bpr", "pointwise") and config.candidates not in ("slate", "drawn"):
        raise NrmsError(f"objective {config.objective} takes few candidates, but candidates is {config.candidates}: give candidates drawn.")
    if config.data.protocol == "impressions":
        if config.users in LOGS:
            raise NrmsError(f"users {config.users} learns from a log of interactions; {config.dataset} has impressions: give users nrms.")
        if config.ids:
            raise NrmsError(f"ids takes a log of interactions: on {config.dataset} a third of the news to be ranked are new.")
    if config.data.protocol != "impressions" and config.users.startswith("pointwise"):
        raise NrmsError(f"users {config.users} reads one candidate at a time and cannot rank a catalogue: give another.")
    if config.repeats and (config.mask_history or config.candidates not in ("batch", "all") or config.users in GRAPHS):
        raise NrmsError(
            "repeats learns from what a user had, among the candidates: it goes with mask_history false, candidates batch or all, and users who are "
            "read from their history. Give repeats false."
        )
    if config.log_popularity and config.candidates not in ("batch", "all"):
        raise NrmsError("log_popularity goes with candidates batch or all.")
    if (config.depth or config.features_learn) and "frozen" not in {config.tuning_of(m) for m in config.modalities}:
        raise NrmsError("depth and features_learn go with tuning frozen.")


def check_start(config: Config) -> None:
    """Raises NrmsError for an experiment that lets some weights learn alone, and does not say where the others come from."""
    if config.trains and not config.start:
        raise NrmsError(
            f"{config.exp} lets some of its weights learn alone (`trains`), so the others must come from elsewhere: give `-p start FILE`, the "
            "checkpoint/best.safetensors of a run."
        )
