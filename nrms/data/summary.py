"""What are the data? One example at each stage, what was found, how time splits it: small tables and sentences with real titles, for notebooks."""

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.io.formats.style import Styler

from nrms.data.sources.rows import counts_of
from nrms.data.tables import unseen
from nrms.runtime.notebook_output import code, readable

SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Thai to Chinese: no spaces


def data_report(manifest: Mapping) -> Styler:
    """Rows in and out of every file of the source, with a count for every reason found."""
    lines = []
    for file in manifest["files"]:
        counts = "; ".join(f"{count:,} {reason} ({kind})" for kind, reason, count in counts_of(file))
        lines.append({"file": file["file"], "rows in": file["rows_in"], "rows out": file["rows_out"], "found": counts or "nothing odd"})
    return readable(pd.DataFrame(lines).set_index("file"))


def splits(split) -> pd.DataFrame:
    """The three sets of a split: their size, their time, their clicks."""
    lines = {}
    for name, part in vars(split).items():
        begin, end = (pd.Timestamp(int(t), unit="s") for t in (part.time.min(), part.time.max()))
        if hasattr(part, "items"):  # a log
            lines[name] = {"users": len(part), "interactions": len(part.items.values)}
        else:
            clicks = {"clicks": int(part.clicked.sum()), "clicked share": f"{part.clicked.mean():.1%}"}
            lines[name] = {"impressions": len(part), "users": len(set(part.user)), **clicks}
        lines[name] |= {"from": begin, "to": end} if end.year > 1971 else {"time": "the order of each user alone"}
    return pd.DataFrame(lines).T.fillna("")


def lengths(train) -> dict[str, np.ndarray]:
    """What decides the cost and the difficulty of a data set: counts by impression, or by user and by item."""
    if hasattr(train, "items"):
        by_item = np.bincount(train.items.values)
        return {"interactions per user": train.items.lengths, "interactions per item": by_item[by_item > 0]}
    clicks = np.bincount(train.candidates.rows[train.clicked], minlength=len(train))
    slates = {"candidates per impression": train.candidates.lengths, "clicks per impression": clicks}
    return {"history length": train.history.lengths, **slates}


def history(items, impressions, row: int, last: int = 8) -> Styler:
    """The `last` most recent clicks that the user of one impression had made before, oldest first."""
    numbers = impressions.history[row][-last:]
    return readable(pd.DataFrame({"news": items.id[numbers], "category": items.category[numbers], "clicked before": items.title[numbers]}))


def slate(items, impressions, row: int, scores: np.ndarray | None = None) -> Styler:
    """The candidates of one impression and which were clicked; with flat `scores` in the order of the ranking, best first."""
    numbers, at = impressions.candidates[row], slice(*impressions.candidates.offsets[row : row + 2])
    table = pd.DataFrame({"news": items.id[numbers], "category": items.category[numbers], "candidate": items.title[numbers]})
    table["clicked"] = np.where(impressions.clicked[at], "yes", "")
    if scores is not None:
        order = np.argsort(-scores[at], kind="stable")  # by all digits, of which few are shown
        table = table.assign(score=scores[at].round(3)).iloc[order].set_index(pd.RangeIndex(1, len(numbers) + 1, name="rank"))
    return readable(table)


def ranked(items, impressions, row: int, rows: pa.Table) -> Styler:
    """What a model put first for one impression: its slate in order, or the first items of the catalogue and where the relevant ones stand.

    rows: rows.parquet of the run.
    """
    if "scores" in rows.column_names:
        return slate(items, impressions, row, rows["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False))
    first, relevant, ranks = (rows[name][row].as_py() for name in ("first", "items", "ranks"))
    behind = sorted((pair for pair in zip(ranks, relevant, strict=True) if pair[1] not in first), key=lambda pair: pair[0])
    ranked_items = [*enumerate(first, 1), *behind]
    numbers = np.array([item for _, item in ranked_items])
    columns = {"item": items.id[numbers], "category": items.category[numbers], "title": items.title[numbers]}
    columns["taken"] = np.where(np.isin(numbers, relevant), "yes", "")
    return readable(pd.DataFrame(columns, index=pd.Index([f"{rank:g}" for rank, _ in ranked_items], name="rank")))


def raw(manifest: Mapping) -> Styler | str:
    """The lines of the source that the example came from, as they stand there; ⇥ is a tab."""
    if not (lines := manifest.get("example", {}).get("lines")):
        return "These data were prepared by an earlier version, which kept no line of the source: prepare them anew to see some."
    table = {f"{line['file']}, line {line['line']:,}": line["text"].replace("\t", " ⇥ ") for line in lines}
    return readable(pd.DataFrame({"as it stands there": table}))


def record(items, item: int) -> Styler:
    """The row that an item became."""
    fields = {name: getattr(items, name)[item] for name in ("id", "category", "subcategory", "title", "abstract")}
    return readable(pd.DataFrame({f"item {item}": {name: text or "(empty)" for name, text in fields.items()}}))


def words(items, item: int) -> str:
    """A title in words and marks, and how many of them titles have. What a text encoder makes of words it has never seen is its own affair.

    In scripts without spaces, where only a dictionary finds the words, each character counts as one.
    """
    titles = [re.findall(rf"[{SPACELESS}]|[^\W{SPACELESS}]+|[^\w\s]", str(title).lower()) for title in items.title[1:]]
    if not any(titles):
        return "No item has a title."
    size, title = np.array([len(title) for title in titles]), titles[item - 1]
    unit = "characters, words and marks" if any(re.search(f"[{SPACELESS}]", str(title)) for title in items.title) else "words and marks"
    of_title = f"The title {code(' · '.join(title))} has {len(title)} {unit}" if title else f"This item has no title, so no {unit}"
    return (
        f"{of_title}; titles have {size.mean():.1f} on average, {size.max()} at most; "
        f"{len(set().union(*titles)):,} different ones make up {len(titles):,} titles."
    )


def pictures(items, pixels, item: int, most: int = 6) -> dict[str, np.ndarray]:
    """Images as they are stored, (S, S, 3) uint8 by title: that of `item` first, if it has one, then the first `most` of the data set."""
    if pixels is None:
        return {}
    rows = np.flatnonzero(pixels.present)[:most].tolist()
    if pixels.present[item]:
        rows.insert(0, item)
    return {items.name(i): np.asarray(pixels.values[i]) for i in dict.fromkeys(rows)}


def timeline(split, width: int = 60) -> str:
    """How much of each part of a split happens when, drawn in characters: each line by its own largest share. Of a log without time: at which
    position in the order of each user."""
    parts = {name: part.time for name, part in vars(split).items()}
    low, high = min(t.min() for t in parts.values()), max(t.max() for t in parts.values())
    dated = pd.Timestamp(int(high), unit="s").year > 1971
    ends = [f"{pd.Timestamp(int(t), unit='s'):%Y-%m-%d %H:%M}" if dated else f"place {t:,}" for t in (low, high)]
    lines = []
    for name, time in parts.items():
        count, _ = np.histogram(time, bins=width, range=(low, high))
        level = np.ceil(8 * count / count.max()).astype(int)
        lines.append(f"{name:<6}|{''.join(' ▁▂▃▄▅▆▇█'[i] for i in level)}|  {len(time):,}")
    return "\n".join([*lines, f"{'':<7}{ends[0]}{ends[1]:>{max(width - len(ends[0]), 1)}}"])


def never_trained(split, size: int) -> float:
    """Share of what is relevant in the test part that training has nowhere: neither shown nor read, or never taken."""
    relevant = split.test.candidates.values[split.test.clicked]
    return float(unseen(split, size)[relevant].mean()) if len(relevant) else float("nan")


def checks(tables, split) -> pd.DataFrame:
    """What a data set should be like, what it is like, and whether that asks for a closer look; no line for what it does not have at all."""
    files, test, titles = tables.manifest["files"], split.test, pd.Series(tables.items.title[1:])
    rows, lost = sum(f["rows_in"] for f in files), sum(f["rows_in"] - f["rows_out"] for f in files)
    dated, shared = tables.manifest.get("has_time", True), titles[titles != ""].duplicated(keep=False).mean()
    late, new = float((test.time <= split.train.time.max()).mean()), never_trained(split, len(tables.items))
    newcomers, untitled = (test.history.lengths == 0).mean(), (titles == "").mean()
    lines = [
        ("rows are kept", f"{rows - lost:,} of {rows:,}", lost > 0.01 * rows),
        ("what is asked for comes after all training", f"{late:.1%} of it does not" if dated else "no time is known", late > 0 or not dated),
        ("test users have a past", f"{newcomers:.1%} have none", newcomers > 0.5),
    ]
    if not np.isnan(new):
        lines.append(("what is right was in training", f"{new:.1%} never was: ids cannot rank it, content can", new > 0.5))
    lines.append(("items have a title", f"{untitled:.1%} have none", untitled > 0.1))
    if not np.isnan(shared):
        lines.append(("titles tell items apart", f"{shared:.1%} are shared", shared > 0.1))
    if not hasattr(split.train, "items"):
        share = np.bincount(test.candidates.rows, test.clicked, len(test)) / test.candidates.lengths
        useless = float(((share == 0) | (share == 1)).mean())
        lines.append(("few of those shown are clicked", f"{test.clicked.mean():.1%} (4 % in MIND)", not 0 < test.clicked.mean() < 0.5))
        lines.append(("slates have clicked and passed over", f"{useless:.1%} have one kind alone and are skipped", useless > 0.1))
    table = pd.DataFrame(lines, columns=["we hope that", "found", "verdict"]).set_index("we hope that")
    return table.assign(verdict=["look closer" if odd else "well" for odd in table["verdict"]])


def data_answer(name: str, tables, split) -> str:
    """One computed sentence, in Markdown: what was read, what was set aside, what has a picture, and what looks suspicious."""
    files = tables.manifest["files"]
    rows, lost = sum(f["rows_in"] for f in files), sum(f["rows_in"] - f["rows_out"] for f in files)
    reasons = sum((Counter(file["set_aside"]) for file in files), Counter())
    why = f", most of them for `{reasons.most_common(1)[0][0]}`" if reasons else ""
    train = f"{len(split.train.items.values):,} interactions" if hasattr(split.train, "items") else f"{len(split.train):,} impressions"
    unit = "queries" if hasattr(split.train, "items") else "impressions"
    images = "no pictures" if tables.has_image is None else f"{tables.has_image[1:].mean():.0%} of them with a picture"
    verdicts = checks(tables, split)["verdict"]
    odd = verdicts.index[verdicts == "look closer"]
    closer = f"Look closer at {len(odd)} of {len(verdicts)} checks, where it does not hold that {'; that '.join(odd)}" if len(odd) else ""
    return (
        f"**{name}: {rows:,} rows in, {rows - lost:,} out, {lost:,} set aside**{why}. {len(tables.items) - 1:,} items, {images}; "
        f"{train} to train on, {len(split.valid):,} {unit} to choose by, {len(split.test):,} to judge by. "
        f"{closer or f'Nothing looks suspicious: all {len(verdicts)} checks below come out well'}."
    )
