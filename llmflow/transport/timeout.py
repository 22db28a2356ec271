"""Time-outs by phase, and one timer for all attempts.

A timer of its own for every request (``asyncio.timeout``, aiohttp's ``total``) costs a
seventh of what the whole request costs. Requests that may all take equally long end
their time in the order in which they began, so a queue and one timer, for its head, do.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from llmflow.arguments import values_by_name
from llmflow.errors import ConfigurationError


@values_by_name("total")
@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """Time limits of one attempt, by phase. A late attempt is retried.

    `first_byte` and `total` are counted from the beginning of the attempt, after admission:
    waiting for the quota is never counted. ``math.inf`` means no limit.

    >>> Timeout(total=60.0)
    Timeout(connect=10.0, first_byte=None, total=60.0)

    The first byte has no limit of its own unless you set one. Most servers send nothing,
    not even the status, before the whole answer is written, which may rightly take minutes;
    others (DeepSeek, under load) send the status at once and then blank lines for as long
    as ten minutes. So silence says little of whether an answer will come. Set it where the
    server is known to begin early.

    Args:
        connect: seconds until a new connection stands: name look-up, TCP and TLS (10).
        first_byte: seconds until the reply's status and headers are there; None: only `total`
            counts.
        total: seconds until the whole answer is there (300).

    Raises:
        ConfigurationError: a value is not above zero.
    """

    connect: float = 10.0
    first_byte: float | None = None
    total: float = 300.0

    def __post_init__(self) -> None:
        for name in ("connect", "first_byte", "total"):
            value = getattr(self, name)
            if value is None and name == "first_byte":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"timeout {name} must be seconds above 0; got {value!r}")


class Wait:
    """One task that is given a limited time."""

    __slots__ = ("cancelling", "ends", "expired", "task")

    def __init__(self, task: asyncio.Task[object], ends: float) -> None:
        self.task = task
        self.ends = ends
        self.expired = False
        self.cancelling = task.cancelling()


class Watch:
    """Cancels tasks that take longer than a fixed time.

    Args:
        loop: the tasks' event loop.
        seconds: what each may take.
    """

    __slots__ = ("_loop", "_timer", "_waiting", "seconds")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self.seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[Wait, None] = {}  # in the order of their ends

    def begin(self) -> Wait:
        """Watch the running task from now on."""
        loop = self._loop
        task = asyncio.current_task(loop)
        assert task is not None
        wait = Wait(task, loop.time() + self.seconds)
        self._waiting[wait] = None
        if self._timer is None:
            self._timer = loop.call_at(wait.ends, self._ring)
        return wait

    def end(self, wait: Wait) -> bool:
        """Stop watching a task; return whether its time was over.

        If it was, the task has been cancelled, and the cancellation ends here, unless
        somebody else has cancelled it as well: as ``asyncio.timeout`` does it.
        """
        if wait.expired:
            return wait.task.uncancel() <= wait.cancelling
        # The timer is left alone: when it rings, it finds who is to be watched then.
        del self._waiting[wait]
        return False

    def stop(self) -> None:
        """Forget the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        now = self._loop.time()
        for wait in list(self._waiting):
            if wait.ends > now:
                self._timer = self._loop.call_at(wait.ends, self._ring)
                return
            del self._waiting[wait]
            wait.expired = True
            wait.task.cancel()
