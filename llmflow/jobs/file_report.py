"""Progress of ``llmflow run``, and its closing report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import IO, Any, Final, Self

from llmflow.format import dollars, duration, per_second
from llmflow.jobs.bottleneck import RunFacts, explain_bottleneck
from llmflow.jobs.file_run import FileRun
from llmflow.llm import LLM
from llmflow.progress.view import BatchView, RunView
from llmflow.runs.report import RunReport, answer_words, reask_words, request_lines
from llmflow.runs.run import Run
from llmflow.runs.run_progress import RunProgress
from llmflow.surrogates import well_formed_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The closing report of a run."""

    model: str  # the model string
    items: int  # rows that have ended, as an answer or as a failure
    answered: int  # rows with an answer
    failed: int  # rows that failed for good
    remaining: int | None  # rows with neither, after a stop; None if the total is not known
    requests: int  # requests that were sent; retries and rejected ones among them
    rejected: int  # rate-limit rejections (429)
    input_tokens: int  # tokens of the prompts that were answered
    output_tokens: int  # tokens of the answers
    cost: float | None  # US dollars where the provider says, else None
    seconds: float  # how long the run took
    limits: Mapping[str, float]  # the limits in force, by dimension
    utilisation: Mapping[str, float]  # the share of each limit that was used, by dimension
    bound_by: Mapping[str, float]  # what calls waited for, as shares of the time
    verdict: str | None  # what limited the run, and what would make it faster
    output: str | None  # where the answers are, or None if there are none
    failures: str | None  # where the failures are, or None if there are none
    reasons: Mapping[str, Mapping[str, Any]]  # `count` and `first` message of each kind of failure
    stopped_by: str | None  # why the run ended before the last row, or None
    cut: int = 0  # answers that were cut off at max_tokens, those of earlier sessions among them
    empty: int = 0  # answers without any text, likewise
    reasked: int = 0  # answers that did not fit the schema, and were asked again
    retried: int = 0  # how often requests were sent again; rate limits are not counted
    retries: Mapping[str, int] = field(default_factory=dict)  # the same by status or reason
    run: RunReport | None = None  # replayed and cached answers, budget, cost of all sessions
    skipped: int = 0  # rows that were left out because no prompt can be made of them
    first_skipped: str | None = None  # what is wrong with the first of them, or None
    skipped_empty: int = 0  # rows left out because their prompt fields are empty

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        plain: dict[str, Any] = well_formed_value(asdict(self))  # names of files may be any bytes
        return plain

    def lines(self) -> list[str]:
        """Return it as a few lines for a person."""
        rate = self._new / self.seconds if self.seconds else 0.0
        money = None if self.cost is None else f"cost {dollars(self.cost)}"
        of = self.items + (self.remaining or 0)
        head = f"{self.answered:,} of {of:,} answered by {self.model}"
        where = f" -> {self.output}" if self.output else ""
        lines = [
            f"{head} in {duration(self.seconds)} ({per_second(rate)}){where}",
            *request_lines(self, money if self.run is None else self.run.money),
            *answer_words(self.answered, cut=self.cut, empty=self.empty, option="--max-tokens"),
        ]
        if self.reasked:
            lines.append(reask_words(self.reasked))
        if self.limits:
            shares = (
                f"{self.utilisation[name]:.0%} of {limit:,.0f} {name}"
                for name, limit in self.limits.items()
            )
            lines.append(f"quota used: {', '.join(shares)}")
        elif self.requests:
            lines.append("quota: none was set, and the provider named none")
        if self.verdict:
            lines.append(self.verdict)
        if self.run is not None:
            lines += self._known(self.run)
        if self.skipped:
            lines.append(
                f"{self.skipped:,} left out (--on-bad-row skip), such as: {self.first_skipped}"
            )
        if self.skipped_empty:
            lines.append(f"{self.skipped_empty:,} left out with empty prompt fields (--skip-empty)")
        if self.failed:
            place = f" -> {self.failures}" if self.failures else ""
            lines.append(f"{self.failed:,} failed{place}")
            for kind, reason in self.reasons.items():
                lines.append(f"{reason['count']:,} x {kind}, such as: {reason['first']}")
        return lines

    @property
    def _new(self) -> int:
        """The rows that ended in this session, not those that were known before."""
        run = self.run
        known = 0 if run is None else run.replayed + run.cached + run.failed_before
        return max(0, self.items - known)

    def _known(self, run: RunReport) -> list[str]:
        """Return what was not asked in this session, and what is left of the budget."""
        lines = run.batches
        if run.replayed or run.cached or run.shared:
            counts = (
                (run.replayed, "from the journal"),
                (run.cached, "from the cache"),
                (run.shared, "shared with an equal row in flight"),
            )
            lines.append(", ".join(f"{number:,} {what}" for number, what in counts if number))
        if run.failed_before:
            were = "was" if run.failed_before == 1 else "were"
            lines.append(
                f"{run.failed_before:,} failed in an earlier session and {were} not retried"
            )
        if run.budget_spent is not None:
            lines.append(f"budget spent: {run.budget_spent}")
        return lines


class FileProgress(RunProgress):
    """Shows a job's progress, and reports on it at the end."""

    def __init__(
        self,
        job: FileRun,
        llm: LLM,
        run: Run,
        *,
        total: int | None,
        stream: IO[str] | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        limiters = {llm.limiter: llm.limiter.statistics()}
        super().__init__(
            run.session,
            lambda: run.batch_jobs,
            limiters=lambda: limiters,
            total=total,
            stream=stream,
            now=now,
        )
        self._job, self._llm, self._run = job, llm, run
        self._clocks = time.monotonic(), time.process_time()
        self._seconds = self._cpu_seconds = 0.0

    def __enter__(self) -> Self:
        self._clocks = time.monotonic(), time.process_time()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        started, computed = self._clocks
        self._seconds = time.monotonic() - started
        self._cpu_seconds = time.process_time() - computed
        self.stop()

    def view(self) -> RunView:
        """Return the job and its run as they are now."""
        job, rows = self._job, self._job.counters
        view = self.watch.view(
            rows.done, self.total, answered=rows.answered, failed=rows.failed, new=rows.done
        )
        busy = not view.traffic.waiting and view.traffic.in_flight >= job.concurrency
        batch, done = view.batch, view.done
        if (submission := job.reading) is not None:
            batch = replace(batch or BatchView(), submitting=submission.submitted)
        if batch is not None:  # rows are written once all jobs have ended
            done = max(done, self._run.statistics().answered + batch.done)
            done = done if self.total is None else min(done, self.total)
        return replace(
            view,
            done=done,
            note=None if job.contact.trouble is None else "no connection yet, trying again",
            binds=f"--concurrency {job.concurrency:,} is the limit" if busy else None,
            stopping=job.stopping,
            batch=batch,
        )

    def report(self, *, output: str | None, failures: str | None, stopped_by: str | None) -> Report:
        """Return the closing report of the job."""
        job, run, limiter = self._job, self._run, self._llm.limiter
        traffic, counters, done = self.view().traffic, job.counters, run.statistics()
        statistics = limiter.statistics()
        facts = RunFacts(
            statistics=statistics,
            learned=limiter.learned(),
            quota=limiter.quota,
            seconds=self._seconds,
            cpu_seconds=self._cpu_seconds,
            requests=traffic.requests,
            rejected=traffic.rejected,
            rows=counters.done,
            concurrency=job.concurrency,
            row_seconds=counters.row_seconds,
            once=job.once,
            stopped=stopped_by is not None,
        )
        remaining = None if self.total is None else self.total - counters.done
        reasons = counters.reasons.items()
        return Report(
            **{name: getattr(counters, name) for name in _COUNTED},
            model=self._llm.model,
            items=counters.answered + counters.failed,
            remaining=remaining if stopped_by else 0,
            requests=traffic.requests,
            rejected=traffic.rejected,
            input_tokens=done.input_tokens,
            output_tokens=done.output_tokens,
            cost=done.cost,
            seconds=round(self._seconds, 3),
            limits=statistics.limits,
            utilisation=_rounded(statistics.utilisation),
            bound_by=_rounded(statistics.bound_by),
            verdict=None if run.batch_jobs else explain_bottleneck(facts),
            output=output,
            failures=failures,
            reasons={kind: {"count": count, "first": first} for kind, (count, first) in reasons},
            stopped_by=stopped_by,
            reasked=done.reasked,
            retried=done.retried,
            retries=done.retries,
            run=run.report(),
        )


_COUNTED: Final = (
    *("answered", "failed", "cut", "empty"),
    *("skipped", "first_skipped", "skipped_empty"),
)


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: round(share, 4) for name, share in shares.items()}
