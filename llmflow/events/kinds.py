"""The event classes: of calls, quota domains and runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Final

from llmflow.errors import ProviderError, redact
from llmflow.types import Request, Response, Usage

# What a server has written, and may hold anything.
_FOREIGN: Final = frozenset(
    {"finish_reason", "native", "outcome", "reason", "request_id", "response_model"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened.

    Args:
        at: when, by the wall clock, in seconds since 1970.
        run_id: the run it belongs to; None outside of runs.
    """

    kind: ClassVar[str] = ""
    """The event's name in a log, such as ``request_finished``."""
    wanted: ClassVar[bool] = False
    """Whether anybody listens to its kind, or to any, of `Event`: test this before one is made."""

    at: float
    run_id: str | None = None

    def __init_subclass__(cls) -> None:
        cls.kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    def facts(self) -> dict[str, Any]:
        """Return the event as flat, plain values for a log, without texts.

        What is None is left out.

        >>> RequestRejected(
        ...     at=0.0, call_id=7, provider="sim", model="demo", seconds=1.5, dimension="rpm"
        ... ).facts()
        {'kind': 'request_rejected', 'call_id': 7, 'provider': 'sim', 'model': 'demo', \
'attempt': 1, 'seconds': 1.5, 'dimension': 'rpm'}
        """
        found: dict[str, Any] = {"kind": self.kind}
        for each in fields(self):
            value = getattr(self, each.name) if each.repr else None
            if value is None or each.name == "at":
                continue
            if isinstance(value, Usage):
                found["input_tokens"] = value.input_tokens
                found["output_tokens"] = value.output_tokens
            elif isinstance(value, BaseException):
                found["error"] = type(value).__name__
                found["reason"] = redact(str(value))
            elif each.name in _FOREIGN:
                found[each.name] = redact(value)
            else:
                found[each.name] = value
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the objects that hold texts, which repr leaves out, too.
        shown = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        return partial(type(self), **shown), ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEvent(Event):
    """Something that happened to one call.

    Args:
        call_id: the call's number in this process: what has the same number belongs together.
        provider: the provider's name, such as ``"openai"``.
        model: the model's name at the provider.
    """

    call_id: int
    provider: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStarted(RequestEvent):
    """A call was made; it has asked for nothing yet.

    Args:
        request: what is asked; not in a pickle.
    """

    request: Request | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAdmitted(RequestEvent):
    """The limiter lets the request go; it is sent now.

    Args:
        attempt: the attempt's number, from 1. After a rejection the same attempt goes on.
        waited: seconds that it stood in the queue for this.
    """

    attempt: int = 1
    waited: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRejected(RequestEvent):
    """The provider answered with a rate limit (429).

    Args:
        attempt: the attempt's number. Rejections do not use up attempts.
        seconds: how long the domain pauses now; None where the call is given up instead.
        retry_after: the seconds that the server asked to wait, or None.
        dimension: what was used up, such as ``"tpm"``, where the server says so.
    """

    attempt: int = 1
    seconds: float | None = None
    retry_after: float | None = None
    dimension: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRetried(RequestEvent):
    """An attempt failed, and another one follows.

    Args:
        attempt: the number of the attempt that failed, from 1.
        error: what it failed with.
        delay: seconds until the next attempt asks for admission.
    """

    attempt: int
    error: ProviderError
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHedged(RequestEvent):
    """A slow request was sent a second time; see `llmflow.Hedge`.

    Args:
        seconds: how long the first has taken so far.
    """

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished(RequestEvent):
    """A call has its answer.

    Args:
        seconds: from start to answer.
        usage: tokens as the provider counted them.
        cost: US dollars where known, else None.
        finish_reason: why the model stopped: ``stop``, ``length``, ...
        attempts: how often the request was sent and counted.
        waited: seconds of these spent waiting for the quota and between attempts.
        source: ``provider``; ``journal`` or ``cache``, at no further cost; ``shared``: from an
            equal call in flight.
        response_model: the model that answered, as the provider names it.
        request_id: the provider's id of this request.
        response: the whole answer; not in a pickle.
    """

    seconds: float
    usage: Usage
    cost: float | None = None
    finish_reason: str | None = None
    attempts: int = 1
    waited: float = 0.0
    source: str = "provider"
    response_model: str | None = None
    request_id: str | None = None
    response: Response | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFailed(RequestEvent):
    """A call failed for good.

    Args:
        seconds: from start to failure.
        error: what the caller gets.
        attempts: how often the request was sent and counted.
        source: ``provider``; ``journal`` where it failed in an earlier session of its run.
    """

    seconds: float
    error: Exception
    attempts: int = 0
    source: str = "provider"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCancelled(RequestEvent):
    """Nobody waits for the call's answer any more.

    Args:
        seconds: from start to cancellation.
    """

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainPaused(Event):
    """All calls of a quota domain pause, because of a rate limit.

    Told once for each pause, and again where it becomes more than twice as long. It
    belongs to the run whose call met with it, though others may wait as well.

    Args:
        provider: the provider's name.
        model: the model's name at the provider.
        seconds: until the pause ends.
        reason: what the provider said.
        dimension: what was used up, such as ``"tpm"``, where the server says so.
    """

    provider: str
    model: str
    seconds: float
    reason: str
    dimension: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReached(Event):
    """The next call exceeds the budget; emitted once per limit.

    Args:
        dimension: the field of `Budget` that is reached, such as ``"usd"``.
        spent: what is spent or reserved, in that unit.
        limit: what may be spent.
    """

    dimension: str
    spent: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJobChanged(Event):
    """A batch job changed its state, or more rows are done.

    Args:
        provider: the provider's name.
        model: the model's name there.
        job: the provider's name of the job; llmflow's own until there is one.
        state: how far it is: ``sealed``, ``creating``, ``created``, ``fetched`` or ``done``.
        rows: how many there are.
        native: what the provider says that it is doing.
        answered: how many rows were answered, when last looked at.
        failed: how many had failed.
        outcome: how it ended, once it is done.
    """

    provider: str
    model: str
    job: str
    state: str
    rows: int
    native: str | None = None
    answered: int | None = None
    failed: int | None = None
    outcome: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDecided(Event):
    """Rows take another way than the planned batch job.

    Args:
        provider: the provider's name.
        model: the model's name there.
        decision: which way, and why, in a few words.
        rows: how many there are.
        job: the job, if it is about one.
    """

    provider: str
    model: str
    decision: str
    rows: int
    job: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run was entered, for the first time or again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """A run was left.

    Args:
        seconds: since it was entered.
        state: how it ended, as the run's journal says it.
        reason: why it ended before its end, or None.
    """

    seconds: float
    state: str
    reason: str | None = None


KINDS: Final[tuple[type[Event], ...]] = (
    RequestStarted,
    RequestAdmitted,
    RequestRejected,
    RequestRetried,
    RequestHedged,
    RequestFinished,
    RequestFailed,
    RequestCancelled,
    DomainPaused,
    BudgetReached,
    BatchJobChanged,
    BatchDecided,
    RunStarted,
    RunFinished,
)
"""Every kind of event."""
