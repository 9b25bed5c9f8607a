"""What is an experiment? One flat, strict, immutable set of values, resolved from three places.

    defaults here  <  params/data/<dataset>.yaml (`training:`)  <  params/<exp>.yaml  <  what is given by hand (-p name value)

A name that does not exist or a value of the wrong type is an error in the first second, with the nearest valid name.
Absent on purpose: interpolation, includes, environment variables.
"""

import ast
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nrms import ROOT, NrmsError

PARAMS = ROOT / "params"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
ROLES = ("bert", "vit", "blip")
REFERENCES = ("random", "popularity", "recency", "content", "ceiling", "ceiling_text", "ceiling_image", "ceiling_history")  # rows of every table


ORDERED = ("sasrec", "bert4rec", "gru4rec", "nextitnet", "dssm")  # user encoders that learn at every place of a log


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class World(Strict):
    """The demo world of nrms.data.newsroom. The weights fix the difficulty; a test holds the ceilings where they are promised."""

    news: int = Field(3000, ge=50)
    users: int = Field(4000, ge=10)
    train: int = Field(16000, ge=10, description="impressions of the train days")
    dev: int = Field(4000, ge=10, description="impressions of the dev day")
    image_share: float = Field(0.44, ge=0, le=1, description="share of news with a picture (MIND-small with IM-MIND: 0.44)")
    text_weight: float = Field(1.65, ge=0)
    image_weight: float = Field(1.3, ge=0)
    freshness_weight: float = Field(0.9, ge=0)
    seed: int = Field(0, ge=0)


class Dataset(Strict):
    """One data set: where it comes from and what the roles bert, vit and blip mean there. A file in params/data."""

    about: str = ""
    source: Literal["mind", "newsroom", "interactions"] = Field(
        description="mind: a MIND folder given with --from; newsroom: generated here; interactions: a folder with a log and items, given with --from"
    )
    bert: str = Field(
        "google-bert/bert-base-uncased", description="text model: hub id, local folder, or `local`: pre-trained here on its titles and abstracts"
    )
    vit: str = Field(
        "google/vit-base-patch16-224", description="vision model: likewise; `local` is pre-trained on this data set's pictures and sub-categories"
    )
    blip: str = Field(
        "Salesforce/blip-itm-base-coco",
        description="model that matches pictures with texts, BLIP or CLIP: likewise; `local` goes on from the local bert and vit",
    )
    image_size: int = Field(224, ge=16, description="S, side of the stored pictures in pixels")
    valid_share: float = Field(0.1, gt=0, lt=1, description="share of the train impressions, the latest, held out for validation")
    split: Literal["leave_one_out", "time"] = Field("leave_one_out", description="of a log of interactions; impressions are always split by time")
    test_share: float = Field(0.1, gt=0, lt=1, description="share of a log's interactions behind the moment of the test, where split is time")
    min_length: int = Field(3, ge=3, description="users of a log with fewer interactions are left out")
    min_rating: float | None = Field(None, description="interactions of a log with a lower rating are left out; null: a rating says nothing")
    given: list[Literal["text", "image"]] = Field([], description="modalities whose vectors came with the data; they stand for frozen encoders")
    max_bad: float = Field(0.001, ge=0, le=1, description="prepare stops above this share of bad rows")
    world: World | None = None

    @property
    def protocol(self) -> str:
        """How models are judged: on slates that were shown (`impressions`), or on the whole catalogue (`catalogue`)."""
        return "catalogue" if self.source == "interactions" else "impressions"

    training: dict[str, Any] = Field({}, description="experiment values that fit this data set's size, e.g. epochs")


# values that say how weights are learned, not what they are: a checkpoint fits whatever they are
LEARNING = (
    *("question", "modality_dropout", "dropout", "objective", "negatives", "epochs", "batch_size", "lr", "encoder_lr", "weight_decay"),
    *("by_reader", "reuse_steps", "encode_at_once", "warmup", "clip", "validations", "device", "precision"),
    *("candidates", "temperature", "log_popularity", "mask_history", "mask_same", "hidden"),
)


class Experiment(Strict):
    """Everything one run does. A file in params states only what makes its experiment different."""

    question: str = Field("", description="what this experiment is to answer; opens its report")
    # items
    text: str | None = Field("bert", description="text encoder: the role `bert`, a hub id or a local folder; null for none; `blip`: its text side")
    image: str | None = Field(None, description="image encoder: the role `vit`, a hub id or a local folder; null for none; `blip`: its vision side")
    joint: str | None = Field(None, description="one encoder of text and image together, in place of both: `blip`, a hub id or a local folder")
    ids: bool = Field(False, description="a learned vector for each item takes part, as one more modality; with text, image and joint null: alone")
    reads: Literal["title", "all"] = Field("title", description="what of an item's text is read: its title, or the rest behind it too")
    shuffle_images: bool = Field(False, description="a control: pictures change places among the news that have one")
    fusion: Literal["single", "sum", "concat", "hadamard", "hadamard_blank", "gate", "cross_attention", "late"] = Field(
        "single", description="text and image -> one vector"
    )
    modality_dropout: float = Field(0.1, ge=0, lt=1, description="share of pictures hidden from the gate in training")
    tuning: Literal["frozen", "top", "full", "lora", "adapter", "side"] = Field(
        "full", description="what of the pre-trained weights learns; nrms/items/tuning.py has the list"
    )
    image_tuning: Literal["frozen", "top", "full", "lora", "adapter", "side"] | None = Field(
        None, description="the same for the image encoder, where it differs"
    )
    tuned_layers: int | None = Field(None, ge=1, description="layers, counted from the top, that top, lora and adapter touch; null: all")
    tuned_modules: str | None = Field(None, description="ends of the names of linear modules that lora or adapter touch, a regular expression")
    rank: int = Field(8, ge=1, description="rank of LoRA, width of the bottlenecks of adapter and side")
    side_layers: int = Field(6, ge=2, description="hidden states that a side network reads at most, evenly from the embeddings to the top")
    depth: int = Field(0, ge=0, description="hidden layers between frozen vectors and the item's vector; 0: a linear map")
    pooling: Literal["attention", "mean", "cls", "projected"] = Field(
        "attention",
        description="states of tokens or patches (T, .) -> one vector; not attention if frozen; projected: the vector BLIP or CLIP compares",
    )
    title_tokens: int = Field(30, ge=3, description="tokens of a title that are read, special tokens included")
    # users and scorer
    users: Literal["nrms", "pointwise", "pointwise_unmasked", "sasrec", "bert4rec", "gru4rec", "nextitnet", "dssm"] = Field(
        "nrms",
        description="who the user is, given the history: in any order (nrms, dssm), in order (sasrec, bert4rec, gru4rec, nextitnet), or "
        "pointwise: a Transformer over history and one candidate, as the original's, with its missing masks or as it was",
    )
    layers: int = Field(2, ge=1, description="layers, or blocks, of sasrec, bert4rec, gru4rec, nextitnet and dssm")
    dim: int = Field(256, ge=4, description="D, width of item and user vectors")
    heads: int = Field(16, ge=1, description="H, attention heads of the user encoder; divides dim")
    query_dim: int = Field(200, ge=1, description="width of additive attention")
    dropout: float = Field(0.1, ge=0, lt=1)
    history: int = Field(50, ge=1, description="L, most recent clicks that are read")
    # objective
    objective: Literal["listwise", "pointwise", "bce", "bpr"] = Field(
        "listwise",
        description="listwise: which was clicked, a softmax; bpr: each pair; bce: each candidate alone; pointwise: so too, clicks weighed 25 times",
    )
    candidates: Literal["slate", "drawn", "batch", "all"] = Field(
        "slate",
        description="what a click is held against: what the impression showed; of a log, K drawn at random, the items of the batch, or all items",
    )
    negatives: int = Field(4, ge=1, description="K, candidates per click that were not clicked: from the same impression, or drawn")
    temperature: float = Field(1.0, gt=0, description="scores are divided by it in the loss")
    log_popularity: bool = Field(False, description="log popularity is taken off the scores in the loss, of candidates batch and all")
    mask_history: bool = Field(True, description="other items of the user's own window are no candidates in the loss, of candidates batch and all")
    mask_same: bool = Field(True, description="other places of the same item in the batch are no candidates in the loss, of candidates batch")
    hidden: float = Field(0.2, gt=0, lt=1, description="share of places that bert4rec must find again")
    rank_seen: bool = Field(False, description="in ranking the catalogue the user's own items are candidates too")
    # training
    epochs: int = Field(3, ge=1)
    batch_size: int = Field(128, ge=1, description="B, clicks per step")
    lr: float = Field(1e-4, gt=0, description="peak learning rate of everything new")
    encoder_lr: float = Field(2e-5, gt=0, description="peak learning rate of pre-trained weights")
    weight_decay: float = Field(0.01, ge=0)
    by_reader: bool = Field(False, description="clicks of a reader stay together in a batch: cheaper, and rows less independent")
    reuse_steps: int = Field(0, ge=0, description="an item's vector may stand in for up to so many steps: cheaper, and stale; 0: never")
    encode_at_once: int | None = Field(
        None, ge=1, description="items encoded at a time; where a batch has more, gradients are made in two passes: slower, in less memory; null: all"
    )
    warmup: float = Field(0.1, ge=0, le=1, description="share of all steps in which the learning rate rises")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    validations: int = Field(2, ge=1, description="validations per epoch; the best one's weights are kept")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 autocast on GPUs that have it; weights stay fp32")


class Config(Experiment):
    """A resolved experiment: what to run, on which data, with which seed. Saved as `config` in run.json."""

    exp: str
    dataset: str
    seed: int = Field(0, ge=0)
    name: str = Field(description="folder of the run under reports/<dataset>: the experiment's name, with a suffix when values are given by hand")
    given: dict[str, Any] = Field({}, description="the values given by hand")
    checkpoint: str | None = Field(None, description="a best.safetensors to evaluate, trained elsewhere")
    data: Dataset

    @property
    def modalities(self) -> list[str]:
        """What of a news is read, first what every news has."""
        return [m for m in ("joint", "text", "ids", "image") if getattr(self, m)]

    def tuning_of(self, modality: str) -> str:
        return (self.image_tuning if modality == "image" else None) or self.tuning

    @property
    def hash(self) -> str:
        """Twelve hex digits that change when any value changes but the words of a description."""
        values = self.model_dump(exclude={"question": True, "name": True, "given": True, "data": {"about"}})
        return digest(values)

    @property
    def family(self) -> str:
        """The same for all seeds: runs of one family are averaged, others never."""
        return digest(self.model_dump(exclude={"question": True, "name": True, "given": True, "seed": True, "data": {"about"}}))


def digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


def nearest(name: str, valid) -> str:
    """`; did you mean x?` for the valid name that looks most like `name`, or a list of what there is."""
    valid = sorted(valid)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f". Valid: {', '.join(valid)}."


def explain(error: ValidationError, cls: type[BaseModel], where: str) -> NrmsError:
    """The first fault pydantic found, as a sentence."""
    fault = error.errors()[0]
    path, value = ".".join(map(str, fault["loc"])), fault["input"]
    if fault["type"] == "extra_forbidden":
        owner = World if fault["loc"][0] == "world" else cls
        return NrmsError(f"`{path}` in {where} is not a parameter{nearest(fault['loc'][-1], owner.model_fields)}")
    if fault["type"] == "missing":
        return NrmsError(f"{where} does not say `{path}`, which has no default.")
    text = f"`{path}` in {where} is {value!r}, a value of type {type(value).__name__}: {fault['msg'].replace('Input should', 'it should')}."
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        text += f" YAML reads {value} as text; write {float(value)!r} or {'e'.join(f'{float(value):.1e}'.split('e'))}."
    elif isinstance(value, str) and value.lower() in ("true", "false"):
        text += f" Write {value.capitalize()}."
    return NrmsError(text)


def validate(cls: type[BaseModel], values: Mapping[str, Any], where: str):
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise explain(error, cls, where) from None


def check_name(value: object, what: str) -> str:
    """`value` if it is a safe folder name: lower-case letters, digits, _ and -, at most 40."""
    if not NAME.fullmatch(str(value)):
        raise NrmsError(f"The {what} {str(value)!r} is not a name: use 1 to 40 lower-case letters, digits, `_` or `-`.")
    return str(value)


def read_yaml(folder: Path, name: object, what: str) -> dict[str, Any]:
    """params file `name` of `folder` as a dictionary; the number 4 means exp4."""
    name = check_name(f"exp{name}" if what == "experiment" and str(name).isdigit() else name, what)
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise NrmsError(f"There is no {what} `{name}` ({path.relative_to(ROOT)}){nearest(name, [p.stem for p in folder.glob('*.yaml')])}")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise NrmsError(f"{path.relative_to(ROOT)} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise NrmsError(f"{path.relative_to(ROOT)} must hold `name: value` lines.")
    return values


def load_dataset(dataset: str, **given: Any) -> Dataset:
    """The data set params/data/<dataset>.yaml, with `given` values in the place of the file's."""
    values = read_yaml(PARAMS / "data", dataset, "data set")
    data = validate(Dataset, values, f"params/data/{dataset}.yaml")
    validate(Experiment, data.training, f"`training` of params/data/{dataset}.yaml")
    return validate(Dataset, values | given, "the given parameters") if given else data


def resolve(
    exp: object = 4, dataset: str = "newsroom-tiny", seed: int = 0, name: str | None = None, checkpoint: str | None = None, **given: Any
) -> Config:
    """The experiment `exp` on `dataset`: files merged, `given` values on top, everything checked.

    checkpoint: a best.safetensors that was trained elsewhere and is only to be evaluated; it gets a run folder of its own.

    Raises NrmsError for an unknown name, with the nearest valid one, and for a value of the wrong type.
    """
    fields, data_fields = Experiment.model_fields, Dataset.model_fields
    for key in given:
        if key not in fields and key not in data_fields:
            raise NrmsError(f"`{key}` is not a parameter{nearest(key, {'exp', 'dataset', 'seed', 'name', 'checkpoint', *fields, *data_fields})}")
    experiment = read_yaml(PARAMS, exp, "experiment")
    exp = f"exp{exp}" if str(exp).isdigit() else str(exp)
    validate(Experiment, experiment, f"params/{exp}.yaml")
    data = load_dataset(dataset, **{k: v for k, v in given.items() if k in data_fields})
    own = {k: v for k, v in given.items() if k in fields}
    identity = {
        "exp": exp,
        "dataset": dataset,
        "seed": seed,
        "name": check_name(name or default_name(exp, given) + ("-checkpoint" if checkpoint else ""), "run name"),
        "checkpoint": checkpoint,
        "given": given,
        "data": data,
    }
    for key in ("text", "image", "joint"):
        name = own.get(key)
        if isinstance(name, str) and not Path(name).exists() and difflib.get_close_matches(name, ROLES, n=1, cutoff=0.7) not in ([], [name]):
            raise NrmsError(f"`{key}` is {name!r}, which is no role and no folder{nearest(name, ROLES)}")
    if identity["name"] in REFERENCES:
        raise NrmsError(f"The run name `{identity['name']}` is that of a baseline or ceiling; choose another.")
    config = validate(Config, data.training | experiment | own | identity, "the given parameters")
    check_together(config)
    return config


def reads_a_log(exp: object) -> bool:
    """True for an experiment on a log of interactions, False for one on impressions: by its user encoder, or by ids."""
    values = read_yaml(PARAMS, exp, "experiment")
    return bool(values.get("ids")) or values.get("users") in ORDERED


def check_together(config: Config) -> None:
    """Raises NrmsError for values that are each valid but do not go together."""
    if config.joint and (config.text or config.image):
        raise NrmsError("joint reads text and image with one encoder: with it, text and image must be null.")
    if not config.modalities:
        raise NrmsError(f"{config.exp} reads nothing of an item: give text, image, joint or ids.")
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
    if config.image_tuning and not config.image:
        raise NrmsError("image_tuning needs an image encoder: `image` is null.")
    if config.shuffle_images and not config.image:
        raise NrmsError("shuffle_images needs an image encoder: `image` is null.")
    if config.fusion == "late" and config.users != "nrms":
        raise NrmsError(f"fusion late blends scores of user vectors, which users {config.users} does not have: give users nrms.")
    if config.dim % config.heads:
        raise NrmsError(f"heads is {config.heads} and does not divide dim, {config.dim}.")


def check_protocol(config: Config) -> None:
    """Raises NrmsError for values that do not go with the kind of data: impressions, or a log of interactions."""
    if (config.candidates == "slate") != (config.data.protocol == "impressions"):
        fits = "slate" if config.data.protocol == "impressions" else "drawn, batch or all"
        raise NrmsError(f"candidates is {config.candidates}, but {config.dataset} has {config.data.source} data: give candidates {fits}.")
    pairs = {"bce": ("slate", "drawn"), "bpr": ("slate", "drawn"), "pointwise": ("slate", "drawn")}
    if config.candidates not in pairs.get(config.objective, (config.candidates,)):
        raise NrmsError(f"objective {config.objective} takes few candidates, but candidates is {config.candidates}: give candidates drawn.")
    if config.data.protocol == "impressions":
        if config.users in ORDERED:
            raise NrmsError(f"users {config.users} learns from the order of a log; {config.dataset} has impressions: give users nrms.")
        if config.ids:
            raise NrmsError(f"ids takes a log of interactions: on {config.dataset} a third of the news to be ranked are new.")
    if config.data.protocol == "catalogue" and config.users.startswith("pointwise"):
        raise NrmsError(f"users {config.users} reads one candidate at a time and cannot rank a catalogue: give another.")
    if config.log_popularity and config.candidates not in ("batch", "all"):
        raise NrmsError("log_popularity goes with candidates batch or all.")
    if config.depth and "frozen" not in {config.tuning_of(m) for m in config.modalities}:
        raise NrmsError("depth goes with tuning frozen.")


def default_name(exp: str, given: Mapping[str, Any]) -> str:
    """The experiment's own name; with values given by hand a name of its own, so that a trial never takes the place of the real thing."""
    given = {k: v for k, v in given.items() if k not in ("device", "precision")}
    words = "-".join(re.sub(r"[^a-z0-9]+", "", f"{k}{v}".lower()) for k, v in sorted(given.items()))
    name = f"{exp}-{words}" if given else exp
    return name if NAME.fullmatch(name) and len(words) < 24 else f"{exp}-{digest(dict(given))}"


def from_notebook(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a notebook, given its `globals()`: what its cells of nothing but `name = literal` lines have set.

    papermill injects whatever it is given, known or not, in such a cell, and only warns; so the first call of every notebook collects all of it and
    hands it to `resolve`, which refuses what it does not know.
    """
    if len(namespace["In"]) < 2:  # executed without a history of cells, as nbval does: nothing but the parameters can have been set
        plain = (str, int, float, list, dict, type(None))
        return {k: v for k, v in namespace.items() if isinstance(v, plain) and not k.startswith("_") and k not in ("In", "Out")}
    names: dict[str, None] = {}
    for cell in namespace["In"]:
        try:
            lines = ast.parse(cell).body
        except SyntaxError:  # a magic
            continue
        targets = [line.targets[0] for line in lines if isinstance(line, ast.Assign) and is_literal(line.value)]
        if len(targets) == len(lines):
            names |= dict.fromkeys(t.id for t in targets if isinstance(t, ast.Name))
    return {name: namespace[name] for name in names}


def is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True
