"""What is written of a judged run? rows.parquet, metrics.json and beyond.json."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nrms.data.prepare import Tables
from nrms.data.tables import Split
from nrms.evaluation.beyond_accuracy import Known, beyond
from nrms.evaluation.scores_and_ranks import CatalogueRanks, SlateScores
from nrms.evaluation.slices import candidate_slices, slices
from nrms.evaluation.statistics import summarise
from nrms.runtime.files import atomic, write_json
from nrms.runtime.run_record import Run


def write_results(run: Run, tables: Tables, split: Split, ranking: SlateScores | CatalogueRanks, items: Known) -> None:
    """Writes what a scorer reached on the test part: rows.parquet, metrics.json and beyond.json of a run.

    items: what is known of them before any model. rows.parquet: one row per query, with id, user, sizes, metrics, `in: <slice>` for slices of
    queries, `<main metric>: <slice>` for slices of candidates, and of slates scores, of a catalogue ranks (ties their average), how many others are
    tied, and first items.
    metrics.json: {slice: {metric: {mean, low, high, n, skipped}}}.
    """
    test, metrics, parts = split.test, ranking.metrics(), slices(tables, split)
    summaries = {name: summarise(metrics, where) for name, where in parts.items() if where.any()}
    columns = {f"in: {name}": where for name, where in parts.items() if name != "all"}
    for name, flags in candidate_slices(tables, split).items():
        of_slice = ranking.metrics(flags)
        summaries[name] = summarise(of_slice, parts["all"])
        columns[f"{ranking.protocol.main}: {name}"] = of_slice[ranking.protocol.main]
    before, behind = ranking.columns()
    about = {"impression": test.id, "user": test.user, "history": test.history.lengths.astype(np.int32)}
    with atomic(run.folder / "rows.parquet") as part:
        pq.write_table(pa.table(about | before | metrics | columns | behind), part, compression="zstd")
    write_json(run.folder / "metrics.json", summaries)
    write_json(run.folder / "beyond.json", beyond(items, ranking, parts))
