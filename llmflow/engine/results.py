"""Results of many items: values, failures, and what is missing."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

from llmflow.failure_notes import PARTIAL, Finished, note_item, note_run
from llmflow.items.runner import OnError, concerns_all

_serial = itertools.count(1)


class _Missing(enum.Enum):
    NOT_RUN = "NotRun"

    def __repr__(self) -> str:
        return "NotRun"

    __str__ = __repr__


NotRun: Final = _Missing.NOT_RUN
"""Stands, in partial results, where an item has neither a result nor an error."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Take the place of a result that failed.

    With ``on_error="collect"``, ``post`` finds one at the place of every failed
    item:

    >>> failure = Failure(index=1, item="item", error=ValueError("no"), attempts=3)
    >>> results = ["a", failure, "c"]
    >>> [f.index for f in results if isinstance(f, Failure)]
    [1]

    Args:
        index: the item's place in the input, from 0.
        item: the item itself; for a batch flow, its parameters.
        error: what the last attempt, or the fallback, raised.
        attempts: how often ``exec`` was called for it.

    """

    index: int
    item: Any
    error: BaseException
    attempts: int
    _inner: list[Any] | None = field(default=None, repr=False, compare=False)


def partial_results(error: BaseException | Failure) -> list[Any] | None:
    """Return what a batch had finished when it failed.

    The list is in input order: results, a `Failure` for each item that failed,
    `NotRun` for what was not finished. None means that no batch was involved.
    Where batches are nested, an exception gives the outermost; the `Failure` in
    it gives the next one inside.

    >>> from llmflow.nodes import BatchNode
    >>> class Invert(BatchNode):
    ...     def prep(self, shared):
    ...         return [1, 2, 0, 4]
    ...     def exec(self, item):
    ...         return 1 / item
    >>> try:
    ...     Invert().run({})
    ... except ZeroDivisionError as error:
    ...     print(partial_results(error)[:2], partial_results(error)[3])
    [1.0, 0.5] NotRun

    Args:
        error: the exception that came out of the run; one raised because of it
            (such as the TimeoutError of ``asyncio.timeout``) will do.

    """
    if isinstance(error, Failure):
        return error._inner
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        partial = link.__dict__.get(PARTIAL)
        if partial is not None:
            found: list[Any] | None = partial.results
            return found
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return None


def _note(error: BaseException, index: int, item: Any, owner: Any) -> None:
    name = type(owner).__name__
    if hasattr(owner, "start_node"):
        note_run(error, index, item, owner=name)
    else:
        note_item(error, index, item, owner=name, params=getattr(owner, "params", None))


class Results:
    """The results of one batch run, in input order, as they come."""

    def __init__(self, items: object, on_error: OnError) -> None:
        self.values: list[Any] = []
        self.collect = on_error == "collect"
        self._total = len(items) if isinstance(items, Sized) else 0
        self._serial = next(_serial)

    def failure(
        self, index: int, item: Any, error: BaseException, attempts: int, owner: object
    ) -> Failure:
        """Make the failure of one item, with its batch's finished part."""
        if not concerns_all(error):
            _note(error, index, item, owner)
        partial: Finished | None = error.__dict__.get(PARTIAL)
        # An older one belongs to an earlier run that raised the same exception object.
        nested = partial if partial is not None and partial.serial > self._serial else None
        return Failure(
            index=index,
            item=item,
            error=error,
            attempts=attempts,
            _inner=nested.results if nested else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:  # it ends the run, and the results are reachable from it
            values = self.values
            values.extend([NotRun] * (self._total - len(values)))
            error.__dict__[PARTIAL] = Finished(values, next(_serial))
            if not isinstance(error, Exception):
                from llmflow.runs.interruptions import tell_results

                done = sum(1 for each in values if each is not NotRun)
                tell_results(error, done, self._total or None)

    @contextmanager
    def guard(self, item: Any, owner: object) -> Iterator[None]:
        """Keep or raise the failure of one item of a sequential batch."""
        values = self.values
        try:
            yield
        except Exception as error:
            attempts = int(getattr(owner, "cur_retry", 0)) + 1
            values.append(self.failure(len(values), item, error, attempts, owner))
            if not self.collect or concerns_all(error):
                raise
