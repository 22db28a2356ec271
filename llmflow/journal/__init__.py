"""What a run has been answered, in one SQLite file that survives the process.

Nothing here knows of LLMs or providers: fingerprints in, answers out.
"""

from llmflow.journal.journal import Journal
from llmflow.journal.keys import fingerprint
from llmflow.journal.rows import RecordedFailure
from llmflow.journal.summary import RunSummary, read_summary
from llmflow.journal.totals import Totals

__all__ = [
    "Journal",
    "RecordedFailure",
    "RunSummary",
    "Totals",
    "fingerprint",
    "read_summary",
]
