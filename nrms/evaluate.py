"""How well does a scorer rank the test part? Judge each query, a slate or the whole catalogue for a user, and save one row each.

A model comes from a run trained here, or from a checkpoint that somebody gave: then first of all it is checked that it fits.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nrms import NrmsError, home
from nrms.config.arguments import read_config
from nrms.config.parameters import Experiment
from nrms.config.params_files import resolve
from nrms.config.resolved import Config
from nrms.data.prepare import Tables, load
from nrms.evaluation.baselines import CEILINGS, reference_rankings, references
from nrms.evaluation.beyond_accuracy import known_items
from nrms.evaluation.ranking import encode_items, evaluate_model
from nrms.evaluation.result_files import write_results
from nrms.evaluation.scores_and_ranks import CatalogueRanks
from nrms.evaluation.vector_diagnostics import diagnose, flat_map
from nrms.models.build import build
from nrms.models.load import check_fits, load_weights
from nrms.runtime import distributed
from nrms.runtime.checkpoints import read_state
from nrms.runtime.environment import default_threads, peak_mb, torch_threads
from nrms.runtime.files import atomic, read_json, write_json
from nrms.runtime.locks import locked
from nrms.runtime.run_record import Bystander, Run, now, run_folder
from nrms.runtime.terminal import command


def evaluate_references(config: Config) -> list[Run]:
    """Judges every baseline and ceiling of the data set, each in a run folder of its own; what is there already is kept."""
    tables = load(config.dataset, config.data)
    split, protocol = tables.split(config.data), config.data.protocol
    history = config.data.training.get("history", Experiment.model_fields["history"].default)  # the data set's, whatever one experiment reads
    settings = [config.data.valid_share, history]
    settings += [config.data.split, config.data.test_share, config.data.rank_seen] if protocol != "impressions" else []
    identity = {"hash": "-".join(map(str, settings)), "family": "reference", "data": tables.manifest["tables"], "protocol": protocol}
    about = references(tables, config.data)
    runs = {name: Run(run_folder(config.dataset, name, 0)) for name in about}
    with locked(home() / "reports" / config.dataset / "references"):  # experiments that run side by side share them
        judged = [r.status == "done" and (r.folder / "beyond.json").exists() and identity.items() <= r.record.items() for r in runs.values()]
        if all(judged):
            return list(runs.values())
        items = known_items(tables, split)
        for name, ranking in reference_rankings(tables, split, config.data, history):
            run = runs[name]
            run.begin(kind="ceiling" if name in CEILINGS else "baseline", about=about[name], config={"data": config.data.test_settings}, **identity)
            write_results(run, tables, split, ranking, items)
            run.update(status="done")
    return list(runs.values())


def make_references(exp: str, dataset: str, seed: int, given: dict[str, Any]) -> None:
    """`evaluate_references` for the data set of an experiment: what a process of its own can call."""
    evaluate_references(resolve(exp, dataset, seed, **given))


def evaluate(config: Config, *, force: bool = False) -> Run:
    """Judges on the test part the run that was trained for `config`, or `config.checkpoint`; what is done is left alone unless `force`.

    Raises NrmsError when there is no such run, or when the checkpoint does not fit the experiment and the data.
    """
    distributed.join()
    with distributed.main_process_first():
        tables = load(config.dataset, config.data)
    run = (Bystander if distributed.process_index() else Run)(run_folder(config.dataset, config.name, config.seed))
    path = run.folder / "checkpoint" / "best.safetensors"
    fits = run.record.get("hash") == config.hash and run.record.get("data") == tables.manifest["tables"]
    if config.checkpoint:
        path = Path(config.checkpoint)
        state, digest = read_state(path), hashlib.sha256(path.read_bytes()).hexdigest()
        check_fits(path, state, config, tables)
        if not fits or run.record.get("sha256") != digest:
            known = {k: state[k] for k in ("best_valid", "best_step", "samples") if k in state}
            device = "cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu"
            facts = {"sha256": digest, "device": device, "threads": config.threads or default_threads()}
            run.begin(**config.identity(tables.manifest["tables"]), **facts, **known)
            run.update(status="trained")
    elif run.status not in ("trained", "done") or not fits:
        raise NrmsError(
            f"{run.folder} holds no run trained with these values on these data (its status is {run.status}): train first, with "
            f"notebooks/train.ipynb or `python -m nrms run {config.exp} --dataset {config.dataset} --seeds {config.seed}`."
        )
    if distributed.broadcast_object(run.status == "done" and not force):
        return run
    with torch_threads(config.threads):
        judge_test_part(config, tables, run, path)
    return run


def judge_test_part(config: Config, tables: Tables, run: Run, path: Path) -> None:
    """Judges the weights at `path` on the test part and says in run.json that it is done."""
    began = time.perf_counter()
    split = tables.split(config.data)
    with distributed.main_process_first():
        model = build(config, tables, run.record["device"].split(":")[0])  # of several GPUs, each process has its own
    load_weights(model, path)
    with distributed.watched():
        vectors = encode_items(model)
        ranking = evaluate_model(model, split.test, config, vectors)
    if distributed.process_index():
        return
    write_results(run, tables, split, ranking, known_items(tables, split))
    first = ranking.first if isinstance(ranking, CatalogueRanks) else None
    write_json(run.folder / "diagnostics.json", diagnose(model, vectors, split, config.history, first))
    with atomic(run.folder / "map.npz") as part, part.open("wb") as file:  # a name without .npz would get one
        np.savez(file, **flat_map(vectors[: len(tables.items)]))
    memory = max(run.record.get("peak_mb", 0), peak_mb())
    run.update(status="done", error=None, evaluated=now(), evaluation_minutes=(time.perf_counter() - began) / 60, peak_mb=memory)


def main(arguments: list[str] | None = None) -> None:
    """`python -m nrms.evaluate EXP`: evaluation without a notebook."""
    run = evaluate(read_config(__doc__ or "", arguments))
    if not distributed.process_index():
        print(json.dumps(read_json(run.folder / "metrics.json")["all"]))
        print(f"wrote {run.folder}")
    distributed.leave()


if __name__ == "__main__":
    command(main)
