"""What came out? Run folders -> tables, figures, sentences, pages. Reads files alone: no model, no GPU."""

from nrms.report.experiments import protocol_of
from nrms.report.sentences import answer, beyond_meanings, definitions, meanings
from nrms.report.tables import beyond, beyond_slices, comparison, diagnostics, leaderboard, ledger

__all__ = [
    "answer",
    "beyond",
    "beyond_meanings",
    "beyond_slices",
    "comparison",
    "definitions",
    "diagnostics",
    "leaderboard",
    "ledger",
    "meanings",
    "protocol_of",
]
