"""What an answer costs."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.errors import ConfigurationError
from llmflow.pricing import FREE, Price
from llmflow.types import Usage

MILLION = 1_000_000
PRICE = Price(input=4, output=16, cached_input=1)


def test_input_and_output_are_priced_per_million_tokens() -> None:
    assert PRICE.cost(Usage(input_tokens=MILLION, output_tokens=MILLION // 2)) == 12.0
    assert PRICE.cost(Usage()) == 0.0


def test_cached_tokens_are_a_part_of_the_input_at_their_own_price() -> None:
    usage = Usage(input_tokens=MILLION, cached_tokens=MILLION // 4)
    assert PRICE.cost(usage) == 3 + 0.25
    assert Price(input=4, output=16).cost(usage) == 4  # no price of their own: as the others


def test_writing_to_the_cache_costs_more_and_for_an_hour_more_still() -> None:
    price = Price(input=4, output=16, cache_write=5, cache_write_1h=8)
    usage = Usage(input_tokens=MILLION, cache_write_tokens=500_000, cache_write_1h_tokens=250_000)
    assert price.cost(usage) == 2 + 0.25 * 5 + 0.25 * 8
    assert Price(input=4, output=16, cache_write=5).cost(usage) == 2 + 0.5 * 5


def test_reasoning_costs_what_the_answer_costs_unless_it_has_a_price() -> None:
    usage = Usage(output_tokens=MILLION, reasoning_tokens=MILLION // 2)
    assert PRICE.cost(usage) == 16
    assert Price(input=4, output=16, reasoning=2).cost(usage) == 8 + 1


def test_a_longer_prompt_costs_other_prices_for_all_of_its_tokens() -> None:
    longest = Price(input=16, output=0)
    price = Price(input=4, output=8, longer=(100, Price(input=8, output=16, longer=(500, longest))))
    assert price.cost(Usage(input_tokens=100, output_tokens=10)) == 480 / MILLION
    assert price.cost(Usage(input_tokens=101, output_tokens=10)) == 968 / MILLION
    assert price.cost(Usage(input_tokens=501)) == 501 * 16 / MILLION


class TestBatch:
    USAGE = Usage(
        input_tokens=MILLION,
        output_tokens=MILLION,
        cached_tokens=MILLION // 2,
        reasoning_tokens=MILLION // 2,
    )

    def test_without_a_known_batch_price_the_full_one_counts(self) -> None:
        assert not PRICE.has_batch
        assert PRICE.cost(self.USAGE, batch=True) == PRICE.cost(self.USAGE)
        half = Price(input=4, output=16, batch_input=2)
        assert half.cost(self.USAGE, batch=True) == half.cost(self.USAGE)

    def test_cached_tokens_have_a_batch_price_or_cost_what_the_others_do(self) -> None:
        price = Price(input=4, output=16, cached_input=1, batch_input=2, batch_output=8)
        assert price.cost(self.USAGE, batch=True) == 2 + 8
        cheaper = Price(
            input=4,
            output=16,
            cached_input=1,
            batch_input=2,
            batch_output=8,
            batch_cached_input=0.5,
        )
        assert cheaper.cost(self.USAGE, batch=True) == 1 + 0.25 + 8

    def test_writes_and_reasoning_get_the_same_discount(self) -> None:
        price = Price(
            input=4,
            output=16,
            cache_write=5,
            cache_write_1h=8,
            reasoning=24,
            batch_input=2,
            batch_output=8,
        )
        assert price.in_batch() == Price(
            input=2, output=8, cache_write=2.5, cache_write_1h=4, reasoning=12
        )

    def test_a_longer_prompt_has_batch_prices_of_its_own(self) -> None:
        longer = Price(input=8, output=32, batch_input=3, batch_output=9)
        price = Price(input=4, output=16, batch_input=2, batch_output=8, longer=(10, longer))
        assert price.cost(Usage(input_tokens=MILLION, output_tokens=MILLION), batch=True) == 12


def test_what_costs_nothing_says_that_it_is_free() -> None:
    assert str(FREE) == "free"
    assert FREE.is_free
    assert not Price(input=0, output=0, longer=(10, PRICE)).is_free
    assert str(PRICE) == "$4 in, $16 out per million tokens"


def test_a_price_is_a_value() -> None:
    price = Price(input=4, output=16, longer=(10, PRICE))
    assert pickle.loads(pickle.dumps(price)) == price
    assert hash(price) == hash(Price(input=4.0, output=16.0, longer=(10, PRICE)))
    assert repr(PRICE) == "Price(input=4.0, output=16.0, cached_input=1.0)"


@pytest.mark.parametrize(
    "fields",
    [
        {"input": -1},
        {"input": float("nan")},
        {"input": float("inf")},
        {"input": "0.4"},
        {"input": True},
        {"input": None},
        {"cached_input": -0.1},
        {"longer": (10, 5)},
        {"longer": PRICE},
    ],
)
def test_what_is_no_price_is_refused_by_name(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(fields))):
        Price(**{"input": 1, "output": 1, **fields})  # type: ignore[arg-type]


TOKENS = st.integers(0, 2_000_000)
DOLLARS = st.floats(0, 100)


@given(
    usage=st.builds(
        Usage,
        input_tokens=TOKENS,
        output_tokens=TOKENS,
        cached_tokens=TOKENS,
        reasoning_tokens=TOKENS,
        cache_write_tokens=TOKENS,
        cache_write_1h_tokens=TOKENS,
    ),
    price=st.builds(
        Price,
        input=DOLLARS,
        output=DOLLARS,
        cached_input=DOLLARS,
        cache_write=DOLLARS,
        cache_write_1h=DOLLARS,
        reasoning=DOLLARS,
        batch_input=DOLLARS,
        batch_output=DOLLARS,
    ),
    batch=st.booleans(),
)
def test_no_count_of_a_server_makes_a_cost_negative(
    usage: Usage, price: Price, batch: bool
) -> None:
    assert price.cost(usage, batch=batch) >= 0.0
