"""What is the ordinary way? What most code of this field does, written out, so that ours can be timed against it; a test shows that results agree.

Every place of a batch is encoded, padding included, each title padded to the longest allowed; every impression is judged on its own; every line is
split in Python; every catalogue is sorted.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from nrms.data.batches import Batch
from nrms.data.sources import mind
from nrms.models.recommender import Recommender
from nrms.training.losses import listwise

SLICE = 8  # rows of a batch that the plain way encodes at once; more would not fit in memory


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def autocast() -> torch.autocast:
    """bf16 on a GPU, nothing on a CPU: the same for both ways."""
    return torch.autocast(device(), torch.bfloat16, enabled=device() == "cuda")


def plain_scores(model: Recommender, batch: Batch) -> torch.Tensor:
    """Scores (B, C) as of `model(batch)`, with every place of every row encoded, padding too, and every title padded to the longest allowed."""
    encoder = model.items.encoders["text"]
    history, mask = batch.history[batch.history_id], batch.history_mask[batch.history_id]
    places = torch.cat([history, batch.candidates], 1)  # (B, L + C)
    given, seen = encoder.content(places.flatten())
    missing = encoder.title_tokens - seen.shape[1]
    given, seen = {k: F.pad(v, (0, missing)) for k, v in given.items()}, F.pad(seen, (0, missing))
    states = encoder.model(**given).last_hidden_state
    vectors = encoder.project(encoder.dropout(encoder.pool(states, seen))).view(*places.shape, -1)
    past, candidates = vectors.split([history.shape[1], batch.candidates.shape[1]], 1)
    return model.users.score(model.users(torch.where(mask[..., None], past, 0), mask), candidates)


def plain_step(model: Recommender, batch: Batch) -> float:
    """Loss and gradients of a batch, earlier ones gone, in slices of rows, whose gradients add up: what fits in memory."""
    model.zero_grad()
    total = 0.0
    for begin in range(0, len(batch), SLICE):
        part = rows_of(batch, slice(begin, begin + SLICE))
        with autocast():
            scores = plain_scores(model, part)
        loss = listwise(scores, part.candidate_mask, part.clicked) * len(part) / len(batch)
        loss.backward()
        total += loss.item()
    return total


def rows_of(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.history, batch.history_mask, *(getattr(batch, k)[rows] for k in ("history_id", "candidates", "candidate_mask", "clicked")))


def plain_metrics(scores: np.ndarray, clicked: np.ndarray, offsets: np.ndarray) -> float:
    """Mean AUC and nDCG, impression by impression, by scikit-learn; their sum, so that nothing is left out."""
    from sklearn.metrics import ndcg_score, roc_auc_score

    found = []
    for a, b in itertools.pairwise(offsets):
        y, s = clicked[a:b], scores[a:b]
        if 0 < y.sum() < len(y):
            found.append((roc_auc_score(y, s), ndcg_score([y], [s], k=5), ndcg_score([y], [s], k=10)))
    return float(np.mean(found, 0).sum())


def plain_reading(path: Path, rows: int) -> int:
    """The first `rows` lines of a behaviors.tsv as Python lists, the way notebooks do it with pandas. Returns the number of candidates."""
    table = pd.read_csv(path, sep="\t", header=None, names=["id", "user", "time", "history", "shown"], nrows=rows, dtype=str)
    table["time"] = pd.to_datetime(table["time"], format=mind.TIME)
    table["history"] = table["history"].fillna("").apply(lambda text: text.split())
    table["candidates"] = table["shown"].apply(lambda text: [word.split("-")[0] for word in text.split()])
    table["clicked"] = table["shown"].apply(lambda text: [int(word.split("-")[1]) for word in text.split()])
    return int(table["candidates"].apply(len).sum())


def plain_ranks(states: torch.Tensor, items: torch.Tensor, target: np.ndarray) -> np.ndarray:
    """The rank of each user's relevant item (n,) among all items (N + 1, D), row 0 none, by sorting all scores of every user."""
    scores = states @ items.T
    scores[:, 0] = -torch.inf
    order = scores.argsort(dim=1, descending=True).numpy()
    return (order == target[:, None]).argmax(1) + 1
