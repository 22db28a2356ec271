"""Timing of the progress display: often enough, at no cost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import IO, Final

from llmflow.progress.display import Display, display_for
from llmflow.progress.view import RunView

LEAST_SECONDS: Final = 0.25
"""Between two pictures, whatever happens: four a second are the most."""

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
                with contextlib.suppress(Exception):
                    display.close()
            self._give_up()

    def _give_up(self) -> None:
        self._display = None
        with _lock:
            if self in _drawing:
                _drawing.remove(self)
