"""A run: its calls are recorded, counted, and paid from one budget."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import orjson

from llmflow.arguments import checked_arguments, checked_flag, checked_total
from llmflow.batch.modes import open_session
from llmflow.calls.mode_options import Fallback, ModeName, as_mode_options
from llmflow.calls.observe import RunStatistics
from llmflow.calls.session import current_session
from llmflow.config import load_config
from llmflow.config.settings import STORES
from llmflow.errors import ConfigurationError, JournalError, LLMFlowError, UsageError, redact
from llmflow.events import Hook, RunFinished, RunStarted, emit, subscribe
from llmflow.runs.catalog import checked_name, runs_folder

if TYPE_CHECKING:
    from llmflow.batch.record import JobRecord
    from llmflow.budget import Budget, Ledger
    from llmflow.calls.session import Session
    from llmflow.errors import ProviderError
    from llmflow.events import Subscription
    from llmflow.journal import Journal, Totals
    from llmflow.runs.report import RunReport
    from llmflow.runs.run_progress import RunProgress

logger = logging.getLogger("llmflow")

Store = Literal["full", "answers", "off"]

_open: dict[str, Run] = {}
"""The runs that LLMs have opened themselves, as they were made with ``journal=``."""
_lock = threading.Lock()


class Run:
    """A block of code whose calls survive its process.

    Inside the block every answer of every LLM is written to the run's journal before it
    is given out. Running the same program again answers from there what was asked
    before, at once and at no cost, and goes on: nodes and flows need no code for that.
    What changed, a prompt, an item or a parameter, is asked; nothing else is.

    >>> async def main():
    ...     async with Run("summaries-2026-11", budget=Budget(usd=5)) as run:
    ...         await flow.run_async(shared)
    ...     print(run.report())

    ``with Run(...):`` does the same in code that is not asynchronous.

    Args:
        name: names the run, and its folder; the same name goes on with the same run. None:
            nothing is written down, but a budget is kept and calls are counted.
        budget: what the run may spend, over all its sessions; the time is the session's.
        store: ``"full"`` keeps whole replies, so that an answer from the journal equals
            the first one; ``"answers"`` leaves out ``raw``; ``"off"`` keeps nothing. By
            default what ``llmflow.toml`` says, else full.
        folder: where runs are kept; see `llmflow.runs.catalog.runs_folder`.
        retry_failed: ask again what failed for good in an earlier session, which otherwise
            fails again at once.
        on_event: a plain function that is called with every event of this run; see
            `llmflow.events`.
        about: what to keep with the run, for ``llmflow runs show``: plain values, no secrets.
        progress: show on standard error, or in the notebook, what the run is doing.
        total: how many calls there will be, for the progress; None where that is not known.
        mode: ``"batch"`` has every call answered by the provider's batch jobs, if no node and no
            LLM says otherwise; ``"auto"`` decides; see `AsyncNode`.
        deadline: when all is to be answered, such as ``"6h"``; the rest is asked in parallel.
        fallback: ``"parallel"`` for what batch jobs leave over, ``"batch"`` where a daily quota
            is used up.
        is_conclusive: a function of a `ProviderError` that says whether it is kept as the call's
            outcome, and not asked again; by default, what is not fatal is.

    Raises:
        ConfigurationError: the name or another argument is wrong.
        JournalBusyError: on entering: another process is in the same run.
        JournalError: on entering: the journal cannot be read or written.
    """

    @checked_arguments()
    def __init__(
        self,
        name: str | None = None,
        *,
        budget: Budget | None = None,
        store: Store | None = None,
        folder: str | os.PathLike[str] | None = None,
        retry_failed: bool = False,
        on_event: Hook | None = None,
        about: Mapping[str, Any] | None = None,
        progress: bool = False,
        total: int | None = None,
        mode: ModeName | None = None,
        deadline: float | str | None = None,
        fallback: Fallback | None = None,
        is_conclusive: Callable[[ProviderError], bool] | None = None,
    ) -> None:
        if store is not None and store not in STORES:
            raise ConfigurationError(f"store must be one of {', '.join(STORES)}; got {store!r}")
        if budget is not None and not hasattr(budget, "check_price"):
            raise ConfigurationError(
                f"budget must be a Budget, such as Budget(usd=5); got {budget!r}"
            )
        self.name = None if name is None else checked_name(name)
        self.budget = budget
        self.mode_options = as_mode_options(mode, deadline=deadline, fallback=fallback)
        """How its calls are answered, where nothing nearer says so."""
        self.retry_failed = retry_failed
        self._is_conclusive = is_conclusive
        self._store = store
        self._folder = None if folder is None else Path(folder)
        self.id = self.name or f"run-{secrets.token_hex(4)}"
        """What events and logs call it."""
        self._about = _checked_about(about)
        self._journal: Journal | None = None
        self.ledger: Ledger | None = None
        """The accounting of its budget; None without one."""
        self._session: Session | None = None
        self._on_event = on_event
        self._subscription: Subscription | None = None
        self._shows_progress = checked_flag("progress", progress)
        self._total = checked_total(total)
        self._progress: RunProgress | None = None
        self._entered_at = 0.0
        self._left_at: float | None = None
        self._pid = os.getpid()
        self._closing = threading.Lock()
        self._ended = False
        self._jobs_at_end: list[JobRecord] | None = None

    def __repr__(self) -> str:
        return f"<Run {self.name or 'without a name'}: {self.statistics().done:,} calls>"

    # --- the block --------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.open()
        self.session.enter()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._session is not None:
            self._session.leave()
        try:
            self.close(error)
        finally:
            self.close(error)  # where a Ctrl-C came in between

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._session is not None:
            self._session.leave()
            await self._session.stop_batches()
        try:
            # Writing down what is waiting takes a moment, in which others may go on.
            await asyncio.to_thread(self.close, error)
        finally:
            self.close(error)  # where a second Ctrl-C came, too

    def open(self) -> None:
        """Open the journal, without entering the block.

        Raises:
            UsageError: it was opened before.
            JournalBusyError: another process is in the same run, or another part of this one.
            JournalError: the journal cannot be read or written.
        """
        if self._session is not None:
            raise UsageError(f"{self!r} was entered before: make another Run, of the same name")
        if self.name is not None:
            self._open_journal(self.name)
        try:
            if self._journal is not None:
                self._journal.begin(self._about)
            if self.budget is not None:
                self.ledger = self._new_ledger(self.budget)
            if self._on_event is not None:
                self._subscription = subscribe(self._on_event, run_id=self.id)
        except BaseException:
            if self._journal is not None:
                self._journal.close(state="stopped")
                self._journal = None
            raise
        self._session = open_session(
            journal=self._journal,
            ledger=self.ledger,
            retry_failed=self.retry_failed,
            run=self,
            run_id=self.id,
            mode_options=self.mode_options,
            is_conclusive=self._is_conclusive,
        )
        self._entered_at = time.monotonic()
        if self._shows_progress:
            from llmflow.runs.run_progress import RunProgress

            self._progress = RunProgress(
                self._session, lambda: self.batch_jobs, total=self._total, stream=sys.stderr
            )
            self._progress.start()
        if RunStarted.wanted:
            emit(RunStarted(at=time.time(), run_id=self.id))

    def close(self, error: BaseException | None = None, *, waits_for: str | None = None) -> None:
        """Write pending records and close the journal; safe to repeat.

        Args:
            error: what ended the run before its end, or None.
            waits_for: what goes on without it, to be collected in another session; or None.
        """
        if self._session is None or self._pid != os.getpid():
            return
        for batches in self._session.all_batches:
            batches.stop_soon()
        with self._closing:  # whoever comes second returns when it is closed
            self._session.end()
            if not self._ended:
                try:
                    end = _state_after(error)
                    if error is None and waits_for is not None:
                        end = "waiting", waits_for
                    elif error is None and self.ledger is not None and self.ledger.reached:
                        end = "stopped", f"the budget of {self.ledger.reached} is used up"
                    self._close(*end)
                except Exception:
                    self._ended = True
                    raise
                self._ended = True  # and not where a Ctrl-C came: whoever closes again goes on
                if self.altered:
                    from llmflow.runs.report import altered_words

                    logger.warning("llmflow: run %s: %s", self.name, altered_words(self.altered))
                if error is not None and _state_after(error)[0] == "interrupted":
                    from llmflow.runs.interruptions import tell_run

                    tell_run(error, self.name, self.totals, self.batch_jobs)

    def _close(self, state: str, reason: str | None) -> None:
        try:
            if self._journal is not None:
                if (self._journal.folder / "batches").is_dir():
                    from llmflow.batch.record import end_what_is_answered

                    # Their event loop may be over before them.
                    with contextlib.suppress(JournalError):  # it is said when that is closed
                        end_what_is_answered(self._journal)
                self._jobs_at_end = self.batch_jobs
                self._journal.close(state=state, reason=reason)
        finally:
            if self._session is not None:
                self._session.close()
            self._left_at = time.monotonic()
            if self._progress is not None:
                self._progress.stop(self.report().summary())
            if RunFinished.wanted:
                at, took = time.time(), self.seconds
                emit(RunFinished(at=at, run_id=self.id, seconds=took, state=state, reason=reason))
            if self._subscription is not None:
                self._subscription.close()

    def _open_journal(self, name: str) -> None:
        configured = load_config().journal
        store = self._store or configured.store or "full"
        if store != "off":
            from llmflow.journal import Journal

            folder = (self._folder or runs_folder()) / name
            durability = configured.durability or "process"
            self._journal = Journal.open(
                folder, store="full" if store == "full" else "answers", durability=durability
            )
            if (folder / "batches").is_dir():
                from llmflow.batch.record import tidy_up

                tidy_up(self._journal)

    # --- its batch jobs -------------------------------------------------------------------

    async def submitted(self) -> None:
        """Return when all batch jobs are submitted, or wait for room.

        Raises:
            ProviderError: a job is refused.
        """
        for batches in self.session.all_batches:
            await batches.placed()

    async def settled(self) -> None:
        """Return when all batch jobs have ended, with rows in the journal.

        Raises:
            ProviderError: a job is refused, or the provider does not answer any more.
        """
        await self.session.settle()

    @property
    def batch_trouble(self) -> ProviderError | None:
        """The error for which a batch request is being repeated, or None."""
        return None if self._session is None else self._session.batch_trouble

    @property
    def batch_jobs(self) -> list[JobRecord]:
        """Records of its batch jobs, those of earlier sessions included."""
        if self._jobs_at_end is not None:
            return self._jobs_at_end
        batches = [] if self._session is None else self._session.all_batches
        known = list({each.tag: each for b in batches for each in b.jobs}.values())
        if not known and self._journal is not None:
            from llmflow.batch.record import JobRecord

            return [JobRecord.of(each) for each in self._journal.jobs()]
        return known

    # --- what it did --------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session, which every call passes.

        Raises:
            UsageError: the run is not open, or not in this process.
        """
        if self._session is None:
            raise UsageError(f"{self!r} is not open: use it in a `with` or `async with` block")
        self._session.check()
        return self._session

    @property
    def totals(self) -> Totals | None:
        """Totals over all sessions; None without a journal."""
        return None if self._journal is None else self._journal.totals

    @property
    def altered(self) -> int:
        """The number of altered journal rows, which are not replayed."""
        return 0 if self._journal is None else self._journal.altered

    def note(self, name: str, value: Any) -> None:
        """Store a value for the run's next session, given a journal.

        Raises:
            JournalError: it cannot be written.
        """
        if self._journal is not None:
            self._journal.note(name, value)

    def noted(self, name: str) -> Any:
        """Return the value that `note` stored in any session, or None."""
        return None if self._journal is None else self._journal.noted(name)

    def statistics(self) -> RunStatistics:
        """Return what was done since the run was entered."""
        session = self._session
        return RunStatistics() if session is None else session.tally.statistics()

    @property
    def seconds(self) -> float:
        """The seconds since it was entered, or until it was left."""
        if self._session is None:
            return 0.0
        return (self._left_at or time.monotonic()) - self._entered_at

    def report(self) -> RunReport:
        """Return the report, to be printed: ``print(run.report())``."""
        from llmflow.runs.report import RunReport, report_of

        if self._session is None:
            return RunReport(name=self.name)
        return report_of(self._session, self.name, self.seconds, self.batch_jobs)

    def _new_ledger(self, budget: Budget) -> Ledger:
        from llmflow.budget import Ledger, Spent

        if (totals := self.totals) is None:
            return Ledger(budget)
        tokens = totals.input_tokens + totals.output_tokens + totals.unsaid_tokens
        usd = (totals.cost or 0.0) + totals.unsaid_cost
        return Ledger(budget, spent=Spent(usd=usd, tokens=tokens, requests=totals.requests))


def current_run() -> Run | None:
    """Return the run that the running code belongs to, or None.

    >>> current_run() is None
    True
    """
    session = current_session()
    run = None if session is None else session.run
    return run if isinstance(run, Run) else None


def named_run(journal: str | Run) -> Run:
    """Return an LLM's own run, open until the process ends.

    LLMs with the same name share one.

    Raises:
        ConfigurationError: the name cannot be a run's.
        JournalError: its journal cannot be opened.
    """
    if isinstance(journal, Run):
        return journal
    if not isinstance(journal, str):
        raise ConfigurationError(
            f"journal must be a run's name or a Run; got {type(journal).__name__}"
        )
    with _lock:
        run = _open.get(journal)
        if run is None:
            run = Run(journal)
            run.open()
            if not _open:
                # Only now: what is registered later ends earlier, and the journal has its own.
                atexit.register(_close_all)
            _open[journal] = run
        return run


def _close_all() -> None:
    with _lock:
        runs = list(_open.values())
        _open.clear()
    # What ended the program, where it was an error. An interactive session keeps its last one.
    error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
    for run in runs:
        run.close(error)


def _checked_about(about: Mapping[str, Any] | None) -> dict[str, Any]:
    whole = {"kind": "python", "program": Path(sys.argv[0]).name, **(about or {})}
    try:
        orjson.dumps(whole)
    except TypeError as error:
        raise ConfigurationError(f"about must hold plain values: {error}") from error
    return whole


def _state_after(error: BaseException | None) -> tuple[str, str | None]:
    """Return how a run ended, and why if not by coming to its end."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]  # of a group of tasks; the others were cancelled for it
    if error is None:
        return "complete", None
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit):
        return "interrupted", None
    if isinstance(error, LLMFlowError):
        return "stopped", redact(str(error))
    return "stopped", type(error).__name__  # its text is the program's, and may hold anything
