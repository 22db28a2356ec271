"""The journal of a run: its answers, in one SQLite file.

Nothing here knows of LLMs or providers: fingerprints in, answers out.
"""

from llmflow.journal.journal import Journal
from llmflow.journal.protocol import JournalProtocol, Key
from llmflow.journal.reading import RunSummary, read_jobs, read_summary
from llmflow.journal.values import Durability, Recorded, RecordedFailure, Store, Totals

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
