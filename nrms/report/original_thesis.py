"""What did the original project report, and what would its evaluator have said of other scores?

The thesis code (github zhaoyib/DL_News_Rec, commit 725cdcf) judged experiments 1 and 2 with an evaluator that was handed the candidates' numbers in
the order of their scores, and took the i-th of these numbers for the rank of candidate i. What it measured is the order of a list, not a ranking:
even a perfect ranker gets little more than a random one. With it, no experiment could have shown that frozen features carry anything.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nrms.data.tables import Ragged
from nrms.evaluation.metrics import METRICS, rank_metrics
from nrms.evaluation.protocols import PROTOCOLS
from nrms.report.format import with_interval
from nrms.report.result_tables import leaderboard


def beside_the_original(dataset: str) -> pd.DataFrame:
    """The original's published table (MIND-small) beside ours of the same name: other data, unless this is MIND-small."""
    board, protocol = leaderboard(dataset), PROTOCOLS["impressions"]
    rows = {}
    for name, published in PUBLISHED.items():
        ours, cells = board[(board["exp"] == name) & (board["status"] == "done")], {}
        for metric, value in zip(protocol.displayed, published, strict=True):
            cells[protocol.metrics[metric][0], "published"] = f"{value:.3f}"
            cells[protocol.metrics[metric][0], f"here, {dataset}"] = with_interval(ours.iloc[0], metric) if len(ours) else "not run"
        rows[name] = cells
    return pd.DataFrame.from_dict(rows, orient="index", columns=pd.MultiIndex.from_tuples(cells))


PUBLISHED = {  # its README; MIND-small dev. Its row for experiment 4 is, digit for digit, that of another project (YadaYuki/news-recommendation-llm)
    "random": (0.500, 0.201, 0.203, 0.267),
    "exp1": (0.494, 0.217, 0.222, 0.285),
    "exp2": (0.505, 0.222, 0.226, 0.289),
    "exp3": (0.638, 0.254, 0.281, 0.343),
    "exp4": (0.689, 0.306, 0.336, 0.400),
}


def misread(scores: np.ndarray, offsets: np.ndarray, seed: int = 0) -> np.ndarray:
    """The scores that the original's evaluator judged in place of `scores` (flat; impression r owns offsets[r] : offsets[r + 1]).

    The candidate at place i gets minus the number of the candidate that came i-th when sorted. Equal scores are sorted by chance.
    """
    row = Ragged(scores, offsets).rows
    order = np.lexsort((np.random.default_rng(seed).random(len(scores)), -scores, row))
    return -(order - offsets[row]).astype(float)


def two_evaluators(rankers: Mapping[str, np.ndarray], clicked: np.ndarray, offsets: np.ndarray) -> pd.DataFrame:
    """Mean metrics of each ranker's flat scores, judged correctly and as the original did."""
    lines = {}
    for name, scores in rankers.items():
        for judge, judged in (("correctly", scores), ("by the original's evaluator", misread(scores, offsets))):
            metrics = rank_metrics(judged, clicked, offsets)
            lines[name, judge] = {METRICS[m][0]: np.nanmean(metrics[m]) for m in PROTOCOLS["impressions"].displayed}
    table = pd.DataFrame(lines).T
    table.index.names = ["ranker", "judged"]
    return table.round(3)
