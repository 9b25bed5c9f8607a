"""How fast is this, against the ordinary way of doing the same work? Both are timed side by side in one run, and ratios of medians are reported.

The plain way is what most code of this field does: every place of a batch is encoded, padding included, each title padded to the longest; every
impression is judged on its own; every line is split in Python. It is written out here, and a test shows that its results are ours.
"""

import contextlib
import itertools
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from nrms import NrmsError
from nrms.config import Config, resolve
from nrms.data import mind
from nrms.data.batches import Batch, ClickSampler
from nrms.data.prepare import Tables, load
from nrms.data.splits import split_by_time
from nrms.data.tables import Impressions
from nrms.items import pretrain
from nrms.metrics import rank_metrics
from nrms.objectives import listwise
from nrms.recommender import Recommender, build, distinct, encode_items, rank_impressions
from nrms.runtime import atomic_folder, home, now, peak_mb, progress, read_json, write_json

WAYS = ("plain", "ours")
SLICE = 8  # rows of a batch that the plain way encodes at once; more would not fit in memory


def times(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Seconds of `work`, done `repeats` times after once to warm up: median, quartiles low and high, n."""
    work()
    found = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return {"median": float(np.median(found)), "low": float(np.quantile(found, 0.25)), "high": float(np.quantile(found, 0.75)), "n": repeats}


# the plain ways ------------------------------------------------------------------------------------------------------


def plain_scores(model: Recommender, batch: Batch) -> torch.Tensor:
    """Scores (B, C) as of `model(batch)`, with every place of every row encoded, padding too, and every title padded to the longest allowed."""
    encoder = model.items.encoders["text"]
    history, mask = batch.history[batch.reader], batch.history_mask[batch.reader]
    places = torch.cat([history, batch.candidates], 1)  # (B, L + C)
    given, seen = encoder.content(places.flatten())
    missing = encoder.title_tokens - seen.shape[1]
    given, seen = {k: F.pad(v, (0, missing)) for k, v in given.items()}, F.pad(seen, (0, missing))
    states = encoder.model(**given).last_hidden_state
    vectors = encoder.project(encoder.dropout(encoder.pool(states, seen))).view(*places.shape, -1)
    past, candidates = vectors.split([history.shape[1], batch.candidates.shape[1]], 1)
    return model.users.score(model.users(torch.where(mask[..., None], past, 0), mask), candidates)


def plain_step(model: Recommender, batch: Batch) -> float:
    """Loss and gradients of a batch in slices of rows, whose gradients add up: what fits in memory."""
    total = 0.0
    for begin in range(0, len(batch), SLICE):
        part = rows_of(batch, slice(begin, begin + SLICE))
        loss = listwise(plain_scores(model, part), part.candidate_mask, part.clicked) * len(part) / len(batch)
        loss.backward()
        total += loss.item()
    return total


def rows_of(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.history, batch.history_mask, *(getattr(batch, k)[rows] for k in ("reader", "candidates", "candidate_mask", "clicked")))


def our_step(model: Recommender, batch: Batch) -> float:
    """The same loss and gradients: each different news once, in parts of like length, each history once."""
    scores, _ = model(batch)
    loss = listwise(scores, batch.candidate_mask, batch.clicked)
    loss.backward()
    return loss.item()


def plain_metrics(scores: np.ndarray, clicked: np.ndarray, offsets: np.ndarray) -> float:
    """Mean AUC and nDCG, impression by impression, by scikit-learn; their sum, so that nothing is left out."""
    from sklearn.metrics import ndcg_score, roc_auc_score

    found = []
    for a, b in itertools.pairwise(offsets):
        y, s = clicked[a:b], scores[a:b]
        if 0 < y.sum() < len(y):
            found.append((roc_auc_score(y, s), ndcg_score([y], [s], k=5), ndcg_score([y], [s], k=10)))
    return float(np.mean(found, 0).sum())


def plain_reading(path: Path, rows: int) -> int:
    """The first `rows` lines of a behaviors.tsv as Python lists, the way notebooks do it with pandas. Returns the number of candidates."""
    table = pd.read_csv(path, sep="\t", header=None, names=["id", "user", "time", "history", "shown"], nrows=rows, dtype=str)
    table["time"] = pd.to_datetime(table["time"], format=mind.TIME)
    table["history"] = table["history"].fillna("").apply(lambda text: text.split())
    table["candidates"] = table["shown"].apply(lambda text: [word.split("-")[0] for word in text.split()])
    table["clicked"] = table["shown"].apply(lambda text: [int(word.split("-")[1]) for word in text.split()])
    return int(table["candidates"].apply(len).sum())


# what is measured ----------------------------------------------------------------------------------------------------


def random_encoder(tables: Tables, layers: int, width: int) -> Path:
    """A BERT of this size with random weights and a vocabulary of these titles: speed does not depend on what weights know."""
    folder = tables.folder / "models" / f"random-{layers}x{width}"
    if not folder.exists():
        tokenizer = pretrain.train_tokenizer(list(tables.news.title[1:20_000]))
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": max(width // 64, 1), "intermediate_size": 4 * width}
        with atomic_folder(folder) as part:
            torch.manual_seed(0)
            BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(part)
            tokenizer.save_pretrained(part)
    return folder


def flops_of(model: Recommender, tokens: int) -> float:
    """Floating point operations of a forward and a backward pass over `tokens`: 6 for each weight of a matrix that a token meets."""
    layers = [m for m in model.items.encoders["text"].model.modules() if isinstance(m, torch.nn.Linear)]
    return 6.0 * tokens * sum(m.weight.numel() for m in layers)


def measure_steps(config: Config, tables: Tables, sizes: list[int], repeats: int) -> list[dict]:
    """Training steps of both ways by batch size; ours also with clicks sorted by reader. Clicks per second, items and tokens encoded, FLOP/s."""
    split, lines = split_by_time(tables.parts, config.data.valid_share), []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = build(config, tables, device).train()
    lengths = model.items.lengths
    for size in progress(sizes, "steps by batch size"):
        for by_reader in (False, True):
            sampler = ClickSampler(split.train, batch_size=size, negatives=config.negatives, history=config.history, seed=0, by_reader=by_reader)
            batch = next(sampler.epoch(0)).to(device)
            items, _ = distinct(batch)
            places = len(batch) * (batch.history.shape[1] + batch.candidates.shape[1])
            work = {"ours": (our_step, len(items), int(lengths[items].sum()), batch)}
            if not by_reader:
                few = rows_of(batch, slice(0, min(size, 2 * SLICE)))  # the plain way takes as long for every row
                work["plain"] = (plain_step, places, places * config.title_tokens, few)
            for way, (step, encoded, tokens, rows) in work.items():

                def once(step=step, rows=rows) -> None:
                    model.zero_grad()
                    step(model, rows)

                took = times(once, repeats if way == "ours" else max(repeats // 2, 1))
                scale = len(batch) / len(rows)
                took |= {k: took[k] * scale for k in ("median", "low", "high")}
                rate = flops_of(model, tokens) / took["median"]
                lines.append({"batch": size, "way": way, "by_reader": by_reader, "encoded": encoded, "tokens": tokens, "flops": rate, **took})
    return lines


def measure_parts(config: Config, tables: Tables, size: int, repeats: int) -> list[dict]:
    """Where the time of one of our steps goes: sampling, encoding, ranking, gradients, the optimizer's step."""
    split = split_by_time(tables.parts, config.data.valid_share)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = build(config, tables, device).train()
    sampler = ClickSampler(split.train, batch_size=size, negatives=config.negatives, history=config.history, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    batches, found = sampler.epoch(0), []
    for _ in range(repeats + 1):
        marks = [time.perf_counter()]

        def mark(marks=marks) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())

        batch = next(batches).to(device)
        mark()
        ids, place = distinct(batch)
        vectors = model.items(ids)
        mark()
        loss = listwise(model.rank(vectors, place, batch), batch.candidate_mask, batch.clicked)
        mark()
        optimizer.zero_grad()
        loss.backward()
        mark()
        optimizer.step()
        mark()
        found.append(np.diff(marks))
    names = ("sampling", "encoding news", "users and scores", "gradients", "optimizer")
    return [{"part": name, "median": float(np.median(column))} for name, column in zip(names, np.array(found[1:]).T, strict=True)]


def measure_evaluation(config: Config, tables: Tables, repeats: int) -> dict[str, list[dict]]:
    """Metrics by both ways, for a growing number of impressions; and the whole evaluation from the vectors of all items."""
    split = split_by_time(tables.parts, config.data.valid_share)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(config, tables, device)
    vectors = torch.randn(len(tables.news), config.dim, device=device)
    test, metrics, whole = split.test, [], []
    scores = np.random.default_rng(0).random(len(test.candidates.values)).astype(np.float32)
    for share in (0.125, 0.25, 0.5, 1.0):
        n = max(int(share * len(test)), 1)
        end = test.candidates.offsets[n]
        y, s, offsets = test.clicked[:end], scores[:end], test.candidates.offsets[: n + 1]
        metrics.append({"way": "ours", "impressions": n, **times(lambda y=y, s=s, offsets=offsets: rank_metrics(s, y, offsets), repeats)})
        some: Impressions = test.take(np.arange(n))
        work = lambda some=some: rank_metrics(rank_impressions(model, vectors, some, config.history), some.clicked, some.candidates.offsets)  # noqa: E731
        whole.append({"way": "ours", "impressions": n, **times(work, max(repeats // 2, 1))})
    few = min(2000, len(test))
    end = test.candidates.offsets[few]
    y, s, offsets = test.clicked[:end], scores[:end], test.candidates.offsets[: few + 1]
    with contextlib.suppress(ImportError):  # scikit-learn is for development only; without it there is no plain way to compare with
        metrics.append({"way": "plain", "impressions": few, **times(lambda: plain_metrics(s, y, offsets), max(repeats // 2, 1))})
    return {"metrics": metrics, "evaluation": whole}


def measure_items(config: Config, tables: Tables, repeats: int) -> list[dict]:
    """Encoding a growing number of items once."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, lines = build(config, tables, device), []
    for n in (250, 500, 1000, 2000):
        ids = torch.arange(1, min(n, len(tables.news) - 1) + 1, device=device)
        with torch.inference_mode():
            lines.append({"items": len(ids), **times(lambda ids=ids: encode_items(model, ids=ids), repeats)})
    return lines


def measure_reading(tables: Tables, repeats: int) -> list[dict]:
    """Reading behaviors.tsv by both ways."""
    folder = tables.folder / "raw"
    path = folder / "train" / "behaviors.tsv"
    if not path.exists():
        raise NrmsError(f"{tables.manifest['dataset']} was not generated here: the reading benchmark needs a demo world.")
    import tempfile

    with tempfile.TemporaryDirectory() as target:
        ours = times(lambda: mind.convert(folder, Path(target), 0.0), max(repeats // 2, 1))
    rows = sum(part["impressions"] for part in tables.manifest["parts"].values())
    few = min(20_000, tables.manifest["parts"]["train"]["impressions"])
    plain = times(lambda: plain_reading(path, few), max(repeats // 2, 1))
    return [{"way": "ours", "rows": rows, **ours}, {"way": "plain", "rows": few, **plain}]


def measure_machine(repeats: int) -> dict[str, float]:
    """What the machine gives: FLOP/s of a large matrix product, bytes/s of a large copy (read and written), the best of `repeats`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n = 8192 if device == "cuda" else 2048
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product, copy = times(lambda: a @ b, repeats), times(lambda: target.copy_(source), repeats)
    return {"flops": 2 * n**3 / product["low"], "bytes": 2 * source.numel() / copy["low"]}


def ratio(lines: list[dict], per: str, **where: object) -> dict[str, float]:
    """How many times as much `per` second ours does, of the lines that have the values `where`.

    The ratio of medians; low and high compare the slow quartile of one with the fast quartile of the other.
    """
    kept = [line for line in lines if all(line.get(k) == v for k, v in where.items())]
    plain, ours = (max((line for line in kept if line["way"] == way), key=lambda line: line[per]) for way in WAYS)

    def rate(line: dict, key: str) -> float:
        return line[per] / line[key]

    return {
        "ratio": rate(ours, "median") / rate(plain, "median"),
        "low": rate(ours, "high") / rate(plain, "low"),
        "high": rate(ours, "low") / rate(plain, "high"),
    }


def run(dataset: str = "newsroom-large", *, layers: int = 6, width: int = 384, sizes: tuple[int, ...] = (16, 64, 128), repeats: int = 5) -> dict:
    """All measurements, written to reports/benchmark/results.json and returned. layers, width: of the BERT whose steps are timed."""
    tables = load(dataset, resolve(4, dataset).data)
    config = resolve(4, dataset, bert=str(random_encoder(tables, layers, width)), dropout=0.0)
    machine = measure_machine(repeats)
    results = {
        "made": now(),
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads",
        "torch": torch.__version__,
        "dataset": dataset,
        "encoder": {"layers": layers, "width": width},
        "gives": machine,
        "reading": measure_reading(tables, repeats),
        **measure_evaluation(config, tables, repeats),
        "items": measure_items(config, tables, repeats),
        "parts": measure_parts(config, tables, 128, repeats),
        "steps": measure_steps(config, tables, list(sizes), repeats),
    }
    results |= {"peak_mb": peak_mb()}
    write_json(path(), results)
    return results


def path() -> Path:
    return home() / "reports" / "benchmark" / "results.json"


def latest(dataset: str) -> dict | None:
    """The results that are there for this data set, or None."""
    results = read_json(path()) if path().exists() else {}
    return results if results.get("dataset") == dataset else None


def summary(results: dict) -> pd.DataFrame:
    """Ratios of medians: how many times as fast ours is."""
    lines = {f"training step, batch {size}": ratio(results["steps"], "batch", batch=size, by_reader=False) for size in batch_sizes(results)}
    if any(line["way"] == "plain" for line in results["metrics"]):
        lines["metrics, impressions per second"] = ratio(results["metrics"], "impressions")
    lines["reading behaviors.tsv, rows per second"] = ratio(results["reading"], "rows")
    return pd.DataFrame(lines).T


def batch_sizes(results: dict) -> list[int]:
    return sorted({line["batch"] for line in results["steps"]})
