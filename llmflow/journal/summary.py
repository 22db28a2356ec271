"""What is known of a run, read without disturbing whoever works on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import orjson

from llmflow.errors import JournalError
from llmflow.journal import schema
from llmflow.journal.lock import holder
from llmflow.journal.totals import Totals

_TOTALS: Final = frozenset(each.name for each in fields(Totals))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What is known of a run.

    Args:
        name: the run's name.
        folder: where it is.
        state: ``running``; ``complete``; ``interrupted``, also by a crash; ``stopped``; or
            ``unreadable``.
        reason: why it stopped, or cannot be read; else None.
        created_at: when it was first entered, in seconds since 1970.
        last_used_at: when it was last entered or left.
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
    created_at: float = 0.0
    last_used_at: float = 0.0
    sessions: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    busy: bool = False
    pid: int | None = None
    bytes: int = 0


def read_summary(folder: Path) -> RunSummary | None:
    """Return what is known of the run in a folder; None if there is none.

    Nothing is written and no lock is kept. A journal that cannot be read is a summary that
    says so.
    """
    path = folder / schema.NAME
    try:
        if not path.stat().st_size:
            return None
    except OSError:
        return None
    busy, pid = holder(folder)
    size = sum(each.stat().st_size for each in folder.glob(f"{schema.NAME}*") if each.exists())
    try:
        schema.check_file(path)
        with closing(_connect(path)) as connection:
            meta = read_meta(connection)
    except (sqlite3.Error, OSError, ValueError, JournalError) as error:
        return RunSummary(
            name=folder.name,
            folder=folder,
            state="unreadable",
            reason=str(schema.explain(path, error)),
            last_used_at=path.stat().st_mtime,
            busy=busy,
            pid=pid,
            bytes=size,
        )
    state = str(meta.get("state", "interrupted"))
    return RunSummary(
        name=folder.name,
        folder=folder,
        # Nobody works on it, and nobody said how it ended: its process died.
        state="interrupted" if state == "running" and not busy else state,
        reason=meta.get("reason"),
        created_at=meta.get("created_at", 0.0),
        last_used_at=meta.get("last_used_at", 0.0),
        sessions=meta.get("sessions", 0),
        about=meta.get("about") or {},
        totals=totals_of(meta),
        busy=busy,
        pid=pid,
        bytes=size,
    )


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return what the file says of its run."""
    return {name: orjson.loads(value) for name, value in connection.execute("SELECT * FROM meta")}


def totals_of(meta: Mapping[str, Any]) -> Totals:
    """Return the sums that the file keeps."""
    known = meta.get("totals") or {}
    return Totals(**{name: value for name, value in known.items() if name in _TOTALS})


def _connect(path: Path) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        connection = sqlite3.connect(address, uri=True, isolation_level=None)
        connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
    except sqlite3.OperationalError:
        if path.with_name(f"{path.name}-wal").exists():
            raise
        # In a folder that cannot be written, and with nobody at work on it.
        connection = sqlite3.connect(f"{address}&immutable=1", uri=True, isolation_level=None)
    return connection
