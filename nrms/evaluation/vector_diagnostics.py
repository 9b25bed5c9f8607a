"""How do the vectors of a trained recommender lie? Near what belongs together, spread or collapsed, by modality, by popularity: DIAGNOSTICS of
protocols.py, one number each, for every system that scores by vectors.

Alignment and uniformity, of Wang and Isola (ICML 2020), are losses too: training/losses.py descends what is measured here.
"""

import numpy as np
import torch
from scipy import stats
from torch.nn import functional as F

from nrms.data.tables import Split
from nrms.evaluation.ranking import states_of
from nrms.evaluation.training_items import item_counts
from nrms.models.recommender import Recommender

MAX_ITEMS_COMPARED = 2000  # users, and items, of which all pairs are looked at; drawn, always the same


# two measures of vectors ---------------------------------------------------------------------------------------------


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean cosine of rows (B, D) and (B, D)."""
    return F.cosine_similarity(a, b, dim=-1).mean()


def alignment(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of pairs (B, D) and (B, D) on the unit sphere, 0 to 4; Wang and Isola, ICML 2020, eq. 8 with alpha = 2."""
    return 2 - 2 * cosine(a, b)


def uniformity(x: torch.Tensor) -> torch.Tensor:
    """log of the mean of exp(-2 |x_i - x_j|^2) over pairs of different rows (n, D) on the unit sphere, -8 to 0; as above, eq. 9 with t = 2.

    0 where all are the same, about -4 where they are spread evenly in many dimensions; 0 for fewer than two rows.
    """
    if len(x) < 2:
        return x.new_zeros(())
    x = F.normalize(x, dim=-1)
    return torch.pdist(x).square().mul(-2).exp().mean().log()


# of a model ----------------------------------------------------------------------------------------------------------


def sample(ids: np.ndarray) -> np.ndarray:
    """At most MAX_ITEMS_COMPARED of them."""
    return ids if len(ids) <= MAX_ITEMS_COMPARED else np.random.default_rng(0).choice(ids, MAX_ITEMS_COMPARED, replace=False)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's; None where one side is constant."""
    return None if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0 else float(stats.spearmanr(x, y).statistic)


def modality_gaps(model: Recommender, known: np.ndarray) -> dict[str, float]:
    """Largest distance between the centres of two modalities' unit vectors, over items that have both."""
    ids = torch.from_numpy(sample(known)).to(model.items.lengths.device)
    vectors, present = model.items.modality_vectors(ids)
    both = present.all(1)
    if vectors.shape[1] < 2 or not both.any():
        return {}
    centres = F.normalize(vectors[both].float(), dim=-1).mean(0)
    return {"modality_gap": torch.pdist(centres).max().item()}


@torch.inference_mode()
def diagnose(model: Recommender, vectors: torch.Tensor, split: Split, history: int, first: np.ndarray | None = None) -> dict[str, float | None]:
    """The DIAGNOSTICS of a model, by name; None, or none at all, where one has no meaning: no vectors, one modality, all equally popular.

    vectors: of all items, as `encode_items` gives them. first (n, k): the first items of each test ranking, where a catalogue was ranked, 0 where
    there are no more. Users are those of test impressions, items those of training.
    """
    test, count = split.test, item_counts(split.train, len(model.items.lengths))
    known, result = np.flatnonzero(count[1:]) + 1, {}
    rows = sample(np.arange(len(test)))
    states = states_of(model, vectors, test, rows, history)
    device = vectors.device
    comparable = model.users.comparable(states, vectors[: len(count)])
    if comparable is not None:
        users, items = (x.float() for x in comparable)
        candidates = test.candidates.take(rows)
        clicked = test.clicked[test.candidates.index(rows)]
        user, item = (torch.from_numpy(x[clicked].astype(np.int64)).to(device) for x in (candidates.rows, candidates.values))
        drawn = torch.from_numpy(sample(known)).to(device)
        result["alignment"] = alignment(users[user], items[item]).item()
        result["uniformity_users"] = uniformity(users[user.unique()]).item()
        result["uniformity_items"] = uniformity(items[drawn]).item()
        result["norm_popularity"] = rank_correlation(items.norm(dim=1).cpu().numpy()[known], count[known])
    if model.users.can_rank_catalogue:
        batches = states.split(256)
        total = sum(model.users.score(batch, vectors[: len(count)]).float().sum(0) for batch in batches)
        result["score_popularity"] = rank_correlation(total.cpu().numpy()[known], count[known])
    result |= modality_gaps(model, known)
    if first is not None:
        first = first[first > 0]
        result["popularity_lift"] = float(count[first].mean() / max(count[test.candidates.values].mean(), 1e-12))
        result["coverage"] = len(np.unique(first)) / (len(count) - 1)
    return result


def flat_map(vectors: torch.Tensor) -> dict[str, np.ndarray]:
    """Items in two dimensions: their places along the two directions of largest variance (PCA), of at most MAX_ITEMS_COMPARED items, always the same.

    vectors (N + 1, W), row 0 padding. Returns items (S,), xy (S, 2) and explained (2,), the share of the variance. A direction may point either way:
    here its largest weight is positive.
    """
    items = np.sort(sample(np.arange(1, len(vectors))))
    x = vectors[torch.from_numpy(items).to(vectors.device)].float().cpu().double().numpy()
    x = x - x.mean(0)
    _, size, directions = np.linalg.svd(x, full_matrices=False)
    sign = np.sign(np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1))
    xy = np.zeros((len(items), 2))
    xy[:, : min(2, len(size))] = x @ (directions * sign)[:2].T
    share = np.zeros(2)
    share[: min(2, len(size))] = size[:2] ** 2 / max((size**2).sum(), 1e-30)
    return {"items": items.astype(np.int32), "xy": xy.astype(np.float32), "explained": share}
