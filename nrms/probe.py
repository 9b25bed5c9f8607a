"""What do item vectors know before any recommender is trained on them? Three cheap checks of AlignRec (Liu et al., CIKM 2024), for any vectors.

    zero_shot    all items ranked by cosine to the mean of what the user had; the protocol's own metrics
    item_cf      share of an item's k nearest by vectors that are among its k nearest by who took them, and what chance would give
    masked       zero_shot, where a fixed random half of the items has lost one modality; a joint encoder reads those anew, without it

Vectors are (N + 1, W), row 0 padding, zero where an item has none: those that came with the data, of an encoder, of a trained model.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from nrms.config import Dataset
from nrms.data.tables import Interactions, Split
from nrms.metrics import PROTOCOLS
from nrms.ranking import metrics_of, rank_catalogue
from nrms.references import cooccurrence, product_scorer

K = 10
HISTORY = 50  # most recent items that are read


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; rows of zeros stay."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def centred(vectors: np.ndarray) -> np.ndarray:
    """Without what all items share: the mean over items that have a vector is taken off theirs, then rows of length 1."""
    vectors = np.asarray(vectors, np.float32)
    has = np.any(vectors, axis=1)
    return unit(np.where(has[:, None], vectors - vectors[has].mean(0), 0))


def zero_shot(vectors: np.ndarray, split: Split, data: Dataset) -> dict[str, float]:
    """Metrics of the test questions, by cosine of items to the mean of the history; nothing is trained."""
    scorer = product_scorer(split.test, unit(vectors), HISTORY, square=False)
    rows = metrics_of(rank_catalogue(scorer, split.test, len(vectors), seen=data.rank_seen), split.test, data)
    return {name: float(values.mean()) for name, values in rows.items()}


def item_cf(vectors: np.ndarray, train: Interactions, k: int = K) -> tuple[float, float]:
    """Mean share of an item's k nearest by cosine that are among its k nearest by who took them, and its expectation for random vectors.

    Over items that share a user with at least one other item; of fewer than k such others, all. Neither side counts the item itself.
    """
    size, rows = len(vectors), unit(vectors)
    table = cooccurrence(train.items, size).tocsr()
    degree = np.diff(table.indptr)
    items = np.flatnonzero(degree > 0)
    shares, chance = [], []
    for part in np.array_split(items, -(-len(items) // 512)):
        near = torch.from_numpy(rows[part] @ rows.T)
        near[:, 0] = -torch.inf
        near[torch.arange(len(part)), torch.from_numpy(part)] = -torch.inf
        nearest = near.topk(min(k, size - 2)).indices.numpy()
        for i, own in zip(part, nearest, strict=True):
            others, weights = table.indices[table.indptr[i] : table.indptr[i + 1]], table.data[table.indptr[i] : table.indptr[i + 1]]
            best = others[np.argsort(-weights, kind="stable")[:k]]
            shares.append(len(np.intersect1d(own, best)) / len(best))
            chance.append(min(k, size - 2) / (size - 2))
    return float(np.mean(shares)), float(np.mean(chance))


def half_masked(size: int) -> np.ndarray:
    """(size,) True for the half of the items that lose a modality, always the same."""
    flags = np.zeros(size, bool)
    flags[1:] = np.random.default_rng(0).permutation(size - 1) < (size - 1) // 2
    return flags


def beside(parts: Mapping[str, np.ndarray], masked: str | None = None) -> np.ndarray:
    """Vectors of several modalities side by side, each centred and of length 1; `masked`: the modality that half of the items lose."""
    tables = {name: centred(table) for name, table in parts.items()}
    if masked is not None:
        tables[masked] = np.where(half_masked(len(tables[masked]))[:, None], 0, tables[masked])
    return np.concatenate(list(tables.values()), 1)


@torch.inference_mode()
def re_encoded(encoder: torch.nn.Module, masked: np.ndarray, batch: int = 256) -> np.ndarray:
    """Vectors (N + 1, W) of a joint encoder that was not shown the pictures of the items `masked` (N + 1,): there it reads the text alone."""
    pictures = encoder.eval().content.pictures
    shown = pictures.present
    pictures.present = shown & ~torch.from_numpy(masked).to(shown.device)
    try:
        ids = torch.arange(1, len(masked), device=shown.device)
        found = torch.cat([encoder.features(part).float() for part in ids.split(batch)]).cpu().numpy()
    finally:
        pictures.present = shown
    return np.concatenate([np.zeros_like(found[:1]), found])


def probe(named: Mapping[str, np.ndarray], split: Split, data: Dataset) -> pd.DataFrame:
    """One row for each set of vectors: zero-shot main metric of the protocol, item-CF overlap, and the overlap of chance."""
    lines, metric = {}, PROTOCOLS[data.protocol].main
    for name, vectors in named.items():
        overlap, chance = item_cf(vectors, split.train)
        lines[name] = {f"zero-shot {metric}": zero_shot(vectors, split, data)[metric], f"item-CF overlap@{K}": overlap, "by chance": chance}
    return pd.DataFrame(lines).T


def probe_content(vectors: Mapping[str, np.ndarray], split: Split, data: Dataset) -> pd.DataFrame:
    """`probe` of frozen content, (N + 1, W) by modality: each as it is and without what all share, together, each masked; and of random vectors."""
    size = len(next(iter(vectors.values())))
    named = {"random": np.random.default_rng(0).standard_normal((size, 64)).astype(np.float32)}
    named |= {name: table for name, table in vectors.items()} | {f"{name}, centred": centred(table) for name, table in vectors.items()}
    if len(vectors) > 1:
        named["together"] = beside(vectors)
        named |= {f"together, half without {name}": beside(vectors, name) for name in vectors}
    return probe(named, split, data)
