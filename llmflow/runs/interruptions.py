"""Messages after a Ctrl-C: the results kept, and how to resume."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Final

from llmflow.calls.session import current_session
from llmflow.format import counted
from llmflow.items.idle import yield_slot
from llmflow.progress.display import in_notebook

if TYPE_CHECKING:
    from llmflow.batch.record import JobRecord
    from llmflow.journal import Totals

_TOLD: Final = "_llmflow_interruption_told"
_GO_ON: Final = (
    'to keep every answer next time, ask in `with Run("a-name"):`, '
    "where the same code goes on from them"
)


def tell_results(error: BaseException, done: int, total: int | None) -> None:
    """Report an interrupt that leaves a batch or map incomplete.

    Said by the outermost of them, and not in a run with a journal, which says it itself.
    """
    if _is_interrupt(error) and not _is_inside():
        ended = counted(done, "item is done", "items are done")
        if total is not None:
            ended = f"{done:,} of {counted(total, 'item')} {'is' if done == 1 else 'are'} done"
        each = "is" if done == 1 else "are"
        where = "llmflow.partial_results(sys.last_value)"
        _tell(error, f"{ended}, and {each} in {where}; {_GO_ON}")


def tell_stream(error: BaseException, delivered: int) -> None:
    """Say that an interrupt has ended a stream of answers."""
    if _is_interrupt(error) and not _is_inside():
        handed = counted(delivered, "result was", "results were")
        _tell(error, f"{handed} handed out, and no more is kept; {_GO_ON}")


def tell_run(
    error: BaseException | None, name: str | None, totals: Totals | None, jobs: list[JobRecord]
) -> None:
    """Report what an interrupted run keeps, and how to resume."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is None or not _is_interrupt(error):
        return
    if totals is None:
        _tell(error, f"the run has no name, so nothing is kept; {_GO_ON}")
        return
    active = sum(1 for each in jobs if each.is_active)
    at_provider = ""
    if active:
        noun = counted(active, "batch job goes", "batch jobs go")
        at_provider = f", and {noun} on at the provider"
    answers = counted(totals.answers, "answer is", "answers are")
    _tell(
        error,
        f"{answers} kept in the run {name}{at_provider}; run the same code again, and it "
        "goes on from there",
    )


def _is_interrupt(error: BaseException) -> bool:
    if isinstance(error, KeyboardInterrupt):
        return True
    # Where a cell awaits something, the kernel cancels it. Elsewhere others do that, too.
    return isinstance(error, asyncio.CancelledError) and in_notebook()


def _is_inside() -> bool:
    """Whether this is an item of a batch or a map, or in a run that will say it."""
    session = current_session()
    return yield_slot.get() is not None or (session is not None and session.journal is not None)


def _tell(error: BaseException, text: str) -> None:
    if _TOLD in error.__dict__:
        return
    error.__dict__[_TOLD] = True
    line = f"llmflow: interrupted: {text}."
    if not in_notebook():
        error.add_note(line)
        return
    with contextlib.suppress(Exception):  # of a stream that is closed
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
