"""Error messages about journals, with what to do."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Final

from llmflow.errors import JournalError, redact

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FOLDER: Final = (errno.ENOTDIR, errno.EEXIST)
_DENIED: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_TAKEN: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_KEPT: Final = "what was written down is kept"
_ELSEWHERE: Final = "name a folder that can be written in LLMFLOW_JOURNAL_DIR, or keep no journal"


def damaged(path: Path, reason: str) -> JournalError:
    """Return the error for a file that is not a journal."""
    return JournalError(
        f"the journal {path} is damaged ({redact(reason)}). It is left as it is: move the folder "
        f"{path.parent} away to begin anew; `sqlite3 {path.name} .recover` may save its answers"
    )


def foreign(path: Path) -> JournalError:
    """Return the error for another program's database."""
    return JournalError(
        f"{path} is a database of another program. It is left as it is: name another run or folder"
    )


def newer(path: Path, version: int, newest: int) -> JournalError:
    """Return the error for a file that a newer llmflow has changed."""
    return JournalError(
        f"the journal {path} has version {version}, and this llmflow knows versions up to "
        f"{newest}: install a newer llmflow, or name another run"
    )


def older(path: Path, version: int, oldest: int) -> JournalError:
    """Return the error for a file of a development version before 0.1.0."""
    return JournalError(
        f"the journal {path} has version {version}, and this llmflow knows versions from {oldest} "
        "on: its answers would not be found, and bought again. It is left as it is: name another "
        "run, or go on with the llmflow that wrote it"
    )


def explain(path: Path, error: BaseException, *, doing: str = "written") -> JournalError:
    """Return the problem and remedy for a journal that cannot be used.

    Args:
        path: the journal's file.
        error: what was raised.
        doing: what could not be done with it: ``"written"`` or ``"read"``.
    """
    if isinstance(error, JournalError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, str(error))
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    number = error.errno if isinstance(error, OSError) else None
    reason = redact(text).rstrip(".").lower() or type(error).__name__
    remedy = _remedy(path, primary, number)
    return JournalError(f"the journal {path} cannot be {doing}: {reason}; {remedy}")


def _remedy(path: Path, primary: int | None, number: int | None) -> str:
    if primary == sqlite3.SQLITE_FULL or number in _NO_ROOM:
        return f"make room on the disk and run again; {_KEPT}"
    if number in _NO_FOLDER:
        return f"{path.parent} must be a folder: name another run, or move what is there away"
    if primary in _DENIED or number is not None:
        return _ELSEWHERE
    if primary in _TAKEN:
        return f"another program holds it: close what has it open, and run again; {_KEPT}"
    if primary == sqlite3.SQLITE_IOERR:
        return f"see to the disk and the room on it, and run again; {_KEPT}"
    return _KEPT
