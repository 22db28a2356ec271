"""What was known before spoils neither the rate nor the forecast."""

from __future__ import annotations

import pytest

from llmflow.format import compact, duration
from llmflow.progress.pace import Pace


def test_time_in_which_only_the_journal_answers_is_left_out() -> None:
    pace = Pace(0.0)
    pace.note(3.0, new=0, known=60_000, requests=0)
    assert pace.reading == pytest.approx(20_000)
    assert pace.left(1000) is None
    pace.note(5.0, new=20, known=60_000, requests=22)
    assert (pace.rate, pace.requests, pace.reading) == (10.0, 11.0, None)
    assert pace.left(1000) == pytest.approx(100.0)


def test_a_lull_counts_as_time() -> None:
    pace = Pace(0.0)
    pace.note(2.0, new=20, known=0, requests=20)
    pace.note(4.0, new=20, known=0, requests=20)
    assert pace.rate == 5.0


def test_the_journal_is_believed_only_as_long_as_it_answers() -> None:
    pace = Pace(0.0)
    pace.note(1.0, new=10, known=10, requests=10)
    assert pace.left(100, expected=50) == pytest.approx(5.0)
    assert pace.left(100, expected=100) is None
    for second in range(2, 40):
        pace.note(float(second), new=second * 10, known=10, requests=second * 10)
    assert pace.left(100, expected=50) == pytest.approx(10.0)


def test_a_changed_prompt_is_known_by_the_journals_silence() -> None:
    pace = Pace(0.0)
    pace.note(1.0, new=10, known=0, requests=10)
    assert pace.left(100, expected=100) == pytest.approx(10.0)


def test_only_the_last_half_minute_counts() -> None:
    pace = Pace(0.0)
    for second in range(1, 201):
        new = min(second, 100) + max(0, second - 100) * 10
        pace.note(float(second), new=new, known=0, requests=0)
    assert pace.rate == pytest.approx(10.0)


def test_two_looks_at_the_same_moment_are_one() -> None:
    pace = Pace(5.0)
    assert (pace.rate, pace.left(10)) == (0.0, None)
    pace.note(5.0, new=0, known=0, requests=0)
    assert pace.rate == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.97, "1 min"),
        (61, "1 min 1 s"),
        (3725, "1 h 2 min"),
        (864_000, "10 days"),
    ],
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (999_900, "1M"), (123_456, "123k"), (5.5e9, "5.5G")],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert compact(number) == text
