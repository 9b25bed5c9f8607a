"""Which parts of the test are looked at by themselves? Slices of impressions, of items, of candidates."""

import numpy as np

from nrms.data.prepare import Tables
from nrms.data.tables import Split, unseen
from nrms.evaluation.training_items import item_counts

RARITY = {
    "new": (0, 0),
    "in training 1-5": (1, 5),
    "in training 6-20": (6, 20),
    "in training 21-100": (21, 100),
    "in training over 100": (101, 1 << 62),
}


def slices(tables: Tables, split: Split) -> dict[str, np.ndarray]:
    """{name: (n,) bool} of the test impressions; `all` first."""
    test, size = split.test, len(tables.items)
    length = test.history.lengths
    by_length = {
        "no history": length == 0,
        "history 1-10": (length >= 1) & (length <= 10),
        "history 11-50": (length >= 11) & (length <= 50),
        "history over 50": length > 50,
    }
    if tables.log is not None:
        by_item = item_slices(tables, split) if (test.candidates.lengths == 1).all() else {}
        return {"all": np.ones(len(test), bool)} | by_item | by_length
    new = unseen(split, size)[test.candidates.values]
    clicked_new = np.bincount(test.candidates.rows[test.clicked & new], minlength=len(test)) > 0
    return {"all": np.ones(len(test), bool)} | by_length | {"a clicked news is new": clicked_new, "no clicked news is new": ~clicked_new}


def item_slices(tables: Tables, split: Split) -> dict[str, np.ndarray]:
    """{name: bool per relevant item of the test part of a log}: by how often training has the item, and by whether it has an image."""
    item = split.test.candidates.values
    count = item_counts(split.train, len(tables.items))[item]
    rarity = {f"item {name}": (count >= low) & (count <= high) for name, (low, high) in RARITY.items()}
    has_image = tables.has_image
    return rarity | ({} if has_image is None else {"item with a picture": has_image[item], "item without": ~has_image[item]})


def candidate_slices(tables: Tables, split: Split) -> dict[str, np.ndarray]:
    """{name: bool per candidate of the test part} of candidates that are judged by themselves, the others left out.

    Of impressions candidates with and without an image, ranked among themselves; of users with several relevant items those of `item_slices`, their
    ranks as they are. Users with one relevant item each are in `slices`.
    """
    candidates = split.test.candidates
    if tables.log is not None:
        by_item = item_slices(tables, split) if (candidates.lengths > 1).any() else {}
        return {name: flags for name, flags in by_item.items() if flags.any()}
    if tables.pixels is None:
        return {}
    has_image = tables.pixels.present[candidates.values]
    return {"candidates with a picture": has_image, "candidates without": ~has_image}
