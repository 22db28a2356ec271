"""A client that drives the real `Admission`, as `llmflow.limits.Limiter` does.

What the limiter does with futures, a lock and the event loop's timer happens here in virtual
time: the same methods in the same order, with tickets instead of permits.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from llmflow.limits.admission import Admission
from llmflow.limits.dimensions import Ticket
from llmflow.limits.registry import START_IN_FLIGHT
from llmflow.types import Charge, Quota, QuotaSignal

from .provider import Reply
from .setting import Setting

SHORTEST_TIMER = 1e-3


class Item(Ticket):
    """A request: its ticket, and what was drawn for it."""

    __slots__ = ("amount", "attempts", "back", "client", "latency", "passed", "reply", "there")

    def __init__(
        self,
        charge: Charge,
        client: Client,
        *,
        amount: float,
        latency: float,
        there: float,
        back: float,
    ) -> None:
        super().__init__(charge)
        self.client = client
        self.amount = amount
        self.latency = latency
        self.there = there
        self.back = back
        self.attempts = 0
        self.says_when_it_leaves = True
        self.passed = False
        self.reply: Reply | None = None

    def grant(self) -> None:
        """Leave, as the waiting task does that is woken."""
        self.client.granted.append(self)


class Client:
    """One program with its own admission, loop and connections.

    Args:
        setting: what it is told, and how its loop and timers behave.
        rng: draws its stalls and late timers.
        send: is called with a request that leaves, and the time.
        wake: is called with a time at which `ring` is to be called.
        start: when it begins.
    """

    def __init__(
        self,
        setting: Setting,
        rng: random.Random,
        *,
        send: Callable[[Item, float], None],
        wake: Callable[[Client, float], None],
        start: float,
    ) -> None:
        jitter = random.Random(rng.random())
        self._stalls = random.Random(rng.random())
        self._dimension = "tpm" if setting.tokens else "rpm"
        limits = {self._dimension: setting.rate * 60.0} if setting.told else {}
        share = 1.0 / setting.clients if setting.keeps_share else None
        quota = Quota(**limits, share=share)
        self.admission = Admission(
            quota,
            max_in_flight=setting.in_flight,
            start_in_flight=START_IN_FLIGHT,
            now=start,
            jitter=lambda: jitter.uniform(0.8, 1.2),
        )
        self.granted: list[Item] = []
        self.idle_connections = 0
        self.start = start
        self._setting = setting
        self.rng = rng
        self._send = send
        self._wake = wake
        self._timer = math.inf
        self._stall = (-math.inf, -math.inf)
        self._busy_until = -math.inf
        self.inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        """What its loop will handle, in this order."""

    # --- the event loop ----------------------------------------------------------------

    def free(self, now: float) -> float:
        """Return when what happens at `now` is handled: at once, or when the loop is free."""
        setting = self._setting
        if now < self._busy_until:
            now = self._busy_until
        if not setting.stall:
            return now
        begins, ends = self._stall
        while ends <= now:
            begins = max(ends, self.start) + self._stalls.expovariate(1.0 / setting.stall_every)
            ends = begins + self._stalls.expovariate(1.0 / setting.stall)
            self._stall = begins, ends
        return now if now < begins else ends

    def _work(self, now: float) -> float:
        """Spend the loop's time on one request, and return when that is done."""
        cpu = self._setting.cpu
        if cpu:
            now = self._busy_until = max(self._busy_until, now) + cpu
        return now

    def ring(self, due: float, now: float) -> None:
        """Look again: the timer that was due at a time rings, late perhaps."""
        if due != self._timer:
            return  # it was set anew since
        self._timer = math.inf
        self._pump(now)

    # --- as the limiter does -----------------------------------------------------------

    def begin(self, items: list[Item]) -> None:
        """Ask for all requests, as many tasks do in the first moment of a loop."""
        for item in items:
            if self.admission.admit_at_once(item, self.start):
                self._send(item, self._work(self.start))
            else:
                self._wait(item, self.start)

    def leave(self, item: Item, now: float) -> None:
        """Tell that a request has its connection."""
        self.admission.leave(item, now)

    def answered(self, item: Item, now: float) -> None:
        """Handle a reply: settle, or be rejected and wait in the old place."""
        reply = item.reply
        assert reply is not None
        self._work(now)
        signals: tuple[QuotaSignal, ...] = ()
        if reply.limit is not None:
            signals = (QuotaSignal(self._dimension, reply.limit, reply.remaining, reply.reset),)
        if reply.accepted:
            self.admission.finish(item, item.charge, now, signals=signals)
            self._pump(now)
            return
        self.admission.reject(item, reply.retry_after, now, signals=signals)
        self._pump(now)
        self._wait(item, now)

    def _wait(self, item: Item, now: float) -> None:
        admission = self.admission
        admission.enqueue(item)
        if admission.queue[0] is item or self._timer == math.inf:
            self._pump(now)

    def _pump(self, now: float) -> None:
        if not self.admission.queue:
            return
        delay = self.admission.pump(now)
        if self.granted:
            for item in self.granted:
                self._send(item, self._work(now))
            self.granted.clear()
        if delay is None:
            return
        due = now + max(delay, SHORTEST_TIMER)
        if self._timer <= due:
            return
        self._timer = due
        self._wake(self, due)
