"""What is a text as a vector, without training? TF-IDF, or vectors that came with the data."""

import numpy as np
import pandas as pd
from scipy import sparse

from nrms.data.prepare import Tables


def tfidf(titles: np.ndarray) -> sparse.csr_matrix:
    """(N + 1, words) rows of unit length: words of lower-cased titles, weighed by log(N / news that have it)."""
    tokens = [title.lower().split() for title in titles]
    row = np.repeat(np.arange(len(titles)), [len(words) for words in tokens])
    word, known = pd.factorize(np.array([token.strip(".,:;!?'\"()") for words in tokens for token in words], object))
    counts = sparse.csr_matrix((np.ones(len(word)), (row, word)), shape=(len(titles), max(len(known), 1)))
    titles_with = np.asarray((counts > 0).sum(0)).ravel()
    weighed = counts @ sparse.diags(np.log(len(titles) / np.maximum(titles_with, 1)))
    norm = np.sqrt(np.asarray(weighed.multiply(weighed).sum(1)).ravel())
    return sparse.diags(1 / np.where(norm > 0, norm, 1)) @ weighed


def text_vectors(tables: Tables) -> np.ndarray | sparse.csr_matrix:
    """(N + 1, W) rows of unit length, or zero: the vectors of texts that came with the data, else TF-IDF of title and abstract."""
    if "text" in tables.vectors:
        vectors = np.asarray(tables.vectors["text"], np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return tfidf(np.array([f"{t} {a}" for t, a in zip(tables.items.title, tables.items.abstract, strict=True)]))
