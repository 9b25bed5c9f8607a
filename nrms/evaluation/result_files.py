"""What is written of a judged run? rows.parquet, metrics.json and beyond.json."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nrms.data.prepare import Tables
from nrms.data.tables import Split
from nrms.evaluation.beyond_accuracy import Known, beyond
from nrms.evaluation.protocols import PROTOCOLS
from nrms.evaluation.slices import among, slices
from nrms.evaluation.statistics import summarise
from nrms.runtime.files import atomic, write_json
from nrms.runtime.run_record import Run


def write_results(run: Run, tables: Tables, split: Split, rows: dict[str, np.ndarray], found: dict[str, np.ndarray], items: Known) -> dict:
    """Writes what a scorer reached on the test part: rows.parquet, metrics.json and beyond.json of a run.

    rows, found: as `ranking.evaluate_model` gives them. items: what is known of them before any model. rows.parquet: one row per impression, with id,
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
