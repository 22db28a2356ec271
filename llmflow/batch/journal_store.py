"""Store of batch jobs in a run's journal, their files beside it."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Final

from llmflow.batch.leftovers import end_answered, tidy
from llmflow.batch.names import call_of
from llmflow.batch.record import JobRecord

if TYPE_CHECKING:
    from llmflow.journal import Journal

FOLDER: Final = "batches"
"""Where files of jobs are, in the folder of the run."""


class JournalStore:
    """Records in a run's journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def put(self, records: Collection[JobRecord]) -> None:
        """Write records, each in place of the one with its tag."""
        self._journal.put_jobs({each.tag: each.plain() for each in records})

    def all(self) -> list[JobRecord]:
        """Return every record, in the order in which their jobs were made."""
        return [JobRecord.of(each) for each in self._journal.jobs()]


def tidy_up(journal: Journal) -> None:
    """Remove batch files of an earlier session that was killed.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    tidy(journal.folder / FOLDER, JournalStore(journal), partial(_is_known, journal))


def end_what_is_answered(journal: Journal) -> None:
    """End completed jobs whose event loop is gone.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    end_answered(journal.folder / FOLDER, JournalStore(journal), partial(_is_known, journal))


def _is_known(journal: Journal, name: str) -> bool:
    found = call_of(name)
    return found is not None and journal.find(*found) is not None
