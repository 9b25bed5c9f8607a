"""What does one example look like at each stage? Small tables with real titles, for notebooks."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from nrms.config import Config, Experiment


def readable(table: pd.DataFrame) -> Styler:
    """The table with its texts whole and to the left."""
    return (
        table.style.format(precision=3).set_properties(**{"text-align": "left"}).set_table_styles([{"selector": "th", "props": "text-align: left"}])
    )


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
    """The three sets of impressions: their size, their time, their clicks."""
    lines = {}
    for name in ("train", "valid", "test"):
        part = getattr(split, name)
        begin, end = (pd.Timestamp(int(t), unit="s") for t in (part.time.min(), part.time.max()))
        clicks = int(part.clicked.sum())
        lines[name] = {
            "impressions": len(part),
            "users": len(set(part.user)),
            "clicks": clicks,
            "clicked share": clicks / len(part.clicked),
            "from": begin,
            "to": end,
        }
    return pd.DataFrame(lines).T


def lengths(impressions) -> dict[str, np.ndarray]:
    """What decides the cost and the difficulty of impressions: three counts, (n,) each."""
    clicks = np.bincount(impressions.candidates.rows[impressions.clicked], minlength=len(impressions))
    return {
        "history length": impressions.history.lengths,
        "candidates per impression": impressions.candidates.lengths,
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
    """The first impression with at least this much history and about this many candidates: one that fits on a screen."""
    length = impressions.candidates.lengths
    fits = (impressions.history.lengths >= history) & (length >= candidates // 2) & (length <= candidates * 3 // 2)
    return int(np.flatnonzero(fits)[0]) if fits.any() else 0


def batch_rows(news, batch, rows: int = 2) -> Styler:
    """The first rows of a training batch: the click, what it is to beat, and how much history stands beside it."""
    lines = []
    for r in range(min(rows, len(batch))):
        items = batch.candidates[r].tolist()
        shown = batch.candidate_mask[r].tolist()
        passed = [news.title[i] if kept else "(masked: the impression has no more)" for i, kept in zip(items[1:], shown[1:], strict=True)]
        line = {"clicked": news.title[items[0]]} | {f"not clicked {i + 1}": title for i, title in enumerate(passed)}
        lines.append(line | {"history": int(batch.history_mask[batch.reader[r]].sum())})
    return readable(pd.DataFrame(lines).T)


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
        stands = {"Frozen": "frozen: its vectors were made once and are looked up", "Side": "side network on hidden states that were made once"}
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
