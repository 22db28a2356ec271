"""Progress of a map, and a run of its own where needed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from llmflow.format import counted, duration
from llmflow.mapping.engine import MapEngine
from llmflow.progress.view import RunView
from llmflow.runs.run import Run
from llmflow.runs.run_progress import RunProgress


def show_progress(make: Callable[[], MapEngine[Any]], run: Run | None) -> MapEngine[Any]:
    """Return a map's engine, with progress shown until it is closed.

    Outside of every run the map gets one without a name, which counts its calls and keeps
    nothing: the code around the map, which goes on while a stream is read, is not in it.
    """
    own: Run | None = None
    if run is None:
        run = own = Run()
        own.open()
    engine = make() if own is None else copy_context().run(_inside, own, make)
    progress = MapProgress(run, engine)

    async def end(error: BaseException | None) -> None:
        progress.stop(progress.summary())
        if own is not None:
            await own.__aexit__(None if error is None else type(error), error, None)

    engine.runner.at_close = end
    progress.start()
    return engine


class MapProgress(RunProgress):
    """Shows a map's progress: its items, and its run."""

    def __init__(self, run: Run, engine: MapEngine[Any]) -> None:
        super().__init__(run.session, lambda: run.batch_jobs, stream=sys.stderr)
        self._engine = engine
        self._begun = time.monotonic()

    def view(self) -> RunView:
        """Return what is shown."""
        counts = self._engine.counts
        return self.watch.view(counts.answered + counts.failed, counts.total, failed=counts.failed)

    def summary(self) -> str:
        """Return the line that stays when all is over."""
        counts = self._engine.counts
        ended = counts.answered + counts.failed
        items = counted(ended, "item")
        of = "" if counts.total in (None, ended) else f" of {counts.total:,}"
        seconds = duration(time.monotonic() - self._begun)
        return (
            f"map: {items}{of} in {seconds}: {counts.answered:,} answered, {counts.failed:,} failed"
        )


def _inside(run: Run, make: Callable[[], MapEngine[Any]]) -> MapEngine[Any]:
    run.session.set_current()
    return make()
