"""Event hooks: subscribing, emitting, and the two ends of a call."""

from __future__ import annotations

import contextlib
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any, Final, Self, TypeAlias

from llmflow.clock import SystemClock
from llmflow.errors import ProviderError, UsageError
from llmflow.events.kinds import (
    KINDS,
    Event,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    RequestStarted,
)
from llmflow.types import Request, Response

logger = logging.getLogger("llmflow")

current_run_id: ContextVar[str | None] = ContextVar("llmflow_run_id", default=None)
"""The run that the running code belongs to, as events name it; it flows into tasks."""

Hook: TypeAlias = Callable[[Any], object]
"""A function of one event. What it returns is not looked at."""


class Subscription:
    """An active hook, until it is called or its context ends."""

    __slots__ = ("_failed", "hook", "kinds", "run_id")

    def __init__(self, hook: Hook, kinds: tuple[type[Event], ...], run_id: str | None) -> None:
        self.hook = hook
        self.kinds = kinds
        self.run_id = run_id
        self._failed = False

    def __repr__(self) -> str:
        return f"<Subscription of {_name(self.hook)}>"

    def close(self) -> None:
        """Listen no more. Doing so twice is fine."""
        with _lock:
            if self in _subscriptions:
                _subscriptions.remove(self)
                _rewire()

    __call__ = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, event: Event) -> None:
        """Call the hook. Its first error is logged; no call fails."""
        if self.run_id is not None and self.run_id != event.run_id:
            return
        try:
            self.hook(event)
        except Exception:
            if not self._failed:
                self._failed = True
                logger.exception(
                    "the event hook %s failed at %s; its further failures are not logged",
                    _name(self.hook),
                    event.kind,
                )


def subscribe(
    hook: Hook,
    *,
    kinds: type[Event] | Iterable[type[Event]] | None = None,
    run_id: str | None = None,
) -> Subscription:
    """Subscribe a function to every event of this process.

    The hook runs where the event happens, in the task and thread of the call: let it be
    quick, and hand over what takes time. Of a call that is under way already, it is told
    what is still to come.

    >>> from llmflow.events import RequestFinished
    >>> costs = []
    >>> with subscribe(lambda event: costs.append(event.cost), kinds=RequestFinished):
    ...     pass  # calls made here add to the list

    Args:
        hook: a plain function of the event.
        kinds: classes of events, or a base class such as `RequestEvent`; None: all.
        run_id: listen to this run only.

    Raises:
        UsageError: the hook is a coroutine function, or a kind is no class of events.
    """
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
        getattr(hook, "__call__", None)  # noqa: B004
    ):
        raise UsageError(
            f"{_name(hook)} is a coroutine function, and nothing would await it: have a plain "
            "function put the events into a queue, and read that in a task of your own"
        )
    if not callable(hook):
        raise UsageError(f"hook must be a function of one event; got {hook!r}")
    named = (kinds,) if isinstance(kinds, type) else tuple(kinds or (Event,))
    for each in named:
        if not isinstance(each, type) or not issubclass(each, Event):
            raise UsageError(
                f"kinds must be classes of events, such as RequestFailed; got {each!r}"
            )
    subscription = Subscription(hook, named, run_id)
    with _lock:
        _subscriptions.append(subscription)
        _rewire()
    return subscription


def emit(event: Event) -> None:
    """Tell all hooks that listen to this kind of event.

    Make the event only where its class is wanted: ``if RunStarted.wanted: emit(RunStarted(...))``.
    """
    for subscription in _listeners.get(type(event), ()):
        subscription.tell(event)


def listening() -> bool:
    """Return whether anybody listens to anything: whether `observed` has something to do."""
    return bool(_listeners)


async def observed(
    ask: Callable[[], Awaitable[Response]],
    *,
    call_id: int,
    provider: str,
    model: str,
    request: Request | None = None,
    run_id: str | None = None,
) -> Response:
    """Ask, and tell of the call's start and of its one end.

    Args:
        ask: gets the answer, from wherever it comes.
        call_id: the call's number.
        provider: the provider's name.
        model: the model's name at the provider.
        request: what is asked, for hooks that want to see it.
        run_id: the run that the call belongs to, for all events of the call; None: the one
            that the running code is in.
    """
    if run_id is None:
        run_id = current_run_id.get()
    token = current_run_id.set(run_id)
    who: dict[str, Any]
    who = {"run_id": run_id, "call_id": call_id, "provider": provider, "model": model}
    started = _clock.monotonic()

    def tell(kind: type[Event], **facts: Any) -> None:
        emit(kind(at=_clock.wall(), **facts, **who))

    def took() -> float:
        return _clock.monotonic() - started

    try:
        if RequestStarted.wanted:
            tell(RequestStarted, request=request)
        response = await ask()
    except GeneratorExit:
        # The garbage collector is at work, at whatever line of this thread: a hook that
        # takes a lock could wait for itself.
        raise
    except Exception as error:
        if RequestFailed.wanted:
            attempts = error.attempts if isinstance(error, ProviderError) else 0
            source = getattr(error, "source", "provider")
            tell(RequestFailed, seconds=took(), error=error, attempts=attempts, source=source)
        raise
    except BaseException:
        if RequestCancelled.wanted:
            tell(RequestCancelled, seconds=took())
        raise
    else:
        if RequestFinished.wanted:
            tell(
                RequestFinished,
                seconds=took(),
                usage=response.usage,
                cost=response.cost,
                finish_reason=response.finish_reason,
                attempts=response.attempts,
                waited=response.waited,
                source=response.source,
                response_model=response.model,
                request_id=response.request_id,
                response=response,
            )
        return response
    finally:
        # An abandoned coroutine is closed in another context, where there is nothing to undo.
        with contextlib.suppress(ValueError):
            current_run_id.reset(token)


_clock: Final = SystemClock()
_lock: Final = threading.Lock()
_subscriptions: list[Subscription] = []
_listeners: dict[type[Event], tuple[Subscription, ...]] = {}


def _rewire() -> None:
    """Put together anew who listens to what. Whoever is telling goes on with the old table."""
    global _listeners  # noqa: PLW0603
    _listeners = {
        kind: found
        for kind in KINDS
        if (found := tuple(each for each in _subscriptions if issubclass(kind, each.kinds)))
    }
    for kind in KINDS:
        kind.wanted = kind in _listeners
    Event.wanted = bool(_listeners)


def _name(hook: Hook) -> str:
    return getattr(hook, "__qualname__", None) or type(hook).__qualname__
