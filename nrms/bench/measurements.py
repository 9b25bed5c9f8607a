"""How long does it take? The parts of the benchmark: each measures one thing, and returns lines of plain numbers."""

import contextlib
import importlib
import itertools
import multiprocessing
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from nrms import NrmsError
from nrms.bench.ordinary_way import SLICE, autocast, device, plain_metrics, plain_ranks, plain_reading, plain_step, rows_of
from nrms.config.params_files import resolve
from nrms.config.resolved import Config
from nrms.data.batches import Batch, ahead
from nrms.data.prepare import Tables
from nrms.data.samplers import ClickSampler
from nrms.data.sources import mind
from nrms.data.tables import Impressions, Ragged
from nrms.evaluation.metrics import rank_metrics
from nrms.evaluation.ranking import encode_items, rank_catalogue, rank_impressions
from nrms.models.build import build, build_users
from nrms.models.items import local_models
from nrms.models.items.encoders import Frozen
from nrms.models.items.fusion import FUSIONS
from nrms.models.items.side_network import SideNetwork
from nrms.models.items.tower import ItemTower
from nrms.models.recommender import Recommender, distinct
from nrms.runtime.environment import peak_mb
from nrms.runtime.files import atomic_folder
from nrms.runtime.progress import progress
from nrms.training.gradients import backward_in_two_passes
from nrms.training.losses import listwise


def clock() -> float:
    """Seconds of a clock, when all work that was given to a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def times(work: Callable[[], object], repeats: int, *, warm: bool = True) -> dict[str, float]:
    """Seconds of `work`, done `repeats` times, after once to warm up unless it is too long for that: median, quartiles low and high, n."""
    if warm:
        work()
    seconds = timeit.repeat(work, setup="gc.enable()", timer=clock, repeat=repeats, number=1)  # garbage is collected as in real work
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "low": low, "high": high, "n": repeats}


def our_step(model: Recommender, batch: Batch, part: int | None = None) -> float:
    """The same loss and gradients, earlier ones gone: each different news once, in parts of like length, each history once.

    part: gradients in two passes, so many items at a time, for what does not fit into memory at once.
    """

    def loss_of(scores: torch.Tensor) -> torch.Tensor:
        return listwise(scores, batch.candidate_mask, batch.clicked)

    model.zero_grad()
    if part:
        accelerator = Accelerator(mixed_precision="bf16" if device() == "cuda" else "no")
        return backward_in_two_passes(model, batch, loss_of, part, accelerator)[0].item()
    with autocast():
        scores = model(batch).scores
    loss = loss_of(scores)
    loss.backward()
    return loss.item()


def random_model(tables: Tables, layers: int, width: int, *, vision: bool = False) -> Path:
    """Folder of a BERT of this size with a vocabulary of these titles, or of a ViT with patches of 16 pixels. Their weights are random: speed does
    not depend on what weights know."""
    folder = tables.folder / "models" / f"random{'-vit' if vision else ''}-{layers}x{width}"
    if folder.exists():
        return folder
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": max(width // 64, 1), "intermediate_size": 4 * width}
    with atomic_folder(folder) as part:
        torch.manual_seed(0)
        if vision:
            ViTModel(ViTConfig(image_size=tables.pixels.values.shape[1], **sizes)).save_pretrained(part)
        else:
            tokenizer = local_models.train_tokenizer(list(tables.items.title[1:20_000]))
            BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(part)
            tokenizer.save_pretrained(part)
    return folder


def flops_of(model: Recommender, items: torch.Tensor, tokens: int) -> float:
    """Floating point operations of a forward and a backward pass over `tokens` of text and the images of `items`: 6 for each weight of a linear map
    that a token or patch meets."""
    total = 0.0
    for name, encoder in model.items.encoders.items():
        count, config = tokens, encoder.model.config
        if name != "text":
            count = int(encoder.present[items].sum()) * ((config.image_size // config.patch_size) ** 2 + 1)
        total += 6.0 * count * sum(m.weight.numel() for m in encoder.model.modules() if isinstance(m, torch.nn.Linear))
    return total


def measure_steps(config: Config, tables: Tables, sizes: list[int], repeats: int) -> list[dict]:
    """Training steps by batch size: ours, ours with clicks sorted by reader, and, of experiments that read titles alone, the plain way.

    Items and tokens encoded, FLOP/s, minutes of an epoch at this rate, and on a GPU the most memory that a step held, in MB.
    """
    train, lines = tables.split(config.data).train, []
    torch.manual_seed(0)
    model = build(config, tables, device()).train()
    lengths = model.items.lengths
    for size in progress(sizes, f"steps of {config.exp} by batch size"):
        for by_reader in (False, True):
            sampler = ClickSampler(train, batch_size=size, negatives=config.negatives, history=config.history, seed=0, by_reader=by_reader)
            batch = next(sampler.epoch(0)).to(device())
            items, _ = distinct(batch)
            places = len(batch) * (batch.history.shape[1] + batch.candidates.shape[1])
            work = {"ours": (partial(our_step, part=config.encode_at_once), len(items), int(lengths[items].sum()), batch, repeats)}
            if not by_reader and config.modalities == ["text"]:
                few = rows_of(batch, slice(0, min(size, 2 * SLICE)))  # the plain way takes as long for every row
                work["plain"] = (plain_step, places, places * config.title_tokens, few, max(repeats // 2, 1))
            for way, (step, encoded, tokens, rows, count) in work.items():
                if device() == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                took = times(partial(step, model, rows), count)
                took |= {k: took[k] * len(batch) / len(rows) for k in ("median", "low", "high")}
                facts = {"exp": config.exp, "batch": size, "way": way, "by_reader": by_reader, "encoded": encoded, "tokens": tokens, **took}
                rates = {"flops": flops_of(model, items, tokens) / took["median"], "epoch_minutes": took["median"] * len(sampler) / 60}
                lines.append(facts | rates | {"peak_mb": torch.cuda.max_memory_allocated() >> 20 if device() == "cuda" else None})
    return lines


def measure_epochs(config: Config, tables: Tables, steps: int, width: int = 768, depth: int = 13) -> list[dict]:
    """An epoch of exp2 and of exp3_side from cached features, `width` wide and, for the side networks, `depth` layers deep, of random numbers.

    44 % of the news have a picture, as in MIND-small with IM-MIND. `steps` steps, sampling and optimizer included, stand for the epoch.
    """
    train, lines, rng = tables.split(config.data).train, [], np.random.default_rng(0)
    items = torch.arange(len(tables.items)) > 0
    with_image = items & torch.from_numpy(rng.random(len(items)) < 0.44)
    for exp in ("exp2", "exp3_side"):
        values = resolve(exp, config.dataset, **{k: getattr(config, k) for k in ("dim", "heads", "query_dim", "batch_size")})
        options = {"dim": values.dim, "dropout": values.dropout}
        torch.manual_seed(0)
        if exp == "exp2":
            table = rng.standard_normal((len(items), width), dtype=np.float32)
            encoders = {"text": Frozen(table, items, items, **options), "image": Frozen(table, with_image, items, **options)}
        else:
            options |= {"rank": values.rank, "layers": values.side_layers}
            table = rng.standard_normal((len(items), depth, width), dtype=np.float32)
            encoders = {"text": SideNetwork([table], items, items, **options), "image": SideNetwork([table], with_image, with_image, **options)}
            encoders["both"] = SideNetwork([table, table], with_image, with_image, **options)
        fusion = FUSIONS[values.fusion](dim=values.dim, modalities=len(encoders), dropout=values.modality_dropout)
        model = Recommender(ItemTower(encoders, fusion), build_users(values, tables, encoders, fusion.width)).to(device()).train()
        sampler = ClickSampler(train, batch_size=values.batch_size, negatives=values.negatives, history=values.history, seed=0)
        optimizer, marks = torch.optim.AdamW(model.parameters(), lr=1e-4), []
        for batch in itertools.islice(ahead(sampler.epoch(0), pin=device() == "cuda"), steps + 3):  # three to warm up
            our_step(model, batch.to(device()))
            optimizer.step()
            marks.append(time.perf_counter())
        took = np.diff(marks[2:])
        lines.append({"exp": exp, "batch": values.batch_size, "dim": values.dim, "steps": len(took), "seconds": float(took.mean() * len(sampler))})
    return lines


def measure_parts(config: Config, tables: Tables, size: int, repeats: int) -> list[dict]:
    """Where the time of one of our steps goes: sampling, encoding, ranking, gradients, the optimizer's step."""
    torch.manual_seed(0)
    model = build(config, tables, device()).train()
    sampler = ClickSampler(tables.split(config.data).train, batch_size=size, negatives=config.negatives, history=config.history, seed=0)
    batches, optimizer = sampler.epoch(0), torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> Iterator[str]:
        """One step, which says the name of each part when that is done."""
        batch = next(batches).to(device())
        yield "sampling"
        ids, place = distinct(batch)
        vectors = model.items(ids)
        yield "encoding news"
        loss = listwise(model.states_and_scores(vectors, place, batch)[1], batch.candidate_mask, batch.clicked)
        yield "users and scores"
        optimizer.zero_grad()
        loss.backward()
        yield "gradients"
        optimizer.step()
        yield "optimizer"

    names = list(step())  # to warm up
    seconds = np.median([np.diff([clock(), *(clock() for _ in step())]) for _ in range(repeats)], axis=0)
    return [{"part": name, "median": median} for name, median in zip(names, seconds.tolist(), strict=True)]


def measure_evaluation(config: Config, tables: Tables, repeats: int) -> dict[str, list[dict]]:
    """Metrics by both ways, for a growing number of impressions; and the whole evaluation from the vectors of all items."""
    test = tables.split(config.data).test
    model = build(config, tables, device())
    vectors = torch.randn(len(tables.items), config.dim, device=device())
    scores = np.random.default_rng(0).random(len(test.candidates.values)).astype(np.float32)
    metrics, evaluation = [], []
    for share in (0.125, 0.25, 0.5, 1.0):
        n = max(int(share * len(test)), 1)
        first = test.take(np.arange(n))
        judge = partial(rank_metrics, relevant=first.clicked, offsets=first.candidates.offsets)
        rank = partial(rank_impressions, model, vectors, first, config.history)
        metrics.append({"way": "ours", "impressions": n, **times(partial(judge, scores[: len(first.clicked)]), repeats)})
        took = times(lambda judge=judge, rank=rank: judge(rank()), max(repeats // 2, 1))
        moved = 4 * 6 * config.dim * len(first.clicked)  # a candidate's vector, its reader's state: each gathered, which reads and writes, and read
        evaluation.append({"way": "ours", "impressions": n, "bytes": moved / took["median"], **took})
    few = test.take(np.arange(min(2000, len(test))))
    plain = partial(plain_metrics, scores[: len(few.clicked)], few.clicked, few.candidates.offsets)
    with contextlib.suppress(ImportError):  # scikit-learn is for development only; without it there is no plain way to compare with
        metrics.append({"way": "plain", "impressions": len(few), **times(plain, max(repeats // 2, 1))})
    return {"metrics": metrics, "evaluation": evaluation}


def measure_items(config: Config, tables: Tables, repeats: int) -> list[dict]:
    """Encoding a growing number of items once."""
    model, lines = build(config, tables, device()), []
    for n in (250, 500, 1000, 2000):
        ids = torch.arange(1, min(n, len(tables.items) - 1) + 1, device=device())
        with torch.inference_mode():
            lines.append({"items": len(ids), **times(lambda ids=ids: encode_items(model, ids=ids), repeats)})
    return lines


def measure_reading(tables: Tables, repeats: int) -> list[dict]:
    """Reading behaviors.tsv by both ways."""
    folder = tables.folder / "raw"
    path = folder / "train" / "behaviors.tsv"
    if not path.exists():
        raise NrmsError(f"{tables.manifest['dataset']} was not generated here: the reading benchmark needs a demo world.")
    with tempfile.TemporaryDirectory() as target:
        ours = times(lambda: mind.convert(folder, Path(target), 0.0), max(repeats // 2, 1))
    rows = sum(part["impressions"] for part in tables.manifest["parts"].values())
    few = min(20_000, tables.manifest["parts"]["train"]["impressions"])
    plain = times(lambda: plain_reading(path, few), max(repeats // 2, 1))
    return [{"way": "ours", "rows": rows, **ours}, {"way": "plain", "rows": few, **plain}]


def write_copies(raw: Path, target: Path, copies: int, news: int) -> None:
    """A MIND folder with `copies` times the train impressions of `raw`, ids of their own, and as many news (at least) as `news`."""
    for part in ("train", "dev"):
        (target / part).mkdir(parents=True)
        lines = (raw / part / "news.tsv").read_bytes().splitlines(keepends=True)
        with (target / part / "news.tsv").open("wb") as file:
            for i in range(-(-news // len(lines))):
                file.writelines(lines if not i else (b"%d%s" % (i, line) for line in lines))  # an id that no impression names
    (target / "dev" / "behaviors.tsv").write_bytes((raw / "dev" / "behaviors.tsv").read_bytes())
    lines = (raw / "train" / "behaviors.tsv").read_bytes().splitlines(keepends=True)
    with (target / "train" / "behaviors.tsv").open("wb") as file:
        for i in range(copies):
            file.writelines(b"%d-%s" % (i, line) for line in lines)


def measure_preparation(tables: Tables, copies: tuple[int, ...]) -> list[dict]:
    """Reading logs of growing size: rows, news, seconds, peak MB. 14 copies of newsroom-large make MIND-large.

    Each in a process of its own that has imported no more than reading needs, so that its peak memory is that of reading.
    """
    lines, server = [], multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([mind.__name__])
    for n in progress(copies, "reading logs of growing size"):
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "raw", Path(folder) / "tables"
            target.mkdir()
            news = (len(tables.items) - 1) * min(n, 4)
            write_copies(tables.folder / "raw", source, n, news)
            with ProcessPoolExecutor(1, server, importlib.import_module, (mind.__name__,)) as process:  # which says so when the process dies
                process.submit(peak_mb).result()  # from now on it stands ready
                began = time.perf_counter()
                parts = process.submit(mind.convert, source, target, 0.0).result()["parts"].values()
                line = {"copies": n, "news": news, "seconds": time.perf_counter() - began, "peak_mb": process.submit(peak_mb).result()}
            lines.append(line | {"rows": sum(part["impressions"] for part in parts)})
    return lines


def measure_catalogue(users: int, items: int, repeats: int, width: int = 64, few: int = 500) -> list[dict]:
    """Ranks of `users` relevant items among `items`, vectors of random numbers, 30 items of each user left out: ours for all, sorting for a few."""
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.standard_normal((items + 1, width), dtype=np.float32))
    states = torch.from_numpy(rng.standard_normal((users, width), dtype=np.float32))
    target = rng.integers(1, items + 1, users).astype(np.int32)
    past = Ragged(rng.integers(1, items + 1, users * 30).astype(np.int32), np.arange(users + 1) * 30)
    name, few = np.arange(users), min(few, users)
    queries = Impressions(name, name, name, past, Ragged(target, np.arange(users + 1)), np.ones(users, bool))
    before = peak_mb()
    ours = times(lambda: rank_catalogue(lambda rows: states[torch.from_numpy(rows)] @ vectors.T, queries, items + 1), repeats, warm=False)
    more = peak_mb() - before
    with torch.inference_mode():
        plain = times(lambda: plain_ranks(states[:few], vectors, target[:few]), max(repeats, 2))
    return [{"way": "ours", "users": users, "items": items, **ours, "more_mb": more}, {"way": "plain", "users": few, "items": items, **plain}]


def measure_machine(repeats: int) -> dict[str, float]:
    """What the machine gives: FLOP/s of a large matrix product, bytes/s of a large copy (read and written), the best of `repeats`."""
    n, dtype = (8192, torch.bfloat16) if device() == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(n, n, device=device(), dtype=dtype) for _ in range(2))
    source = torch.empty(1 << 28, dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    product, copy = times(lambda: a @ b, repeats), times(lambda: target.copy_(source), repeats)
    return {"flops": 2 * n**3 / product["low"], "bytes": 2 * source.numel() / copy["low"]}
