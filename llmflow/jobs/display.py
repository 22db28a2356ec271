"""How progress looks: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import IO, Any, Protocol

BAR_SECONDS = 0.25
LINE_SECONDS = 10.0
_WIDE, _NARROWEST = 80, 20


class Display(Protocol):
    """Something that shows how far a run is, and a text beside it."""

    seconds: float
    """How often it wants to be told."""

    def show(self, done: int, text: str) -> None:
        """Show the state now."""
        ...

    def close(self) -> None:
        """Show nothing any more; nothing of a bar stays."""
        ...


def display_for(stream: IO[str], total: int | None) -> Display:
    """Return what suits a stream.

    Args:
        stream: a text stream, usually standard error.
        total: rows in all, or None where that is not known.
    """
    smart = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return Bar(stream, total) if smart else Lines(stream, total)


class Lines:
    """One plain line for each state that is new."""

    seconds = LINE_SECONDS

    def __init__(self, stream: IO[str], total: int | None) -> None:
        self._stream = stream
        self._of = f" of {total:,}" if total is not None else ""

    def show(self, done: int, text: str) -> None:
        """Print the line."""
        print(f"{done:,}{self._of} done, {text}", file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the lines where they are."""


class Bar:
    """rich's progress bar, which takes itself away at the end."""

    seconds = BAR_SECONDS

    def __init__(self, stream: IO[str], total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self._stream = stream
        of = f"/{total:,}" if total is not None else " done"
        self._console = Console(file=stream, highlight=False)
        self._fit()
        bar = 24 if self._console.width >= _WIDE else 8
        columns: list[Any] = [
            BarColumn(bar_width=bar, table_column=Column(min_width=bar)),
            TextColumn("{task.completed:,.0f}" + of, table_column=Column(no_wrap=True)),
            # On a narrow terminal the text is cut, not wrapped.
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
        ]
        self._rich = RichProgress(
            *columns, console=self._console, auto_refresh=False, transient=True
        )
        self._task = self._rich.add_task("starting", total=total)
        self._rich.start()

    def show(self, done: int, text: str) -> None:
        """Draw the bar anew."""
        self._fit()
        self._rich.update(self._task, completed=done, description=text)
        self._rich.refresh()

    def close(self) -> None:
        """Take the bar away."""
        self._rich.stop()

    def _fit(self) -> None:
        """Leave room for the terminal's own ^C, which would wrap and spoil the line."""
        columns = shutil.get_terminal_size().columns
        with suppress(OSError, ValueError):  # the stream may be another terminal, or none
            columns = os.get_terminal_size(self._stream.fileno()).columns or columns
        self._console.width = max(_NARROWEST, columns - 3)
