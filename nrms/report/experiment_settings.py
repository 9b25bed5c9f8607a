"""In what do two experiments differ? Every setting that is not the same, so that a comparison is not taken for more than it is."""

import json
from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from nrms.config.parameters import Experiment
from nrms.config.resolved import Config
from nrms.report.planned_comparisons import Difference, finished
from nrms.runtime.notebook_output import readable

# they say which run it is, and are not what is compared
IDENTITY = {"exp", "question", "name", "seed", "data", "dataset", "given", "device", "processes", "checkpoint", "start_sha256"}


def defaults() -> dict[str, object]:
    """{name: default} of the settings that have one, as JSON has them."""
    fields = Experiment.model_fields.items()
    return json.loads(json.dumps({name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()}))


def differing_settings(config: dict, other: dict) -> dict[str, tuple[object, object]]:
    """{name: (value here, value there)} of the settings in which two resolved experiments differ.

    What a record does not have did not exist when it was written, so it is as by default.
    """
    config, other = defaults() | config, defaults() | other
    names = [name for name in dict.fromkeys([*config, *other]) if name not in IDENTITY]
    return {name: (config.get(name), other.get(name)) for name in names if config.get(name) != other.get(name)}


def contrasts(dataset: str, comparisons: Sequence[Difference]) -> Styler | str:
    """For every comparison that was made: what it is named for, what differs in truth, and so what it can show."""
    by_name, lines = finished(dataset), []
    for d in comparisons:
        a, b = by_name[d.exp], by_name[d.other]
        ensembles = [" + ".join(s.members) for s in (a, b) if s.members]
        if b.kind == "baseline":
            difference, scope = "everything: a baseline learns nothing", "whether it is worth training at all, not why"
        elif ensembles:
            difference = f"an average of runs: {'; '.join(ensembles)}"
            scope = "whether learning together does better than the mean of what was learned apart, not why"
        else:
            differing = differing_settings(a.record.get("config", {}), b.record.get("config", {}))
            difference = "; ".join(f"{name}: {one} against {two}" for name, (one, two) in differing.items()) or "nothing but the runs"
            several = f"these {len(differing)} settings together, not which of them"
            scope = {0: "chance alone", 1: "this one setting"}.get(len(differing), several)
        if any(s.kind == "model" and len(s.seeds) == 1 for s in (a, b)):
            scope += "; of one draw of the weights"
        lines.append({"comparison": f"{d.exp} against {d.other}", "named for": d.about, "differs in": difference, "what it can show": scope})
    return readable(pd.DataFrame(lines).set_index("comparison")) if lines else "No planned comparison has both its experiments finished."


def settings(config: Config, *, every: bool = True) -> Styler:
    """The values of the experiment, with their meaning, and the default where the run departs from it; every=False: these alone."""
    lines = []
    for name, field in Experiment.model_fields.items():
        value = getattr(config, name)
        if every or value != field.default:
            default = "" if value == field.default else str(field.default)
            lines.append({"name": name, "value": str(value), "default": default, "meaning": field.description or ""})
    return readable(pd.DataFrame(lines, columns=["name", "value", "default", "meaning"]).set_index("name"))
