"""Settings run one after the other, or in several processes."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from .kinds import draw
from .world import Outcome, run

_CHUNK, _FEW = 4, 50


class Task(NamedTuple):
    """What a setting is drawn from."""

    kind: str
    index: int
    seed: int
    wide: bool
    in_flight: int


def one(task: Task) -> tuple[int, Outcome]:
    """Run one setting, in whatever process."""
    setting = draw(task.kind, task.index, seed=task.seed, wide=task.wide, in_flight=task.in_flight)
    outcome = run(setting)
    gc.collect()
    return task.index, outcome


@contextmanager
def runner(processes: int) -> Iterator[Callable[[Sequence[Task]], Iterator[tuple[int, Outcome]]]]:
    """Give a function that runs settings, several at a time, and yields outcomes in their order."""
    if processes == 1:
        yield lambda tasks: map(one, tasks)
        return
    # Not forked: the one that asks may have threads.
    with multiprocessing.get_context("spawn").Pool(processes, _prepare) as pool:
        yield lambda tasks: pool.imap(one, tasks, chunksize=1 if len(tasks) < _FEW else _CHUNK)


def _prepare() -> None:
    """Have a process collect garbage between runs only: a tenth of the time."""
    gc.freeze()
    gc.disable()
