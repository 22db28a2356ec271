"""Records of jobs, and where they are kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from llmflow.batch.spool import call_of, names_of, remove_all

if TYPE_CHECKING:
    from llmflow.journal import JournalProtocol

State = Literal["sealed", "creating", "created", "fetched", "done"]

FOLDER: Final = "batches"
"""Where files of jobs are, in the folder of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job, as the next process has to know it.

    Its states, each written down before what follows it is begun::

        sealed     its file is complete on this machine; nothing of it may be at the provider
        creating   the file is uploaded, and the job may or may not exist at the provider
        created    the provider has named it
        fetched    it has ended, and its results are on this machine
        done       each of its rows is in the journal, or in another job
    """

    tag: str  # its name at llmflow, and of its files
    queue: str  # which scheduler it belongs to: a digest of provider, server and model
    provider: str
    model: str
    state: State = "sealed"
    requests: int = 0  # its rows
    size: int = 0  # of its file, in bytes
    tokens: float = 0.0  # of its rows' prompts, estimated
    sealed_at: float = 0.0  # when its file was complete, in seconds since 1970
    round: int = 1  # how often its rows went into a job, this one included
    schema: str = ""  # what tells its rows' JSON schema from others, where that matters
    after: str | None = None  # the tag of the job that has to end before this one is sent
    failures: int = 0  # how often it, or what it was split from, was refused for a bad row
    refused: int = 0  # how often it had to wait because too much was enqueued
    # The tag of the job that it was split from, and that one perhaps, when none of their rows
    # was named; the rows of that one; how often that was done.
    family: str | None = None
    whole: int = 0
    halved: int = 0
    sent_at: float | None = None  # when its creation was begun
    # It was found at the provider by its size and time only, so that it may be somebody else's
    # as long as no row of its results is known; jobs that were found so, and are.
    found: bool = False
    others: tuple[str, ...] = ()
    uploaded: str | None = None  # the provider's name of its file
    job: str | None = None  # the provider's name of the job
    created_at: float | None = None  # when the provider named it
    native: str | None = None  # what the provider last said that it is doing
    succeeded: int | None = None  # how many of its rows were answered, when last looked at
    failed: int | None = None
    expires_at: float | None = None  # when the provider gives it up
    cancel: str | None = None  # why it is to be cancelled: ``deadline``, or ``user``
    outcome: str | None = None  # how it ended, in one line, when it is done
    replaced: bool = False  # it was refused as a whole, and other jobs have its rows

    def but(self, **changes: Any) -> JobRecord:
        """Return it with these changes."""
        return replace(self, **changes)

    def unmade(self) -> JobRecord:
        """Return it without all that the provider has said of the job."""
        said = ("job", "created_at", "native", "succeeded", "failed", "expires_at")
        return self.but(**dict.fromkeys(said))

    def plain(self) -> dict[str, Any]:
        """Return it as plain values, without what is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> JobRecord:
        """Return what `plain` was made of, without fields of other versions."""
        known = {each.name for each in fields(cls)}
        given = {name: value for name, value in plain.items() if name in known}
        return cls(**{**given, "others": tuple(given.get("others", ()))})

    @property
    def is_active(self) -> bool:
        """True if something of it is still to be done."""
        return self.state != "done"


class JobStore:
    """The records of all jobs, by their tags.

    Args:
        journal: where they are kept; None: in memory, until the process ends.
    """

    def __init__(self, journal: JournalProtocol | None) -> None:
        self._journal = journal
        self._records: dict[str, JobRecord] = {}

    def put(self, records: Collection[JobRecord]) -> None:
        """Write records durably, each in place of the one with its tag.

        Raises:
            JournalError: they cannot be written; then none of them is.
        """
        if self._journal is None:
            self._records.update((each.tag, each) for each in records)
        else:
            self._journal.put_jobs({each.tag: each.plain() for each in records})

    def all(self) -> list[JobRecord]:
        """Return every record, in the order in which their jobs were made."""
        if self._journal is None:
            return list(self._records.values())
        return [JobRecord.of(each) for each in self._journal.jobs()]


def end_what_is_answered(journal: JournalProtocol) -> set[str]:
    """End jobs whose rows are all recorded; return the other tags.

    Where all is answered no call comes that would wake such a job.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    store, folder, wanted = JobStore(journal), journal.folder / FOLDER, set[str]()
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


def tidy_up(journal: JournalProtocol) -> None:
    """Remove batch files of an earlier session that was killed.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    wanted = end_what_is_answered(journal)
    for path in (journal.folder / FOLDER).iterdir():
        if path.suffix == ".part" or path.name.partition(".")[0] not in wanted:
            remove_all([path])


def _is_known(journal: JournalProtocol, names: Iterable[str]) -> Iterator[bool]:
    for name in names:
        found = call_of(name)
        yield found is not None and journal.find(*found) is not None
