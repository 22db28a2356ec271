"""Store of batch jobs in a run's journal, their files beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from llmflow.batch.names import call_of
from llmflow.batch.record import JobRecord
from llmflow.batch.spool import names_of, remove_all

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


def end_what_is_answered(journal: Journal) -> set[str]:
    """End jobs whose rows are all recorded; return the other tags.

    Where all is answered no call comes that would wake such a job.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    store, folder, wanted = JournalStore(journal), journal.folder / FOLDER, set[str]()
    for record in store.all():
        if not record.is_active:
            continue
        path = folder / f"{record.tag}.jsonl"
        try:
            is_over = record.state == "fetched" and all(_is_known(journal, names_of(path)))
        except (OSError, ValueError):
            is_over = False  # to be told to whoever goes on with it
        if is_over:
            store.put([record.but(state="done", outcome=record.native or "ended")])
            remove_all([path, folder / f"{record.tag}.results"])
        else:
            wanted.add(record.tag)
    return wanted


def tidy_up(journal: Journal) -> None:
    """Remove batch files of an earlier session that was killed.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    wanted = end_what_is_answered(journal)
    for path in (journal.folder / FOLDER).iterdir():
        if path.suffix == ".part" or path.name.partition(".")[0] not in wanted:
            remove_all([path])


def _is_known(journal: Journal, names: Iterable[str]) -> Iterator[bool]:
    for name in names:
        found = call_of(name)
        yield found is not None and journal.find(*found) is not None
