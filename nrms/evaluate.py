"""How well does a scorer rank the test part? Judge each impression, or each question to the whole catalogue, and save one row each.

A model comes from a run trained here, or from a checkpoint that somebody gave: then first of all it is checked that it fits.
"""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nrms import NrmsError, processes
from nrms.arguments import command, read_config
from nrms.beyond import Known, beyond, known_items
from nrms.config import Config, Experiment
from nrms.data.prepare import Tables, load
from nrms.data.tables import Split, unseen
from nrms.diagnostics import diagnose, flat_map
from nrms.files import atomic, load_checkpoint, locked, read_json, read_state, write_json
from nrms.metrics import PROTOCOLS, rank_metrics, set_metrics, summarise
from nrms.parameters import GRAPHS, LEARNING, ROLES
from nrms.ranking import TOP, encode_items, judge_model, metrics_of, rank_catalogue
from nrms.recommender import build
from nrms.references import BASELINES, CATALOGUE_BASELINES, CEILINGS, catalogue_references, references
from nrms.runtime import Bystander, Run, home, now, peak_mb, run_folder

RARITY = {
    "new": (0, 0),
    "in training 1-5": (1, 5),
    "in training 6-20": (6, 20),
    "in training 21-100": (21, 100),
    "in training over 100": (101, 1 << 62),
}


def slices(tables: Tables, split: Split) -> dict[str, np.ndarray]:
    """{name: (n,) bool} of the test impressions; `all` first."""
    test, size = split.test, len(tables.news)
    length = test.history.lengths
    by_length = {
        "no history": length == 0,
        "history 1-10": (length >= 1) & (length <= 10),
        "history 11-50": (length >= 11) & (length <= 50),
        "history over 50": length > 50,
    }
    if tables.log is not None:
        own = item_slices(tables, split) if (test.candidates.lengths == 1).all() else {}
        return {"all": np.ones(len(test), bool)} | own | by_length
    new = unseen([split.train, split.valid], size)[test.candidates.values]
    clicked_new = np.bincount(test.candidates.rows[test.clicked & new], minlength=len(test)) > 0
    return {"all": np.ones(len(test), bool)} | by_length | {"a clicked news is new": clicked_new, "no clicked news is new": ~clicked_new}


def item_slices(tables: Tables, split: Split) -> dict[str, np.ndarray]:
    """{name: bool per right item of the test part of a log}: by how often training has the item, and by whether it has a picture."""
    item = split.test.candidates.values
    count = np.bincount(split.train.items.values, minlength=len(tables.news))[item]
    rarity = {f"item {name}": (count >= low) & (count <= high) for name, (low, high) in RARITY.items()}
    has = tables.pictured
    return rarity | ({} if has is None else {"item with a picture": has[item], "item without": ~has[item]})


def among(tables: Tables, split: Split, found: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """{name: metrics (n,)} of candidates that are judged by themselves, the others left out; NaN for an impression that has none.

    Of impressions candidates with and without a picture, ranked among themselves; of users with several right items those of `item_slices`, their
    ranks as they are.
    """
    test, result = split.test, {}
    several = "better" in found and bool((test.candidates.lengths > 1).any())
    if "scores" in found and tables.pixels is not None:
        pictured = tables.pixels.present[test.candidates.values]
        parts = {"candidates with a picture": pictured, "candidates without": ~pictured}
    else:
        parts = item_slices(tables, split) if several else {}
    for name, kept in parts.items():
        offsets = np.concatenate([[0], np.cumsum(kept)])[test.candidates.offsets]
        if "scores" in found:
            result[name] = rank_metrics(found["scores"][kept], test.clicked[kept], offsets)
            continue
        some = np.diff(offsets) > 0
        values = set_metrics(found["better"][kept], found["tied"][kept], np.r_[0, offsets[1:][some]]) if some.any() else {}
        result[name] = {metric: np.full(len(test), np.nan) for metric in values}
        for metric, column in values.items():
            result[name][metric][some] = column
    return {name: values for name, values in result.items() if values}


def judge(run: Run, tables: Tables, split: Split, rows: dict[str, np.ndarray], found: dict[str, np.ndarray], items: Known) -> dict:
    """Writes what a scorer reached on the test part: rows.parquet, metrics.json and beyond.json of a run.

    rows, found: as `ranking.judge_model` gives them. items: what is known of them before any model. rows.parquet: one row per impression, with id,
    user, sizes, metrics, `in: <slice>` for slices of impressions, `<main metric>: <slice>` for slices of candidates, and of slates scores, of a
    catalogue ranks (ties their average), how many others are tied, and first items.
    metrics.json: {slice: {metric: {mean, low, high, n, skipped}}}, which is returned too.
    """
    test = split.test
    parts = slices(tables, split)
    columns = {"impression": test.id, "user": test.user, "history": test.history.lengths.astype(np.int32)}
    result = {name: summarise(rows, where) for name, where in parts.items() if where.any()}
    flags = {f"in: {name}": where for name, where in parts.items() if name != "all"}
    for name, values in among(tables, split, found).items():
        result[name] = summarise(values, parts["all"])
        main = next(p.main for p in PROTOCOLS.values() if p.metrics.keys() == values.keys())
        flags[f"{main}: {name}"] = values[main]
    if "scores" in found:
        columns["candidates"] = test.candidates.lengths.astype(np.int32)
        columns["clicks"] = np.bincount(test.candidates.rows[test.clicked], minlength=len(test)).astype(np.int32)
        listed = pa.ListArray.from_arrays(pa.array(test.candidates.offsets, pa.int32()), pa.array(found["scores"].astype(np.float32)))
        last = {"scores": listed}
    else:
        offsets, rank = pa.array(test.candidates.offsets, pa.int32()), found["better"] + 1 + found["tied"] / 2
        lists = {"items": test.candidates.values, "ranks": rank, "tied": found["tied"].astype(np.int32)}
        columns |= {name: pa.ListArray.from_arrays(offsets, values) for name, values in lists.items()}
        last = {"first": pa.array([some[some > 0] for some in found["items"]], pa.list_(pa.int32()))}
    with atomic(run.folder / "rows.parquet") as part:
        pq.write_table(pa.table(columns | rows | flags | last), part, compression="zstd")
    write_json(run.folder / "metrics.json", result)
    write_json(run.folder / "beyond.json", beyond(items, test, found, parts))
    return result


def reference_run(config: Config, name: str) -> Run:
    return Run(run_folder(config.dataset, name, 0))


def is_judged(run: Run, identity: dict) -> bool:
    """Whether a reference was judged as `identity` has it, with all that is written today."""
    return run.status == "done" and (run.folder / "beyond.json").exists() and all(run.record.get(k) == identity[k] for k in identity)


def evaluate_references(config: Config) -> list[Run]:
    """Judges every baseline and ceiling of the data set, each in a run folder of its own; what is there already is kept."""
    tables = load(config.dataset, config.data)
    split, protocol = tables.split(config.data), config.data.protocol
    history = config.data.training.get("history", Experiment.model_fields["history"].default)  # the data set's, whatever one experiment reads
    how = [config.data.valid_share, history]
    how += [config.data.split, config.data.test_share, config.data.rank_seen] if protocol != "impressions" else []
    identity = {"hash": "-".join(map(str, how)), "family": "reference", "data": tables.manifest["tables"], "protocol": protocol}
    about = BASELINES if protocol == "impressions" else CATALOGUE_BASELINES
    about = about | (CEILINGS if (tables.folder / "raw" / "truth.parquet").exists() else {})
    names = list(about)
    with locked(home() / "reports" / config.dataset / "references"):  # experiments that run side by side share them
        done = {name for name in names if is_judged(reference_run(config, name), identity)}
        maker = judge_references if protocol == "impressions" else judge_catalogue_references
        scorers = maker(config, tables, split, history) if len(done) < len(names) else ()
        items = known_items(tables, split) if scorers else None
        for name, kind, rows, found in scorers:
            run = reference_run(config, name)
            run.begin(kind=kind, about=about[name], config={"data": config.data.asked}, **identity)
            judge(run, tables, split, rows, found, items)
            run.update(status="done")
    return [reference_run(config, name) for name in names]


def judge_references(config: Config, tables: Tables, split: Split, history: int):
    """(name, kind, rows, found) of the baselines and ceilings of impressions."""
    for name, kind, scores in references(tables, split, history, seed=0):
        yield name, kind, rank_metrics(scores, split.test.clicked, split.test.candidates.offsets), {"scores": scores}


def judge_catalogue_references(config: Config, tables: Tables, split: Split, history: int):
    """(name, kind, rows, found) of the baselines of a catalogue."""
    for name, scorer in catalogue_references(tables, split, history, seed=0):
        found = rank_catalogue(scorer, split.test, len(tables.news), seen=config.data.rank_seen, top=TOP)
        yield name, "baseline", metrics_of(found, split.test, config.data), found


def check_fits(path: Path, state: dict, config: Config, tables: Tables) -> None:
    """Raises NrmsError when the checkpoint with the header `state` was not trained as `config` has it, or on encoders that these data do not have."""
    if not isinstance(state.get("config", {}).get("data"), dict):
        raise NrmsError(f"{path} holds no finished model (it may be a last.safetensors, to go on from): give a best.safetensors.")
    theirs = state["config"]
    wrong = [k for k in Experiment.model_fields if k not in LEARNING and theirs.get(k, Experiment.model_fields[k].default) != getattr(config, k)]
    if wrong:
        says = ", ".join(f"{k} {theirs.get(k)!r}, here {getattr(config, k)!r}" for k in wrong)
        give = " ".join(f"-p {k} {theirs.get(k)}" for k in wrong)
        raise NrmsError(f"{path} does not fit {config.exp} on {config.dataset}. It was trained with {says}. Choose its experiment, or give: {give}")
    for role in {getattr(config, m) for m in config.modalities} & set(ROLES):
        locals_ = theirs["data"].get(role) == "local", getattr(config.data, role) == "local"
        if any(locals_) and (not all(locals_) or state.get("content") != tables.content):
            raise NrmsError(
                f"{path} does not fit {config.dataset}: its `{role}` was {theirs['data'].get(role)!r} of {theirs['dataset']}, here it is "
                f"{getattr(config.data, role)!r}. A model pre-trained on one data set's own content is another one elsewhere."
            )
    bound = ["ids"] * config.ids + [m for m in config.modalities if m in config.data.given and config.tuning_of(m) == "frozen"]
    if bound and state.get("content") != tables.content:
        raise NrmsError(
            f"{path} does not fit {config.dataset}: its {' and '.join(bound)} are those of the items of {theirs['dataset']} as they were then, "
            "not of these."
        )


def check_users(path: Path, state: dict, config: Config, tables: Tables) -> None:
    """Raises NrmsError when the checkpoint has vectors of users who are not those of the log that is there now."""
    if config.users in GRAPHS and state.get("log") != tables.taken:
        raise NrmsError(f"{path} does not fit {config.dataset}: users {config.users} learns a vector for each user, and its log was another.")


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Puts the weights of a checkpoint into `model`. Raises NrmsError when names or shapes differ."""
    tensors, _ = load_checkpoint(path)
    own = model.state_dict()
    wrong = sorted({k for k in own.keys() ^ tensors.keys()} | {k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape})
    if wrong:
        raise NrmsError(
            f"{path} does not fit the model: {len(wrong)} of its tensors have another name or shape, {wrong[0]} among them. "
            "The encoder behind a role may be another than the one it was trained with."
        )
    model.load_state_dict(tensors)


def evaluate(config: Config, *, force: bool = False) -> Run:
    """Judges on the test part the run that was trained for `config`, or `config.checkpoint`; what is done is left alone unless `force`.

    Raises NrmsError when there is no such run, or when the checkpoint does not fit the experiment and the data.
    """
    processes.join()
    with processes.first():
        tables = load(config.dataset, config.data)
    run = (Bystander if processes.index() else Run)(run_folder(config.dataset, config.name, config.seed))
    path = run.folder / "checkpoint" / "best.safetensors"
    fits = run.record.get("hash") == config.hash and run.record.get("data") == tables.manifest["tables"]
    if config.checkpoint:
        path = Path(config.checkpoint)
        state, digest = read_state(path), hashlib.sha256(path.read_bytes()).hexdigest()
        check_fits(path, state, config, tables)
        check_users(path, state, config, tables)
        if not fits or run.record.get("sha256") != digest:
            identity = {
                "protocol": config.data.protocol,
                "config": config.model_dump(),
                "hash": config.hash,
                "family": config.family,
                "data": tables.manifest["tables"],
            }
            known = {k: state[k] for k in ("best_valid", "best_step", "samples") if k in state}
            device = "cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu"
            run.begin(kind="model", sha256=digest, device=device, **identity, **known)
            run.update(status="trained")
    elif run.status not in ("trained", "done") or not fits:
        raise NrmsError(
            f"{run.folder} holds no run trained with these values on these data (its status is {run.status}): train first, with "
            f"notebooks/train.ipynb or `python -m nrms run {config.exp} --dataset {config.dataset} --seeds {config.seed}`."
        )
    if processes.told(run.status == "done" and not force):
        return run
    began = time.perf_counter()
    split = tables.split(config.data)
    with processes.first():
        model = build(config, tables, run.record["device"].split(":")[0])  # of several GPUs, each process has its own
    load_weights(model, path)
    with processes.watched():
        vectors = encode_items(model)
        rows, found = judge_model(model, split.test, config, vectors)
    if processes.index():
        return run
    judge(run, tables, split, rows, found, known_items(tables, split))
    write_json(run.folder / "diagnostics.json", diagnose(model, vectors, split, config.history, found.get("items")))
    with atomic(run.folder / "map.npz") as part, part.open("wb") as file:  # a name without .npz would get one
        np.savez(file, **flat_map(vectors[: len(tables.news)]))
    memory = max(run.record.get("peak_mb", 0), peak_mb())
    run.update(status="done", error=None, evaluated=now(), evaluation_minutes=(time.perf_counter() - began) / 60, peak_mb=memory)
    return run


def main(arguments: list[str] | None = None) -> None:
    """`python -m nrms.evaluate EXP`: evaluation without a notebook."""
    run = evaluate(read_config(__doc__ or "", arguments))
    if not processes.index():
        print(json.dumps(read_json(run.folder / "metrics.json")["all"]))
        print(f"wrote {run.folder}")
    processes.leave()


if __name__ == "__main__":
    command(main)
