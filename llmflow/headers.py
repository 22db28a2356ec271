"""The times and numbers in providers' headers and messages, in all the formats they use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

DAY = 86_400.0
_GO_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|us|µs|ns|s)")
_GO_UNIT = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_TRY_AGAIN = re.compile(
    r"(?:try again|retry) (?:in|after) "
    r"(?:(\d+(?:\.\d+)?) ?(second|minute)|((?:\d+(?:\.\d+)?(?:h|ms|m|s))+)(?![a-z]))",
    re.IGNORECASE,
)


def parse_duration(text: str) -> float | None:
    """Read a Go duration, such as OpenAI's and Groq's ``6m0s`` or ``120ms``, into seconds.

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


def parse_reset(text: str, *, now: float) -> float | None:
    """Read a reset header into seconds from `now`.

    Takes a Go duration, plain seconds, an RFC 3339 instant, or a Unix time in
    seconds or milliseconds. None if it is none of these, negative, or more than a day.

    Args:
        text: the header's value.
        now: the time of day at which the reply came, in seconds since 1970.
    """
    text = text.strip()
    seconds: float | None
    try:
        seconds = float(text)
    except ValueError:
        seconds = parse_duration(text)
        if seconds is None:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                return None
            seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now
    else:
        if seconds > 1e11:
            seconds = seconds / 1000.0 - now
        elif seconds > 1e9:
            seconds -= now
    return _sane(seconds)


def parse_retry_after(text: str, *, now: float) -> float | None:
    """Read a ``Retry-After`` header, seconds or an HTTP date, into seconds from `now`."""
    try:
        return _sane(float(text))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a year or an offset of twenty digits
        return None
    return _sane(max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now))


def server_delay(headers: Mapping[str, str], message: str, *, now: float) -> float | None:
    """Return the seconds that a server asks to wait, by header or else by its message.

    The most exact source wins: ``retry-after-ms``, ``retry-after``,
    ``x-ratelimit-reset``, then the text "try again in 1.4s". A hint of zero is no
    hint (Azure sends ``retry-after-ms: 0``).
    """
    milliseconds = parse_number(headers.get("retry-after-ms"))
    delay = _sane(milliseconds / 1000.0) if milliseconds is not None else None
    if delay:
        return delay
    for name, parse in (("retry-after", parse_retry_after), ("x-ratelimit-reset", parse_reset)):
        value = headers.get(name)
        delay = parse(value, now=now) if value is not None else None
        if delay:
            return delay
    return _delay_in_words(message)


def parse_number(text: str | None) -> float | None:
    """Read a header that holds a number; None where there is none."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _delay_in_words(message: str) -> float | None:
    found = _TRY_AGAIN.search(message)
    if found is None:
        return None
    number, unit, duration = found.groups()
    if duration is not None:
        return _sane(parse_duration(duration.lower())) or None
    return _sane(float(number) * (60.0 if unit.lower() == "minute" else 1.0)) or None


def _sane(seconds: float | None) -> float | None:
    """Drop what no limiter should wait for: not a number, in the past, more than a day."""
    if seconds is None or not 0.0 <= seconds <= DAY:
        return None
    return seconds
