"""The times and numbers in providers' headers and messages, in all the formats they use."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

DAY = 86_400.0
LONGEST_QUOTA = 400 * DAY
"""The longest delay that a daily, monthly or yearly quota can ask for, in seconds."""

_GO_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|us|µs|ns|s)")
_GO_UNIT = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_TRY_AGAIN = re.compile(
    r"(?:try again|retry) (?:in|after) "
    r"(?:(\d+(?:\.\d+)?) ?(second|minute)|((?:\d+(?:\.\d+)?(?:h|ms|m|s))+)(?![a-z]))",
    re.IGNORECASE,
)
_REGAIN = re.compile(r"regain access on (\d{4}-\d\d-\d\d) at (\d\d:\d\d) utc", re.IGNORECASE)
# What one second's resolution and the way of a reply explain; more is a wrong clock.
_CLOCKS_AGREE = 1.25
# An instant of full replenishment that is just over: it is full.
_JUST_PAST = 60.0


def parse_duration(text: str) -> float | None:
    """Read a Go duration, such as OpenAI's and Groq's ``6m0s`` or ``120ms``, into seconds.

    Takes Gemini's protobuf durations, such as ``1.68122827s``, as well.

    >>> parse_duration("1m23.4s")
    83.4
    """
    text = text.strip()
    total, end = 0.0, 0
    for part in _GO_PART.finditer(text):
        if part.start() != end:
            return None
        total += float(part[1]) * _GO_UNIT[part[2]]
        end = part.end()
    return total if end == len(text) and end else None


def parse_reset(text: str, *, now: float, longest: float = DAY) -> float | None:
    """Read a reset header into seconds from `now`.

    Takes a Go duration, plain seconds, an RFC 3339 instant, or a Unix time in
    seconds or milliseconds. None if it is none of these, negative, or too long.

    Args:
        text: the header's value.
        now: the time of day at which the reply came, in seconds since 1970;
            see `server_time`.
        longest: seconds above which a value is taken for nonsense.
    """
    text = text.strip()
    seconds: float | None
    if text[4:5] == "-":
        moment = _instant(text)
        if moment is None:
            return None
        seconds = moment - now
        return 0.0 if -_JUST_PAST <= seconds < 0.0 else _sane(seconds, longest)
    try:
        seconds = float(text)
    except ValueError:
        return _sane(parse_duration(text), longest)
    if seconds > 1e11:
        seconds = seconds / 1000.0 - now
    elif seconds > 1e9:
        seconds -= now
    return _sane(seconds, longest)


def parse_retry_after(text: str, *, now: float, longest: float = DAY) -> float | None:
    """Read a ``Retry-After`` header, seconds or an HTTP date, into seconds from `now`."""
    try:
        return _sane(float(text), longest)
    except ValueError:
        pass
    moment = _http_date(text)
    return None if moment is None else _sane(max(0.0, moment - now), longest)


def server_time(headers: Mapping[str, str], received_at: float) -> float:
    """Return the time of day by the server's clock when it sent a reply.

    Instants in a reply mean the server's clock, and local clocks are wrong more often
    than servers'. The ``date`` header has a resolution of a second: where it agrees with
    the time of arrival, that is the finer measure.

    Args:
        headers: the reply's headers, with lower-case names.
        received_at: the local time of day at which it came, in seconds since 1970.
    """
    date = headers.get("date")
    moment = _http_date(date) if date is not None else None
    if moment is None or 0.0 <= received_at - moment <= _CLOCKS_AGREE:
        return received_at
    return moment


def server_delay(
    headers: Mapping[str, str],
    message: str,
    *,
    now: float,
    hint: float | None = None,
    longest: float = DAY,
) -> float | None:
    """Return the seconds that a server asks to wait, by header or else by its message.

    The most exact source wins: ``retry-after-ms``, ``retry-after``,
    ``x-ratelimit-reset``, the body's own field, then the text "try again in 1.4s". Whole
    seconds are often the text's finer delay, rounded: then the text is followed, neither
    earlier nor later. Zero is no hint (Azure sends ``retry-after-ms: 0``).

    >>> server_delay({"retry-after": "2"}, "Please try again in 1.4s.", now=0.0)
    1.4

    Args:
        headers: the reply's headers, with lower-case names.
        message: what the server said, uncut.
        now: the local time of day at which the reply came, in seconds since 1970.
        hint: seconds that a field of the body names, such as Gemini's ``retryDelay``.
        longest: seconds above which a hint is taken for nonsense. `LONGEST_QUOTA` fits
            the errors that name a quota of a day or a month.
    """
    milliseconds = parse_number(headers.get("retry-after-ms"))
    delay = _sane(milliseconds / 1000.0, longest) if milliseconds is not None else None
    if delay:
        return delay
    now = server_time(headers, now)
    in_words = _delay_in_words(message, now=now, longest=longest)
    delay = _sane(hint, longest)
    for name, parse in (("x-ratelimit-reset", parse_reset), ("retry-after", parse_retry_after)):
        value = headers.get(name)
        named = parse(value, now=now, longest=longest) if value is not None else None
        delay = named or delay
    if not delay:
        return in_words
    is_rounded = in_words and delay.is_integer() and abs(delay - in_words) < 1.0
    return in_words if is_rounded else delay


def parse_number(text: str | None) -> float | None:
    """Read a header that holds a number; None where there is none."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@functools.lru_cache(maxsize=64)  # the replies of one second all bear the same date
def _http_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):  # a year or an offset of twenty digits
        return None


@functools.lru_cache(maxsize=64)  # whole seconds, told again by the next replies
def _instant(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def _delay_in_words(message: str, *, now: float, longest: float) -> float | None:
    found = _TRY_AGAIN.search(message)
    if found is None:
        return _delay_until_access(message, now=now, longest=longest)
    number, unit, duration = found.groups()
    if duration is not None:
        return _sane(parse_duration(duration.lower()), longest) or None
    return _sane(float(number) * (60.0 if unit.lower() == "minute" else 1.0), longest) or None


def _delay_until_access(message: str, *, now: float, longest: float) -> float | None:
    """Read Anthropic's "You will regain access on 2026-09-01 at 00:00 UTC."."""
    found = _REGAIN.search(message)
    if found is None:
        return None
    return parse_reset(f"{found[1]}T{found[2]}Z", now=now, longest=longest) or None


def _sane(seconds: float | None, longest: float) -> float | None:
    """Drop what nobody should wait for: not a number, in the past, too long."""
    if seconds is None or not 0.0 <= seconds <= longest:
        return None
    return seconds
