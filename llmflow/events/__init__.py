"""Events of calls, domains and runs, and subscribing to them.

::

    Event
    ├── RequestEvent          something happened to one call
    │   ├── RequestStarted
    │   ├── RequestAdmitted
    │   ├── RequestRejected
    │   ├── RequestRetried
    │   ├── RequestHedged
    │   ├── RequestFinished   ┐
    │   ├── RequestFailed     │ exactly one of these ends what has started
    │   └── RequestCancelled  ┘
    ├── DomainPaused
    ├── BudgetReached
    ├── RunStarted
    └── RunFinished

Events are small frozen values that can be pickled. They hold no key and no text of a
prompt or an answer: `RequestStarted.request` and `RequestFinished.response` are the
objects that the caller has anyway, and neither a repr, nor `Event.facts`, nor a pickle
shows them.

An event is made only if somebody listens to its kind. Where nobody does, a place that
could tell of one pays for the test of a class attribute.
"""

from llmflow.events.hooks import (
    Hook,
    Subscription,
    current_run_id,
    emit,
    listening,
    observed,
    subscribe,
)
from llmflow.events.kinds import (
    KINDS,
    BatchDecided,
    BatchJobChanged,
    BudgetReached,
    DomainPaused,
    Event,
    RequestAdmitted,
    RequestCancelled,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    RequestHedged,
    RequestRejected,
    RequestRetried,
    RequestStarted,
    RunFinished,
    RunStarted,
)

__all__ = [
    "KINDS",
    "BatchDecided",
    "BatchJobChanged",
    "BudgetReached",
    "DomainPaused",
    "Event",
    "Hook",
    "RequestAdmitted",
    "RequestCancelled",
    "RequestEvent",
    "RequestFailed",
    "RequestFinished",
    "RequestHedged",
    "RequestRejected",
    "RequestRetried",
    "RequestStarted",
    "RunFinished",
    "RunStarted",
    "Subscription",
    "current_run_id",
    "emit",
    "listening",
    "observed",
    "subscribe",
]
