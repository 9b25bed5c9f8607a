"""What do item vectors know before any recommender is trained on them? Three cheap checks of AlignRec (Liu et al., CIKM 2024), for any vectors.

    zero_shot    all items, or a slate, ranked by cosine to the mean of what the user had; the protocol's main metric
    item_cf      share of an item's k nearest by vectors that are among its k nearest by who took them
    masked       both, where a fixed half of the items has lost one modality; a joint encoder reads those anew, without it

Vectors are (N + 1, W), row 0 padding, zero where an item has none: those that came with the data, of an encoder, of a trained model. Only items that
have a vector are judged, and offered: the others are taken out of the data first, of histories and of what is to be found, and counted.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from nrms.config.parameters import Dataset
from nrms.data.tables import Impressions, Ragged, Split
from nrms.evaluation.baselines import cooccurrence, product_scorer, score_content
from nrms.evaluation.protocols import ITEM_CF, PROBE_HISTORY, PROBE_NEIGHBOURS, PROTOCOLS
from nrms.evaluation.ranking import rank_catalogue
from nrms.evaluation.scores_and_ranks import SlateScores
from nrms.evaluation.statistics import interval
from nrms.evaluation.training_items import items_by_user

# vectors -------------------------------------------------------------------------------------------------------------


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; rows of zeros stay."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def centred(vectors: np.ndarray) -> np.ndarray:
    """Without what all items share: the mean over items that have a vector is taken off theirs, then rows of length 1.

    An item that is the mean itself, as one of a table of ids that training does not have, has none any more: what rounding leaves says nothing.
    """
    vectors = np.asarray(vectors, np.float32)
    has = np.any(vectors, axis=1)
    if not has.any():
        return vectors
    moved = np.where(has[:, None], vectors - vectors[has].mean(0, dtype=np.float64).astype(np.float32), 0)
    least = 1e-5 * np.linalg.norm(vectors[has], axis=1).mean()
    return unit(np.where(np.linalg.norm(moved, axis=1, keepdims=True) > least, moved, 0))


def half_masked(both: np.ndarray) -> np.ndarray:
    """(N + 1,) True for the half of the items `both` (N + 1,) that lose a modality, always the same: those that have it, and something else."""
    items = np.flatnonzero(both)
    flags = np.zeros(len(both), bool)
    flags[np.random.default_rng(0).permutation(items)[: len(items) // 2]] = True
    return flags


def beside(parts: Mapping[str, np.ndarray], masked: str | None = None) -> np.ndarray:
    """Vectors of several modalities side by side, each centred and of length 1.

    masked: the modality that half of the items lose that have it and another; so whoever had a vector still has one.
    """
    tables = {name: centred(table) for name, table in parts.items()}
    if masked is not None:
        has = {name: np.any(table, axis=1) for name, table in tables.items()}
        others = np.any([flags for name, flags in has.items() if name != masked], axis=0)
        tables[masked] = np.where(half_masked(has[masked] & others)[:, None], 0, tables[masked])
    return np.concatenate(list(tables.values()), 1)


@torch.inference_mode()
def re_encoded(encoder: torch.nn.Module, vectors: np.ndarray, masked: np.ndarray, batch: int = 256) -> np.ndarray:
    """The `vectors` (N + 1, W) of a joint encoder as they were if it had not been shown the images of the items `masked` (N + 1,).

    Those it reads anew, the text alone.
    """
    images = encoder.eval().content.images
    present, table = images.present, np.array(vectors, np.float32)
    ids = torch.from_numpy(np.flatnonzero(masked)).to(present.device)
    images.present = present & ~torch.from_numpy(masked).to(present.device)
    try:
        for part in ids.split(batch):
            table[part.cpu().numpy()] = encoder.features(part).float().cpu().numpy()
    finally:
        images.present = present
    return table


def random_vectors(size: int) -> np.ndarray:
    """(size, 64) normal numbers, row 0 zero, always the same: they know nothing."""
    vectors = np.random.default_rng(0).standard_normal((size, 64)).astype(np.float32)
    vectors[0] = 0
    return vectors


# what can be asked of them -------------------------------------------------------------------------------------------


def renumbered(rows: Ragged, numbers: np.ndarray) -> Ragged:
    """The rows with the numbers (N + 1,) that items have now; items whose number is 0 are taken out."""
    values = numbers[rows.values]
    return Ragged(values, rows.offsets).where(values > 0)


def queries_of(test: Impressions, numbers: np.ndarray, *, slates: bool) -> Impressions:
    """What can be asked of items with `numbers` (N + 1,) above 0: there is something before, something relevant, and in a slate something else."""
    clicked = test.clicked[numbers[test.candidates.values] > 0]
    left = replace(test, history=renumbered(test.history, numbers), candidates=renumbered(test.candidates, numbers), clicked=clicked)
    relevant = np.bincount(left.candidates.rows[clicked], minlength=len(test))
    can_be_asked = (left.history.lengths > 0) & (relevant > 0)
    return left.take(np.flatnonzero(can_be_asked & (relevant < left.candidates.lengths) if slates else can_be_asked))


# the checks ----------------------------------------------------------------------------------------------------------


def zero_shot(vectors: np.ndarray, test: Impressions, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The protocol's main metric of every query (n,), by cosine of items to the mean of the history, and its expectation for a random order.

    All items have a vector. Nothing is trained.
    """
    vectors = unit(vectors)
    if data.protocol == "impressions":
        scores = score_content(vectors, test, PROBE_HISTORY)
        rankings = [SlateScores(test, s) for s in (scores, np.zeros_like(scores))]
    else:
        # all tied: every order
        scorers = product_scorer(test, vectors, PROBE_HISTORY, square=False), lambda rows: torch.zeros(len(rows), len(vectors))
        rankings = [rank_catalogue(s, test, len(vectors), protocol=data.protocol, seen=data.rank_seen) for s in scorers]
    by_cosine, by_chance = (ranking.metrics()[PROTOCOLS[data.protocol].main] for ranking in rankings)
    return by_cosine, by_chance


def among_largest(values: torch.Tensor, k: int) -> torch.Tensor:
    """The probability of each value (..., C) to be among the k largest of its row, where ties are drawn."""
    bar = values.topk(k).values[..., -1:]
    above, tied = values > bar, values == bar
    return above + tied * (k - above.sum(-1, keepdim=True)) / tied.sum(-1, keepdim=True)


def item_cf(vectors: np.ndarray, log: Ragged, k: int = PROBE_NEIGHBOURS) -> tuple[np.ndarray, float]:
    """Share of an item's k nearest by cosine that are among its k nearest by who took them (n,), and its expectation for random vectors.

    Of the n items that share a user with another; of fewer than k such others, all. Neither side counts the item itself; ties are drawn. All items
    have a vector. log: items of each user.
    """
    size, rows = len(vectors), unit(vectors)
    table = cooccurrence(log, size).tocsr()
    items, most = np.flatnonzero(np.diff(table.indptr)), min(k, size - 2)
    shares = []
    for block in np.array_split(items, -(-len(items) // 512) or 1):
        cosines = torch.from_numpy(rows[block] @ rows.T)
        cosines[:, 0] = -torch.inf
        cosines[torch.arange(len(block)), torch.from_numpy(block)] = -torch.inf
        is_near = among_largest(cosines, most) if len(block) else cosines
        for i, near in zip(block, is_near, strict=True):
            others, weights = (torch.from_numpy(x[table.indptr[i] : table.indptr[i + 1]]) for x in (table.indices, table.data))
            best = min(k, len(others))
            shares.append(float((near[others.long()] * among_largest(weights, best)).sum()) / best)
    return np.array(shares), most / (size - 2) if size > 2 else np.nan


def probe_one(vectors: np.ndarray, split: Split, data: Dataset) -> dict[str, float]:
    """One row of `probe`."""
    has = np.any(vectors, axis=1) & (np.arange(len(vectors)) > 0)
    numbers = np.where(has, np.cumsum(has), 0).astype(np.int32)
    table = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), np.asarray(vectors, np.float32)[has]])
    test, log = queries_of(split.test, numbers, slates=data.protocol == "impressions"), renumbered(items_by_user(split.train), numbers)
    per_query, chance = zero_shot(table, test, data) if len(test) else (np.zeros(0), np.zeros(0))
    line = {}
    for name, values, by_chance in ((PROTOCOLS[data.protocol].zero_shot, per_query, mean(chance)), (ITEM_CF, *item_cf(table, log))):
        low, high = interval(values)
        line |= {name: mean(values), f"{name}_low": float(low), f"{name}_high": float(high), f"{name}, by chance": by_chance}
    return line | {"items": int(has.sum()), "all items": len(vectors) - 1, "questions": len(test), "all questions": len(split.test)}


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def probe(named: Mapping[str, np.ndarray], split: Split, data: Dataset) -> pd.DataFrame:
    """One row for each set of vectors (N + 1, W), by name.

    zero-shot <label of the protocol's main metric> and item-CF overlap@10: means; *_low and *_high: their 95 % bootstrap interval over questions
    and over items; *, by chance: their expectation for vectors that know nothing. Nothing where nothing could be asked. items: how many have a
    vector, of `all items`; questions: how many could be asked, of `all questions` of the test part.
    """
    counts = ("items", "all items", "questions", "all questions")
    return pd.DataFrame({name: probe_one(vectors, split, data) for name, vectors in named.items()}).T.astype(dict.fromkeys(counts, int))


def in_common(named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same vectors, of the items alone that have one in every set: what they reach can be compared, whatever each of them covers."""
    has = np.all([np.any(vectors, axis=1) for vectors in named.values()], axis=0)
    return {name: np.where(has[:, None], vectors, 0) for name, vectors in named.items()}


def variants(name: str, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Vectors as they are, and without what all items share."""
    return {name: np.asarray(vectors, np.float32), f"{name}, centred": centred(vectors)}


def together(parts: Mapping[str, np.ndarray], name: str = "together") -> dict[str, np.ndarray]:
    """Vectors of several modalities side by side, whole and with each of them lost by half of the items; nothing of fewer than two."""
    if len(parts) < 2:
        return {}
    return {name: beside(parts)} | {f"{name}, half without {part}": beside(parts, part) for part in parts}


def probe_content(vectors: Mapping[str, np.ndarray], split: Split, data: Dataset) -> pd.DataFrame:
    """`probe` of frozen content, (N + 1, W) by modality: each as it is and centred, together, each masked; and of random vectors."""
    named = {"random": random_vectors(len(next(iter(vectors.values()))))}
    for name, table in vectors.items():
        named |= variants(name, table)
    return probe(named | together(vectors), split, data)
