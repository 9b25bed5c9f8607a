"""What do scorers reach that learn nothing, and, where the truth is known, scorers that know it? Baselines and ceilings, rows of every table."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy import sparse

from nrms.config.parameters import Dataset
from nrms.data.prepare import Tables
from nrms.data.tables import Impressions, Ragged, Split
from nrms.data.text_vectors import text_vectors, tfidf
from nrms.evaluation.ranking import TOP, Scorer, rank_catalogue
from nrms.evaluation.scores_and_ranks import CatalogueRanks, SlateScores
from nrms.evaluation.training_items import item_counts
from nrms.runtime.progress import progress

SLATES_AT_ONCE = 256  # that are scored by content
BASELINES = {
    "random": "scores drawn at random",
    "popularity": "clicks in the train part",
    "recency": "the later first shown, the higher",
    "content": "TF-IDF cosine of the title to the mean of the history's titles, nothing trained",
}
CATALOGUE_BASELINES = {
    "random": "scores drawn at random",
    "popularity": "interactions in the training part",
    "cooccurrence": "cosine of who took an item with who took those of the history, summed",
    "content": "cosine of the item's text to the mean of the history's: of the vectors that came with the data, else TF-IDF; nothing trained",
}
CEILINGS = {
    "ceiling": "the true utility without its noise: no model can do better on average",
    "ceiling_text": "the true taste for what titles say, alone",
    "ceiling_image": "the true taste for what pictures show, alone",
    "ceiling_history": "a nearly best reading of the history, given the true factors of all news, pictures and freshness included",
}


def history_counts(test: Impressions, rows: np.ndarray, history: int, size: int) -> sparse.csr_matrix:
    """(R, N + 1): how often each item is among the last `history` of the history of each of these rows."""
    past, mask = test.history.pad(rows, history)
    row = np.nonzero(mask)[0]
    return sparse.csr_matrix((np.ones(len(row), np.float32), (row, past[mask])), shape=(len(rows), size))


def score_popularity(split: Split, test: Impressions, size: int) -> np.ndarray:
    clicks = item_counts(split.train, size) + item_counts(split.valid, size)
    return clicks[test.candidates.values].astype(np.float32)


def score_recency(split: Split, test: Impressions, size: int) -> np.ndarray:
    """A news is as new as the first impression that showed it or whose history holds it; no label is looked at."""
    first = np.full(size, np.iinfo(np.int64).max)
    for part in (split.train, split.valid, test):
        np.minimum.at(first, part.candidates.values, np.repeat(part.time, part.candidates.lengths))
    old = np.concatenate([split.train.history.values, split.valid.history.values])
    first[old] = np.minimum(first[old], split.train.time.min())
    return (first[test.candidates.values] - split.train.time.min()).astype(np.float64)


def score_content(vectors: np.ndarray | sparse.csr_matrix, test: Impressions, history: int) -> np.ndarray:
    """Products of the vectors (N + 1, W) of candidates with the sum of the history's; over its length, which ranks nothing, that is the mean."""
    flat = np.empty(len(test.candidates.values), np.float32)
    for rows in progress(np.array_split(np.arange(len(test)), -(-len(test) // SLATES_AT_ONCE)), "content similarity"):
        slates = test.candidates.take(rows)
        users, items = (history_counts(test, rows, history, vectors.shape[0]) @ vectors)[slates.rows], vectors[slates.values]
        products = users.multiply(items).sum(1) if sparse.issparse(users) else np.einsum("cw,cw->c", users, items)
        flat[test.candidates.index(rows)] = np.asarray(products).ravel()
    return flat


def references(tables: Tables, data: Dataset) -> dict[str, str]:
    """{name: what it is} of every baseline and, where truth.parquet is there, every ceiling of a data set."""
    if data.protocol != "impressions":
        return CATALOGUE_BASELINES
    return BASELINES | (CEILINGS if truth_of(tables).exists() else {})


def truth_of(tables: Tables) -> Path:
    return tables.folder / "raw" / "truth.parquet"


def reference_rankings(tables: Tables, split: Split, data: Dataset, history: int) -> Iterator[tuple[str, SlateScores | CatalogueRanks]]:
    """(name, what it says of the test queries) of all `references`; `history`: most recent items that are read."""
    if data.protocol == "impressions":
        for name, scores in slate_scores(tables, split, history):
            yield name, SlateScores(split.test, scores)
    else:
        for name, scorer in catalogue_scorers(tables, split, history):
            yield name, rank_catalogue(scorer, split.test, len(tables.items), protocol=data.protocol, seen=data.rank_seen, top=TOP)


def slate_scores(tables: Tables, split: Split, history: int) -> Iterator[tuple[str, np.ndarray]]:
    """(name, flat scores of the test candidates) of every baseline and ceiling of impressions."""
    test, size = split.test, len(tables.items)
    yield "random", np.random.default_rng(0).random(len(test.candidates.values)).astype(np.float32)
    yield "popularity", score_popularity(split, test, size)
    yield "recency", score_recency(split, test, size)
    yield "content", score_content(tfidf(tables.items.title), test, history)
    if truth_of(tables).exists():
        table = pq.read_table(truth_of(tables))
        truth = {name: table[name].combine_chunks().flatten().to_numpy() for name in ("text", "image", "freshness", "history")}
        yield "ceiling", truth["text"] + truth["image"] + truth["freshness"]
        for name in ("text", "image", "history"):
            yield f"ceiling_{name}", truth[name]


def catalogue_scorers(tables: Tables, split: Split, history: int) -> Iterator[tuple[str, Scorer]]:
    """(name, scorer of the whole catalogue for the test queries) of every baseline of a log."""
    test, size, log = split.test, len(tables.items), split.train.items
    rng = np.random.default_rng(0)
    yield "random", lambda rows: torch.from_numpy(rng.random((len(rows), size), dtype=np.float32))
    count = torch.from_numpy(item_counts(split.train, size).astype(np.float32))
    yield "popularity", lambda rows: count.repeat(len(rows), 1)
    yield "cooccurrence", product_scorer(test, cooccurrence(log, size), history)
    yield "content", product_scorer(test, text_vectors(tables), history, square=False)


def cooccurrence(log: Ragged, size: int) -> sparse.csr_matrix:
    """(N + 1, N + 1): for two different items the cosine of the sets of users who have them."""
    took = sparse.csr_matrix((np.ones(len(log.values), np.float32), (log.rows, log.values)), shape=(len(log), size))
    took.data[:] = 1  # whoever took an item twice counts once
    both = (took.T @ took).tocsr()
    norm = np.sqrt(np.maximum(both.diagonal(), 1))
    both.setdiag(0)
    scale = sparse.diags(1 / norm)
    return (scale @ both @ scale).tocsr().astype(np.float32)


def product_scorer(test: Impressions, items: np.ndarray | sparse.csr_matrix, history: int, square: bool = True) -> Scorer:
    """Scores of all items for histories: the sum of the rows of a `square` table of item by item, else the mean's product with the items' vectors."""

    def scores_of(rows: np.ndarray) -> torch.Tensor:
        users = history_counts(test, rows, history, items.shape[0]) @ items
        scores = users if square else users @ items.T
        return torch.from_numpy(np.ascontiguousarray(scores.toarray() if sparse.issparse(scores) else scores, dtype=np.float32))

    return scores_of
