"""Which values does an experiment have, and which a data set? Every one with its type, its default, its bounds and its meaning."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer

ROLES = ("bert", "vit", "blip")
ORDERED = ("sasrec", "bert4rec", "gru4rec", "nextitnet", "dssm")  # user encoders that learn at every place of a log
GRAPHS = ("lightgcn", "bm3", "freedom", "alignrec")  # those to which a user is a node beside the items
LOGS = (*ORDERED, "missrec", *GRAPHS)  # all that learn from a log of interactions alone
READS_MODALITIES = ("missrec", "bm3", "freedom", "alignrec")  # those that read the modalities of an item one by one
TERMS = {  # what else can be descended, and the user encoders that have what it looks at
    **dict.fromkeys(("l2", "uia", "uniform"), GRAPHS),
    **dict.fromkeys(("cca", "similarity"), ("alignrec",)),
    "content_bpr": ("freedom",),
    **dict.fromkeys(("bootstrap", "bootstrap_content"), ("bm3",)),
    **dict.fromkeys(("two_views", "interest_norm", "interest_overlap"), ("missrec",)),
}

DIGEST = "digest"  # context of a dump that is made to be digested


def later(default: Any, **options: Any) -> Any:
    """A field that experiments or data sets got when runs were there already: it is part of what a run is only where it is not its default."""
    return Field(default, json_schema_extra={"later": True}, **options)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def without_later_defaults(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """All values or, for a digest, all but those that came later and are their defaults."""
        values = dump(self)
        if info.context != DIGEST:
            return values
        added = {name for name, field in type(self).model_fields.items() if (field.json_schema_extra or {}).get("later")}
        return {name: value for name, value in values.items() if name not in added or value != type(self).model_fields[name].default}


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


class Archive(Strict):
    """What a file to be downloaded must be: known bytes, or, as whoever hosts a zip anew changes its bytes, known tables inside."""

    sha256: list[str] = Field([], description="hashes of the file as it is known to be offered, in hexadecimal digits")
    rows: dict[Literal["news.tsv", "behaviors.tsv"], int] = Field({}, description="of tables inside the zip")


class Download(Strict):
    """Where the files of a data set can be had. It changes nothing of what an experiment is."""

    licence: str = Field(description="under which the data are; said before anything is fetched")
    by_hand: str = Field(description="where a person can get the files; said when no source has them")
    sources: list[str] = Field([], description="https addresses to which the name of a file is added, in the order in which they are tried")
    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")], Archive]


# what of a data set defines its test, the queries and what they are ranked among: only rows that share it are compared
TEST_SETTINGS = ("split", "valid_share", "test_share", "rank_seen", "log", "min_length", "min_rating")


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
    log: str | None = Field(None, description="name of the log's file, without suffix, where a folder has several")
    split: Literal["leave_one_out", "time", "period", "random", "labelled"] = Field(
        "leave_one_out",
        description="of a log; a user is asked for the one item that comes next (leave_one_out, time), or for all they took in the last period, "
        "at random, or where the log's own column says so; impressions are always split by time",
    )
    test_share: float = Field(0.1, gt=0, lt=1, description="share of a log's interactions that test, where split is time, period or random")
    rank_seen: bool = Field(False, description="in ranking the catalogue the items that a user had before are candidates too")
    min_length: int = Field(3, ge=1, description="users of a log with fewer interactions are left out")
    min_rating: float | None = Field(None, description="interactions of a log with a lower rating are left out; null: a rating says nothing")
    given: list[Literal["text", "image"]] = Field([], description="modalities whose vectors came with the data; they stand for frozen encoders")
    max_bad: float = Field(0.001, ge=0, le=1, description="prepare stops above this share of bad rows")
    world: World | None = None
    download: Download | None = Field(None, description="where its files can be had; no part of what an experiment is")
    other_split: str | None = Field(None, description="a data set of the same log, split otherwise, whose results the analysis shows too")

    training: dict[str, Any] = Field({}, description="experiment values that fit this data set's size, e.g. epochs")

    @property
    def protocol(self) -> str:
        """How models are judged: on slates that were shown, or on the whole catalogue, where one item is right (`catalogue`) or several (`sets`)."""
        if self.source != "interactions":
            return "impressions"
        return "catalogue" if self.split in ("leave_one_out", "time") else "sets"

    @property
    def test_settings(self) -> dict[str, Any]:
        """{name: value} of what defines the test, for the record of a run."""
        return {name: getattr(self, name) for name in TEST_SETTINGS}


# values that say how weights are learned, not what they are: a checkpoint fits whatever they are
LEARNING = """
    question modality_dropout dropout content_dropout objective terms pruned item_drop candidates negatives temperature log_popularity mask_history
    mask_same hidden start trains epochs batch_size lr encoder_lr weight_decay by_reader reuse_steps encode_at_once warmup decay patience clip
    validations processes save_minutes device precision
""".split()


Tuning = Literal["frozen", "top", "full", "lora", "adapter", "side"]


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
    fusion: Literal["single", "sum", "concat", "hadamard", "hadamard_blank", "gate", "cross_attention", "beside", "late"] = Field(
        "single", description="vectors of modalities -> one vector; late: none, scores are blended or the user encoder takes them one by one"
    )
    modality_dropout: float = Field(0.1, ge=0, lt=1, description="share of pictures hidden from the gate in training")
    tuning: Tuning = Field("full", description="what of the pre-trained weights learns; nrms/models/items/fine_tuning.py has the list")
    image_tuning: Tuning | None = Field(None, description="the same for the image encoder, where it differs")
    tuned_layers: int | None = Field(None, ge=1, description="layers, counted from the top, that top, lora and adapter touch; null: all")
    tuned_modules: str | None = Field(None, description="ends of the names of linear modules that lora or adapter touch, a regular expression")
    rank: int = Field(8, ge=1, description="rank of LoRA, width of the bottlenecks of adapter and side")
    side_layers: int = Field(6, ge=2, description="hidden states that a side network reads at most, evenly from the embeddings to the top")
    standardise: bool = Field(True, description="frozen vectors are standardised by dimension; False: read as they came")
    features_learn: bool = Field(False, description="frozen vectors are only where weights start, which learn: as in code that calls them frozen")
    depth: int = Field(0, ge=0, description="hidden layers between frozen vectors and the item's vector; 0: a linear map")
    pooling: Literal["attention", "mean", "cls", "projected"] = Field(
        "attention",
        description="states of tokens or patches (T, .) -> one vector; not attention if frozen; projected: the vector BLIP or CLIP compares",
    )
    title_tokens: int = Field(30, ge=3, description="tokens of a title that are read, special tokens included")
    # users and scorer
    users: Literal[("nrms", "pointwise", "pointwise_unmasked", *LOGS)] = Field(
        "nrms",
        description="who the user is, given the history: in any order (nrms, dssm), in order (sasrec, bert4rec, gru4rec, nextitnet), by clusters of "
        "content (missrec), or as a node of a graph (lightgcn, bm3, freedom, alignrec); pointwise: a Transformer over history and one candidate, as "
        "the original's, with its missing masks or as it was",
    )
    layers: int = Field(
        2,
        ge=0,
        description="layers, or blocks, of the user encoder, of missrec half in its encoder and half in its decoder; of a graph the steps, 0: matrix "
        "factorisation",
    )
    wide: int = Field(256, ge=1, description="width of the hidden layer of missrec's feed-forward parts")
    interests: Literal["kmeans", "dpc", "none"] = Field("kmeans", description="how missrec finds clusters, anew every epoch; none: a control")
    interest_ratio: float = Field(0.5, gt=0, le=1, description="clusters over vectors of items' modalities")
    max_interests: int = Field(20_000, ge=1, description="most clusters, whatever the ratio: k-means takes time in proportion to clusters x vectors")
    item_tokens: Literal["sum", "separate"] = Field("sum", description="an item in missrec's decoder: the sum of its modalities, or a token each")
    blend_learns: bool = Field(True, description="how missrec weighs modalities is learned; False: their mean")
    neighbours: int = Field(10, ge=1, description="nearest items by content, in the item graph of freedom and alignrec, an item itself among them")
    item_steps: int = Field(1, ge=0, description="steps over the item graph")
    image_share: float = Field(0.1, ge=0, le=1, description="share of pictures in the item graph, where text has one too")
    repeats: bool = Field(
        False, description="a learned number is added to scores of items that the history has: people take an item again, or never do"
    )
    dim: int = Field(256, ge=4, description="D, width of item and user vectors")
    heads: int = Field(16, ge=1, description="H, attention heads of the user encoder; divides dim")
    query_dim: int = Field(200, ge=1, description="width of additive attention")
    dropout: float = Field(0.1, ge=0, lt=1)
    content_dropout: float | None = Field(None, ge=0, lt=1, description="of frozen vectors, before they are projected; null: as dropout")
    history: int = Field(50, ge=1, description="L, most recent clicks that are read")
    # objective
    objective: Literal["listwise", "pointwise", "bce", "bpr", "none"] = Field(
        "listwise",
        description="listwise: which was clicked, a softmax; bpr: each pair; bce: each candidate alone; pointwise: so too, clicks weighed 25 times; "
        "none: nothing of the scores, terms alone",
    )
    terms: dict[str, float] = Field({}, description="what else is descended, with its weight; nrms/training/losses.py has the list")
    pruned: float = Field(0.0, ge=0, lt=1, description="share of the edges that freedom leaves out in an epoch of training")
    item_drop: float = Field(0.0, ge=0, lt=1, description="share of the history that missrec leaves out for its second view; 0: there is none")
    candidates: Literal["slate", "drawn", "batch", "all"] = Field(
        "slate",
        description="what a click is held against: what the impression showed; of a log, K drawn at random, the items of the batch, or all items",
    )
    negatives: int = Field(4, ge=1, description="K, candidates per click that were not clicked: from the same impression, or drawn")
    temperature: float = Field(1.0, gt=0, description="scores are divided by it in the loss")
    log_popularity: bool = Field(False, description="log popularity is taken off the scores in the loss, of candidates batch and all")
    mask_history: bool = Field(True, description="other items that the user has are no candidates in the loss, of candidates batch and all")
    mask_same: bool = Field(True, description="other places of the same item in the batch are no candidates in the loss, of candidates batch")
    hidden: float = Field(0.2, gt=0, lt=1, description="share of places that bert4rec must find again")
    # training
    start: str | None = Field(None, description="a best.safetensors whose weights are taken; its path from the working directory, or from home")
    trains: list[str] = Field(
        [], description="patterns of the names of weights that learn, all others stay as they were in `start`, but for `repeats`; empty: whatever can"
    )
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
    decay: bool = Field(True, description="the learning rate falls to 0 after its rise; False: it stays, until `patience` is at an end")
    patience: int | None = Field(None, ge=1, description="epochs without a better validation after which training stops; null: all epochs are done")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    validations: int = Field(2, ge=1, description="validations per epoch; the best one's weights are kept")
    processes: int = Field(1, ge=1, description="processes of this machine that train together, one for each GPU; under torchrun as many as it says")
    save_minutes: float = Field(10, ge=0, description="minutes of training after which all is saved at the latest; at validations it is, too")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 autocast on GPUs that have it; weights stay fp32")

    @property
    def modalities(self) -> list[str]:
        """What of a news is read, first what every news has."""
        return [m for m in ("joint", "text", "ids", "image") if getattr(self, m)]

    def tuning_of(self, modality: str) -> str:
        return (self.image_tuning if modality == "image" else None) or self.tuning

    @property
    def frozen_dropout(self) -> float:
        """Dropout of frozen vectors, before they are projected."""
        return self.dropout if self.content_dropout is None else self.content_dropout
