"""How does a data set become ready, once and for all?

A data set is a folder of parquet tables whose manifest.json was written last, and which took its place by one rename: there is no half data set.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nrms import NrmsError
from nrms.config.parameters import Dataset
from nrms.data import examples, images, newsroom, splits, tables
from nrms.data.sources import im_mind, interactions, mind
from nrms.runtime.files import atomic_folder, read_json, sweep, write_json
from nrms.runtime.locks import locked
from nrms.runtime.run_record import data_folder, now

FORMAT = 2  # of the tables; a data set of another format is prepared anew
WORLD = 3  # of the code that draws demo worlds; to be raised where the same values come to draw other bytes, which a test sees


@dataclass(frozen=True)
class Tables:
    """A prepared data set in memory."""

    folder: Path
    manifest: dict
    items: tables.Items
    parts: dict[str, tables.Impressions]  # train, dev and, where there is one, test; empty for a log of interactions
    pixels: images.Pixels | None  # None for a data set prepared without pictures
    log: tables.Interactions | None = None
    vectors: dict[str, np.ndarray] = field(default_factory=dict)  # (N + 1, W) by modality, where they came with the data
    base: "Tables | None" = None  # the data set by itself, where more items stand behind its own, see `with_items`

    @property
    def news(self) -> tables.Items:
        """The items, as notebooks of 0.1 say it."""
        return self.items

    @property
    def without_added(self) -> "Tables":
        """The data set by itself: what models were made and statistics taken of."""
        return self.base or self

    def split(self, data: Dataset) -> tables.Split:
        """Which of it trains, which chooses, which judges."""
        if self.log is None:
            return splits.split_by_time(self.parts, data.valid_share)
        return splits.split_log(self.log, data.split, data.valid_share, data.test_share)

    @property
    def has_image(self) -> np.ndarray | None:
        """(N + 1,) True for items with an image, or with a vector of one that came with the data; None where there are no images at all."""
        if self.pixels is not None:
            return self.pixels.present
        return np.any(self.vectors["image"], axis=1) if "image" in self.vectors else None

    def with_items(self, more: tables.Items, pixels: images.Pixels | None = None, folder: Path | None = None) -> "Tables":
        """The same with items behind its own that are only to be ranked: nothing that a model knows of the data set changes.

        pixels: their images, (len(more), S, S, 3); without, they have none. folder: where features of these items are kept; else where the data
        set keeps its own.
        """
        items = tables.Items(*(np.concatenate(both) for both in zip(vars(self.items).values(), vars(more).values(), strict=True)))
        image_digest = pixels and (hashlib.sha256(pixels.values).digest(), pixels.present.tobytes())
        content = repr([self.content_digest, *(column.tolist() for column in vars(more).values()), image_digest])
        digests = self.manifest["tables"] | {"news.parquet": hashlib.sha256(content.encode()).hexdigest()}
        if self.pixels is not None:
            blank = np.broadcast_to(np.uint8(0), (len(more), *self.pixels.values.shape[1:]))
            values, present = (pixels.values, pixels.present) if pixels else (blank, np.zeros(len(more), bool))
            pixels = images.Pixels(images.Stacked(self.pixels.values, values), np.concatenate([self.pixels.present, present]))
        manifest = self.manifest | {"tables": digests}
        return replace(self, folder=folder or self.folder, items=items, pixels=pixels, manifest=manifest, base=self)

    @property
    def content_digest(self) -> str:
        """Changes when the texts, the images or vectors that came with the data do."""
        digests = self.manifest["tables"]
        return digests["news.parquet"] + str(self.manifest.get("images")) + "".join(digests[f"{modality}.npy"] for modality in sorted(self.vectors))

    @property
    def log_digest(self) -> str | None:
        """Changes when the interactions of a log do; None for impressions."""
        return self.manifest["tables"].get("interactions.parquet")


def preparation_digest(data: Dataset) -> str:
    """Changes when the tables would come out different: by values of the data set's file or, of a generated world, by the code that draws it."""
    code = f"world {WORLD}".encode() if data.source == "newsroom" else b""
    values = data.world
    if data.source == "interactions":
        values = (data.min_rating, data.min_length, data.log) if data.log else (data.min_rating, data.min_length)
    return hashlib.sha256(repr((FORMAT, values, data.image_size)).encode() + code).hexdigest()[:12]


def prepare(
    name: str,
    data: Dataset,
    source: Path | None = None,
    image_folder: Path | None = None,
    *,
    are_cards: bool = False,
    ids: Path | None = None,
    anew: bool = True,
) -> dict:
    """Makes data/<name> from a MIND folder or zip or a folder with a log, or generates it; returns its manifest. An existing one is replaced last.

    image_folder: of <news id>.jpg, .png or .webp files. are_cards: they are IM-MIND cards. ids: where they are named by other ids, a table of both,
    or a folder or zip with the news.tsv files that have those ids. anew=False: one of the same values that another process has made since will do.
    Raises NrmsError if a source is missing, not wanted, or too bad.
    """
    if data.source != "newsroom" and source is None:
        what = "MIND folder or zip" if data.source == "mind" else "folder with interactions.tsv and items.tsv"
        raise NrmsError(f"The data set {name} comes from a {what}: `python -m nrms prepare {name} --from FOLDER`.")
    if data.source == "newsroom" and (source is not None or data.world is None):
        raise NrmsError(f"The data set {name} is generated: leave out `--from`, and let params/data/{name}.yaml say `world:`.")
    if image_folder is None and (are_cards or ids):
        raise NrmsError("`--cards` and `--ids` say what the pictures are: give their folder too, `--images FOLDER`.")
    with locked(data_folder(name)):
        manifest = read_manifest(name)
        if anew or manifest.get("key") != preparation_digest(data):
            manifest = make(name, data, source, image_folder, are_cards=are_cards, ids=ids)
        return manifest


def read_manifest(name: str) -> dict:
    """manifest.json of a data set, or {} where there is none."""
    path = data_folder(name) / "manifest.json"
    if not path.exists():
        sweep(data_folder(name))  # it may have been killed when the old one was aside and the new one not yet there
    return read_json(path) if path.exists() else {}


def make(name: str, data: Dataset, source: Path | None, image_folder: Path | None, *, are_cards: bool, ids: Path | None) -> dict:
    """The work of `prepare`, when nobody else is at it."""
    with atomic_folder(data_folder(name)) as folder:
        if data.source == "newsroom":
            source = folder / "raw"
            newsroom.generate(data.world, source)
            image_folder = source / "images" if data.world.image_share else None
        if data.source == "interactions":
            options = {"min_rating": data.min_rating, "min_length": data.min_length, "name": data.log}
            facts = interactions.convert(source, folder, data.max_bad, **options)
            for modality in data.given:
                if modality not in facts["vectors"]:
                    raise NrmsError(f"params/data/{name}.yaml says `given: {data.given}`, but there is no {modality}.npy beside the log.")
            if image_folder is None and (source / "images").is_dir():
                image_folder = source / "images"
        else:
            facts = mind.convert(source, folder, data.max_bad)
        manifest = {"dataset": name, "format": FORMAT, "key": preparation_digest(data), "made": now(), "source": data.source, **facts}
        if image_folder is not None:
            items, store = tables.read_items(folder / "news.parquet"), folder / "images.npy"
            names, matched = im_mind.names_of_images(items, ids) if ids else (None, {})
            cut = im_mind.cover if are_cards else None
            counts = images.write_store(image_folder, items.id, data.image_size, store, names=names, cut=cut)
            manifest["images"] = counts | {"matched": matched, "sha256": images.file_digest(store)}
        manifest["example"] = examples.find(source, folder, data.log)
        paths = [*folder.glob("*.parquet"), *(folder / f"{modality}.npy" for modality in facts.get("vectors", ()))]
        manifest["tables"] = {path.name: images.file_digest(path) for path in sorted(paths)}
        write_json(folder / "manifest.json", manifest)
    return manifest


def load(name: str, data: Dataset) -> Tables:
    """The data set `name`, ready to use. A generated world that is missing or out of date is generated first.

    Raises NrmsError for a MIND data set that has not been prepared.
    """
    manifest = read_manifest(name)
    if data.source == "newsroom" and manifest.get("key") != preparation_digest(data):
        manifest = prepare(name, data, anew=False)
    elif manifest.get("format") != FORMAT:
        raise NrmsError(
            f"The data set {name} is not prepared: run `python -m nrms prepare {name} --from FOLDER` with the folder or zip of its source."
        )
    if manifest["source"] != data.source or (data.source == "interactions" and manifest["key"] != preparation_digest(data)):
        raise NrmsError(f"The data set {name} was prepared with other values of params/data/{name}.yaml than it has now: prepare it again.")
    folder = data_folder(name)
    parts = {part: tables.read_impressions(folder / f"{part}.parquet") for part in manifest.get("parts", ())}
    log = tables.read_interactions(folder / "interactions.parquet") if data.source == "interactions" else None
    vectors = {modality: np.load(folder / f"{modality}.npy", mmap_mode="r") for modality in manifest.get("vectors", ())}
    return Tables(folder, manifest, tables.read_items(folder / "news.parquet"), parts, images.read_store(folder / "images.npy"), log, vectors)
