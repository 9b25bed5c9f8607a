"""In what do two experiments differ? Every setting that is not the same, so that a comparison is not taken for more than it is."""

import json
from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from nrms.config.parameters import Experiment
from nrms.config.resolved import Config
from nrms.report.planned_comparisons import Difference, finished
from nrms.runtime.notebook_output import readable

OWN = {"exp", "question", "name", "seed", "data", "dataset", "given", "device", "processes", "checkpoint", "start_sha256"}  # not what is compared


def defaults() -> dict[str, object]:
    """{name: default} of the settings that have one, as JSON has them."""
    fields = Experiment.model_fields.items()
    return json.loads(json.dumps({name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()}))


def differing_settings(config: dict, other: dict) -> dict[str, tuple[object, object]]:
    """{name: (value here, value there)} of the settings in which two resolved experiments differ.

    What a record does not have did not exist when it was written, so it is as by default.
    """
    config, other = defaults() | config, defaults() | other
    names = [name for name in dict.fromkeys([*config, *other]) if name not in OWN]
    return {name: (config.get(name), other.get(name)) for name in names if config.get(name) != other.get(name)}


def contrasts(dataset: str, found: Sequence[Difference]) -> Styler | str:
    """For every comparison that was made: what it is named for, what differs in truth, and so what it can show."""
    known, lines = finished(dataset), []
    for d in found:
        a, b = known[d.exp], known[d.other]
        averages = [" + ".join(e.members) for e in (a, b) if e.members]
        if b.kind == "baseline":
            says, can = "everything: a baseline learns nothing", "whether it is worth training at all, not why"
        elif averages:
            says = f"an average of runs: {'; '.join(averages)}"
            can = "whether learning together does better than the mean of what was learned apart, not why"
        else:
            apart = differing_settings(a.record.get("config", {}), b.record.get("config", {}))
            says = "; ".join(f"{name}: {one} against {two}" for name, (one, two) in apart.items()) or "nothing but the runs"
            several = f"these {len(apart)} settings together, not which of them"
            can = {0: "chance alone", 1: "this one setting"}.get(len(apart), several)
        fewer = [len(e.seeds) for e in (a, b) if e.kind == "model"]
        can += "; of one draw of the weights" if min(fewer, default=2) == 1 else ""
        lines.append({"comparison": f"{d.exp} against {d.other}", "named for": d.about, "differs in": says, "what it can show": can})
    return readable(pd.DataFrame(lines).set_index("comparison")) if lines else "No planned comparison has both its experiments finished."


def settings(config: Config, *, every: bool = True) -> Styler:
    """The values of the experiment, with their meaning, and the default where the run departs from it; every=False: these alone."""
    lines = []
    for name, field in Experiment.model_fields.items():
        value = getattr(config, name)
        if not every and value == field.default:
            continue
        lines.append(
            {"name": name, "value": str(value), "default": "" if value == field.default else str(field.default), "meaning": field.description or ""}
        )
    return readable(pd.DataFrame(lines, columns=["name", "value", "default", "meaning"]).set_index("name"))
