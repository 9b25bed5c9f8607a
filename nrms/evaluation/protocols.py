"""How are models judged? A protocol: its metrics, those that tables show, and the one that chooses and is compared."""

from collections.abc import Mapping
from dataclasses import dataclass

from nrms.evaluation.metrics import CATALOGUE, METRICS, SETS


@dataclass(frozen=True)
class Protocol:
    """How models are judged: the metrics, those that tables show, and the one that chooses and is compared."""

    metrics: Mapping[str, tuple[str, str]]
    shown: tuple[str, ...]
    main: str
    unit: str  # what a row is

    @property
    def label(self) -> str:
        return self.metrics[self.main][0]


PROTOCOLS = {
    "impressions": Protocol(METRICS, ("auc", "mrr", "ndcg5", "ndcg10"), "auc", "impression"),
    "catalogue": Protocol(CATALOGUE, ("ndcg10", "hr10", "hr50", "mrr"), "ndcg10", "question"),
    "sets": Protocol(SETS, ("recall20", "recall10", "ndcg20", "ndcg10"), "recall20", "user"),
}

K = 10
HISTORY = 50  # most recent items that are read
