"""The closing report of ``llmflow run``, in numbers and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llmflow.format import dollars, duration, per_second
from llmflow.jobs.bottleneck import RunFacts, explain_bottleneck
from llmflow.jobs.file_run import FileRun
from llmflow.llm import LLM
from llmflow.progress.view import RunView
from llmflow.runs.report import RunReport, answer_words, request_lines
from llmflow.runs.run import Run
from llmflow.surrogates import well_formed_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The closing report of a run.

    Args:
        model: the model string.
        items: rows that have ended, as an answer or as a failure.
        answered: rows with an answer.
        failed: rows that failed for good.
        skipped: rows that were left out because no prompt can be made of them.
        first_skipped: what is wrong with the first of them, or None.
        skipped_empty: rows that were left out because there is nothing in their prompt fields.
        remaining: rows that have neither, because the run was stopped; None where
            nobody knows how many rows a pipe would still have brought.
        requests: requests that were sent; retries and rejected ones among them.
        rejected: rate-limit rejections (429).
        input_tokens: tokens of the prompts that were answered.
        output_tokens: tokens of the answers.
        cost: US dollars where the provider says, else None.
        cut: answers that were cut off at max_tokens, those of earlier sessions among them.
        empty: answers without any text, likewise.
        retried: how often requests were sent again; rate limits are not counted.
        retries: the same by what they had failed with: a status, or a word.
        seconds: how long the run took.
        limits: the limits in force, by dimension.
        utilisation: the share of each limit that was used, by dimension.
        bound_by: what calls waited for, as shares of the time; see `LimiterStatistics`.
        verdict: what bounded the run and what would make it faster, or None where that is
            not clear.
        output: where the answers are, or None if there are none.
        failures: where the failures are, or None if there are none.
        reasons: for each kind of failure, its ``count`` and what the ``first`` one said.
        stopped_by: why the run ended before the last row, or None.
        run: what the run that the rows belong to came to: what its journal and its cache have
            answered, its budget, and its cost over all sessions.
    """

    model: str
    items: int
    answered: int
    failed: int
    remaining: int | None
    requests: int
    rejected: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    seconds: float
    limits: Mapping[str, float]
    utilisation: Mapping[str, float]
    bound_by: Mapping[str, float]
    verdict: str | None
    output: str | None
    failures: str | None
    reasons: Mapping[str, Mapping[str, Any]]
    stopped_by: str | None
    cut: int = 0
    empty: int = 0
    retried: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)
    run: RunReport | None = None
    skipped: int = 0
    first_skipped: str | None = None
    skipped_empty: int = 0

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


def report_of(
    job: FileRun,
    run: Run,
    llm: LLM,
    view: RunView,
    *,
    seconds: float,
    cpu_seconds: float,
    output: str | None,
    failures: str | None,
    stopped_by: str | None,
) -> Report:
    """Return the closing report of a job.

    `view` is what its progress showed at last.
    """
    limiter, counters, done = llm.limiter, job.counters, run.statistics()
    statistics = limiter.statistics()
    requests, rejected = view.traffic.requests, view.traffic.rejected
    facts = RunFacts(
        statistics=statistics,
        learned=limiter.learned(),
        quota=limiter.quota,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        requests=requests,
        rejected=rejected,
        rows=counters.done,
        concurrency=job.concurrency,
        row_seconds=counters.row_seconds,
        once=job.once,
        stopped=stopped_by is not None,
    )
    # Of what a batch job brought, the rows find the journal's copy.
    used = counters if job.submission is None and job.overflow is None else done
    remaining = None if view.total is None else view.total - counters.done
    return Report(
        model=llm.model,
        items=counters.answered + counters.failed,
        skipped=counters.skipped,
        first_skipped=counters.first_skipped,
        skipped_empty=counters.skipped_empty,
        answered=counters.answered,
        failed=counters.failed,
        remaining=remaining if stopped_by else 0,
        requests=requests,
        rejected=rejected,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cost=used.cost,
        seconds=round(seconds, 3),
        limits=statistics.limits,
        utilisation={name: round(share, 4) for name, share in statistics.utilisation.items()},
        bound_by={name: round(share, 4) for name, share in statistics.bound_by.items()},
        verdict=None if run.batch_jobs else explain_bottleneck(facts),
        output=output,
        failures=failures,
        reasons={
            kind: {"count": count, "first": first}
            for kind, (count, first) in counters.reasons.items()
        },
        stopped_by=stopped_by,
        cut=counters.cut,
        empty=counters.empty,
        retried=done.retried,
        retries=done.retries,
        run=run.report(),
    )
