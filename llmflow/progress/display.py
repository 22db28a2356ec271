"""Displays of progress, drawn often enough: a bar, or log lines."""

from __future__ import annotations

import html
import importlib
import os
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from llmflow.progress.view import RunView

if TYPE_CHECKING:
    from rich.console import RenderableType

BAR_SECONDS: Final = 0.25
LINE_SECONDS: Final = 10.0
LEAST_SECONDS: Final = 0.25  # between two pictures, whatever happens: four a second are the most
_MOST_LEFT_OUT: Final = 59
# Columns of the picture, which is 3 narrower than the terminal: one of 80 gets two lines.
_TWO_LINES, _WIDE, _NARROWEST = 77, 97, 20


class Display(Protocol):
    """Something that shows how far some work is."""

    seconds: float  # how often it wants to be told

    def show(self, view: RunView) -> None:
        """Show the state now."""
        ...

    def close(self, last: str | None = None) -> None:
        """Show nothing any more; nothing of a bar stays on a terminal."""
        ...


def display_for(stream: IO[str]) -> Display:
    """Return what suits a stream, usually standard error."""
    if stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
        return Bar(stream)
    # A notebook's standard error is no terminal, and nobody else's is a notebook.
    return Notebook() if stream is sys.stderr and in_notebook() else Lines(stream)


def in_notebook() -> bool:
    """Return whether this process answers a notebook."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


class Lines:
    """One plain line for each state that is shown.

    Jobs take hours: as long as nothing becomes of them, a line in ten minutes will do.
    """

    seconds = LINE_SECONDS

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._shown: tuple[object, ...] | None = None
        self._left_out = 0

    def show(self, view: RunView) -> None:
        """Print the line, if it is news."""
        state = None if view.batch is None else (view.batch.news, view.failed, view.stopping)
        if state is not None and state == self._shown and self._left_out < _MOST_LEFT_OUT:
            self._left_out += 1
            return
        self._shown, self._left_out = state, 0
        print(view.log_line(), file=self._stream, flush=True)

    def close(self, last: str | None = None) -> None:
        """Leave the lines where they are."""
        if last is not None:
            print(last, file=self._stream, flush=True)


class Bar:
    """A bar with text beside it, and below if there is room.

    It takes itself away at the end.
    """

    seconds = BAR_SECONDS

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._stream = stream
        self._console = Console(file=stream, highlight=False, force_jupyter=False)
        self._fit()
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            # What is printed meanwhile goes above the bar; but what goes to a file stays there.
            redirect_stdout=_is_terminal(sys.stdout),
            redirect_stderr=_is_terminal(sys.stderr),
        )
        self._live.start()

    def show(self, view: RunView) -> None:
        """Draw the bar anew."""
        self._fit()
        self._live.update(self._picture(view), refresh=True)

    def close(self, last: str | None = None) -> None:
        """Take the bar away."""
        self._live.stop()
        if last is not None:
            print(last, file=self._stream, flush=True)

    def _picture(self, view: RunView) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        width = self._console.width
        one_line = width < _TWO_LINES
        first, second = (view.line(), "") if one_line else view.lines()
        bar = 8 if one_line else 24 if width >= _WIDE else 12
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(min_width=bar, max_width=bar)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        # A total that proves too small must not fill the bar before the end.
        whole = view.total if view.total is None else max(view.total, view.done, 1)
        drawn = ProgressBar(total=whole, completed=view.done, width=bar, pulse=whole is None)
        grid.add_row(drawn, _plain(view.count), _plain(first))
        return grid if one_line else Group(grid, _plain(second))

    def _fit(self) -> None:
        """Leave room for the terminal's own ^C, which would wrap the line."""
        columns = shutil.get_terminal_size().columns
        with suppress(OSError, ValueError):  # the stream may be another terminal, or none
            columns = os.get_terminal_size(self._stream.fileno()).columns or columns
        self._console.width = max(_NARROWEST, columns - 3)


class Notebook:
    """A bar in a notebook's output, which keeps its last state.

    It is made where the cell runs; any thread may update it afterwards.
    """

    seconds = BAR_SECONDS

    def __init__(self) -> None:
        self._display: Any = importlib.import_module("IPython.display").display
        self._handle: Any = None
        self._put("starting", "<progress></progress>")

    def show(self, view: RunView) -> None:
        """Draw the bar, or draw it anew."""
        total = "" if view.total is None else f' max="{max(1, view.total)}" value="{view.done}"'
        first, second = view.lines()
        text = f"{view.count} {first}\n{second}"
        self._put(text, f"<progress{total}></progress><pre>{html.escape(text)}</pre>")

    def close(self, last: str | None = None) -> None:
        """Leave the last state, or the last line in its place."""
        if last is not None:
            self._put(last, f"<pre>{html.escape(last)}</pre>")

    def _put(self, text: str, markup: str) -> None:
        data = {"text/plain": text, "text/html": markup}
        if self._handle is None:
            self._handle = self._display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def _plain(text: str) -> Any:
    """Return text that rich prints as it is, without markup."""
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ellipsis")


def _is_terminal(stream: IO[str] | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


_lock = threading.Lock()
_drawing: list[Painter] = []


class Painter:
    """Draws a view when it is time to.

    There is one at work in a process at a time, as two bars on one terminal draw over each
    other: another one shows nothing. What cannot be drawn, since the terminal is gone,
    ends the drawing and nothing else.
    """

    def __init__(
        self,
        stream: IO[str] | None,
        view: Callable[[], RunView],
        *,
        now: Callable[[], float],
        display: Callable[[IO[str]], Display] = display_for,
    ) -> None:
        self._stream = stream
        self._view = view
        self._now = now
        self._make = display
        self._display: Display | None = None
        self._drawn_at = 0.0

    def start(self) -> bool:
        """Begin; return whether anything will be shown."""
        if self._stream is None:
            return False
        with _lock:
            if _drawing:
                return False
            _drawing.append(self)
        try:
            self._display = self._make(self._stream)
        except Exception:  # noqa: BLE001 - the work is worth more than its progress
            self._give_up()
            return False
        # The first picture after one interval: by then there is something to see.
        self._drawn_at = self._now()
        return True

    @property
    def active(self) -> bool:
        """True if anything is shown."""
        return self._display is not None

    def tick(self, *, news: bool = False) -> None:
        """Look, and draw if it is time to.

        With `news`, something must not wait for the display's own time.
        """
        display = self._display
        if display is None:
            return
        view = self._view()  # even if it is not drawn: rates are made of many looks
        if self._now() < self._due(display, news=news):
            return
        self._drawn_at = self._now()
        self._try(lambda: display.show(view))

    def wait(self, *, news: bool = False) -> float:
        """Return for how many seconds nothing needs to be done."""
        display = self._display
        if display is None or not news:
            return LEAST_SECONDS
        return min(LEAST_SECONDS, max(0.0, self._due(display, news=True) - self._now()))

    def stop(self, last: str | None = None) -> None:
        """Take everything away but a last line."""
        display = self._display
        if display is not None:
            self._try(lambda: display.close(last))
            self._give_up()

    def _due(self, display: Display, *, news: bool) -> float:
        seconds = LEAST_SECONDS if news else max(LEAST_SECONDS, display.seconds)
        return self._drawn_at + seconds

    def _try(self, draw: Callable[[], None]) -> None:
        try:
            draw()
        except Exception:  # noqa: BLE001 - the work is worth more than its progress
            display, self._display = self._display, None
            if display is not None:
                # rich has taken the program's own streams: they must come back.
                with suppress(Exception):
                    display.close()
            self._give_up()

    def _give_up(self) -> None:
        self._display = None
        with _lock:
            if self in _drawing:
                _drawing.remove(self)
