"""A run of one setting in virtual time, and what came of it."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmflow.types import Charge

from .client import Client, Item
from .ideal import Passage, ideal
from .laws import LAWS
from .provider import Provider
from .setting import Setting

REJECTING = 0.002
"""Seconds that the provider takes to refuse a request."""
SIZE_SIGMA = 0.8
MOST_OF_A_BUCKET = 0.5
BACK_AFTER, BACK_FOR = 10.0, 10.0
"""Seconds from the end of what lowered the rate until it is measured, and for how long."""
GIVING_UP = 20.0
"""A run is stopped at so many times the least that it could take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run.

    Args:
        setting: what was run.
        seconds: from the start to the last answer.
        ideal: what a client would have taken that knows everything, with the same latencies.
        rejections: 429s.
        missing: requests without an answer when the run was stopped.
        shares: what each client had been answered when the first of them was done, as a
            part of all that was answered by then.
        back: the part of the quota that was used from 10 to 20 seconds after all of it was
            there again; None where it always was.
    """

    setting: Setting
    seconds: float
    ideal: float
    rejections: int
    missing: int
    shares: tuple[float, ...]
    back: float | None

    @property
    def ratio(self) -> float:
        """The time taken over the ideal."""
        return self.seconds / self.ideal

    @property
    def rejected(self) -> float:
        """Rejections in percent of the requests."""
        return 100.0 * self.rejections / self.setting.n


class World:
    """The provider, the network, the clients and the order of events.

    Args:
        setting: all of it.
        make_client: makes a client; `Client` but for tests of the harness itself.
    """

    def __init__(self, setting: Setting, make_client: Callable[..., Any] = Client) -> None:
        self.setting = setting
        self.provider = Provider(setting)
        self.passages: list[Passage] = []
        self.rejections = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        # What belongs to a request is drawn before anything happens: another rule of
        # admission meets the same requests.
        self._draws = random.Random(f"requests {setting.seed}")
        self._network = random.Random(f"network {setting.seed}")
        self._law = LAWS[setting.law]
        self._answers: list[tuple[float, Client]] = []
        self._latest = self._back = 0.0
        self.clients: list[Client] = [
            make_client(
                setting,
                random.Random(f"client {index} {setting.seed}"),
                send=self._send,
                wake=self._wake,
                start=index * setting.later,
            )
            for index in range(setting.clients)
        ]
        self.items = [self._item(self.clients[i % setting.clients]) for i in range(setting.n)]

    def run(self) -> Outcome:
        """Let everything happen, and measure.

        Raises:
            RuntimeError: requests wait, and nobody will ever look after them.
        """
        for client in self.clients:
            self._at(client.start, client.begin, [i for i in self.items if i.client is client])
        events, setting = self._events, self.setting
        end = GIVING_UP * self._least()
        while len(self._answers) < setting.n:
            if not events:
                raise RuntimeError(f"requests wait for ever: {setting}")
            time, _, happen, what = heapq.heappop(events)
            if time > end:
                break
            happen(*what)
        missing = setting.n - len(self._answers)
        return Outcome(
            setting=setting,
            seconds=end if missing else self._latest,
            ideal=self._least(),
            rejections=self.rejections,
            missing=missing,
            shares=self._shares(),
            back=self._back / (setting.rate * BACK_FOR) if setting.taken else None,
        )

    def _at(self, time: float, happen: Callable[..., None], *what: Any) -> None:
        heapq.heappush(self._events, (time, next(self._order), happen, what))

    def _item(self, client: Client) -> Item:
        setting, draws = self.setting, self._draws
        size = draws.lognormvariate(-(SIZE_SIGMA**2) / 2.0, SIZE_SIGMA)
        amount, charge = 1.0, Charge()
        if setting.tokens:
            most = MOST_OF_A_BUCKET * setting.rate * setting.burst
            amount = float(max(1, math.floor(min(most, setting.tokens * size))))
            charge = Charge(tokens=amount)
            size = amount / setting.tokens
        return Item(
            charge,
            client,
            amount=amount,
            latency=self._law(draws, setting.latency, size),
            there=self._way(draws),
            back=self._way(draws),
        )

    def _way(self, rng: random.Random) -> float:
        return self.setting.way + self.setting.jitter * rng.expovariate(1.0)

    # --- what happens --------------------------------------------------------------------

    def _send(self, item: Item, now: float) -> None:
        item.attempts += 1
        if item.attempts > 1:
            item.there = self._way(self._network)
        if item.client.idle_connections:
            item.client.idle_connections -= 1
            item.client.leave(item, now)
        else:
            opening = self.setting.opening * self._network.uniform(0.5, 1.5)
            item.there += opening
            self._at(now + opening, self._opened, item, now + opening)
        self._at(now + item.there, self._arrive, item, now + item.there)

    def _opened(self, item: Item, now: float) -> None:
        self._when_free(item.client, now, item.client.leave, item)

    def _arrive(self, item: Item, now: float) -> None:
        setting = self.setting
        item.reply = reply = self.provider.arrive(item.amount, now)
        if not reply.accepted:
            self.rejections += 1
            self._travel(item, now + REJECTING)
            return
        item.passed = True
        if 0.0 <= now - setting.taken_for - BACK_AFTER < BACK_FOR:
            self._back += item.amount
        after = item.latency + item.back
        self.passages.append(Passage(item.amount, item.client.start + item.there, after))
        if setting.stamp == "reply" and setting.headers == "all":
            self._at(now + item.latency, self._stamp, item, now + item.latency)
        else:
            self._travel(item, now + item.latency)

    def _stamp(self, item: Item, now: float) -> None:
        item.reply = self.provider.headers(now)
        self._travel(item, now)

    def _travel(self, item: Item, now: float) -> None:
        self._at(now + item.back, self._received, item, now + item.back)

    def _received(self, item: Item, now: float) -> None:
        client = item.client
        client.idle_connections += 1
        if item.passed:
            self._answers.append((now, client))
            self._latest = now
        self._when_free(client, now, client.answered, item)

    def _wake(self, client: Client, due: float) -> None:
        late = self.setting.timers
        rings = due + (late * client.rng.expovariate(1.0) if late else 0.0)
        self._at(rings, self._ring, client, due, rings)

    def _ring(self, client: Client, due: float, now: float) -> None:
        self._when_free(client, now, client.ring, due)

    def _when_free(
        self, client: Client, now: float, happen: Callable[..., None], *what: Any
    ) -> None:
        """Have something happen in a client's loop as soon as that is not busy."""
        free = client.free(now)
        if not client.inbox and free <= now:
            happen(*what, now)
            return
        client.inbox.append((happen, what))
        if len(client.inbox) == 1:
            self._at(free, self._work_off, client, free)

    def _work_off(self, client: Client, now: float) -> None:
        """Have a client's loop handle what has come next, where it is not busy still."""
        free = client.free(now)
        if free <= now:
            happen, what = client.inbox.popleft()
            happen(*what, now)
            if not client.inbox:
                return
            free = client.free(now)
        self._at(free, self._work_off, client, free)

    # --- what came of it -----------------------------------------------------------------

    def _least(self) -> float:
        """Return the ideal; what has not been let through is taken to follow, in its order."""
        rest = [
            Passage(item.amount, item.client.start + self.setting.way, item.latency)
            for item in self.items
            if not item.passed
        ]
        return ideal(self.setting, [*self.passages, *rest])

    def _shares(self) -> tuple[float, ...]:
        left = Counter(id(item.client) for item in self.items)
        done: Counter[int] = Counter()
        for _, client in self._answers:
            done[id(client)] += 1
            if done[id(client)] == left[id(client)]:
                break
        total = max(1, done.total())
        return tuple(done[id(client)] / total for client in self.clients)


def run(setting: Setting) -> Outcome:
    """Run one setting with the real admission."""
    return World(setting).run()
