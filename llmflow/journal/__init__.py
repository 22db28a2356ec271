"""The journal of a run: its answers, in one SQLite file.

Nothing here knows of LLMs or providers: fingerprints in, answers out.
"""

from llmflow.journal.journal import Journal
from llmflow.journal.protocol import (
    Durability,
    JournalProtocol,
    Key,
    Recorded,
    RecordedFailure,
    Store,
    Totals,
)
from llmflow.journal.reading import RunSummary, read_jobs, read_summary

__all__ = [
    "Durability",
    "Journal",
    "JournalProtocol",
    "Key",
    "Recorded",
    "RecordedFailure",
    "RunSummary",
    "Store",
    "Totals",
    "read_jobs",
    "read_summary",
]
