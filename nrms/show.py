"""What does one example look like at each stage? Small tables with real titles, for notebooks."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.io.formats.style import Styler

from nrms.config import Config, Experiment


def readable(table: pd.DataFrame) -> Styler:
    """The table with its texts whole and to the left, and as text: what looks like HTML in a title stays what it looks like."""
    style = table.style.format(precision=3, escape="html").format_index(escape="html", axis=0).format_index(escape="html", axis=1)
    return style.set_properties(**{"text-align": "left"}).set_table_styles([{"selector": "th", "props": "text-align: left"}])


def data_report(manifest: Mapping) -> Styler:
    """Rows in and out of every file of the source, with a count for every reason found."""
    lines = []
    for file in manifest["files"]:
        found = [f"{n:,} {reason} ({kind.replace('_', ' ')})" for kind in ("set_aside", "repaired", "noted") for reason, n in file[kind].items()]
        lines.append({"file": file["file"], "rows in": file["rows_in"], "rows out": file["rows_out"], "found": "; ".join(found) or "nothing odd"})
    return readable(pd.DataFrame(lines).set_index("file"))


def settings(config: Config) -> Styler:
    """Every value of the experiment, with its meaning, and the default where the run departs from it."""
    lines = []
    for name, field in Experiment.model_fields.items():
        value = getattr(config, name)
        lines.append(
            {"name": name, "value": str(value), "default": "" if value == field.default else str(field.default), "meaning": field.description or ""}
        )
    return readable(pd.DataFrame(lines).set_index("name"))


def splits(split) -> pd.DataFrame:
    """The three sets of a split: their size, their time, their clicks."""
    lines = {}
    for name in ("train", "valid", "test"):
        part = getattr(split, name)
        begin, end = (pd.Timestamp(int(t), unit="s") for t in (part.time.min(), part.time.max()))
        if hasattr(part, "items"):  # a log
            lines[name] = {"users": len(part), "interactions": len(part.items.values)}
        else:
            clicks = int(part.clicked.sum())
            lines[name] = {"impressions": len(part), "users": len(set(part.user)), "clicks": clicks, "clicked share": clicks / len(part.clicked)}
        lines[name] |= {"from": begin, "to": end} if end.year > 1971 else {"time": "the order of each user alone"}
    return pd.DataFrame(lines).T.fillna("")


def lengths(train) -> dict[str, np.ndarray]:
    """What decides the cost and the difficulty of a data set: counts by impression, or by user and by item."""
    if hasattr(train, "items"):
        by_item = np.bincount(train.items.values)
        return {"interactions per user": train.items.lengths, "interactions per item": by_item[by_item > 0]}
    clicks = np.bincount(train.candidates.rows[train.clicked], minlength=len(train))
    return {
        "history length": train.history.lengths,
        "candidates per impression": train.candidates.lengths,
        "clicks per impression": clicks,
    }


def history(news, impressions, row: int, last: int = 8) -> Styler:
    """The `last` most recent clicks that the user of one impression had made before, oldest first."""
    items = impressions.history[row][-last:]
    return readable(pd.DataFrame({"news": news.id[items], "category": news.category[items], "clicked before": news.title[items]}))


def slate(news, impressions, row: int, scores: np.ndarray | None = None) -> Styler:
    """The candidates of one impression and which were clicked; with flat `scores` in the order of the ranking, best first."""
    items = impressions.candidates[row]
    begin = impressions.candidates.offsets[row]
    table = pd.DataFrame({"news": news.id[items], "category": news.category[items], "candidate": news.title[items]})
    table["clicked"] = np.where(impressions.clicked[begin : begin + len(items)], "yes", "")
    if scores is not None:
        table["score"] = scores[begin : begin + len(items)].round(3)
        table = table.sort_values("score", ascending=False, ignore_index=True)
        table.index += 1
        table.index.name = "rank"
    return readable(table)


def typical(impressions, history: int = 5, candidates: int = 10) -> int:
    """The first impression with at least this much history and about this many candidates, or one: one that fits on a screen."""
    length = impressions.candidates.lengths
    about = (length >= candidates // 2) & (length <= candidates * 3 // 2) | (length == 1)
    fits = (impressions.history.lengths >= history) & about
    return int(np.flatnonzero(fits)[0]) if fits.any() else 0


def ranked(news, impressions, row: int, rows: pa.Table) -> Styler:
    """What a model put first for one impression: its slate in order, or the first items of the catalogue and where the right ones stand.

    rows: rows.parquet of the run.
    """
    if "scores" in rows.column_names:
        return slate(news, impressions, row, rows["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False))
    items, right, ranks = (rows[name][row].as_py() for name in ("first", "items", "ranks"))
    lines = [{"rank": i, "item": item} for i, item in enumerate(items, 1)]
    lines += sorted(({"rank": r, "item": i} for r, i in zip(ranks, right, strict=True) if i not in items), key=lambda line: line["rank"])
    table = pd.DataFrame(lines).set_index("rank")
    at = table["item"].to_numpy()
    table = pd.DataFrame({"item": news.id[at], "category": news.category[at], "title": news.title[at]}, index=table.index)
    table["taken"] = np.where(np.isin(at, right), "yes", "")
    return readable(table.set_index(table.index.map(lambda r: f"{r:g}").rename("rank")))


def batch_rows(news, batch, rows: int = 2) -> Styler:
    """The first rows of a training batch: the click, what it is to beat, and how much history stands before it."""
    lines = []
    for r in range(min(rows, len(batch))):
        mask, clicked = batch.candidate_mask[r], batch.clicked[r]
        shown = batch.candidates if batch.candidates.dim() == 1 else batch.candidates[r]
        others = [
            news.title[i] or news.id[i] if m else "(masked: there are no more)" for i, m in zip(shown[~clicked][:4], mask[~clicked][:4], strict=True)
        ]
        target = int(batch.target[r])
        line = {"clicked": news.title[target] or news.id[target]} | {f"not clicked {i + 1}": title for i, title in enumerate(others)}
        line["candidates in all"] = int(mask.sum())
        line["history"] = int(batch.history_mask[batch.reader[r]].sum() if batch.place is None else batch.place[r])
        lines.append(line)
    return readable(pd.DataFrame(lines).T)


def places(batch) -> int:
    """Items that the ordinary way would encode for a batch: every history of every row, every candidate."""
    read = batch.history_mask[batch.reader] if batch.place is None else batch.history_mask  # one pass serves all rows of a window
    return int(read.sum()) + int(batch.candidate_mask.sum() if batch.candidates.dim() == 2 else len(batch.candidates))


def economy(model, batch, encoded: int) -> str:
    """How many items one step encodes, beside the places that they fill."""
    if model.users.whole:
        return f"This step reads the vectors of all {encoded:,} items and of all users, for its graph; the batch has {len(batch):,} rows."
    count = places(batch)
    return (
        f"This batch has {count:,} places in {len(batch):,} rows, filled by {encoded:,} different items: taking each once saves a factor of "
        f"{count / encoded:.1f}."
    )


def tokens(model, title: str) -> str:
    """What the text encoder of a recommender reads of a title."""
    encoder = model.items.encoders["text"] if "text" in model.items.encoders else next(iter(model.items.encoders.values()))
    if "text" not in model.items.encoders and "joint" not in model.items.encoders:
        return "This experiment reads no text."
    if not hasattr(encoder, "tokenizer"):
        return "The text encoder is frozen: its vectors were made once and are looked up."
    return " ".join(encoder.tokenizer.convert_ids_to_tokens(encoder.tokenizer(title)["input_ids"]))


def first_pictures(news, pixels, most: int = 6) -> dict[str, np.ndarray]:
    """The first pictures of a data set, (S, S, 3) uint8 by title; none where it was prepared without."""
    rows = np.flatnonzero(pixels.present)[:most] if pixels is not None else []
    return {news.title[i]: np.asarray(pixels.values[i]) for i in rows}


def tuning(model) -> Styler:
    """What of each encoder learns: the report of nrms.items.tuning, or what stands in the encoder's place."""
    lines = {}
    for name, encoder in model.items.encoders.items():
        stands = {
            "Frozen": "frozen: its vectors were made once, or came with the data, and are looked up",
            "Side": "side network on hidden states that were made once",
            "IdTable": "a vector for each item that training has",
        }
        lines[name] = str(getattr(encoder, "report", stands.get(type(encoder).__name__, "")))
    return readable(pd.DataFrame({"what learns": lines}))


def sizes(model) -> pd.DataFrame:
    """Parameters of a recommender by learning-rate group and module."""
    lines = []
    for group, parameters in model.groups().items():
        known = {id(p) for p in parameters}
        for name, module in (("items", model.items), ("users", model.users)):
            count = sum(p.numel() for p in module.parameters() if id(p) in known)
            lines.append({"group": group, "module": name, "parameters": count})
    return pd.DataFrame(lines).query("parameters > 0").set_index("group")
