"""What do several trained models reach together? The mean of their scores, each standardised over the items of a question's catalogue.

The row to hold a fusion of modalities against: if it is no better than the ensemble of its single modalities, it has learned nothing from them
together.
"""

from collections.abc import Sequence

import numpy as np
import torch

from nrms import NrmsError
from nrms.beyond import known_items
from nrms.config import Config
from nrms.data.prepare import load
from nrms.evaluate import judge, load_weights
from nrms.parameters import digest
from nrms.ranking import TOP, Scorer, encode_items, metrics_of, model_scorer, rank_catalogue
from nrms.recommender import build
from nrms.runtime import Run, now, run_folder


def together(scorers: Sequence[Scorer]) -> Scorer:
    """The mean of the scorers, each with mean 0 and deviation 1 over the items (row 0, padding, left out) of a question."""

    def scores_of(rows: np.ndarray) -> torch.Tensor:
        total = 0.0
        for scorer in scorers:
            scores = scorer(rows)
            items = scores[:, 1:]
            total = total + (scores - items.mean(1, keepdim=True)) / items.std(1, keepdim=True).clamp_min(1e-12)
        return total / len(scorers)

    return scores_of


@torch.inference_mode()
def ensemble(configs: Sequence[Config], name: str = "ensemble") -> Run:
    """Judges on the test part the mean of runs that are trained already, one of each config, into a run folder `name` of the same seed.

    Raises NrmsError when a run is missing, when there are fewer than two, or when the data are impressions.
    """
    first = configs[0]
    if len(configs) < 2:
        raise NrmsError("An ensemble takes two experiments or more.")
    if first.data.protocol == "impressions":
        raise NrmsError(f"Ensembles rank a catalogue; {first.dataset} has impressions.")
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
    members = " + ".join(config.name for config in configs)
    run.begin(
        kind="model",
        protocol=first.data.protocol,
        config={"given": {"of": members}},
        hash=digest({"ensemble": [config.hash for config in configs]}),
        family=digest({"ensemble": families}),
        data=tables.manifest["tables"],
    )
    found = rank_catalogue(together(scorers), split.test, len(tables.news), seen=first.data.rank_seen, top=TOP)
    judge(run, tables, split, metrics_of(found, split.test, first.data), found, known_items(tables, split))
    run.update(status="done", error=None, evaluated=now())
    return run
