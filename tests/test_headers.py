"""Every format of reset and retry hints that providers send."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.headers import (
    LONGEST_QUOTA,
    parse_duration,
    parse_number,
    parse_reset,
    parse_retry_after,
    server_delay,
    server_time,
)
from llmflow.rate_limits import DAY

NOW = 1_788_220_760.0  # 2026-08-31T23:59:20Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("2m59.56s", 179.56),
        ("7.66s", 7.66),
        ("1h2m3s", 3723.0),
        ("250us", 0.00025),
        ("41s", 41.0),
        ("1.68122827s", 1.68122827),  # Gemini's retryDelay
        ("", None),
        ("5", None),
        ("s", None),
        ("1s2", None),
        ("-1s", None),
    ],
)
def test_go_durations_are_read(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12ms", 0.012),
        ("10", 10.0),
        ("37.5", 37.5),
        ("2026-09-01T00:00:00Z", 40.0),
        ("2026-09-01T00:00:00+00:00", 40.0),
        ("1788220800000", 40.0),
        ("1788220800", 40.0),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("90000", None),  # more than a day
        ("2026-08-31T23:59:20Z", 0.0),
        ("2026-08-31T23:59:19Z", 0.0),  # full already
        ("1788220759", 0.0),
        ("1788220759000", 0.0),
        ("1788120759", None),  # past
        ("2026-08-30T00:00:00Z", None),  # past
        ("2026-09-03T00:00:00Z", None),
        ("soon", None),
        ("", None),
    ],
)
def test_resets_are_read_in_every_format(text: str, seconds: float | None) -> None:
    assert parse_reset(text, now=NOW) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("172800", 172_800.0),
        ("48h0m0s", 172_800.0),
        ("2026-09-03T00:00:00Z", 172_840.0),
        ("1788393600000", 172_840.0),
        ("99999999", None),  # three years
    ],
)
def test_a_quota_of_days_may_come_back_late(text: str, seconds: float | None) -> None:
    assert parse_reset(text, now=NOW) is None
    assert parse_reset(text, now=NOW, longest=LONGEST_QUOTA) == seconds


def test_retry_after_is_seconds_or_a_date() -> None:
    assert parse_retry_after("56", now=NOW) == 56.0
    assert parse_retry_after("7.66", now=NOW) == 7.66
    assert parse_retry_after(formatdate(NOW + 30, usegmt=True), now=NOW) == pytest.approx(30.0)
    assert parse_retry_after("later", now=NOW) is None
    assert parse_retry_after("-1", now=NOW) is None
    assert parse_retry_after("1 minute, 30 seconds", now=NOW) == 90.0


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ({"retry-after-ms": "1840", "retry-after": "2"}, "", 1.84),
        ({"retry-after-ms": "120000", "retry-after": "121"}, "", 120.0),
        ({"retry-after-ms": "0", "retry-after": "1"}, "", 1.0),
        ({"retry-after-ms": "0"}, "", None),
        ({"retry-after": "2"}, "Please try again in 1.4s.", 1.4),
        ({"x-ratelimit-reset": "37"}, "", 37.0),
        ({"x-ratelimit-reset": "1788220800000"}, "", 40.0),
        # Whole seconds that are the text's, rounded: the text is exact.
        ({"retry-after": "1"}, "Please try again in 84ms.", 0.084),
        ({"retry-after": "1"}, "Please try again in 1.4s.", 1.4),
        ({"retry-after": "24"}, "Please try again in 23.4s.", 23.4),
        ({"retry-after": "20"}, "Please try again in 20s.", 20.0),
        ({"x-ratelimit-reset": "42"}, "Please retry in 41.3s.", 41.3),
        # Others are another matter than the text.
        ({"retry-after": "60"}, "Please try again in 1.4s.", 60.0),
        ({"retry-after": "7.66"}, "Please try again in 7.7s.", 7.66),
        ({"retry-after": "0"}, "Please try again in 1.4s.", 1.4),
        ({"retry-after": "soon"}, "Please try again in 84ms.", 0.084),
        ({}, "Please try again in 11.054s. Visit ...", 11.054),
        ({}, "Please try again in 1m23.4s.", 83.4),
        ({}, "Please retry after 22 seconds.", 22.0),
        ({}, "It will be available on 2026-09-01 at 00:30 UTC.", 1840.0),
        ({}, "You will regain access on 2026-09-01 at 00:00 UTC.", 40.0),
        ({}, "Try again in 2 minutes", 120.0),
        ({}, "Please try again in a moment.", None),
        ({}, "", None),
    ],
)
def test_the_most_exact_hint_wins(
    headers: dict[str, str], message: str, seconds: float | None
) -> None:
    delay = server_delay(headers, message, now=NOW)
    assert delay == (pytest.approx(seconds) if seconds is not None else None)


@given(st.text())
def test_no_text_breaks_a_parser(text: str) -> None:
    for parsed in (
        parse_duration(text),
        parse_reset(text, now=NOW),
        parse_retry_after(text, now=NOW),
        parse_number(text),
        server_delay({"retry-after": text, "retry-after-ms": text}, text, now=NOW),
        server_delay({"x-ratelimit-reset": text, "date": text}, text, now=NOW),
    ):
        assert parsed is None or parsed == parsed
    assert parse_number(None) is None


@pytest.mark.parametrize(
    "text",
    [
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2020 00:00:00 +99999999999999999999",
        "Mon, 99 Jan 2020 99:99:99 GMT",
    ],
)
def test_a_date_beyond_all_calendars_is_no_hint(text: str) -> None:
    assert parse_retry_after(text, now=NOW) is None


def test_a_field_of_the_body_stands_between_the_headers_and_the_text() -> None:
    assert server_delay({}, "", now=NOW, hint=41.0) == 41.0
    assert server_delay({}, "Please retry in 40.3s.", now=NOW, hint=41.0) == 40.3
    assert server_delay({}, "Please retry in 3s.", now=NOW, hint=41.0) == 41.0
    assert server_delay({"retry-after": "5"}, "", now=NOW, hint=41.0) == 5.0
    assert server_delay({}, "", now=NOW, hint=-1.0) is None


def test_a_delay_of_days_counts_only_where_the_quota_is_of_days() -> None:
    headers = {"retry-after": "172800"}
    assert server_delay(headers, "", now=NOW) is None
    assert server_delay(headers, "", now=NOW, longest=LONGEST_QUOTA) == 2 * DAY
    text = "You will regain access on 2026-09-03 at 00:00 UTC."
    assert server_delay({}, text, now=NOW) is None
    assert server_delay({}, text, now=NOW, longest=LONGEST_QUOTA) == 2 * DAY + 40
    assert server_delay({}, "regain access on 2026-99-99 at 00:00 UTC", now=NOW) is None


@pytest.mark.parametrize("skew", [-3600.0, -0.5, 0.0, 0.7, 30.0, 1e6])
def test_a_date_to_wait_for_is_on_the_servers_clock(skew: float) -> None:
    headers = {"date": formatdate(NOW, usegmt=True), "retry-after": formatdate(NOW + 30)}
    # Within the second of the header the local clock is the finer measure.
    elapsed = skew if 0.0 <= skew < 1.0 else 0.0
    assert server_time(headers, NOW + skew) == pytest.approx(NOW + elapsed)
    assert server_delay(headers, "", now=NOW + skew) == pytest.approx(30.0 - elapsed)


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Jan 2020 99:99:99 GMT"])
def test_without_a_readable_date_the_time_of_arrival_counts(date: str) -> None:
    assert server_time({"date": date}, NOW) == NOW
    assert server_time({}, NOW) == NOW


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7s", 7.0),
        ("1m30s", 90.0),
        ("34.07s", 34.07),
        ("1788220800", 40.0),
        ("1788220800000", 40.0),
        ("2026-09-01T00:00:00Z", 40.0),
        ("2026-09-01 00:00:00+00:00", 40.0),
        ("2 hours", 7200.0),
        ("1 day", DAY),
        ("1d", DAY),
        ("2 fortnights", None),
        ("5 5 s", None),
    ],
)
def test_a_retry_after_is_read_in_every_form_that_is_in_use(
    text: str, seconds: float | None
) -> None:
    assert parse_retry_after(text, now=NOW) == seconds
    assert server_delay({"retry-after": text}, "", now=NOW) == seconds
    assert server_delay({"x-ratelimit-reset": text}, "", now=NOW) == seconds
    assert server_delay({"ratelimit-reset": text}, "", now=NOW) == seconds


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Please try again in 34.07s. Visit https://x", 34.07),
        ("Please wait 7 seconds", 7.0),
        ("wait for 7 seconds before retrying", 7.0),
        ("Please retry your request after 7 seconds.", 7.0),
        ("Too many requests, please try again after 7 seconds", 7.0),
        ("Rate limit reached. After 7 seconds you may go on", 7.0),
        ("send your next request after 7 secs", 7.0),
        ("Please retry in 500ms", 0.5),
        ("try again in 1 min", 60.0),
        ("try again in 1m30s.", 90.0),
        ("retry-after: 7s", 7.0),
        ("Try again in 2 hours", 7200.0),
        ("You can try again in 1 day.", DAY),
        ("Quota resets in 2 hours, 3 minutes and 4s", 7384.0),
        ("resets in 12h34m", 45240.0),
        ("Your limit will reset at 2026-09-01 00:00:00", 40.0),
        ("Limit resets at 2026-09-01T00:00:00Z.", 40.0),
        ("try again at 2026-09-01 00:00 UTC", 40.0),
        ("wait until 2026-09-01T02:00:00+02:00", 40.0),
        ("retry after 1788220800", 40.0),
        ("available again at 1788220800000", 40.0),
        ("Request timed out after 60 seconds", None),
        ("limit of 5 requests per 10 seconds", None),
        ("try again later", None),
        ("gave up after 3 attempts", None),
        ("reset at 2026-99-99", None),
    ],
)
def test_a_delay_in_words_is_read_in_every_form_that_is_in_use(
    message: str, seconds: float | None
) -> None:
    for text in (message, message.lower(), message.upper()):
        assert server_delay({}, text, now=NOW) == (
            pytest.approx(seconds) if seconds is not None else None
        )
