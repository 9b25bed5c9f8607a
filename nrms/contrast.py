"""In what do two experiments differ? Every setting that is not the same, so that a comparison is not taken for more than it is."""

from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from nrms.answers import Difference, finished
from nrms.show import readable

OWN = {"exp", "question", "name", "seed", "data", "dataset", "given", "device", "processes", "checkpoint", "start_sha256"}  # not what is compared


def settings_apart(config: dict, other: dict) -> dict[str, tuple[object, object]]:
    """{name: (value here, value there)} of the settings in which two resolved experiments differ."""
    names = [name for name in dict.fromkeys([*config, *other]) if name not in OWN]
    return {name: (config.get(name), other.get(name)) for name in names if config.get(name) != other.get(name)}


def contrasts(dataset: str, found: Sequence[Difference]) -> Styler | str:
    """For every comparison that was made: what it is named for, what differs in truth, and so what it can show."""
    known, lines = finished(dataset), []
    for d in found:
        a, b = known[d.exp], known[d.other]
        if b.kind == "baseline":
            says, can = "everything: a baseline learns nothing", "whether it is worth training at all, not why"
        else:
            apart = settings_apart(a.record.get("config", {}), b.record.get("config", {}))
            says = "; ".join(f"{name}: {one} against {two}" for name, (one, two) in apart.items()) or "nothing but the runs"
            several = f"these {len(apart)} settings together, not which of them"
            can = {0: "chance alone", 1: "this one setting"}.get(len(apart), several)
        fewer = [len(e.seeds) for e in (a, b) if e.kind == "model"]
        can += "; of one draw of the weights" if min(fewer, default=2) == 1 else ""
        lines.append({"comparison": f"{d.exp} against {d.other}", "named for": d.about, "differs in": says, "what it can show": can})
    return readable(pd.DataFrame(lines).set_index("comparison")) if lines else "No planned comparison has both its experiments finished."
