"""A token bucket that learns from replies and rejections.

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

from llmflow.limits.bucket import BURST_SLACK, LEAST_CAPACITY, TokenBucket
from llmflow.limits.reported import Depth, Reported, Trust
from llmflow.rate_limits import DAY, RATE_LIMITS
from llmflow.types import QuotaSignal

_OUTPUT: Final = 3  # the index of output tokens in a `Charge`
# Shares of what a bucket holds, a second's worth at most. Below the first, less is
# used; above the second, more. In between, all is well: the slack of one program
# that uses a limit up to its end lies there.
_LOW, _HIGH = 0.1, 0.3
_SMOOTHING_SECONDS: Final = 0.5
# Where answers take longer, what was given up comes back no slower than with these seconds.
_LONGEST_ROUND_TRIP: Final = 2.0
# By how much a share falls, once in a round trip, where nothing is left; and how much it
# rises per second where all is there, or some.
_FALL: Final = 0.2
_RISE, _RISE_BETWEEN = 0.15, 0.05
_RISE_UNSEEN: Final = 0.12
_RISE_ESTIMATED: Final = 0.05
_AFTER_REJECTION: Final = 0.8
_AFTER_FIRST_REJECTION: Final = 0.5
_CALM_BEFORE: Final = 10.0
_AFTER_RAMP: Final = 0.5
_LEAST_SHARE: Final = 0.01
_CALM_SECONDS: Final = 1.0
# Replies that were overtaken by so many seconds speak of a time that is over.
_OVERTAKEN_SECONDS: Final = 3.0
# The part of what is left that is spent at a time where a limit is shared by agreement.
_SPEND: Final = 0.5
_KEEP_SECONDS: Final = 0.25
_TOLERANCE_SECONDS: Final = 0.1
# Replies that all name multiples of a number round to it, unless it is a large part of all.
_ENOUGH_SAMPLES: Final = 10
_COARSEST: Final = 0.1
_THOUSANDS: Final = 1000.0
_MOST_FALLS: Final = 2
_SHORTEST_WINDOW: Final = 0.1
_WINDOW_PATIENCE: Final = 30.0
_MOST_GROWTH: Final = 16.0


class LearningBucket(TokenBucket):
    """A token bucket that corrects itself.

    Arguments as `TokenBucket`. `portion` is the part of the limit that is this program's own: the
    bucket is as one of so much less, while replies speak of the whole. A limit that is `estimated`
    was named by nobody, and has no upper bound; one that is not `configured` was learned from a
    reply.
    """

    __slots__ = (
        "_calm_since",
        "_changed_at",
        "_depth",
        "_due",
        "_due_at",
        "_falls",
        "_fell_at",
        "_growth",
        "_newest",
        "_refused_at",
        "_remaining",
        "_reported",
        "_samples",
        "_seen_at",
        "_step",
        "_told_at",
        "_trust",
        "bound_at",
        "configured",
        "estimated",
        "portion",
        "whole",
        "window",
        "window_ceiling",
    )

    def __init__(
        self,
        name: str,
        *,
        limit: float,
        burst_seconds: float,
        now: float,
        estimated: bool = False,
        portion: float = 1.0,
        configured: bool = True,
    ) -> None:
        self.whole, self.portion = limit, portion
        self._due: float | None = None
        self._due_at = (now, 0.0)
        super().__init__(
            name,
            limit=limit * portion,
            burst_seconds=burst_seconds,
            now=now,
            # Output is charged as it is produced: however fast requests leave, it comes later.
            paced=RATE_LIMITS[name].unit != _OUTPUT and RATE_LIMITS[name].period < DAY,
        )
        self.estimated = estimated
        self.configured = configured
        self.window = self.window_ceiling = burst_seconds
        self.bound_at = -math.inf
        """When it last was what kept a request waiting."""
        self._depth = Depth()
        self._trust = Trust()
        self._remaining: float | None = None
        self._reported: Reported | None = None
        self._told_at = self._newest = -math.inf
        self._step = self._samples = 0
        self._seen_at = self._changed_at = now
        self._calm_since = self._fell_at = now
        self._growth = 1.0
        self._refused_at = -math.inf
        self._falls = 0

    @property
    def is_believed(self) -> bool:
        """True if reported balances control admission."""
        return self._trust.given

    @property
    def effective_limit(self) -> float:
        """The used part of the limit, per period."""
        return self.limit * self.share

    def set_limit(self, limit: float, *, burst_seconds: float, portion: float = 1.0) -> None:
        """Register the limit, by configuration or header, and our share."""
        if self.estimated:
            self.estimated = False
            self.use(1.0)
        if burst_seconds != self.window_ceiling:
            self.window = self.window_ceiling = burst_seconds
        if portion != self.portion:
            self.portion, self._due = portion, None
        self.whole = limit
        self.retune(limit * portion, burst_seconds=self.window, widest=burst_seconds)
        self.use(self.share)

    def shorten(self, burst_seconds: float) -> None:
        """Use no more at once than so many seconds' worth."""
        self.window = max(_SHORTEST_WINDOW, min(self.window_ceiling, burst_seconds))
        self.retune(self.limit, burst_seconds=self.window, widest=self.window_ceiling)

    # --- what replies say ------------------------------------------------------------

    def sample(
        self,
        signal: QuotaSignal,
        *,
        sent_at: float,
        sent: float,
        spent: float,
        opening: float,
        answered: bool,
        now: float,
    ) -> None:
        """Compare the level with what a reply says is left.

        What it says is as old as the request, or as the answer: since then the bucket was
        refilled, and requests were sent that the server had not seen. `Reported` tells which.

        When the request was sent, `sent` had been sent from here in all, itself included. By now
        `spent` has been charged, `opening` of it for requests that are not sent yet. From a
        rejection (not `answered`) `refuse` learns.
        """
        remaining = signal.remaining
        if remaining is None or not self.is_believed or not 0.0 <= remaining < math.inf:
            return
        base = self.limit / self.period
        rate = base / self.portion
        # Where we are to use less than the account has, it does not say how much at once.
        whole = self.limit if self.estimated else self.whole
        larger = signal.limit is not None and signal.limit > whole
        remaining = min(remaining, whole)
        reported = self._reported
        if reported is None or reported.rate != rate:
            at_reply = reported is not None and reported.at_reply
            self._depth.forget()
            reported = self._reported = Reported(rate, now, at_reply=at_reply)
        least = self.capacity / self.portion
        self._depth.note(remaining, signal.reset, rate=rate, most=whole, least=least)
        if sent_at < self._refused_at and not reported.at_reply:
            self._told_at = max(self._told_at, min(now, self._refused_at + 3.0))
            return  # that something was refused since is newer
        depth = self._depth.value
        # What is rounded may be half a step more or less: Anthropic's tokens, by thousands.
        rounding = self._rounding(remaining) / 2.0
        slack = base * _TOLERANCE_SECONDS + LEAST_CAPACITY + rounding
        is_full = remaining >= depth - slack
        reported.note(
            remaining, sent_at=sent_at, sent=sent, spent=spent - opening, now=now, is_full=is_full
        )
        level, left = reported.level(self.rate, spent=spent, now=now)
        ours = self._part_of(remaining, elapsed=now - sent_at, spent=spent - sent, now=now)
        # Requests overtake each other on the way.
        there = min(depth, level + slack)
        if there < self.level:
            self.level = there
        # Of output the server had not charged, by then, all that was charged here.
        elif self.unit != _OUTPUT and answered and not larger:
            self._deepen(left, level, ours, part=reported.portion)
        overtaken = not reported.at_reply and sent_at < self._newest - _OVERTAKEN_SECONDS
        self._newest = max(self._newest, sent_at)
        if answered and not overtaken:
            self._told_at = now
            if self.period < DAY:
                # Of a part of a limit it is enough that a second's worth of ours is left of all.
                top = min(depth, base)
                self._follow(remaining + rounding, top=top, elapsed=now - sent_at, now=now)

    def _deepen(self, left: float, level: float, ours: float, *, part: float) -> None:
        """Have more to spend than a slice of the limit, where replies say that it is there.

        They say that `left` was there, of which by now `level` is; at most `ours` of it is ours by
        agreement, and `part` of it may be spent from here.
        """
        base = self.limit / self.period
        keep = base / self.portion * _KEEP_SECONDS
        if self.portion < 1.0:
            part = _SPEND
        most = ours - base * BURST_SLACK
        deep = min(part * (left - keep) + level - left, most)
        if left > keep and (deep > self.level or self.level > self.capacity):
            self.granted += max(0.0, deep - self.level)
            self.level = deep
            self.top = max(self.top, most)

    def _rounding(self, remaining: float) -> float:
        """Return the step in which replies say what is left: the largest that fits all of them."""
        if self._step != 1:
            self._step = math.gcd(self._step, int(remaining))
        self._samples += 1
        step = float(self._step)
        if self._samples >= _ENOUGH_SAMPLES and 1.0 < step <= self.limit * _COARSEST:
            return step
        return _THOUSANDS if self.unit and step % _THOUSANDS == 0.0 else 0.0

    def _part_of(self, remaining: float, *, elapsed: float, spent: float, now: float) -> float:
        """Return how much of what is left is ours: as much as in a bucket of our own.

        What the others leave of their parts is not ours: it would not be there when they come.
        Since the reply's request was sent, `elapsed` seconds ago, `spent` was charged here.
        """
        if self.portion == 1.0:
            return self._depth.value
        due, (at, charged) = self._due, self._due_at
        self._due_at = now, self.charged
        # What was sent before the limit was known is not charged in this bucket.
        is_news = due is None and spent > self.charged
        if due is None:
            due = self.portion * remaining
        else:
            elapsed, spent = now - at, self.charged - charged
        most = self.portion * self._depth.value
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
        self._trust.note(left, held_back=self.share < 1.0, now=now)
        if not self.is_believed:
            return
        if left < _LOW:
            # Once per round trip: what was changed before does not show yet in what is said.
            if now - self._fell_at > elapsed + _SMOOTHING_SECONDS:
                self._fall(_FALL * (1.0 - left / _LOW), now)
            return
        if left > _HIGH:
            self._falls = 0
        if self.share < 1.0 and now - self._calm_since > _CALM_SECONDS:
            rise = _RISE * (left - _HIGH) / (1.0 - _HIGH) if left > _HIGH else _RISE_BETWEEN
            rise *= passed / min(max(1.0, elapsed), _LONGEST_ROUND_TRIP)
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

        `signal` is what it says itself of this dimension; `ramp`: traffic grew too fast.
        """
        # After a long calm somebody else has come, and is about as fast. The others with whom
        # a limit is shared by agreement are not news, and what was sent before anybody knew the
        # limit has its own cost.
        calm = now - max(self._refused_at, -math.inf if self.configured else self.opened)
        first = self.portion == 1.0 and self._is_told(now) and calm > _CALM_BEFORE
        self._calm_since = self._changed_at = self._fell_at = self._refused_at = now
        self._falls = 0
        self._due = None
        self._depth.forget()
        if self._reported is not None:
            self._reported = Reported(self._reported.rate, now, at_reply=self._reported.at_reply)
        if ramp:
            self._growth = max(1.0 / _MOST_GROWTH, self._growth / 4.0)
            self.use(max(_LEAST_SHARE, self.share * _AFTER_RAMP))
            return
        if self.period >= DAY:
            return
        remaining = signal.remaining if signal is not None else None
        much = self.limit / self.portion / self.period * _KEEP_SECONDS
        much_left = remaining > much if remaining is not None else None
        believed = self.is_believed
        self._trust.refuse(much_left=much_left)
        if believed and much_left:
            return
        part = _AFTER_FIRST_REJECTION if first else _AFTER_REJECTION
        self.use(max(_LEAST_SHARE, self.share * part))
        if not self.estimated:  # there it was the guess that was too high
            self.shorten(self.window / 2.0)

    def succeed(self, now: float) -> None:
        """Register answered requests: the share recovers step by step."""
        passed = now - self._changed_at
        if passed <= 0.0 or now - self._calm_since < _CALM_SECONDS:
            return
        self._changed_at = now
        passed = min(passed, _CALM_SECONDS)
        if self.estimated:
            if now - self.bound_at < _CALM_SECONDS:
                self.use(self.share * (1.0 + _RISE_ESTIMATED * self._growth * passed))
        elif self.share < 1.0 and not self._is_told(now):
            self.use(min(1.0, self.share + _RISE_UNSEEN * self._growth * passed))
        if now - self._calm_since > _WINDOW_PATIENCE and self.window < self.window_ceiling:
            self._calm_since = now
            self.shorten(self.window * 1.5)

    def _is_told(self, now: float) -> bool:
        """Whether what replies say is left decides on the share: answered ones, and lately."""
        lately = now - self._told_at < _CALM_SECONDS
        return lately and self.is_believed and self._falls <= _MOST_FALLS

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
        self._told_at += shift
        self._newest += shift
        self._trust.move(shift)
        self._reported = None
