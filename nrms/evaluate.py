"""How well does a scorer rank the impressions of MIND? Score flat, judge per impression, save one row each.

Every news is encoded once, every user once per impression, every candidate scored once; no padding to the longest slate.
Beside the model stand scorers that learn nothing (random, popularity, recency, content) and, where the truth is known, the ceilings.
"""

import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from nrms import NrmsError
from nrms.config import Config
from nrms.data.prepare import Tables, load
from nrms.data.splits import split_by_time
from nrms.data.tables import Impressions, Split, unseen
from nrms.metrics import rank_metrics, summarise
from nrms.recommender import build, score_impressions
from nrms.runtime import Run, atomic, load_checkpoint, now, peak_mb, progress, run_folder, write_json

BASELINES = {
    "random": "scores drawn at random",
    "popularity": "clicks in the train part",
    "recency": "the later first shown, the higher",
    "content": "TF-IDF cosine of the title to the mean of the history's titles, nothing trained",
}
CEILINGS = {
    "ceiling": "the true utility without its noise: no model can do better on average",
    "ceiling_text": "the true taste for what titles say, alone",
    "ceiling_image": "the true taste for what pictures show, alone",
    "ceiling_history": "a nearly best reading of the history, given the true factors of all news, pictures and freshness included",
}


# what learns nothing -------------------------------------------------------------------------------------------------


def score_popularity(split: Split, test: Impressions, size: int) -> np.ndarray:
    train = [split.train, split.valid]
    clicks = sum(np.bincount(part.candidates.values[part.clicked], minlength=size) for part in train)
    return clicks[test.candidates.values].astype(np.float32)


def score_recency(split: Split, test: Impressions, size: int) -> np.ndarray:
    """A news is as new as the first impression that showed it or whose history holds it; no label is looked at."""
    first = np.full(size, np.iinfo(np.int64).max)
    for part in (split.train, split.valid, test):
        np.minimum.at(first, part.candidates.values, np.repeat(part.time, part.candidates.lengths))
    old = np.concatenate([split.train.history.values, split.valid.history.values])
    first[old] = np.minimum(first[old], split.train.time.min())
    return (first[test.candidates.values] - split.train.time.min()).astype(np.float64)


def tfidf(titles: np.ndarray) -> sparse.csr_matrix:
    """(N + 1, words) rows of unit length: words of lower-cased titles, weighed by log(N / news that have it)."""
    number: dict[str, int] = {}
    owner, word = [], []
    for i, title in enumerate(titles):
        for token in title.lower().split():
            owner.append(i)
            word.append(number.setdefault(token.strip(".,:;!?'\"()"), len(number)))
    counts = sparse.csr_matrix((np.ones(len(word)), (owner, word)), shape=(len(titles), max(len(number), 1)))
    seen = np.asarray((counts > 0).sum(0)).ravel()
    weighed = counts @ sparse.diags(np.log(len(titles) / np.maximum(seen, 1)))
    norm = np.sqrt(np.asarray(weighed.multiply(weighed).sum(1)).ravel())
    return sparse.diags(1 / np.where(norm > 0, norm, 1)) @ weighed


def score_content(titles: np.ndarray, test: Impressions, history: int, batch: int = 2000) -> np.ndarray:
    words = tfidf(titles)
    flat = np.empty(len(test.candidates.values), np.float32)
    for part in progress(np.array_split(np.arange(len(test)), -(-len(test) // batch)), "content similarity"):
        past, mask = test.history.pad(part, history)
        row = np.nonzero(mask)[0]
        mean = sparse.csr_matrix((np.ones(len(row)), (row, past[mask])), shape=(len(part), len(titles))) @ words
        at = test.candidates.index(part)
        owner = np.repeat(np.arange(len(part)), test.candidates.lengths[part])
        flat[at] = np.asarray(mean[owner].multiply(words[test.candidates.values[at]]).sum(1)).ravel()
    return flat


def references(tables: Tables, split: Split, history: int, seed: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """(name, kind, flat scores of the test candidates) of every baseline and, where truth.parquet is there, every ceiling."""
    test, size = split.test, len(tables.news)
    yield "random", "baseline", np.random.default_rng(seed).random(len(test.candidates.values)).astype(np.float32)
    yield "popularity", "baseline", score_popularity(split, test, size)
    yield "recency", "baseline", score_recency(split, test, size)
    yield "content", "baseline", score_content(tables.news.title, test, history)
    path = tables.folder / "raw" / "truth.parquet"
    if path.exists():
        truth = {
            k: c.combine_chunks().flatten().to_numpy()
            for k, c in zip(("text", "image", "freshness", "history"), pq.read_table(path).columns[1:], strict=True)
        }
        yield "ceiling", "ceiling", truth["text"] + truth["image"] + truth["freshness"]
        for name in ("text", "image", "history"):
            yield f"ceiling_{name}", "ceiling", truth[name]


# judging and saving --------------------------------------------------------------------------------------------------


def slices(split: Split, size: int) -> dict[str, np.ndarray]:
    """{name: (n,) bool} of the test impressions; `all` first."""
    test = split.test
    length = test.history.lengths
    new = unseen([split.train, split.valid], size)[test.candidates.values]
    clicked_new = np.bincount(test.candidates.rows[test.clicked & new], minlength=len(test)) > 0
    return {
        "all": np.ones(len(test), bool),
        "no history": length == 0,
        "history 1-10": (length >= 1) & (length <= 10),
        "history 11-50": (length >= 11) & (length <= 50),
        "history over 50": length > 50,
        "a clicked news is new": clicked_new,
        "no clicked news is new": ~clicked_new,
    }


def judge(run: Run, test: Impressions, scores: np.ndarray, parts: dict[str, np.ndarray]) -> dict:
    """Writes rows.parquet (one row per impression: id, user, sizes, metrics, scores) and metrics.json ({slice: {metric: ...}}) of a run."""
    rows = rank_metrics(scores, test.clicked, test.candidates.offsets)
    facts = {
        "impression": test.id,
        "user": test.user,
        "history": test.history.lengths.astype(np.int32),
        "candidates": test.candidates.lengths.astype(np.int32),
        "clicks": np.bincount(test.candidates.rows[test.clicked], minlength=len(test)).astype(np.int32),
    }
    listed = pa.ListArray.from_arrays(pa.array(test.candidates.offsets, pa.int32()), pa.array(scores.astype(np.float32)))
    with atomic(run.folder / "rows.parquet") as part:
        pq.write_table(pa.table(facts | rows | {"scores": listed}), part, compression="zstd")
    result = {name: summarise(rows, where) for name, where in parts.items() if where.any()}
    write_json(run.folder / "metrics.json", result)
    return result


def reference_run(config: Config, name: str) -> Run:
    return Run(run_folder(config.dataset, name, 0))


def evaluate_references(config: Config) -> list[Run]:
    """Judges every baseline and ceiling of the data set, each in a run folder of its own; what is there already is kept."""
    tables = load(config.dataset, config.data)
    split = split_by_time(tables.parts, config.data.valid_share)
    identity = {"hash": f"{config.data.valid_share}-{config.history}", "family": "reference", "data": tables.manifest["tables"]}
    parts = slices(split, len(tables.news))
    names = [*BASELINES, *(CEILINGS if (tables.folder / "raw" / "truth.parquet").exists() else ())]
    done = {
        name
        for name in names
        if reference_run(config, name).status == "done" and all(reference_run(config, name).record[k] == identity[k] for k in identity)
    }
    scorers = references(tables, split, config.history, seed=0) if len(done) < len(names) else ()
    for name, kind, scores in scorers:
        run = reference_run(config, name)
        run.begin(kind=kind, about=(BASELINES | CEILINGS)[name], **identity)
        judge(run, split.test, scores, parts)
        run.update(status="done")
    return [reference_run(config, name) for name in names]


def evaluate(config: Config, *, force: bool = False) -> Run:
    """Judges a trained run on the test part, once: a run that is done is left alone unless `force`.

    Raises NrmsError when the run is not trained with these values on this data.
    """
    run = Run(run_folder(config.dataset, config.name, config.seed))
    tables = load(config.dataset, config.data)
    fits = run.record.get("hash") == config.hash and run.record.get("data") == tables.manifest["tables"]
    if run.status == "done" and fits and not force:
        return run
    if run.status not in ("trained", "done") or not fits:
        raise NrmsError(
            f"{run.folder} holds no run trained with these values on these data (its status is {run.status}): train first, with "
            f"notebooks/train.ipynb or "
            f"`python -m nrms run {config.exp} --dataset {config.dataset} --seeds {config.seed}`."
        )
    began = time.perf_counter()
    split = split_by_time(tables.parts, config.data.valid_share)
    model = build(config, tables).to(run.record["device"])
    tensors, _ = load_checkpoint(run.folder / "checkpoint" / "best.safetensors")
    model.load_state_dict(tensors)
    judge(run, split.test, score_impressions(model, split.test, config.history), slices(split, len(tables.news)))
    run.update(
        status="done",
        error=None,
        evaluated=now(),
        evaluation_minutes=(time.perf_counter() - began) / 60,
        peak_mb=max(run.record["peak_mb"], peak_mb()),
    )
    return run
