"""Reads what replies report of a limit: balance, depth, trust in it.

While a bucket is not full and nobody else spends, ``left + sent - rate * time`` is always
the same, whatever happens in between: call it the balance. It tells two things that no
header does. One is of which moment a reply speaks. Some servers write down what is left when
they admit a request, others when its answer leaves, seconds later: taken for the wrong
moment, the balance goes up and down with every change of pace, and for the right one it does
not. The other is what somebody else takes: by that much it falls.
"""

from __future__ import annotations

import math
from typing import Final

# Replies come in clumps, out of order, and each has had another way: their mean counts.
_GROUP_SECONDS: Final = 0.05
# How much steadier the balance has to be for the other moment. To believe in the later one
# where the earlier one is true costs rejections; the other way round it costs time.
_TO_REPLY: Final = 16.0
_TO_SENDING: Final = 2.0
# The weight of a new step of the balance among those before.
_SPREAD_WEIGHT: Final = 0.1
# Quick changes of pace show from one group to the next, slow ones between rounded numbers only
# in longer steps: (seconds, how many steps tell something).
_SHORT_STEPS: Final = (0.0, 20)
_LONG_STEPS: Final = (0.3, 4)
_FORGET_SECONDS: Final = 5.0
# Somebody else is taken to spend as much as we do until replies to so many seconds' worth of
# requests say otherwise, and again as soon as the balance falls by such a part of our own.
_PRIOR_SECONDS: Final = 0.1
_PRIOR: Final = 1.0
_SEEN: Final = 0.2
# As long as little is said to be left and nothing is refused, it may be just enough, or it may
# be said of another account. After so many seconds it is tried out, which costs a rejection
# where it was true; then it takes twice as long until it is tried again.
_PATIENCE_SECONDS: Final = 4.0
_ENOUGH: Final = 0.5


class Spread:
    """The steadiness of the balance for each moment, over some seconds.

    A step takes so many `seconds` at least; more than `enough` of them tell something.
    """

    __slots__ = ("_before", "_early", "_enough", "_late", "_seconds", "_since", "_steps")

    def __init__(self, seconds: float, enough: int) -> None:
        self._seconds, self._enough = seconds, enough
        self._before: tuple[float, float] | None = None
        self._since = -math.inf
        self._steps = 0
        self._early = self._late = 0.0

    def note(self, early: float, late: float, *, is_full: bool, now: float) -> None:
        """Register the balance; while the bucket is full it falls."""
        before = self._before
        if now - self._since < self._seconds and not is_full:
            return
        if before is not None and not is_full:
            self._early += ((early - before[0]) ** 2 - self._early) * _SPREAD_WEIGHT
            self._late += ((late - before[1]) ** 2 - self._late) * _SPREAD_WEIGHT
        self._steps += 1
        self._before, self._since = (early, late), now

    def is_steadier_at_reply(self, by: float) -> bool:
        """Return whether the balance is much steadier for the later moment."""
        return self._steps > self._enough and self._late * by < self._early


class Reported:
    """The balance of one limit, from what replies say.

    `rate` is what comes in per second.
    """

    def __init__(self, rate: float, now: float, *, at_reply: bool = False) -> None:
        self.rate = rate
        self.at_reply = at_reply
        """Whether replies speak of the moment at which they left."""
        self._origin = self._since = now
        self._count = self._groups = 0
        self._is_full = False
        # Sums over a group of replies.
        self._left = self._sent = self._sent_at = self._spent = self._at = 0.0
        self._early_before = self._late_before = self._sent_before = self._spent_before = 0.0
        self._short, self._long = Spread(*_SHORT_STEPS), Spread(*_LONG_STEPS)
        self._early_fall = self._late_fall = self._early_own = self._late_own = 0.0

    def note(
        self, left: float, *, sent_at: float, sent: float, spent: float, now: float, is_full: bool
    ) -> None:
        """Take note of a reply: so much is left.

        By the time its request was sent, `sent` had been sent from here in all, itself included;
        by now `spent`. While the bucket may be full (`is_full`) the balance falls by itself, and a
        group of replies with this one among them tells nothing of it.
        """
        if self._count and now - self._since > _GROUP_SECONDS:
            self._close(now - self._since)
        if not self._count:
            self._since = now
            self._is_full = False
        self._is_full |= is_full
        self._count += 1
        self._left += left
        self._sent += sent
        self._sent_at += sent_at - self._origin
        self._spent += spent
        self._at += now - self._origin

    def level(self, rate: float, *, spent: float, now: float) -> tuple[float, float]:
        """Return the present balance, and the last reported one.

        At `rate` tokens have come in for us meanwhile; `spent` was sent from here by now, in all.
        """
        count = self._count
        left = self._left / count
        before, at = (self._spent, self._at) if self.at_reply else (self._sent, self._sent_at)
        passed = now - self._origin - at / count
        return left + before / count - spent + rate * passed, left

    @property
    def portion(self) -> float:
        """The part of the balance that may be spent from here."""
        prior = self.rate * _PRIOR_SECONDS
        fallen = max(0.0, self._late_fall if self.at_reply else self._early_fall)
        own = max(0.0, self._late_own if self.at_reply else self._early_own)
        others = (fallen + _PRIOR * prior) / (own + prior)
        if own > prior and fallen > _SEEN * own:
            others = max(_PRIOR, others)
        return 1.0 / (1.0 + others)

    def _close(self, passed: float) -> None:
        """Compare a group of replies with the one before it, and begin another."""
        count, sent, spent = self._count, self._sent / self._count, self._spent / self._count
        early = (self._left + self._sent - self.rate * self._sent_at) / count
        late = (self._left + self._spent - self.rate * self._at) / count
        for spread in self._short, self._long:
            spread.note(early, late, is_full=self._is_full, now=self._since + passed)
        if self._groups and not self._is_full:
            early_step, late_step = early - self._early_before, late - self._late_before
            self._choose()
            keep = math.exp(-passed / _FORGET_SECONDS)
            # Only what was sent until then has taken part.
            self._early_own = self._early_own * keep + sent - self._sent_before
            self._late_own = self._late_own * keep + spent - self._spent_before
            self._early_fall = self._early_fall * keep - early_step
            self._late_fall = self._late_fall * keep - late_step
        self._groups += 1
        self._early_before, self._late_before = early, late
        self._sent_before, self._spent_before = sent, spent
        self._count = 0
        self._left = self._sent = self._sent_at = self._spent = self._at = 0.0

    def _choose(self) -> None:
        """Believe in the moment for which the balance is the steadier."""
        spreads = self._short, self._long
        if not self.at_reply:
            self.at_reply = any(each.is_steadier_at_reply(_TO_REPLY) for each in spreads)
        elif self._groups > _SHORT_STEPS[1]:
            self.at_reply = any(each.is_steadier_at_reply(1.0 / _TO_SENDING) for each in spreads)


class Depth:
    """The depth of a bucket, learned from balances and resets.

    A ``reset`` in whole seconds was rounded up, perhaps, and so tells two bounds a second
    apart. Replies at other moments of the second narrow them.

    >>> depth = Depth()
    >>> depth.note(7.0, 1.0, rate=10.0, most=600.0)  # 7 left, and all is back within a second
    >>> depth.note(1.0, 1.0, rate=10.0, most=600.0)
    >>> depth.value
    11.0
    """

    __slots__ = ("_least", "_most", "value")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: the limit is another, or something was refused."""
        self.value = self._least = 0.0
        self._most = math.inf

    def note(
        self,
        remaining: float,
        reset: float | None,
        *,
        rate: float,
        most: float,
        least: float = 0.0,
    ) -> None:
        """Take note of a reply: so much is left.

        All is back in `reset` seconds, at `rate`; the bucket holds `most` (the whole limit) at the
        most, and is known to hold `least`.
        """
        low = high = remaining
        if reset is not None and 0.0 < reset < math.inf:
            high = min(most, remaining + reset * rate)
            low = max(remaining, high - rate) if reset.is_integer() else high
            if low < high < self._most:
                self._most = high
        self._least = max(self._least, low, least)
        self.value = max(self._least, min(high, self._most))


class Trust:
    """Decides whether reported balances control admission."""

    __slots__ = ("_little_since", "_patience", "given")

    def __init__(self) -> None:
        self.given = True
        self._patience = _PATIENCE_SECONDS
        self._little_since: float | None = None

    def note(self, left: float, *, held_back: bool, now: float) -> None:
        """Take note of what replies say, while nothing is refused.

        `left` is a part of what there can be; for it, less is sent than the limit allows if it is
        `held_back`.
        """
        if not held_back or left >= _ENOUGH:
            self._little_since = None
        elif self._little_since is None:
            self._little_since = now
        elif now - self._little_since > self._patience:
            self.given = False
            self._little_since = None

    def refuse(self, *, much_left: bool | None) -> None:
        """Take note of a rejection.

        `much_left`: it says itself that much is left, which is not so. What it speaks of is not
        what requests are admitted by. None where it does not say.
        """
        self._little_since = None
        if much_left is None:
            return
        if much_left:
            self.given = False
            self._patience = math.inf
        elif not self.given and self._patience < math.inf:
            self.given = True
            self._patience *= 2.0

    def move(self, shift: float) -> None:
        """Follow a clock that has been set anew."""
        if self._little_since is not None:
            self._little_since += shift
