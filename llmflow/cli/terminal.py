"""Output to a terminal: no control characters, no error without it."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, Self

from llmflow.format import printable

__all__ = [
    "Notice",
    "TerminalRows",
    "complain",
    "printable",
    "say",
    "silence",
    "write",
    "write_json",
]

_ERASE_LINE = "\r\x1b[K"
_REDRAW_SECONDS = 0.5


def say(text: str) -> None:
    """Print lines on standard error, each made printable."""
    write(sys.stderr, "\n".join(printable(line) for line in text.splitlines()))


def complain(text: str) -> None:
    """Print an error in one line."""
    say(f"llmflow: error: {printable(text)}")


def write(stream: IO[str] | None, text: str) -> bool:
    """Print a text, at once; return whether it could be done."""
    if stream is None:  # the process was started without it; print() would take another one
        return False
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        silence(stream)
        return False
    return True


def write_json(stream: IO[str] | None, value: Any) -> bool:
    """Print a value as one line of JSON; return whether that worked."""
    import orjson

    return write(stream, orjson.dumps(value, default=str).decode())


def silence(stream: IO[str]) -> None:
    """Discard what a stream still holds, so that the exit is quiet."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass  # it is closed, or no file


class TerminalRows(io.RawIOBase):
    """Writes rows to a terminal, and escapes control characters.

    JSON escapes only some of them, and not those that turn the direction of writing around.
    """

    def __init__(self, stream: IO[str]) -> None:
        super().__init__()
        self._stream = stream

    def write(self, data: Any) -> int:
        """Write whole rows."""
        text = bytes(data).decode(errors="replace")
        self._stream.write("".join(map(_harmless, text)))
        return len(data)

    def flush(self) -> None:
        """Have the terminal show what was written."""
        self._stream.flush()


def _harmless(letter: str) -> str:
    return letter if letter == "\n" or letter.isprintable() else json.dumps(letter)[1:-1]


class Notice:
    """A status line for work that takes longer than a second.

    It is drawn on a terminal by a thread, since the work blocks, and takes itself away.
    """

    def __init__(
        self, text: Callable[[], str], *, enabled: bool = True, after: float = 1.0
    ) -> None:
        self._text = text
        self._after = after
        self._over = threading.Event()
        self._shown = False
        stream = sys.stderr
        on = enabled and stream is not None and stream.isatty()
        self._stream: IO[str] | None = stream if on else None
        self._thread = threading.Thread(target=self._draw, name="llmflow-notice", daemon=True)

    def __enter__(self) -> Self:
        if self._stream is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._over.set()
            self._thread.join()
            if self._shown:
                self._put(_ERASE_LINE)

    def _draw(self) -> None:
        wait = self._after
        while not self._over.wait(wait):
            self._put(_ERASE_LINE + printable(self._text()))
            self._shown, wait = True, _REDRAW_SECONDS

    def _put(self, text: str) -> None:
        assert self._stream is not None
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._over.set()
