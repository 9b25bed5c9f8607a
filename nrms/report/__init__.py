"""What came out? Run folders -> tables, figures, sentences, pages. Reads files alone: no model, no GPU."""

from nrms.report.experiments import protocol_of
from nrms.report.result_tables import beyond, beyond_slices, comparison, costs, diagnostics, leaderboard
from nrms.report.sentences import answer, beyond_meanings, definitions, meanings

ledger = costs  # its name in 0.1, for notebooks that were copied then

__all__ = [
    "answer",
    "beyond",
    "beyond_meanings",
    "beyond_slices",
    "comparison",
    "costs",
    "definitions",
    "diagnostics",
    "leaderboard",
    "ledger",
    "meanings",
    "protocol_of",
]
