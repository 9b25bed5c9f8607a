"""How are models judged? By a protocol: its metrics, those that tables display, the one that chooses and is compared; and by other numbers beside it.

Labels and definitions of everything that is measured stand here and in metrics.py, beside the functions: pages read them without a model at hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nrms.evaluation.metrics import CATALOGUE, METRICS, SETS


@dataclass(frozen=True)
class Protocol:
    """How models are judged: the metrics, those that tables display, and the one that chooses and is compared."""

    name: str
    metrics: Mapping[str, tuple[str, str]]
    displayed: tuple[str, ...]
    main: str
    unit: str  # what a row is: an impression, a query, a user
    units: str  # several of them

    @property
    def label(self) -> str:
        return self.metrics[self.main][0]

    @property
    def zero_shot(self) -> str:
        """What `probe` calls the main metric of vectors that nothing was trained on."""
        return f"zero-shot {self.label}"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("impressions", METRICS, ("auc", "mrr", "ndcg5", "ndcg10"), "auc", "impression", "impressions"),
        Protocol("catalogue", CATALOGUE, ("ndcg10", "hr10", "hr50", "mrr"), "ndcg10", "query", "queries"),
        Protocol("sets", SETS, ("recall20", "recall10", "ndcg20", "ndcg10"), "recall20", "user", "users"),
    )
}

PROBE_NEIGHBOURS = 10  # of an item, by vectors and by who took them
PROBE_HISTORY = 50  # most recent items of a user whose mean ranks the others
ITEM_CF = f"item-CF overlap@{PROBE_NEIGHBOURS}"
PROBE_METRICS = (*(protocol.zero_shot for protocol in PROTOCOLS.values()), ITEM_CF)  # a table of `probe` has the first of its protocol, and the last

DIAGNOSTICS = {  # how vectors lie: name: (label, definition)
    "alignment": ("alignment", "mean squared distance of users and the items they took, on the unit sphere, 0 to 4 (Wang and Isola 2020)"),
    "uniformity_users": ("uniformity, users", "log of the mean of exp(-2 d^2) over pairs of users there: 0 where all are one, about -4 where spread"),
    "uniformity_items": ("uniformity, items", "the same over items that training has"),
    "modality_gap": ("modality gap", "largest distance between the centres of two modalities' unit vectors, 0 to 2, ids counted as one"),
    "norm_popularity": ("norm ~ popularity", "rank correlation of an item vector's length with how often training has the item"),
    "score_popularity": ("score ~ popularity", "rank correlation of an item's mean score over users with how often training has the item"),
    "popularity_lift": ("popularity lift", "how often training has the first 10 items of rankings, over how often it has the right ones; 1: no bias"),
    "coverage": ("coverage", "share of the catalogue that is among anybody's first 10"),
}

BEYOND = {  # what lists are like, whoever clicks what: name: (label, definition)
    "diversity": (
        "diversity",
        "share of pairs of a list's items with different categories as the source writes them, 0 to 1; items without one are left "
        "out (intra-list diversity: Smyth and McClave 2001, Ziegler et al. 2005)",
    ),
    "content_diversity": (
        "content diversity",
        "mean of 1 - cosine over pairs of a list's items, of text vectors that came with the data, else of TF-IDF of title and abstract: "
        "0 where all texts are alike, 1 where no two share a word",
    ),
    "novelty": (
        "novelty, bits",
        "mean of -log2 of the share of training users who took an item, one user added who took everything: 0 for what all took, "
        "log2(users + 1) for what nobody took (self-information: Vargas and Castells 2011)",
    ),
    "miscalibration": (
        "miscalibration, nats",
        "KL(p || 0.99 q + 0.01 p) of the shares of categories p in the history and q in the list: 0 where the list has the user's mixture, "
        "4.6 where it has none of the user's categories (Steck 2018); a list is short, so a little is left to anybody",
    ),
    "popularity": (
        "popularity",
        "mean percentile of a list's items among all items by how many training users took them, 0 to 1, 0.5 for an item in the middle",
    ),
    "popularity_shift": (
        "popularity shift",
        "that mean percentile minus the history's: above 0 a list is more popular than the user's taste; news, newer than training, lie below "
        "(after Abdollahpouri et al. 2019, who compare groups of users)",
    ),
    "coverage": ("coverage", "share of the items that could be in a list, candidates or the whole catalogue, that are in one"),
    "gini": (
        "exposure Gini",
        "how unequally often those items are in lists: 0 where all equally, near 1 where few have all places (Fleder and Hosanagar 2009)",
    ),
}
