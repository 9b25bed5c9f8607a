"""Which parts of the test are looked at by themselves? Slices of impressions, of items, of candidates."""

import numpy as np

from nrms.data.prepare import Tables
from nrms.data.tables import Split, unseen
from nrms.evaluation.metrics import rank_metrics, set_metrics

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
        own = item_slices(tables, split) if (test.candidates.lengths == 1).all() else {}
        return {"all": np.ones(len(test), bool)} | own | by_length
    new = unseen([split.train, split.valid], size)[test.candidates.values]
    clicked_new = np.bincount(test.candidates.rows[test.clicked & new], minlength=len(test)) > 0
    return {"all": np.ones(len(test), bool)} | by_length | {"a clicked news is new": clicked_new, "no clicked news is new": ~clicked_new}


def item_slices(tables: Tables, split: Split) -> dict[str, np.ndarray]:
    """{name: bool per right item of the test part of a log}: by how often training has the item, and by whether it has a picture."""
    item = split.test.candidates.values
    count = np.bincount(split.train.items.values, minlength=len(tables.items))[item]
    rarity = {f"item {name}": (count >= low) & (count <= high) for name, (low, high) in RARITY.items()}
    has = tables.pictured
    return rarity | ({} if has is None else {"item with a picture": has[item], "item without": ~has[item]})


def among(tables: Tables, split: Split, found: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """{name: metrics (n,)} of candidates that are judged by themselves, the others left out; NaN for an impression that has none.

    Of impressions candidates with and without a picture, ranked among themselves; of users with several right items those of `item_slices`, their
    ranks as they are.
    """
    test, result = split.test, {}
    several = "better" in found and bool((test.candidates.lengths > 1).any())
    if "scores" in found and tables.pixels is not None:
        pictured = tables.pixels.present[test.candidates.values]
        parts = {"candidates with a picture": pictured, "candidates without": ~pictured}
    else:
        parts = item_slices(tables, split) if several else {}
    for name, kept in parts.items():
        offsets = np.concatenate([[0], np.cumsum(kept)])[test.candidates.offsets]
        if "scores" in found:
            result[name] = rank_metrics(found["scores"][kept], test.clicked[kept], offsets)
            continue
        some = np.diff(offsets) > 0
        values = set_metrics(found["better"][kept], found["tied"][kept], np.r_[0, offsets[1:][some]]) if some.any() else {}
        result[name] = {metric: np.full(len(test), np.nan) for metric in values}
        for metric, column in values.items():
            result[name][metric][some] = column
    return {name: values for name, values in result.items() if values}
