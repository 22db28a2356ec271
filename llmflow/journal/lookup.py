"""Looks questions up in a journal, without lock or writes."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final, NamedTuple, Self

from llmflow.journal import schema
from llmflow.journal.asked import Asked
from llmflow.journal.problems import explain

_BY_KEY: Final = "WHERE fingerprint = ? AND ordinal <= ? ORDER BY ordinal DESC LIMIT 1"
_ANSWER: Final = f"SELECT ordinal + uses, input_tokens, output_tokens FROM answers {_BY_KEY}"  # noqa: S608
_FAILURE: Final = f"SELECT ordinal + uses FROM failures {_BY_KEY}"  # noqa: S608


class Known(NamedTuple):
    """The outcome of a question: its answer's tokens, or its final failure."""

    answered: bool
    input_tokens: int = 0
    output_tokens: int = 0


class Lookup:
    """Finds questions that a run asked before, while another process works.

    It counts equal questions as a `Journal` does: the second of two is known if two were
    asked. What is written while it looks is seen, or not.

    >>> lookup = Lookup.open(folder)  # doctest: +SKIP
    >>> lookup.find(fingerprint, lookup.ask(fingerprint))  # doctest: +SKIP
    Known(answered=True, input_tokens=12, output_tokens=40)
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = schema.open_to_look(path)
        self._asked = Asked()

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self | None:
        """Open the journal of a run's folder; None if there is none.

        Raises:
            JournalError: it cannot be read; the message says what to do.
        """
        path = Path(folder) / schema.NAME
        try:
            if not path.stat().st_size:
                return None
            schema.check_file(path)
            return cls(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (sqlite3.Error, OSError, ValueError) as error:
            raise explain(path, error, doing="read") from error

    def ask(self, fingerprint: bytes) -> int:
        """Return how often this was asked before here, and count it."""
        return self._asked.count(fingerprint)

    def find(self, fingerprint: bytes, nth: int) -> Known | None:
        """Return the record of a question's `nth` answer.

        Raises:
            JournalError: the journal is damaged.
        """
        try:
            try:
                return self._find((fingerprint, nth))
            except sqlite3.Error:
                # Somebody has begun to write, or has put the log away, since it was opened.
                self._connection.close()
                self._connection = schema.open_to_look(self._path)
                return self._find((fingerprint, nth))
        except (sqlite3.Error, OSError) as error:
            raise explain(self._path, error, doing="read") from error

    def close(self) -> None:
        """Let go of the file. Doing so twice is fine."""
        self._connection.close()
        self._asked.close()

    def _find(self, key: tuple[bytes, int]) -> Known | None:
        rows = self._connection.execute(_ANSWER, key).fetchall()
        if rows and rows[0][0] > key[1]:
            return Known(True, rows[0][1], rows[0][2])
        rows = self._connection.execute(_FAILURE, key).fetchall()
        return Known(False) if rows and rows[0][0] > key[1] else None
