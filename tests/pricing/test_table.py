"""The table of public prices: what is in it, and what is found in it."""

from __future__ import annotations

import datetime as dt
import importlib.util
import runpy
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow import pricing
from llmflow.pricing import FREE, Price, context_of, price_of

ROOT = Path(__file__).parent.parent.parent
FILE = Path(pricing.__file__).with_name("prices.json")
NAMES = {each.name for each in fields(Price)}

Table = Mapping[str, Any]


@pytest.fixture(scope="module")
def table() -> Table:
    loaded: Table = orjson.loads(FILE.read_bytes())
    return loaded


class TestFile:
    def test_it_has_a_day_and_a_source(self, table: Table) -> None:
        assert dt.date.fromisoformat(table["as_of"]) == dt.date.fromisoformat(pricing.PRICES_AS_OF)
        assert table["source"] == pricing.source()
        assert table["source"].startswith("litellm ")

    def test_it_is_small_and_in_order_with_a_line_for_each_model(self, table: Table) -> None:
        data = FILE.read_bytes()
        assert len(data) < 400_000
        names = [line.split(b'"')[1].decode() for line in data.splitlines() if b'"input"' in line]
        assert names == sorted(table["models"])

    def test_every_row_makes_a_price(self, table: Table) -> None:
        assert len(table["models"]) > 1000
        for name, row in table["models"].items():
            assert set(row) <= NAMES | {"context"}, name
            price = price_of(name, base_url=None)
            assert price is not None, name
            assert price.input > 0 < price.output, name
            assert price.input < 1000 > price.output, name
            context = row.get("context", [1, 1])
            assert len(context) == 2, name
            assert all(each is None or each > 0 for each in context), name

    def test_batch_is_never_dearer(self, table: Table) -> None:
        dearer = []
        for name in table["models"]:
            price = price_of(name)
            while price is not None:
                batch = price.in_batch()
                if batch.input > price.input or batch.output > price.output:
                    dearer.append(name)
                price = None if price.longer is None else price.longer[1]
        assert dearer == []

    @pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="needs litellm")
    def test_the_script_writes_this_file(self, table: Table) -> None:
        script = runpy.run_path(str(ROOT / "scripts" / "make_prices.py"))
        made = script["make"](date=table["as_of"])
        assert set(made) == set(table)
        if made["source"] == table["source"]:
            assert script["written"](made) == FILE.read_bytes()
        else:  # another litellm: other prices, of the same kind
            assert len(made["models"]) > 1000
            assert all(set(row) <= NAMES | {"context"} for row in made["models"].values())


class TestFinding:
    def test_prices_are_those_of_the_provider(self) -> None:
        price = price_of("openai/gpt-4.1-mini")
        assert price == Price(
            input=0.4, output=1.6, cached_input=0.1, batch_input=0.2, batch_output=0.8
        )

    @pytest.mark.parametrize(
        ("model", "same"),
        [
            ("openai/gpt-4.1-mini-2025-04-14", "openai/gpt-4.1-mini"),
            ("openai/gpt-4.1-mini-2031-01-01", "openai/gpt-4.1-mini"),
            ("anthropic/claude-haiku-4-5-20251001", "anthropic/claude-haiku-4-5"),
            ("anthropic/claude-haiku-4-5-20310101", "anthropic/claude-haiku-4-5"),
            ("claude/claude-haiku-4-5", "anthropic/claude-haiku-4-5"),
            ("google/gemini-2.5-flash", "gemini/gemini-2.5-flash"),
            ("litellm/xai/grok-4.7", "xai/grok-4.7"),
            ("litellm/openai/gpt-4.1-mini", "openai/gpt-4.1-mini"),
            ("litellm/gpt-4.1-mini", "openai/gpt-4.1-mini"),
            ("gpt-4.1-mini", "openai/gpt-4.1-mini"),
        ],
    )
    def test_a_model_is_found_by_all_of_its_names(self, model: str, same: str) -> None:
        assert price_of(model) == price_of(same) is not None

    def test_a_fine_tuned_model_has_the_price_of_its_kind(self) -> None:
        tuned = price_of("openai/ft:gpt-4.1-mini-2025-04-14:acme::abc123")
        plain = price_of("openai/gpt-4.1-mini")
        assert tuned is not None
        assert plain is not None
        assert tuned.input > plain.input

    @pytest.mark.parametrize(
        "model",
        ["openai/gpt-none", "acme/gpt-4.1-mini", "", "openai/", "/", "gpt-4.1-min", "openai/*"],
    )
    def test_a_price_is_never_invented(self, model: str) -> None:
        assert price_of(model) is None
        assert context_of(model) is None

    def test_a_server_of_ones_own_has_no_public_price(self) -> None:
        model = "openai/gpt-4.1-mini"
        assert price_of(model, base_url="https://api.openai.com/v1") == price_of(model)
        for url in ("http://127.0.0.1:8000/v1", "https://gateway.acme.test/v1", "http://[", ""):
            assert price_of(model, base_url=url) is None

    def test_the_address_says_whose_prices_apply(self) -> None:
        groq = price_of("mine/openai/gpt-oss-20b", base_url="https://api.groq.com/openai/v1")
        assert groq == price_of("groq/openai/gpt-oss-20b") is not None
        azure = price_of("openai/gpt-4o", base_url="https://acme.openai.azure.com/openai/v1")
        assert azure == price_of("azure/gpt-4o") is not None

    def test_the_simulator_is_free(self) -> None:
        assert price_of("sim/demo") is FREE
        assert price_of("sim/demo", base_url="http://127.0.0.1:1/v1") is FREE

    def test_a_model_says_how_much_it_takes_and_gives(self) -> None:
        context = context_of("openai/gpt-4.1-mini")
        assert context == (1_047_576, 32_768)


class TestDiscounts:
    def test_a_providers_discount_makes_its_batch_prices(self) -> None:
        price = price_of("groq/openai/gpt-oss-20b")
        assert price is not None
        assert price.batch_input == price.input / 2
        assert price.batch_cached_input is None  # Groq does not give both discounts

    def test_it_counts_for_cached_tokens_where_the_provider_says_so(self) -> None:
        cached = [
            price
            for name in orjson.loads(FILE.read_bytes())["models"]
            if name.startswith("fireworks_ai/")
            and (price := price_of(name)) is not None
            and price.cached_input
        ]
        assert cached
        for price in cached:
            assert price.batch_cached_input == pytest.approx(price.cached_input / 2)

    def test_together_has_none(self, table: Table) -> None:
        names = [name for name in table["models"] if name.startswith("together_ai/")]
        assert names
        assert not any(price.has_batch for name in names if (price := price_of(name)))
