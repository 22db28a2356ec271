"""Parses times and numbers of providers' headers and messages."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from llmflow.rate_limits import DAY

LONGEST_QUOTA = 400 * DAY
"""The longest delay that a daily, monthly or yearly quota can ask for, in seconds."""

_GO_PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|ms|m|us|µs|ns|s)")
_UNITS = {
    "d": DAY,
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}
# One part of a duration in words or letters: "7 seconds", "1m30s", "2 hours". Numbers and
# gaps are bounded: a message of a server must not make the search slow.
_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
_UNIT = (
    r"(?:d(?:ays?)?|h(?:ours?|rs?)?|ms|milliseconds?|millis|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)"
    r"(?![a-zµ])"
)
_PART = rf"{_NUMBER}[ -]?{_UNIT}"
_DURATION = rf"{_PART}(?:(?:,? (?:and )?|){_PART}){{0,4}}"
_WORDED_PART = re.compile(rf"({_NUMBER})[ -]?({_UNIT})", re.IGNORECASE)
_AGAIN = (
    r"(?:try(?:ing)?(?: \w{1,12}){0,4}? again|retry(?:ing|[ -]after)?|retried|resend|wait(?:ing)?"
    r"|resets?|refresh(?:es)?|refills?|replenish(?:es)?|available|be back|resumes?|again later"
    r"|regain access)"
)
_WORDS_BETWEEN = r"(?: \w{1,12}){0,4}?[ :=]{1,3}"
_ASKED = re.compile(
    rf"\b{_AGAIN}{_WORDS_BETWEEN}(?:(?:in|after|for|at least|another|about|approximately|up to)"
    rf"[ :]{{1,2}}){{0,2}}(?P<duration>{_DURATION})"
    rf"|(?:^|[.;:!,] |\b(?:request|requests|again|back)\b )(?:please )?"
    rf"after (?P<after>{_DURATION})",
    re.IGNORECASE,
)
_MOMENT = (
    r"\d{4}-\d\d-\d\d(?:(?:[t ]| at )\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?"
    r"(?: ?(?:z|utc|gmt)\b|[+-]\d\d:?\d\d)?)?"
)
_ASKED_UNTIL = re.compile(
    rf"\b(?:{_AGAIN}|until)\b{_WORDS_BETWEEN}(?:(?:at|on|after|until|time|by)[ :]{{1,2}}){{0,2}}"
    rf"(?P<moment>{_MOMENT}|\d{{13}}(?!\d)|\d{{10}}(?:\.\d{{1,6}})?(?!\d))",
    re.IGNORECASE,
)
# The later ones are the more exact.
_DELAY_HEADERS = ("ratelimit-reset", "x-rate-limit-reset", "x-ratelimit-reset", "retry-after")
# What one second's resolution and the way of a reply explain; more is a wrong clock.
_CLOCKS_AGREE = 1.25
# A number above this is a Unix time, far above it one in milliseconds.
_FIRST_MOMENT = 1e9
# An instant of full replenishment that is just over: it is full.
_JUST_PAST = 60.0


def parse_duration(text: str) -> float | None:
    """Parse a Go duration, such as ``6m0s`` or ``120ms``, into seconds.

    Takes Gemini's protobuf durations, such as ``1.68122827s``, as well.

    >>> parse_duration("1m23.4s")
    83.4
    """
    return _total(_GO_PART, text.strip())


def duration_in_words(text: str) -> float | None:
    """Read a duration as people write it into seconds.

    >>> duration_in_words("1 hour, 2 minutes and 7s"), duration_in_words("soon")
    (3727.0, None)
    """
    return _total(_WORDED_PART, text.rstrip(), between=(" ", ",", ", ", ", and ", " and "))


def _total(parts: re.Pattern[str], text: str, between: Collection[str] = ()) -> float | None:
    """Return the sum of a text's parts, in seconds; None where there is something else in it."""
    total, end = 0.0, 0
    for part in parts.finditer(text):
        gap, unit = text[end : part.start()], part[2]
        if gap and gap.lower() not in between:
            return None
        if unit not in _UNITS:
            unit = unit.lower()
            unit = "ms" if unit.startswith(("ms", "milli")) else unit[0]
        total += float(part[1]) * _UNITS[unit]
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
    if text[4:5] == "-":
        moment = _instant(text)
        if moment is None:
            return None
    else:
        try:
            moment = float(text)
        except ValueError:
            return _sane(parse_duration(text), longest)
        if not moment > _FIRST_MOMENT:
            return _sane(moment, longest)
        if moment > _FIRST_MOMENT * 100:
            moment /= 1000.0
    seconds = moment - now
    return 0.0 if -_JUST_PAST <= seconds < 0.0 else _sane(seconds, longest)


def parse_retry_after(text: str, *, now: float, longest: float = DAY) -> float | None:
    """Read a ``Retry-After`` header into seconds from `now`.

    Takes what the standard allows, seconds or an HTTP date, and what servers send: a
    duration with units, an ISO date, a Unix time in seconds or milliseconds.
    """
    seconds = parse_reset(text, now=now, longest=longest)
    if seconds is not None:
        return seconds
    worded = duration_in_words(text)
    if worded is not None:
        return _sane(worded, longest)
    moment = _http_date(text)
    return None if moment is None else _sane(max(0.0, moment - now), longest)


def server_time(headers: Mapping[str, str], received_at: float) -> float:
    """Return the server's time of day when it sent a reply.

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
    """Return the delay that a server asks for, in seconds.

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
    for name in _DELAY_HEADERS:
        value = headers.get(name)
        if value is not None:
            delay = parse_retry_after(value, now=now, longest=longest) or delay
    if not delay:
        return in_words
    is_rounded = in_words and delay.is_integer() and abs(delay - in_words) < 1.0
    return in_words if is_rounded else delay


def clock_time(moment: float) -> str:
    """Return an instant as people read it, to the minute after it.

    >>> clock_time(1_788_220_760.0)
    '2026-09-01 00:00 UTC'
    """
    return datetime.fromtimestamp(math.ceil(moment / 60.0) * 60.0, UTC).strftime(
        "%Y-%m-%d %H:%M UTC"
    )


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
    from email.utils import parsedate_to_datetime  # late: `import llmflow` is quicker without

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
    found = _ASKED.search(message)
    if found is not None:
        return _sane(duration_in_words(found["duration"] or found["after"]), longest) or None
    until = _ASKED_UNTIL.search(message)
    if until is not None:
        return _sane(_seconds_until(until["moment"], now), longest) or None
    return None


def _seconds_until(moment: str, now: float) -> float | None:
    """Read an instant in a message: a Unix time, or a date that is UTC where no zone is said."""
    if moment[4] != "-":
        return parse_reset(moment, now=now, longest=LONGEST_QUOTA)
    text = re.sub(r" ?(?:Z|UTC|GMT)$", "+00:00", moment.upper().replace(" AT ", "T"))
    return parse_reset(text, now=now, longest=LONGEST_QUOTA)


def _sane(seconds: float | None, longest: float) -> float | None:
    """Drop what nobody should wait for: not a number, in the past, too long."""
    if seconds is None or not 0.0 <= seconds <= longest:
        return None
    return seconds
