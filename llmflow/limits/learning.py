"""A token bucket that learns: from what replies say is left, and from what is refused.

Three things about a limit are never written down. How much of it is there for us:
another program may spend the same key. How much of it may be used at once: a limit
"per minute" is enforced in slices as short as a second. And, where nobody names it,
the limit itself. All three follow the rule that shares a network link fairly between
strangers: a little more while it goes well, a good part less when it does not
(additive increase, multiplicative decrease; Chiu and Jain, 1989).
"""

from __future__ import annotations

import math
from typing import Final

from llmflow.limits.bucket import BURST_SLACK, FIRST_GAIN, TokenBucket
from llmflow.types import QuotaSignal

DAY: Final = 86_400.0
OUTPUT: Final = 3
"""The index of output tokens in a `Charge`."""
# Shares of what a bucket holds, a second's worth at most. Below the first, less is
# used; above the second, more. In between, all is well: the slack of one program
# that uses a limit up to its end lies there.
_LOW, _HIGH = 0.1, 0.3
_SMOOTHING_SECONDS: Final = 0.5
# By how much a share falls, once in a round trip, where nothing is left; and how much it
# rises per second where all is there, or some.
_FALL: Final = 0.2
_RISE, _RISE_BETWEEN = 0.15, 0.05
_RISE_UNSEEN: Final = 0.1
_RISE_ESTIMATED: Final = 0.05
_AFTER_REJECTION: Final = 0.8
_AFTER_FIRST_REJECTION: Final = 0.5
_CALM_BEFORE: Final = 10.0
_AFTER_RAMP: Final = 0.5
_LEAST_SHARE: Final = 0.01
_CALM_SECONDS: Final = 1.0
# A minute's worth is spent by halves: whoever else shares it may do the same.
_SPEND: Final = 0.5
_KEEP_SECONDS: Final = 0.5
_TOLERANCE_SECONDS: Final = 0.1
_ROUNDING: Final = 500.0
_MOST_FALLS: Final = 2
_SHORTEST_WINDOW: Final = 0.05
_WINDOW_PATIENCE: Final = 30.0
_MOST_GROWTH: Final = 16.0


class LearningBucket(TokenBucket):
    """A token bucket that corrects itself.

    Args:
        name: the dimension, such as ``"rpm"``.
        unit: index of this dimension's amount in a `Charge`.
        limit: how many per period; where it is estimated, a first guess.
        portion: the part of it that is this program's own. The bucket is as one of so much
            less; replies speak of the whole.
        period: seconds.
        burst_seconds: how many seconds' worth may be used at once, as far as is known.
        minimum: the least capacity that is useful.
        estimated: whether nobody has named the limit: it then has no upper bound.
    """

    __slots__ = (
        "_calm_since",
        "_changed_at",
        "_due",
        "_due_at",
        "_falls",
        "_fell_at",
        "_growth",
        "_refused_at",
        "_remaining",
        "_seen_at",
        "bound_at",
        "estimated",
        "portion",
        "trusted",
        "whole",
        "window",
        "window_ceiling",
    )

    def __init__(
        self,
        name: str,
        *,
        unit: int,
        limit: float,
        period: float,
        burst_seconds: float,
        minimum: float,
        now: float,
        estimated: bool = False,
        portion: float = 1.0,
    ) -> None:
        self.whole, self.portion = limit, portion
        self._due: float | None = None
        self._due_at = (now, 0.0)
        super().__init__(
            name,
            unit=unit,
            limit=limit * portion,
            period=period,
            burst_seconds=burst_seconds,
            minimum=minimum,
            now=now,
            # Output is charged as it is produced: however fast requests leave, it comes later.
            paced=period < DAY and unit != OUTPUT,
        )
        self.estimated = estimated
        self.window = self.window_ceiling = burst_seconds
        self.trusted = True
        """Whether what replies say is left is what requests are admitted by."""
        self.bound_at = -math.inf
        """When it last was what kept a request waiting."""
        self._remaining: float | None = None
        self._seen_at = self._changed_at = now
        self._calm_since = self._fell_at = now
        self._growth = 1.0
        self._refused_at = -math.inf
        self._falls = 0

    @property
    def effective_limit(self) -> float:
        """What is used of the limit, per period."""
        return self.limit * self.share

    def set_limit(self, limit: float, *, burst_seconds: float, portion: float = 1.0) -> None:
        """Take note of what the limit is, by configuration or by a header, and of our part."""
        if self.estimated:
            self.estimated = False
            self.use(1.0)
        if burst_seconds != self.window_ceiling:
            self.window = self.window_ceiling = burst_seconds
        if portion != self.portion:
            self.portion, self._due = portion, None
        self.whole = limit
        self.retune(limit * portion, burst_seconds=self.window)
        self.use(self.share)

    def shorten(self, burst_seconds: float) -> None:
        """Use no more at once than so many seconds' worth."""
        self.window = max(_SHORTEST_WINDOW, min(self.window_ceiling, burst_seconds))
        self.retune(self.limit, burst_seconds=self.window)

    # --- what replies say ------------------------------------------------------------

    def sample(
        self, signal: QuotaSignal, *, elapsed: float, spent: float, settled: bool, now: float
    ) -> None:
        """Compare the level with what a reply says is left.

        What it says is as old as the request: since then the bucket was refilled, and
        requests were sent that the server had not seen. The level of now follows from both.

        Args:
            signal: what the reply says.
            elapsed: seconds since the request was sent.
            spent: what was charged here since then.
            settled: whether the server had charged, by then, all that was charged here.
            now: the time.
        """
        remaining = signal.remaining
        if remaining is None or not self.trusted or not 0.0 <= remaining < math.inf:
            return
        base = self.limit / self.period
        # Where we are to use less than the account has, it does not say how much at once.
        whole = self.limit if self.estimated else self.whole
        larger = signal.limit is not None and signal.limit > whole
        remaining = min(remaining, whole)
        reset = signal.reset
        if reset is None or not 0.0 < reset < math.inf:
            top = max(remaining, self.capacity / self.portion)
        else:
            top = remaining + reset * base / self.portion
        ours = self._part_of(remaining, top=top, elapsed=elapsed, spent=spent, now=now)
        there = min(top, remaining + self.rate * elapsed - spent)
        # Anthropic rounds tokens to the nearest thousand: none left may be half of that.
        rounding = _ROUNDING if self.unit and remaining % (2.0 * _ROUNDING) == 0.0 else 0.0
        # Requests overtake each other on the way.
        there += base * _TOLERANCE_SECONDS + self.minimum + rounding
        if there < self.level:
            self.level = there
        elif settled and not larger:
            keep = base / self.portion * _KEEP_SECONDS
            deep = _SPEND * (remaining - keep) + self.rate * elapsed - spent
            deep = min(deep, ours - base * BURST_SLACK)
            if remaining > keep and deep > self.level:
                self.granted += deep - self.level
                self.level = deep
        if self.period < DAY:
            # Of a part of a limit it is enough that a second's worth of ours is left of all.
            self._follow(remaining + rounding, top=min(top, base), elapsed=elapsed, now=now)

    def _part_of(
        self, remaining: float, *, top: float, elapsed: float, spent: float, now: float
    ) -> float:
        """Return how much of what is left is ours: as much as in a bucket of our own.

        What the others leave of their parts is not ours: it would not be there when they come.
        Arguments as in `sample`, and `top`: how much all of it is.
        """
        if self.portion == 1.0:
            return top
        due, (at, charged) = self._due, self._due_at
        self._due_at = now, self.charged
        # What was sent before the limit was known is not charged in this bucket.
        is_news = due is None and spent > self.charged
        if due is None:
            due = self.portion * remaining
        else:
            elapsed, spent = now - at, self.charged - charged
        most = self.portion * top
        self._due = due = min(most, due + elapsed * self.limit / self.period) - spent
        if is_news:
            self.level = min(self.level, due)
        return due

    def _follow(self, remaining: float, *, top: float, elapsed: float, now: float) -> None:
        """Use less where little is left of a second's worth, and more where much is."""
        passed = min(_SMOOTHING_SECONDS, max(0.0, now - self._seen_at))
        self._seen_at = now
        if self._remaining is None:
            self._remaining = remaining
        else:
            weight = 1.0 - math.exp(-passed / _SMOOTHING_SECONDS)
            self._remaining += weight * (remaining - self._remaining)
        left = self._remaining / top if top > 0.0 else 0.0
        if left < _LOW:
            # Once per round trip: what was changed before does not show yet in what is said.
            if now - self._fell_at > elapsed + _SMOOTHING_SECONDS:
                self._fall(_FALL * (1.0 - left / _LOW), now)
            return
        if left > _HIGH:
            self._falls = 0
        if self.share < 1.0 and now - self._calm_since > _CALM_SECONDS:
            rise = _RISE * (left - _HIGH) / (1.0 - _HIGH) if left > _HIGH else _RISE_BETWEEN
            rise *= passed / max(1.0, elapsed)
            self.use(min(1.0, self.share + rise * self._growth))

    def _fall(self, part: float, now: float) -> None:
        """Use less, as long as that can be why nothing is refused; then it is said in error."""
        self._fell_at = now
        self._falls += 1
        if self._falls <= _MOST_FALLS:
            self.use(max(_LEAST_SHARE, self.share * (1.0 - part)))

    # --- what is refused -------------------------------------------------------------

    def refuse(self, signal: QuotaSignal | None, *, ramp: bool, now: float) -> None:
        """Learn from a rejection that was not foreseen.

        Args:
            signal: what the rejection itself says of this dimension, or None.
            ramp: whether traffic grew too fast, rather than being too much.
            now: the time.
        """
        # After a long calm somebody else has come, and is about as fast. The others with whom
        # a limit is shared by agreement are not news.
        alone = self.portion == 1.0
        first = alone and self._is_told and now - self._refused_at > _CALM_BEFORE
        self._calm_since = self._changed_at = self._fell_at = self._refused_at = now
        self._falls = 0
        self._due = None
        self.gain = FIRST_GAIN
        if ramp:
            self._growth = max(1.0 / _MOST_GROWTH, self._growth / 4.0)
            self.use(max(_LEAST_SHARE, self.share * _AFTER_RAMP))
            return
        if self.period >= DAY:
            return
        remaining = signal.remaining if signal is not None else None
        much = self.limit / self.portion / self.period * _KEEP_SECONDS
        if self.trusted and remaining is not None and remaining > much:
            # It says that much is left, and refuses all the same: what it says is another
            # account than the one that requests are admitted by.
            self.trusted = False
            return
        part = _AFTER_FIRST_REJECTION if first else _AFTER_REJECTION
        self.use(max(_LEAST_SHARE, self.share * part))
        if not self.estimated:  # there it was the guess that was too high
            self.shorten(self.window / 2.0)

    def succeed(self, now: float) -> None:
        """Take note that requests are answered: what was given up comes back step by step."""
        passed = now - self._changed_at
        if passed <= 0.0 or now - self._calm_since < _CALM_SECONDS:
            return
        self._changed_at = now
        passed = min(passed, _CALM_SECONDS)
        if self.estimated:
            if now - self.bound_at < _CALM_SECONDS:
                self.use(self.share * (1.0 + _RISE_ESTIMATED * self._growth * passed))
        elif self.share < 1.0 and not self._is_told:
            self.use(min(1.0, self.share + _RISE_UNSEEN * self._growth * passed))
        if now - self._calm_since > _WINDOW_PATIENCE and self.window < self.window_ceiling:
            self._calm_since = now
            self.shorten(self.window * 1.5)

    @property
    def _is_told(self) -> bool:
        """Whether what replies say is left decides on the share."""
        return self._remaining is not None and self.trusted and self._falls <= _MOST_FALLS

    def move(self, shift: float) -> None:
        """Follow a clock that has been set anew."""
        self.stamp += shift
        self.opened += shift
        self._due_at = (self._due_at[0] + shift, self._due_at[1])
        self.bound_at += shift
        self._seen_at += shift
        self._changed_at += shift
        self._calm_since += shift
        self._fell_at += shift
        self._refused_at += shift
