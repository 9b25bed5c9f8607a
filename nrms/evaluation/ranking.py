"""How does a recommender rank what there is to rank? The slate of an impression, or the whole catalogue.

Every item is encoded once, every history once; slates are scored flat, without padding to the longest. In a catalogue the rank of a relevant item is
counted, not sorted for: one pass over a block of scores that fits in memory, whatever the number of users and items.
"""

from collections.abc import Callable

import numpy as np
import torch

from nrms.config.resolved import Config
from nrms.data.tables import Impressions
from nrms.evaluation.protocols import PROTOCOLS
from nrms.evaluation.scores_and_ranks import CatalogueRanks, SlateScores
from nrms.models.recommender import Recommender
from nrms.runtime import distributed
from nrms.runtime.progress import progress

NUMBERS = 1 << 26  # of user states gathered at a time: bounds memory whatever the length of slates
BLOCK = 1 << 23  # scores of the catalogue at a time, (users, N + 1): few enough to be read again before they leave the cache
TOP = 10  # items of each ranking that are kept to be looked at


@torch.inference_mode()
def encode_items(model: Recommender, batch: int = 1024, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Vectors of all items (N + 1, D), or of these alone and zeros for the others; row 0 zero. In order of length, so that padding costs little.

    Where users are nodes theirs stand behind, (N + 1 + R, D).
    """
    model.eval()
    if model.users.is_graph:
        return model.users.views(model.table())["final"]
    lengths = model.items.lengths
    ids = torch.arange(1, len(lengths), device=lengths.device) if ids is None else ids
    order = ids[lengths[ids].argsort()]
    share = order[distributed.process_index() :: distributed.process_count()]
    batches = (share if len(share) else order[:1]).split(batch)  # all processes encode something, so that all know how wide vectors are
    vectors = torch.cat([model.items(items) for items in progress(batches, "encoding items")])
    table = vectors.new_zeros(len(lengths), vectors.shape[1])
    return distributed.all_reduce_sum(table.index_copy(0, share, vectors[: len(share)]))


@torch.inference_mode()
def rank_impressions(model: Recommender, vectors: torch.Tensor, impressions: Impressions, history: int, batch: int = 1024) -> np.ndarray:
    """Scores of all candidates, flat like impressions.candidates.values, float32, given the vectors of all items (N + 1, D).

    `history`: most recent clicks that are read.
    """
    model.eval()
    flat = np.empty(len(impressions.candidates.values), np.float32)
    rows = np.argsort(impressions.history_id, kind="stable")
    for block in progress(np.array_split(rows, -(-len(rows) // batch)), "scoring users"):
        _, first, user_of_row = np.unique(impressions.history_id[block], return_index=True, return_inverse=True)
        users = states_of(model, vectors, impressions, block[first], history)  # (R, ...): each history once
        index = impressions.candidates.index(block)
        user = np.repeat(user_of_row, impressions.candidates.lengths[block])
        size = max(1, NUMBERS // users[0].numel())
        for begin in range(0, len(index), size):
            piece = slice(begin, begin + size)
            items = vectors[torch.from_numpy(impressions.candidates.values[index[piece]]).to(vectors.device).long()]
            flat[index[piece]] = model.users.score(users[user[piece]], items[:, None])[:, 0].float().cpu().numpy()
    return flat


def states_of(model: Recommender, vectors: torch.Tensor, impressions: Impressions, rows: np.ndarray, history: int) -> torch.Tensor:
    """User states (R, ...) behind the histories of these impressions."""
    if model.users.is_graph:
        nodes = len(model.items.lengths) + torch.from_numpy(impressions.owner[rows]).to(vectors.device)
        return vectors[nodes]
    past, mask = (torch.from_numpy(x).to(vectors.device) for x in impressions.history.pad(rows, history))
    past = past.long()
    if model.users.reads_item_ids:
        return model.users.states(vectors, past, mask, past)
    return model.users.at_end(model.users(vectors[past], mask), mask)


Scorer = Callable[[np.ndarray], torch.Tensor]  # numbers of impressions (b,) -> scores of all items (b, N + 1), which may be written over


def model_scorer(model: Recommender, vectors: torch.Tensor, impressions: Impressions, history: int) -> Scorer:
    """The scores of a model, given the vectors of all items (N + 1, D), users behind them where they are nodes."""
    items = vectors[: len(model.items.lengths)]
    numbers = torch.arange(len(items), device=items.device)

    def scores_of(rows: np.ndarray) -> torch.Tensor:
        scores = model.users.score(states_of(model, vectors, impressions, rows, history), items).float()
        if model.repeats is None:
            return scores
        past = torch.from_numpy(impressions.history.pad(rows, history)[0]).to(items.device).long()
        return model.with_repeats(scores, past, numbers)

    return scores_of


@torch.inference_mode()
def rank_catalogue(scores_of: Scorer, queries: Impressions, size: int, *, protocol: str = "sets", seen: bool = False, top: int = 0) -> CatalogueRanks:
    """Where the candidates of each query, the relevant items, stand among all `size` - 1 items, and the first `top` of each ranking.

    Padding is no item; what the user had before is left out, but for the relevant items themselves, unless `seen`. Raises ValueError when a relevant
    item's score is no finite number.
    """
    relevant, n = queries.candidates, len(queries)
    better, tied = np.empty(len(relevant.values), np.int64), np.empty(len(relevant.values), np.int64)
    first = np.zeros((n, min(top, size - 1)), np.int32)
    for block in progress(np.array_split(np.arange(n), -(-n // max(1, BLOCK // size))), "ranking the catalogue"):
        scores = scores_of(block)
        targets = relevant.take(block)
        row, item = (torch.from_numpy(x.astype(np.int64)).to(scores.device) for x in (targets.rows, targets.values))
        target_scores = scores[row, item]  # before anything is left out
        if not torch.isfinite(target_scores).all():
            raise ValueError("The score of a right item is no finite number; the model has diverged.")
        scores[:, 0] = -torch.inf
        if not seen:
            past = queries.history.take(block)
            scores[torch.from_numpy(past.rows).to(scores.device), torch.from_numpy(past.values.astype(np.int64)).to(scores.device)] = -torch.inf
            scores[row, item] = target_scores
        index = relevant.index(block)
        for k in range(int(targets.lengths.max(initial=0))):  # the k-th relevant item of every user that has so many
            users = np.flatnonzero(targets.lengths > k)
            kth = targets.offsets[users] + k
            scores_of_users = scores if len(users) == len(block) else scores[users]
            bar = target_scores[kth, None]
            better[index[kth]], tied[index[kth]] = count_rows(scores_of_users > bar), count_rows(scores_of_users == bar) - 1
        if top:
            value, item = scores.topk(first.shape[1], dim=1)
            first[block] = torch.where(value > -torch.inf, item, 0).cpu().numpy()
    return CatalogueRanks(queries, better, tied, first, PROTOCOLS[protocol])


def count_rows(flags: torch.Tensor) -> np.ndarray:
    """How many values of each row are True. On a CPU by numpy, which counts bytes by words; torch would add them up as 64-bit numbers."""
    return flags.sum(1).cpu().numpy() if flags.is_cuda else np.array([np.count_nonzero(row) for row in flags.numpy()])


def evaluate_model(model: Recommender, queries: Impressions, config: Config, vectors: torch.Tensor | None = None) -> SlateScores | CatalogueRanks:
    """What a model says of every query by the protocol of the data: scores of slates, or ranks and first items.

    vectors: of all items as `encode_items` gives them, where they are known.
    """
    vectors = encode_items(model) if vectors is None else vectors
    data = config.data

    def arrays_of(rows: np.ndarray) -> dict[str, np.ndarray]:
        share = queries if len(rows) == len(queries) else queries.take(rows)
        if data.protocol == "impressions":
            return {"scores": rank_impressions(model, vectors, share, config.history)}
        scorer = model_scorer(model, vectors, share, config.history)
        ranks = rank_catalogue(scorer, share, len(model.items.lengths), protocol=data.protocol, seen=data.rank_seen, top=TOP)
        return {"better": ranks.better, "tied": ranks.tied, "first": ranks.first}

    arrays = distributed.by_shares(len(queries), arrays_of)
    return SlateScores(queries, **arrays) if data.protocol == "impressions" else CatalogueRanks(queries, **arrays, protocol=PROTOCOLS[data.protocol])
