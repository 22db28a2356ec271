"""Copies of an LLM carry its settings, and neither connections nor keys."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from aiolimiter import AsyncLimiter

from llmflow import LLM, Hedge, Price, Quota, Retry, Run, Timeout
from llmflow.batch import Batch
from llmflow.errors import ConfigurationError, MissingKeyError
from llmflow.testing import ScriptedProvider
from llmflow.types import Response
from llmflow_providers.openai import OpenAIProvider

KEY = "sk-secret-0123456789"
Copy = Callable[[Any], Any]


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


each_copy = pytest.mark.parametrize("copied", [pickled, copy.deepcopy])


def is_short(response: Response) -> bool:
    return len(response.text) < 1000


@each_copy
class TestSettings:
    def test_all_of_them_are_carried(self, copied: Copy) -> None:
        llm = LLM(
            "sim/copied",
            quota=Quota(rpm=50),
            retry=Retry(attempts=3),
            timeout=Timeout(total=5),
            hedge=Hedge(),
            system="Be brief.",
            max_tokens=5,
            temperature=0.5,
            options={"top_p": 0.5},
            dedupe=True,
            cache=True,
            price=Price(input=1, output=2),
            mode="batch",
            deadline="6h",
            fallback="parallel",
            batch=Batch(requests=10),
            validate=is_short,
        )
        twin = copied(llm)
        assert twin is not llm
        for name in ("system", "max_tokens", "temperature", "options", "validate", "price"):
            assert getattr(twin, name) == getattr(llm, name)
        assert (twin.model, twin.mode_options, twin.batch) == (
            llm.model,
            llm.mode_options,
            llm.batch,
        )
        assert twin._given["dedupe"] is True
        own, copied_one = (each.call_for("Hi")[1].route for each in (llm, twin))
        assert copied_one.cache is own.cache

    def test_what_was_set_later_is_carried_too(self, copied: Copy) -> None:
        llm = LLM("sim/copied")
        llm.system = "Be brief."
        assert copied(llm).system == "Be brief."

    def test_a_copy_answers(self, copied: Copy) -> None:
        llm = LLM("sim/copied")
        answer = llm.run("Summarize: One. Two.")  # it has a connection now
        assert copied(llm).run("Summarize: One. Two.") == answer
        assert asyncio.run(copied(llm)("Summarize: One. Two.")) == answer

    def test_a_subclass_keeps_its_class_and_attributes(self, copied: Copy) -> None:
        llm = Mine("sim/copied", temperature=0.5)
        llm.label = "x"
        twin = copied(llm)
        assert (type(twin), twin.label, twin.temperature) == (Mine, "x", 0.5)

    def test_a_copy_of_another_mode_keeps_it(self, copied: Copy) -> None:
        assert copied(LLM("sim/copied").varied(mode="batch")).mode_options.mode == "batch"

    def test_what_holds_an_llm_can_be_copied(self, copied: Copy) -> None:
        assert copied({"llm": [LLM("sim/copied")]})["llm"][0].model == "sim/copied"


class Mine(LLM):
    label = ""


@each_copy
class TestKeys:
    def test_a_key_given_in_code_stays_and_the_variable_is_named(
        self, copied: Copy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for model, variable in (
            ("openai/m", "OPENAI_API_KEY"),
            ("anthropic/m", "ANTHROPIC_API_KEY"),
        ):
            monkeypatch.delenv(variable, raising=False)
            llm = LLM(model, api_key=KEY)
            with pytest.raises(MissingKeyError, match=variable):
                copied(llm)
            monkeypatch.setenv(variable, "key-of-there")
            assert copied(llm).provider.key == "key-of-there"

    def test_of_a_compatible_server_too(
        self, copied: Copy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        url = "http://127.0.0.1:9/v1"
        with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
            copied(LLM("openai/m", base_url=url, api_key=KEY))
        assert copied(LLM("openai/m", base_url=url)).model == "openai/m"

    def test_a_provider_object_with_a_key_is_refused(self, copied: Copy) -> None:
        with pytest.raises(ConfigurationError, match="model="):
            copied(LLM(OpenAIProvider("m", api_key=KEY)))


def test_no_key_is_in_the_bytes() -> None:
    assert KEY.encode() not in pickle.dumps(LLM("openai/m", api_key=KEY))


@each_copy
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("validate", lambda response: True),
        ("gate", AsyncLimiter(10, 1)),
        ("gate", [AsyncLimiter(10, 1)]),
        ("journal", Run("x")),
        ("options", {"tools": lambda: None}),
    ],
)
def test_what_belongs_to_the_process_is_refused_by_name(
    copied: Copy, name: str, value: Any
) -> None:
    with pytest.raises(ConfigurationError, match=f"an LLM with {name}="):
        copied(LLM("sim/copied", **{name: value}))


def test_a_shallow_copy_shares_everything() -> None:
    provider = ScriptedProvider()
    llm = LLM(provider, validate=lambda response: True)
    twin = copy.copy(llm)
    assert twin.run("x") == "ok"
    assert twin.provider is provider
    assert twin.limiter is llm.limiter
