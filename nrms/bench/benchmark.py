"""How fast is this, against the ordinary way of doing the same work? Both are timed side by side in one run, and ratios of medians are reported."""

import platform
from pathlib import Path

import pandas as pd
import torch

from nrms import home
from nrms.bench import measurements
from nrms.bench.scaling import measure_growth
from nrms.config.params_files import resolve
from nrms.data.prepare import load
from nrms.runtime.environment import peak_mb
from nrms.runtime.files import read_json, write_json
from nrms.runtime.run_record import now


def ratio(lines: list[dict], per: str, **where: object) -> dict[str, float]:
    """How many times as much `per` second ours does, of the lines that have the values `where`.

    The ratio of medians; low and high compare the slow quartile of one with the fast quartile of the other.
    """
    largest = {}
    for line in sorted(lines, key=lambda line: line[per], reverse=True):
        if all(line.get(k) == v for k, v in where.items()):
            largest.setdefault(line["way"], {k: line[per] / line[k] for k in ("median", "low", "high")})  # so much per second
    plain, ours = largest["plain"], largest["ours"]
    return {"ratio": ours["median"] / plain["median"], "low": ours["high"] / plain["low"], "high": ours["low"] / plain["high"]}


def run(
    dataset: str = "newsroom-large",
    *,
    layers: int = 6,
    width: int = 384,
    sizes: tuple[int, ...] = (16, 64, 128),
    repeats: int = 5,
    copies: tuple[int, ...] = (1, 4),
    steps: int = 100,
    catalogue: tuple[int, int] = (10_000, 150_000),
    growth: tuple[int, ...] = (1_000, 10_000, 100_000),
) -> dict:
    """All measurements, written to reports/benchmark/results.json and returned.

    layers, width: of the BERT, and where the data set has pictures of the ViT, whose steps are timed. copies: sizes of logs to read, in data sets.
    steps: that stand for an epoch from cached features. catalogue: users and items of a catalogue to rank. growth: numbers of items that clusters
    and graphs are made of.
    """
    tables = load(dataset, resolve(4, dataset).data)
    config = resolve(4, dataset, bert=str(measurements.random_model(tables, layers, width)), dropout=0.0)
    both = None
    if tables.pixels is not None:  # in two passes: at full size the pictures of a batch do not fit into 24 GB at once
        vit = str(measurements.random_model(tables, layers, width, vision=True))
        both = resolve(3, dataset, bert=config.data.bert, vit=vit, dropout=0.0, encode_at_once=128)
    results = {
        "made": now(),
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads",
        "torch": torch.__version__,
        "dataset": dataset,
        "encoder": {"layers": layers, "width": width},
        "gives": measurements.measure_machine(repeats),
        "reading": measurements.measure_reading(tables, repeats),
        "preparation": measurements.measure_preparation(tables, copies),
        "catalogue": measurements.measure_catalogue(*catalogue, max(repeats // 3, 1)),
        "growth": measure_growth(growth),
        **measurements.measure_evaluation(config, tables, repeats),
        "items": measurements.measure_items(config, tables, repeats),
        "parts": measurements.measure_parts(config, tables, 128, repeats),
        "steps": measurements.measure_steps(config, tables, list(sizes), repeats),
        "steps_with_pictures": measurements.measure_steps(both, tables, list(sizes), repeats) if both else [],
        "epochs": measurements.measure_epochs(resolve(2, dataset, dim=256, heads=16, query_dim=200), tables, steps),
        "peak_mb": peak_mb(),
    }
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
    sizes = sorted({line["batch"] for line in results["steps"]})
    lines = {f"training step, batch {size}": ratio(results["steps"], "batch", batch=size, by_reader=False) for size in sizes}
    if any(line["way"] == "plain" for line in results["metrics"]):
        lines["metrics, impressions per second"] = ratio(results["metrics"], "impressions")
    lines["reading behaviors.tsv, rows per second"] = ratio(results["reading"], "rows")
    lines["ranking a catalogue, users per second"] = ratio(results["catalogue"], "users")
    return pd.DataFrame(lines).T


def answer(results: dict) -> str:
    """The question's answer in one computed sentence, in Markdown."""
    rows = summary(results).iterrows()
    first, *others = [f"{name}: {row['ratio']:.1f} times as fast ({row['low']:.1f} to {row['high']:.1f})" for name, row in rows]
    return f"**{first[0].upper()}{first[1:]} as the plain way**; {'; '.join(others)}."


def costs(results: dict) -> pd.DataFrame:
    """What ours takes, in plain units: epochs, evaluation, preparation."""
    lines = {}
    for line in results["epochs"]:
        lines[f"epoch of {line['exp']} from cached features, batch {line['batch']}, width {line['dim']}"] = f"{line['seconds']:,.0f} s"
    for line in results["steps"] + results["steps_with_pictures"]:
        if line["way"] == "ours":
            name = f"epoch of {line['exp']}, batch {line['batch']}" + (", by reader" if line["by_reader"] else "")
            held = f", {line['peak_mb']:,} MB on the GPU" if line["peak_mb"] else ""
            lines[name] = f"{line['epoch_minutes']:,.1f} minutes{held}; {100 * line['flops'] / results['gives']['flops']:.0f} % of a matrix product"
    best = max(results["evaluation"], key=lambda line: line["impressions"])
    lines[f"rank and judge {best['impressions']:,} impressions from item vectors"] = f"{best['median']:.1f} s"
    best = max((line for line in results["metrics"] if line["way"] == "ours"), key=lambda line: line["impressions"])
    lines[f"metrics of {best['impressions']:,} impressions"] = f"{best['median']:.2f} s"
    line = results["catalogue"][0]
    name = f"rank {line['items']:,} items for each of {line['users']:,} users"
    lines[name] = f"{line['median']:.1f} s, {line['more_mb']:,} MB more than before"
    for line in results["growth"]:
        lines[f"{line['what']} of {line['items']:,} items"] = f"{line['seconds']:.2f} s, {line['more_mb']:,} MB more than its inputs"
    for line in results["preparation"]:
        lines[f"read {line['rows']:,} impressions, {line['news']:,} news"] = f"{line['seconds']:.1f} s, {line['peak_mb']:,} MB at most"
    return pd.DataFrame({"cost": lines})
