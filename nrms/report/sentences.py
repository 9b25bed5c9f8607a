"""How do results read as sentences? Computed answers and the definitions of every number, in Markdown."""

import pandas as pd

from nrms.evaluation.protocols import BEYOND, DIAGNOSTICS, PROTOCOLS
from nrms.report.format import p_value
from nrms.report.result_tables import leaderboard, reservation
from nrms.runtime.run_record import Run


def trained(run: Run) -> str:
    """One computed sentence, in Markdown: what validation reached in how many steps and minutes, against chance and, if known, the best baseline."""
    record, dataset = run.record, run.folder.parts[-3]
    if record.get("best_valid") is None:
        return f"**{run.folder.parts[-2]} on {dataset} is not trained; its status is {run.status}.**"
    protocol = PROTOCOLS[record.get("protocol", "impressions")]
    text = f"**{run.folder.parts[-2]} on {dataset}, seed {run.folder.name.removeprefix('seed')}: best validation {protocol.label} "
    text += f"{record['best_valid']:.3f}** at step {record['best_step']:,} of {record['steps']:,}, {record['samples']:,} clicks in "
    text += f"{record['minutes']:.1f} minutes, at most {record['peak_mb']:,} MB of memory."
    board = leaderboard(dataset, run)
    baselines = board[(board["kind"] == "baseline") & (board["status"] == "done")].set_index("exp")
    values = baselines[protocol.main].dropna() if len(baselines) else {}  # without one, a board of a log has no metric
    if protocol.main == "auc":
        text += " Chance is 0.500."
    if len(values):
        text += f" On the test part, which is another one, the best baseline, {values.idxmax()}, has {values.max():.3f}"
        text += f" and random order {values['random']:.3f}." if "random" in values else "."
    return text


def answer(run: Run) -> str:
    """One computed sentence, in Markdown: what this run reached, against the best baseline and the ceilings."""
    board = leaderboard(run.folder.parts[-3], run)
    rows = board[(board["kind"] == "model") & board["status"].isin(("done", "not comparable"))]
    if rows.empty:
        return f"**{run.folder.parts[-2]} on {run.folder.parts[-3]} is not finished; its status is {run.status}.**"
    return sentence(rows.iloc[0])


def sentence(row: pd.Series) -> str:
    """`answer` for one finished row of the leaderboard."""
    protocol = PROTOCOLS[row.protocol]
    value, low, high = (row[protocol.main + end] for end in ("", "_low", "_high"))
    text = f"**{row.exp} on {row.dataset}: {protocol.label} {value:.3f}** (95 % interval {low:.3f} to {high:.3f}, "
    text += f"n = {row.n:,.0f} {protocol.units}, {'seeds' if ' ' in row.seeds else 'seed'} {row.seeds})"
    if pd.notna(row.difference):
        text += f", {row.difference:+.3f} against the best baseline, {row.baseline} "
        text += f"({row.difference_low:+.3f} to {row.difference_high:+.3f} {reservation(row) or 'over seeds and users'}, p {p_value(row.p)})"
    if pd.notna(row.earned):
        text += f". That is {row.earned:.0%} of what the true taste for titles alone earns over chance (ceiling_text)"
    return text + "."


def meanings() -> str:
    """What the numbers of `diagnostics` mean, in Markdown."""
    return "\n".join(f"- **{label}**: {text}." for label, text in DIAGNOSTICS.values())


def beyond_meanings() -> str:
    """What the numbers of `beyond` mean, in Markdown."""
    lines = [f"- **{label}**: {text}." for label, text in BEYOND.values()]
    lines += [
        "- **lists**: how many there are: the first 5 of every slate that has more (a shorter one leaves nothing to choose, and every ranker has the "
        "same list), equal scores in an order that is drawn once for all rankers; or the first 10 of the catalogue for every query. A mean is "
        "over lists that have the value: calibration and popularity shift need a history. No number looks at ranks within a list, or at clicks.",
        "- A list can only hold what its slate has: read a number beside that of **random**, what slates or the catalogue hold by themselves.",
        "- **training users** are those of the train part, their histories counted in; an empty row was judged before these numbers were there: "
        "`python -m nrms run EXP --force` writes them.",
    ]
    return "\n".join(lines)


def definitions(*names: str) -> str:
    """What every number of these protocols (by default of all) means, in Markdown."""
    protocols = [PROTOCOLS[name] for name in names or PROTOCOLS]
    lines = [f"- **{label}**: {text}." for p in protocols for name, (label, text) in p.metrics.items() if name in p.displayed]
    lines += [
        "- **[low, high]**, **low to high**: 95 % bootstrap interval over impressions or queries (1,000 resamples) of the mean over seeds.",
        "- **n**: test impressions with a defined metric (**skipped**: those where nothing or everything was clicked), or queries: users asked for "
        "their next item, or for several, with all items as candidates but those that the user had before (`rank_seen`: those too).",
        "- **vs best baseline**: main metric (AUC of impressions, nDCG@10 of catalogues, Recall@20 of sets) minus that of the best baseline; "
        "interval and p of t over seeds and users, not corrected: nothing is claimed by it. **of this training**: with fewer than three seeds the "
        "interval is that over users alone, and another training may turn it round.",
        "- **earned**: (AUC - 0.5) / (AUC of ceiling_text - 0.5): 100 % is what the true taste for titles alone would score. Demo worlds only.",
        "- **baselines** learn nothing: random; popularity (clicks or interactions in the train part); recency (later first shown). Popularity "
        "falls below chance where users prefer what is new; content (cosine to the history, of TF-IDF or of vectors that came with the data); "
        "cooccurrence (taken by the same users as the history).",
        "- **ceilings** know the truth of a demo world: everything but the noise; taste for text alone; for images "
        "alone; a nearly best reading of the history. Only the first bounds every model.",
        "- **parameters**: all that have a part in the scores, frozen encoders included; **trained**: those that learn.",
        "- **clicks seen**: training rows, repeats by epoch counted; **encoded**: items that went through a pre-trained model while training, each "
        "once where it is frozen.",
        "- **minutes**: training, without evaluation; **peak MB**: most memory the process held.",
        "- **not comparable**: done, but judged in another way, or asked other queries (of another split, say), than most rows of its data set: in "
        "no comparison.",
        "- **dead**: a run whose process is gone; **stale**: done, but on data that have been prepared anew since; **incomplete**: said to be done, "
        "but the files of its numbers are not there: `python -m nrms run EXP --force` writes them.",
    ]
    return "\n".join(lines)
