"""What requests are expected to come to."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from llmflow.limits.expectation import Expectation
from llmflow.types import Charge

ASKED = Charge(1, 600, 500, 4096)


def test_before_anything_is_known_a_guess_is_reserved_and_never_more_than_max_tokens() -> None:
    expectation = Expectation()
    assert expectation.of("kind", ASKED).output_tokens == 256
    assert expectation.of("kind", ASKED._replace(output_tokens=10)).output_tokens == 10


def test_three_answers_in_four_are_no_longer_than_what_is_reserved() -> None:
    expectation = Expectation()
    for output in range(1, 65):
        expectation.learn("kind", ASKED, Charge(1, 0, 500, output))
    assert expectation.of("kind", ASKED).output_tokens == 49


def test_each_kind_is_learned_apart_and_a_new_one_is_expected_to_be_like_all() -> None:
    expectation = Expectation()
    for _ in range(10):
        expectation.learn("short", ASKED, Charge(1, 0, 500, 10))
    for _ in range(10):
        expectation.learn("long", ASKED, Charge(1, 0, 500, 900))
    assert expectation.of("short", ASKED).output_tokens == 10
    assert expectation.of("long", ASKED).output_tokens == 900
    assert expectation.of("other", ASKED).output_tokens in (10, 900)


def test_what_was_long_ago_is_forgotten() -> None:
    expectation = Expectation()
    for output in [900] * 200 + [10] * 72:
        expectation.learn("kind", ASKED, Charge(1, 0, 500, output))
    assert expectation.of("kind", ASKED).output_tokens == 10


def test_an_estimate_of_input_that_is_off_is_corrected() -> None:
    expectation = Expectation()
    for _ in range(50):
        expectation.learn("kind", ASKED, Charge(1, 0, 750, 10))
    assert math.isclose(expectation.of("kind", ASKED).input_tokens, 750.0, rel_tol=0.02)


def test_memory_is_bounded_however_many_kinds_there_are() -> None:
    expectation = Expectation()
    for kind in range(10_000):
        expectation.learn(kind, ASKED, Charge(1, 0, 500, 10))
    assert len(expectation._kinds) <= 256


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9)), max_size=100),
    st.floats(0, 1e6),
)
def test_what_is_expected_is_a_number_and_within_what_is_possible(
    learned: list[tuple[float, float, float]], most: float
) -> None:
    expectation = Expectation()
    for asked, read, produced in learned:
        expectation.learn("kind", Charge(1, 0, asked, most), Charge(1, 0, read, produced))
    charge = expectation.of("kind", Charge(1, 0, 100.0, most))
    assert all(math.isfinite(each) and each >= 0.0 for each in charge)
    assert charge.output_tokens <= most or most == 0.0
    assert 25.0 <= charge.input_tokens <= 400.0
