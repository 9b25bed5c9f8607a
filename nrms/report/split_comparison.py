"""What does the way in which a log is split do to its results? The same experiments on two data sets of one log, side by side."""

import pandas as pd
from scipy.stats import kendalltau

from nrms.evaluation.statistics import intervals
from nrms.report.experiments import protocol_of
from nrms.report.format import with_interval
from nrms.report.planned_comparisons import finished


def side_by_side(dataset: str, other: str) -> pd.DataFrame:
    """What is finished on both data sets, models and baselines, best first on the first of them; index: experiment.

    kind; here and there: the main metric of `dataset` and of `other`, mean over queries of the mean over seeds, with *_low and *_high, its 95 %
    bootstrap interval over queries, and *_place among these rows, 1 for the best. Empty where the two are not judged by the same metric.
    """
    sides = {"here": finished(dataset), "there": finished(other)}
    names = [name for name, system in sides["here"].items() if name == system.exp and name in sides["there"] and system.kind != "ceiling"]
    if protocol_of(dataset) is not protocol_of(other) or not names:
        return pd.DataFrame()
    both = pd.DataFrame({"kind": [sides["here"][name].kind for name in names]}, index=pd.Index(names, name="experiment"))
    for side, systems in sides.items():
        values = [systems[name].main.dropna().to_numpy() for name in names]
        both[side] = [v.mean() for v in values]
        both[[f"{side}_low", f"{side}_high"]] = intervals(values)
        both[f"{side}_place"] = both[side].rank(ascending=False, method="min").astype(int)
    return both.sort_values("here", ascending=False)


def table(both: pd.DataFrame, dataset: str, other: str) -> pd.DataFrame:
    """`side_by_side` as people read it."""
    columns = {"kind": both["kind"]}
    for name, side in ((dataset, "here"), (other, "there")):
        columns |= {name: [with_interval(row, side) for _, row in both.iterrows()], f"place on {name}": both[f"{side}_place"]}
    return pd.DataFrame(columns, index=both.index)


def sentence(both: pd.DataFrame, dataset: str, other: str) -> str:
    """How far the two orders of the models agree, and how many are above what learns nothing; in Markdown, empty for fewer than two models."""
    models, baselines = both[both["kind"] == "model"], both[both["kind"] == "baseline"]
    if len(models) < 2:
        return ""
    first, tau = models.index[0], kendalltau(models["here"], models["there"]).statistic
    rank = int(models["there"].rank(ascending=False, method="min").iloc[0])
    text = f"**Of {len(models)} models {first} is the best on {dataset}, and number {rank} on {other}.** "
    text += f"Kendall's tau of the two orders is {tau:+.2f} (1: the same, 0: unrelated, -1: turned round). "
    if len(baselines):
        above = [f"{(models[side] > baselines[side].max()).sum()} on {name}" for side, name in (("here", dataset), ("there", other))]
        text += f"Above the best baseline, {baselines['here'].idxmax()} and {baselines['there'].idxmax()}, are {' and '.join(above)}."
    return text.strip()
