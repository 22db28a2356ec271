"""Snapshot of a run at one moment, as values and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from llmflow.budget.value import LedgerState
from llmflow.errors import redact
from llmflow.format import compact, counted, dollars, duration, per_second
from llmflow.limits import Limiter, LimiterStatistics

_TROUBLE_CHARACTERS: Final = 80
_LONG_IN_FLIGHT: Final = 20.0  # seconds after which a request without an answer is worth a word
_BINDING: Final = {
    "in_flight": "calls in flight are the limit",
    "start": "no rate is known yet, starting slowly",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """State of the limiters that some work goes through."""

    in_flight: int = 0  # calls that were admitted and have not ended
    waiting: int = 0  # calls that wait for admission
    requests: int = 0  # requests since the work began; those that were sent again count again
    rejected: int = 0  # rate-limit rejections (429) since the work began
    quota: float | None = None  # requests per second that request limits allow, if any do
    paused_for: float = 0.0  # seconds until the longest pause ends; 0.0 when there is none
    trouble: str | None = None  # the last error while nothing is answered, printable
    binds: str | None = None  # what calls wait for, in words; None where none waits
    oldest: float = 0.0  # seconds since the longest request in flight was admitted

    @classmethod
    def of(cls, limiters: Mapping[Limiter, LimiterStatistics]) -> Traffic:
        """Return what is going on."""
        now = {limiter: limiter.statistics() for limiter in limiters}
        rates = [each.limits.get("rpm") for each in now.values()]
        busiest = max(now.values(), key=lambda each: each.waiting, default=None)
        troubles = (limiter.trouble for limiter in now)
        trouble = next((each for each in troubles if each is not None), None)
        return cls(
            in_flight=sum(each.in_flight for each in now.values()),
            waiting=sum(each.waiting for each in now.values()),
            requests=sum(each.admitted - limiters[key].admitted for key, each in now.items()),
            rejected=sum(each.rejected - limiters[key].rejected for key, each in now.items()),
            quota=sum(r for r in rates if r) / 60 if rates and all(rates) else None,
            paused_for=max((each.paused_for for each in now.values()), default=0.0),
            trouble=None if trouble is None else redact(trouble)[:_TROUBLE_CHARACTERS],
            binds=None if busiest is None else _binds(busiest),
            oldest=max((limiter.oldest_in_flight() for limiter in now), default=0.0),
        )


def _binds(statistics: LimiterStatistics) -> str | None:
    if not statistics.waiting:
        return None
    shares = statistics.bound_by
    name = max(shares, key=shares.__getitem__, default="")
    return f"{name} is the limit" if name in statistics.limits else _BINDING.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """The batch jobs of some work at one moment.

    >>> BatchView(states={"running": 2}, rows=100, done=40, age=90, left=135).words()
    'batch: 2 running, 40/100 rows, for 1 min 30 s, about 2 min 15 s left'

    When they will be done is a guess: no provider says so, and none works evenly.
    """

    states: Mapping[str, int] = field(default_factory=dict)  # states of unfinished jobs, counted
    rows: int = 0  # the rows of these
    done: int = 0  # how many of them are answered or failed, as far as that is known
    age: float = 0.0  # for how many seconds the oldest job that has not ended has been there
    left: float | None = None  # expected seconds until they end, at the pace so far
    latest: float | None = None  # seconds until the last of them expires, if known
    trouble: str | None = None  # why a request about them is being repeated
    submitting: int | None = None  # rows that were put into jobs so far, while more are; else None

    @property
    def news(self) -> tuple[object, ...]:
        """The part of it whose change is worth a new log line."""
        states = tuple(sorted(self.states.items()))
        return states, self.rows, self.done, self.submitting, self.trouble

    def words(self) -> str:
        """Return it in one line."""
        return f"batch: {', '.join([*self._states(), *self.times(), *self._trouble()])}"

    def state_words(self) -> str:
        """Return what the jobs are doing, without the times."""
        return f"batch: {', '.join([*self._trouble(), *self._states()])}"

    def times(self) -> list[str]:
        """Return the jobs' age, and the time until they expire."""
        parts = [f"for {duration(self.age)}"] if self.states and self.age >= 1.0 else []
        if self.left is not None:
            parts.append(f"about {duration(self.left)} left")
        elif self.states and self.latest is not None:
            parts.append(f"{duration(self.latest)} left at the most")
        return parts

    def _trouble(self) -> list[str]:
        return [] if self.trouble is None else [f"trying again: {self.trouble}"]

    def _states(self) -> list[str]:
        parts = [f"{number:,} {state}" for state, number in self.states.items()]
        if self.submitting is not None:
            parts.insert(0, f"submitting, {counted(self.submitting, 'row')} so far")
        if self.rows:
            parts.append(f"{self.done:,}/{counted(self.rows, 'row')}")
        return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """Work at one moment: counts, pace, cost, limits and jobs."""

    done: int  # rows or calls that have ended
    total: int | None  # how many there are in all, or None where that is not known
    rate: float = 0.0  # those per second that were not known before
    reading: float | None = None  # those per second while only known ones come; else None
    requests: float = 0.0  # requests per second
    seconds_left: float | None = None  # when it will be done; None where nobody knows
    failed: int = 0  # those that failed for good
    replayed: int = 0  # those that the journal answered
    cached: int = 0  # those that the cache of earlier runs answered
    shared: int = 0  # those that got the answer of an equal one in flight
    input_tokens: int = 0  # tokens of the prompts that the provider answered
    output_tokens: int = 0  # tokens of its answers
    cost: float | None = None  # US dollars; None or 0.0 where there is nothing to tell
    budget: LedgerState | None = None  # what the ledger holds; None without one
    traffic: Traffic = Traffic()  # what the limiters are doing
    note: str | None = None  # what is wrong elsewhere; None where nothing is
    binds: str | None = None  # what limits it where the limiters do not, if that is clear
    stopping: bool = False  # whether nothing new is begun
    batch: BatchView | None = None  # the batch jobs that it waits for; None where it waits for none

    @property
    def count(self) -> str:
        """The done part, such as ``40/100``."""
        return f"{self.done:,}/{self.total:,}" if self.total is not None else f"{self.done:,} done"

    def line(self) -> str:
        """Return it in one line; a narrow terminal shows the beginning."""
        if self.stopping:
            return self._stopping()
        if self.batch is not None:
            parts = [self.batch.words(), *self._trouble(), *self._special(), *self._money()]
            return ", ".join(parts)
        parts = [self._speed(), self._flight(), *self._left(), *self._trouble(), *self._special()]
        return ", ".join([*parts, *self._money(), *self._binding()])

    def lines(self) -> tuple[str, str]:
        """Return it in two lines, the first of them beside a bar."""
        if self.batch is not None and not self.stopping:
            # Beside the bar there is no room for the times on a terminal of 80 columns.
            below = [*self.batch.times(), *self._money(), *self._special(), *self._tokens()]
            return ", ".join([self.batch.state_words(), *self._trouble()]), ", ".join(below)
        first = ", ".join([self._speed(), *self._left(), *self._trouble()])
        waiting = self.traffic.waiting + (0 if self.budget is None else self.budget.waiting)
        # The most important comes first: a narrow terminal cuts the end.
        second = [*self._binding(), *self._money(), self._flight()]
        second += [f"{waiting:,} waiting"] if waiting else []
        second += [*self._special(), *self._tokens()]
        return self._stopping() if self.stopping else first, ", ".join(second)

    def log_line(self) -> str:
        """Return it as a line of a log, which nobody cuts."""
        of = f" of {self.total:,}" if self.total is not None else ""
        tokens = [] if self.stopping else self._tokens()
        return ", ".join([f"{self.done:,}{of} done", self.line(), *tokens])

    def _stopping(self) -> str:
        flight = self.traffic.in_flight
        if not flight:
            return "stopping"
        ways = counted(flight, "answer on its way", "answers on their way")
        return f"stopping: {ways}; Ctrl-C drops {'it' if flight == 1 else 'them'}"

    def _flight(self) -> str:
        oldest = self.traffic.oldest
        hung = f" (oldest {duration(oldest)})" if oldest >= _LONG_IN_FLIGHT else ""
        return f"{self.traffic.in_flight:,} in flight{hung}"

    def _speed(self) -> str:
        if self.reading is not None:
            return f"{self.reading:,.0f}/s from the journal"
        quota = self.traffic.quota
        if quota is not None:
            # What a burst has saved up is sent faster, for a moment.
            return f"{per_second(min(self.requests, quota))} of {per_second(quota)} (rpm)"
        return per_second(self.rate)

    def _left(self) -> list[str]:
        return [] if self.seconds_left is None else [f"{duration(self.seconds_left)} left"]

    def _trouble(self) -> list[str]:
        traffic, parts = self.traffic, []
        if self.note is not None:
            parts.append(self.note)
        elif traffic.trouble is not None:
            parts.append(f"nothing is answered ({traffic.trouble})")
        if traffic.paused_for:
            parts.append(f"paused {traffic.paused_for:.0f} s")
        return parts

    def _special(self) -> list[str]:
        """Return how many took another way than the plain one."""
        counts = (
            (self.traffic.rejected, "x 429"),
            (self.failed, "failed"),
            (self.replayed, "from the journal"),
            (self.cached, "from the cache"),
            (self.shared, "shared"),
        )
        return [f"{number:,} {what}" for number, what in counts if number]

    def _money(self) -> list[str]:
        limits, spent = ({}, {}) if self.budget is None else budget_amounts(self.budget)
        cost = [dollars(self.cost)] if self.cost and "usd" not in limits else []
        return cost + budget_words(limits, spent)

    def _tokens(self) -> list[str]:
        if not self.input_tokens and not self.output_tokens:
            return []
        return [f"tokens {compact(self.input_tokens)} in, {compact(self.output_tokens)} out"]

    def _binding(self) -> list[str]:
        binds = self.traffic.binds
        if binds is None and self.budget is not None and self.budget.waiting:
            binds = "the budget is the limit"
        binds = binds or self.binds
        return [] if binds is None else [binds]


def budget_amounts(state: LedgerState) -> tuple[dict[str, float], dict[str, float]]:
    """Return the limits of a budget, and what was spent of each."""
    spent = state.spent._asdict() | {"seconds": state.seconds}
    limits = {
        unit: float(limit) for unit in spent if (limit := getattr(state.budget, unit)) is not None
    }
    return limits, {unit: spent[unit] for unit in limits}


def budget_words(limits: Mapping[str, float], spent: Mapping[str, float]) -> list[str]:
    """Return the spent part of each limit, such as ``$0.41 of $5.00``.

    >>> budget_words({"usd": 5, "tokens": 2e6}, {"usd": 0.41})
    ['$0.41 of $5.00', '0 of 2M tokens']
    """
    words = []
    for unit, limit in limits.items():
        text = {"usd": dollars, "seconds": duration}.get(unit, compact)
        name = f" {unit}" if text is compact else ""
        words.append(f"{text(spent.get(unit, 0.0))} of {text(limit)}{name}")
    return words
