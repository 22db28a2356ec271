"""Reads a run's summary without disturbing its process."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from llmflow.errors import JournalError
from llmflow.journal import schema
from llmflow.journal.lock import holder
from llmflow.journal.problems import explain
from llmflow.journal.rows import from_json
from llmflow.journal.values import Totals

_TOTALS: Final = frozenset(each.name for each in fields(Totals))

_JOBS: Final = "SELECT record FROM jobs ORDER BY id"
_HAS_JOBS: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'jobs'"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Facts about a run.

    Args:
        name: the run's name.
        folder: where it is.
        state: ``running``; ``complete``; ``waiting`` for batch jobs, which go on without it;
            ``interrupted``, also by a crash; ``stopped``; or ``unreadable``.
        reason: why it stopped, or cannot be read; else None.
        id: a random name that no other run has.
        version: the llmflow that used it last.
        created_at: when it was first entered, in seconds since 1970.
        last_used_at: when something was last written down.
        sessions: how often it was entered.
        about: what was kept with it.
        totals: what it holds.
        busy: whether a process works on it now.
        pid: that process, where it is known.
        bytes: the size of its files.
    """

    name: str
    folder: Path
    state: str
    reason: str | None = None
    id: str = ""
    version: str = ""
    created_at: float = 0.0
    last_used_at: float = 0.0
    sessions: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    busy: bool = False
    pid: int | None = None
    bytes: int = 0


def read_summary(folder: str | os.PathLike[str]) -> RunSummary | None:
    """Return the summary of a folder's run, or None.

    Nothing is written and no lock is kept. A journal that cannot be read is a summary that
    says so.
    """
    folder = Path(folder)
    path = folder / schema.NAME
    try:
        found = path.stat()
    except OSError:
        return None
    if not found.st_size:
        return None
    busy, pid = holder(folder)
    try:
        meta = _look(path)
    except (sqlite3.Error, OSError, ValueError, JournalError) as error:
        return RunSummary(
            name=folder.name,
            folder=folder,
            state="unreadable",
            reason=str(explain(path, error, doing="read")),
            last_used_at=found.st_mtime,
            busy=busy,
            pid=pid,
            bytes=_size(folder),
        )
    return summary_of(folder, meta, busy=busy, pid=pid)


def summary_of(folder: Path, meta: Mapping[str, Any], *, busy: bool, pid: int | None) -> RunSummary:
    """Return what a journal says of its run."""
    state = str(meta.get("state", "interrupted"))
    return RunSummary(
        name=folder.name,
        folder=folder,
        # Nobody works on it, and nobody said how it ended: its process died.
        state="interrupted" if state == "running" and not busy else state,
        reason=meta.get("reason"),
        id=meta.get("id", ""),
        version=meta.get("version", ""),
        created_at=meta.get("created_at", 0.0),
        last_used_at=meta.get("last_used_at", 0.0),
        sessions=meta.get("sessions", 0),
        about=meta.get("about") or {},
        totals=totals_of(meta),
        busy=busy,
        pid=pid,
        bytes=_size(folder),
    )


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return what the file says of its run."""
    return {name: from_json(value) for name, value in connection.execute("SELECT * FROM meta")}


def jobs_of(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return the records of all batch jobs, in order of creation."""
    return [from_json(record) for (record,) in connection.execute(_JOBS)]


def read_jobs(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the batch jobs of a folder's run, without disturbing it.

    Raises:
        JournalError: the journal cannot be read.
    """
    path = Path(folder) / schema.NAME
    try:
        schema.check_file(path)
        with closing(schema.open_to_look(path)) as connection:
            if not connection.execute(_HAS_JOBS).fetchall():
                return []  # of an older llmflow
            return jobs_of(connection)
    except (sqlite3.Error, OSError, ValueError) as error:
        raise explain(path, error, doing="read") from error


def totals_of(meta: Mapping[str, Any]) -> Totals:
    """Return the sums that the file keeps."""
    known = meta.get("totals") or {}
    return Totals(**{name: value for name, value in known.items() if name in _TOTALS})


def _look(path: Path) -> dict[str, Any]:
    schema.check_file(path)
    try:
        with closing(schema.open_to_look(path)) as connection:
            return read_meta(connection)
    except sqlite3.Error:
        # A process may have begun to write, or have put its log away, in between.
        with closing(schema.open_to_look(path)) as connection:
            return read_meta(connection)


def _size(folder: Path) -> int:
    total = 0
    for suffix in ("", "-wal"):
        try:
            total += (folder / f"{schema.NAME}{suffix}").stat().st_size
        except OSError:
            continue
    return total
