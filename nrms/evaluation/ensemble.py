"""What do several trained models reach together? The mean of their scores, each standardised over the items of a query's catalogue.

The row to hold a fusion of modalities against: if it is no better than the ensemble of its single modalities, it has learned nothing from them
together.
"""

from collections.abc import Sequence

import numpy as np
import torch

from nrms import NrmsError
from nrms.config.names import check_name
from nrms.config.params_files import PARAMS, REFERENCES
from nrms.config.resolved import Config, digest
from nrms.data.prepare import load
from nrms.evaluation.beyond_accuracy import known_items
from nrms.evaluation.ranking import TOP, Scorer, encode_items, model_scorer, rank_catalogue
from nrms.evaluation.result_files import write_results
from nrms.models.build import build
from nrms.models.load import load_weights
from nrms.runtime.run_record import Run, members_of, now, recorded, run_folder, run_folders


def together(scorers: Sequence[Scorer]) -> Scorer:
    """The mean of the scorers, each with mean 0 and deviation 1 over the items (row 0, padding, left out) of a query."""

    def scores_of(rows: np.ndarray) -> torch.Tensor:
        total = 0.0
        for scorer in scorers:
            scores = scorer(rows)
            items = scores[:, 1:]
            total = total + (scores - items.mean(1, keepdim=True)) / items.std(1, keepdim=True).clamp_min(1e-12)
        return total / len(scorers)

    return scores_of


def named(configs: Sequence[Config], name: str | None = None) -> str:
    """The name of the run folders of an ensemble: `name`, else `ensemble-` and the name of its first member.

    Raises NrmsError when there are fewer than two members or one of them twice, when the data are impressions, and when the name is that of an
    experiment, a baseline or a ceiling, or of folders that hold anything but an ensemble of the same members: nothing else is ever replaced.
    """
    dataset, members = configs[0].dataset, sorted(config.name for config in configs)
    if len(set(members)) < max(len(members), 2):
        raise NrmsError(f"An ensemble takes two different experiments or more, each of them once; given were {', '.join(members)}.")
    if configs[0].data.protocol == "impressions":
        raise NrmsError(f"Ensembles rank a catalogue; {dataset} has impressions.")
    name = check_name(name or f"ensemble-{configs[0].name}"[:40], "run name")
    if name in REFERENCES or (PARAMS / f"{name}.yaml").exists():
        raise NrmsError(f"The run name `{name}` is that of an experiment, a baseline or a ceiling: give an ensemble another `--name`.")
    for folder in run_folders(dataset):
        held = members_of(Run(folder).record)
        if folder.parent.name == name and held != tuple(members):
            what = f"the ensemble of {' + '.join(held)}" if held else "a run that is no ensemble"
            raise NrmsError(f"{folder} holds {what}: give the ensemble of {' + '.join(members)} another `--name`.")
    return name


def is_current(configs: Sequence[Config], name: str) -> bool:
    """Whether the ensemble `name` of these runs is done, and none of them was made anew since."""
    record = Run(run_folder(configs[0].dataset, name, configs[0].seed)).record
    members = [Run(run_folder(config.dataset, config.name, config.seed)).record for config in configs]
    return record.get("status") == "done" and all(member.get("started", now()) <= record["started"] for member in members)


@torch.inference_mode()
def ensemble(configs: Sequence[Config], name: str | None = None) -> Run:
    """Judges on the test part the mean of runs that are trained already, one of each config, into the run folder of the same seed that is `named` so.

    Raises NrmsError when a run is missing, and as `named` does.
    """
    first, name = configs[0], named(configs, name)
    configs = sorted(configs, key=lambda config: config.name)  # the same ensemble in whatever order it was asked for
    tables = load(first.dataset, first.data)
    split, scorers, families = tables.split(first.data), [], []
    for config in configs:
        run = Run(run_folder(config.dataset, config.name, config.seed))
        if run.status not in ("trained", "done") or run.record.get("hash") != config.hash or run.record.get("data") != tables.manifest["tables"]:
            raise NrmsError(
                f"{run.folder} holds no run trained with these values on these data (its status is {run.status}): "
                f"`python -m nrms run {config.exp} --dataset {config.dataset} --seeds {config.seed}` first."
            )
        model = build(config, tables, run.record["device"])
        load_weights(model, run.folder / "checkpoint" / "best.safetensors")
        scorers.append(model_scorer(model, encode_items(model), split.test, config.history))
        families.append(run.record["family"])
    run = Run(run_folder(first.dataset, name, first.seed))
    run.begin(
        kind="model",
        protocol=first.data.protocol,
        members=[config.name for config in configs],
        config={"data": first.data.test_settings},
        hash=digest({"ensemble": [config.hash for config in configs]}),
        family=digest({"ensemble": families}),
        data=tables.manifest["tables"],
    )
    with recorded(run):
        data = first.data
        ranks = rank_catalogue(together(scorers), split.test, len(tables.items), protocol=data.protocol, seen=data.rank_seen, top=TOP)
        write_results(run, tables, split, ranks, known_items(tables, split))
    run.update(status="done", error=None, evaluated=now())
    return run
