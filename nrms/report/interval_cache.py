"""Which numbers are made once, and kept? Means over seeds with their intervals, and differences to a baseline, in reports/<dataset>/intervals.json.

Every table, page and notebook asks for them. The file holds nothing that the runs do not: it may be deleted at any time.
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nrms import home
from nrms.runtime.files import read_json, write_json
from nrms.runtime.run_record import Run

METHOD = 2  # raised by hand when the numbers of the same runs become others
FILES = ("run.json", "rows.parquet", "metrics.json")  # what the numbers are made of
Numbers = dict[str, float]


def digest(runs: Sequence[Run]) -> str:
    """Of what numbers are made: another one as soon as a file of these runs is written anew."""
    paths = [run.folder / name for run in runs for name in FILES]
    return hashlib.sha256(repr([METHOD, *((path.parts[-3:], path.stat().st_mtime_ns) for path in paths)]).encode()).hexdigest()


def numbers_of(dataset: str, runs: Mapping[str, Sequence[Run]], compute: Callable[[list[str]], list[Numbers]]) -> dict[str, Numbers]:
    """{name: numbers} of every name, from its `runs`: those of the file, or what `compute` makes of the names that are new, which are kept.

    Where reports cannot be written to, they are made all the same. Raises FileNotFoundError where a run has lost its files since it was read.
    """
    path, file = home() / "reports" / dataset / "intervals.json", {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # not there yet, or damaged: all is made anew
        file = dict(read_json(path))
    digests = {name: digest(runs_of_name) for name, runs_of_name in runs.items()}
    new = [name for name in runs if file.get(name, {}).get("digest") != digests[name]]
    for name, numbers in zip(new, compute(new) if new else (), strict=True):
        file[name] = {"digest": digests[name]} | {key: None if np.isnan(value) else value for key, value in numbers.items()}
    if new:
        with contextlib.suppress(OSError):
            write_json(path, file)
    return {name: {key: np.nan if value is None else value for key, value in file[name].items() if key != "digest"} for name in runs}
