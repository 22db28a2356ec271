"""Report of a run, in numbers and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from llmflow.calls.observe import RunStatistics
from llmflow.format import counted, dollars, duration, per_second
from llmflow.progress.view import Traffic, budget_amounts, budget_words

if TYPE_CHECKING:
    from llmflow.batch.record import JobRecord
    from llmflow.calls.session import Session

# The share of cut answers above which the bound is wrong, rather than an answer odd.
_TOO_MANY: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport(RunStatistics):
    """Counts of a run since it was entered, and its totals.

    >>> done = RunStatistics(answered=600, replayed=400, requests=612)
    >>> print(RunReport(name="summaries", seconds=20, resumable=True, **asdict(done)))
    run summaries: 1,000 calls in 20.0 s (30/s)
    600 answered, 400 from the journal
    requests 612, rate-limited (429) 0; tokens 0 in, 0 out
    Running again takes what was answered from the journal, at no cost.

    Args:
        name: the run's name; None for one without.
        resumable: whether its answers are kept in a journal.
        seconds: how long it took.
        rejected: rate-limit rejections (429).
        total_cost: US dollars over all sessions of the run; None where no price is known.
        budget: the limits of its budget, such as ``{"usd": 5.0}``.
        spent: what was spent of each of them: over all sessions, but for the seconds.
        reached: the limit that has ended the run, such as ``"usd"``, or None.
        prices_as_of: the day of the public prices that the cost was reckoned with; None
            where they had no part in it.
        batch_jobs: batch jobs over all sessions.
        batch_rounds: how often a row was in one of them at most.
        batch_rows: rows of all of them; what went into another round counts again.
        batch_jobs_left: how many of them have not ended.
        decisions: what was decided about them, and for how many rows; 0 where it was for all.
        altered: rows of its journal that were altered since they were written, and not used.
    """

    name: str | None = None
    resumable: bool = False
    seconds: float = 0.0
    rejected: int = 0
    total_cost: float | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)
    reached: str | None = None
    prices_as_of: str | None = None
    batch_jobs: int = 0
    batch_rounds: int = 0
    batch_rows: int = 0
    batch_jobs_left: int = 0
    decisions: Mapping[str, int] = field(default_factory=dict)
    altered: int = 0

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self)

    @property
    def ways(self) -> str:
        """The calls by outcome, such as ``600 answered, 400 from the journal``."""
        counts = (
            (self.answered, "answered"),
            (self.replayed, "from the journal"),
            (self.cached, "from the cache"),
            (self.shared, "shared with an equal one in flight"),
            (self.failed, "failed"),
            (self.failed_before, "failed before"),
        )
        return ", ".join(f"{number:,} {what}" for number, what in counts if number)

    @property
    def money(self) -> str | None:
        """The cost, its sessions and its price source; None if unknown."""
        if self.cost is None and not self.total_cost:
            return None
        text = f"cost {dollars(self.cost or 0.0)}"
        if self.prices_as_of is not None:
            text += f" (prices of {self.prices_as_of})"
        # Rounding apart, this session was the only one.
        if self.total_cost is not None and self.total_cost > (self.cost or 0.0) * (1 + 1e-6):
            text += f", {dollars(self.total_cost)} over all sessions"
        return text

    @property
    def budget_spent(self) -> str | None:
        """The spent budget, such as ``$0.41 of $5.00``; None without one."""
        return ", ".join(budget_words(self.budget, self.spent)) or None

    @property
    def batches(self) -> list[str]:
        """A summary of its batch jobs; empty without any."""
        lines = []
        if self.batch_jobs:
            jobs, rounds = counted(self.batch_jobs, "job"), counted(self.batch_rounds, "round")
            left = f", {self.batch_jobs_left:,} still running" if self.batch_jobs_left else ""
            lines.append(f"batch: {jobs} in {rounds}, {counted(self.batch_rows, 'row')}{left}")
        if self.decisions:
            told = (
                f"{decision} ({counted(rows, 'row')})" if rows else decision
                for decision, rows in self.decisions.items()
            )
            lines.append(f"decided: {'; '.join(told)}")
        return lines

    @property
    def _head(self) -> str:
        """How many calls in how long; what was known before is no speed."""
        who = "run" if self.name is None else f"run {self.name}"
        new = self.done - self.replayed - self.cached - self.failed_before
        rate = f" ({per_second(new / self.seconds)})" if self.seconds and new > 0 else ""
        return f"{who}: {counted(self.done, 'call')} in {duration(self.seconds)}{rate}"

    def summary(self) -> str:
        """Return the final progress line: done, failed and cost."""
        parts = [self.ways] if self.done else []
        if self.cost:
            parts.append(f"cost {dollars(self.cost)}")
        return ": ".join([self._head, ", ".join(parts)] if parts else [self._head])

    def lines(self) -> list[str]:
        """Return it as a few lines for a person."""
        lines = [self._head]
        if self.done:
            lines.append(self.ways)
        lines += request_lines(self, self.money)
        lines += answer_words(self.answers, cut=self.cut, empty=self.empty, option="max_tokens")
        if self.reasked:
            lines.append(reask_words(self.reasked))
        lines += self.batches
        if self.budget_spent is not None:
            end = f": {self.reached} reached" if self.reached else ""
            lines.append(f"budget spent: {self.budget_spent}{end}")
        if self.failed_before:
            lines.append("Run(..., retry_failed=True) asks again what failed before.")
        if self.resumable:
            lines.append("Running again takes what was answered from the journal, at no cost.")
        return lines


class _Requests(Protocol):
    @property
    def requests(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def retries(self) -> Mapping[str, int]: ...


def request_lines(done: _Requests, money: str | None) -> list[str]:
    """Return a report's lines on requests, tokens, cost and retries."""
    line = (
        f"requests {done.requests:,}, rate-limited (429) {done.rejected:,}; "
        f"tokens {done.input_tokens:,} in, {done.output_tokens:,} out"
    )
    lines = [line if money is None else f"{line}; {money}"]
    return [*lines, retry_words(done.retries)] if done.retries else lines


def report_of(
    session: Session, name: str | None, seconds: float, jobs: list[JobRecord]
) -> RunReport:
    """Return the report of a run."""
    done, journal = session.tally.statistics(), session.journal
    state = None if session.ledger is None else session.ledger.state()
    budget, spent = ({}, {}) if state is None else budget_amounts(state)
    if "seconds" in spent:
        spent["seconds"] = seconds  # of a run that is over, they stand still
    jobs = [each for each in jobs if not each.replaced]
    decisions: Counter[str] = Counter()
    for batches in session.all_batches:
        decisions.update(batches.decisions)
    return RunReport(
        **asdict(done),
        name=name,
        resumable=journal is not None,
        seconds=seconds,
        rejected=Traffic.of(session.limiters()).rejected,
        total_cost=done.cost if journal is None else journal.totals.cost,
        budget=budget,
        spent=spent,
        reached=None if state is None else state.reached,
        prices_as_of=session.prices_as_of() if done.cost else None,
        batch_jobs=len(jobs),
        batch_rounds=max((each.round for each in jobs), default=0),
        batch_rows=sum(each.requests for each in jobs),
        batch_jobs_left=sum(each.is_active for each in jobs),
        decisions=dict(decisions),
        altered=0 if journal is None else journal.altered,
    )


def retry_words(retries: Mapping[str, int]) -> str:
    r"""Return the number of retries by reason, most frequent first.

    >>> retry_words({"500": 1}) == "1 retried: 1 \N{MULTIPLICATION SIGN} 500"
    True
    """
    kinds = sorted(retries.items(), key=lambda each: (-each[1], each[0]))
    told = ", ".join(f"{number:,} × {kind}" for kind, number in kinds)  # noqa: RUF001
    return f"{sum(retries.values()):,} retried: {told}"


def answer_words(answers: int, *, cut: int, empty: int, option: str) -> list[str]:
    """Return a remark on incomplete answers, in a line or two.

    >>> answer_words(600, cut=12, empty=3, option="--max-tokens")
    ['12 answers cut at max_tokens, 3 empty', '2.0% of the answers were cut: raise --max-tokens']

    `option` is what sets the bound.
    """
    parts = []
    if cut:
        parts.append(f"{counted(cut, 'answer')} cut at max_tokens")
    if empty:
        parts.append(f"{empty:,} empty" if cut else f"{counted(empty, 'answer')} empty")
    lines = [", ".join(parts)] if parts else []
    words = too_many_cut(answers, cut=cut, option=option)
    return lines if words is None else [*lines, words]


def reask_words(number: int) -> str:
    """Return a remark on answers that were asked again.

    >>> reask_words(12)
    '12 answers were not accepted and asked again'
    """
    return f"{counted(number, 'answer was', 'answers were')} not accepted and asked again"


def too_many_cut(answers: int, *, cut: int, option: str) -> str | None:
    """Return a remedy where above 1% was cut off, or None."""
    if cut <= _TOO_MANY * answers:
        return None
    return f"{cut / answers:.1%} of the answers were cut: raise {option}"


def altered_words(number: int) -> str:
    """Return a remark on rows that were altered in the journal.

    >>> altered_words(1)
    '1 row of its journal was altered on disk: it was not used, its question is asked again'
    """
    if number == 1:
        return (
            "1 row of its journal was altered on disk: it was not used, its question is asked again"
        )
    return (
        f"{number:,} rows of its journal were altered on disk: they were not used, their "
        "questions are asked again"
    )
