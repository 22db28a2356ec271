"""Arguments that nobody takes: the name that was meant, or where it belongs."""

from __future__ import annotations

import ast
import asyncio
import copy
import inspect
import pickle
import typing
from collections.abc import Callable
from typing import Any

import pytest

import llmflow.llm
from llmflow import (
    LLM,
    AsyncBatchFlow,
    AsyncBatchNode,
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchFlow,
    AsyncParallelBatchNode,
    BatchFlow,
    BatchNode,
    Budget,
    Flow,
    Hedge,
    Node,
    Price,
    Quota,
    Retry,
    Run,
    Timeout,
)
from llmflow.arguments import BELONGS
from llmflow.batch import Batch
from llmflow.call_options import CALL
from llmflow.errors import ConfigurationError, UnknownArgumentError
from llmflow.inference import BatchInferenceNode
from llmflow.testing import ScriptedProvider
from llmflow_providers.anthropic import FIELDS as ANTHROPIC
from llmflow_providers.anthropic import AnthropicProvider
from llmflow_providers.openai import OpenAIProvider
from llmflow_providers.openai.dialects import COMPATIBLE_FIELDS as COMPATIBLE
from llmflow_providers.openai.dialects import OPENAI_FIELDS as OPENAI
from llmflow_providers.sim import SimProvider

Call = Callable[..., Any]


class Known(ScriptedProvider):
    """A scripted provider that says which fields it has."""

    known_options = frozenset({"top_p", "stop"})


def calls(llm: LLM) -> dict[str, Call]:
    async def submitted(**options: Any) -> None:
        async with Run("submitting"):
            await llm.submit("Hi", **options)

    return {
        "llm": lambda **options: asyncio.run(llm("Hi", **options)),
        "complete": lambda **options: asyncio.run(llm.complete("Hi", **options)),
        "run": lambda **options: llm.run("Hi", **options),
        "complete_sync": lambda **options: llm.complete_sync("Hi", **options),
        "submit": lambda **options: asyncio.run(submitted(**options)),
    }


CALLS = ["llm", "complete", "run", "complete_sync", "submit"]
MAKERS: list[tuple[str, Call]] = [
    ("LLM", lambda **options: LLM(ScriptedProvider(), **options)),
    ("Run", Run),
    ("Node", Node),
    ("BatchNode", BatchNode),
    ("AsyncNode", AsyncNode),
    ("AsyncBatchNode", AsyncBatchNode),
    ("AsyncParallelBatchNode", AsyncParallelBatchNode),
    ("BatchInferenceNode", lambda **options: BatchInferenceNode(llm="sim/x", **options)),
    ("Flow", Flow),
    ("BatchFlow", BatchFlow),
    ("AsyncFlow", AsyncFlow),
    ("AsyncBatchFlow", AsyncBatchFlow),
    ("AsyncParallelBatchFlow", AsyncParallelBatchFlow),
]


class TestCalls:
    @pytest.mark.parametrize("way", CALLS)
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"concurrency": 5}, "concurrency belongs to llm.map(...)"),
            (
                {"mode": "batch"},
                "mode belongs to LLM(...), llm.map(...), Run(...) or an async node",
            ),
            ({"budget": 5}, "budget belongs to Run(...)"),
            ({"max_retries": 5}, "max_retries belongs to a node"),
            ({"api_key": "key"}, "api_key belongs to LLM(...)"),
            ({"temprature": 0}, "did you mean 'temperature'?"),
            ({"topp": 0}, "did you mean 'top_p'?"),
            ({"concurency": 5}, "did you mean 'concurrency'? concurrency belongs to llm.map(...)"),
            ({"rpm": 5}, "write quota=Quota(rpm=...), an argument of LLM(...)"),
            ({"min_p": 0.1}, 'goes into options={"min_p": ...}'),
        ],
    )
    def test_a_name_that_nobody_knows_is_refused_with_a_remedy(
        self, way: str, given: dict[str, Any], said: str
    ) -> None:
        provider = Known()
        with pytest.raises(UnknownArgumentError) as caught:
            calls(LLM(provider))[way](**given)
        assert said in str(caught.value)
        assert provider.requests == []

    @pytest.mark.parametrize("way", CALLS[:-1])
    def test_known_fields_and_options_reach_the_body(self, way: str) -> None:
        provider = Known()
        llm = LLM(provider, options={"min_p": 0.1, "seed": 1})
        calls(llm)[way](top_p=0.9, options={"min_p": 0.2, "anything": [1]})
        assert provider.requests[0].options == {
            "anything": [1],
            "min_p": 0.2,
            "seed": 1,
            "top_p": 0.9,
        }

    def test_a_provider_without_a_list_takes_any_field_but_llmflows_own(self) -> None:
        provider = ScriptedProvider()
        LLM(provider).run("Hi", min_p=0.1, store=True)
        assert provider.requests[0].options == {"min_p": 0.1, "store": True}
        for name in sorted(set(BELONGS) - set(CALL) - {"store", "name"}):
            with pytest.raises(UnknownArgumentError, match=name):
                LLM(provider).run("Hi", **{name: 1})

    @pytest.mark.parametrize("name", ["model", "messages", "stream"])
    def test_what_llmflow_sends_itself_is_no_option(self, name: str) -> None:
        llm = LLM(Known())
        for given in ({name: "x"}, {"options": {name: "x"}}):
            with pytest.raises(ConfigurationError, match="cannot be one of the options"):
                llm.run("Hi", **given)

    def test_options_that_are_no_dict_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="options must be a dict"):
            LLM(Known()).run("Hi", options=["top_p"])  # type: ignore[arg-type]

    def test_a_list_of_known_fields_that_is_a_text_is_refused(self) -> None:
        provider = ScriptedProvider()
        provider.known_options = "top_p"  # type: ignore[attr-defined]
        with pytest.raises(ConfigurationError, match="known_options"):
            LLM(provider)


class TestDialects:
    def test_each_knows_its_own_fields(self) -> None:
        assert OpenAIProvider("m", api_key="key-1234").known_options == OPENAI
        groq = OpenAIProvider("m", base_url="https://api.groq.com/openai/v1", api_key="key-1234")
        assert groq.known_options == COMPATIBLE > OPENAI
        assert AnthropicProvider("m", api_key="key-1234").known_options == ANTHROPIC
        assert SimProvider("m").known_options == OPENAI

    @pytest.mark.slow  # their imports take seconds
    def test_they_are_those_of_the_official_clients(self) -> None:
        openai = pytest.importorskip("openai.types.chat.completion_create_params")
        ours = {"model", "messages", "max_tokens", "temperature", "system"}
        fields = set(openai.CompletionCreateParamsBase.__annotations__)
        assert fields - ours <= OPENAI
        anthropic = pytest.importorskip("anthropic.types.message_create_params")
        fields = set(anthropic.MessageCreateParamsBase.__annotations__)
        assert fields - ours <= ANTHROPIC

    def test_none_of_them_is_an_argument_of_a_call(self) -> None:
        assert not (COMPATIBLE | ANTHROPIC) & {*CALL, "model", "messages"}


class TestConstructors:
    @pytest.mark.parametrize(("name", "make"), MAKERS, ids=[name for name, _ in MAKERS])
    def test_a_name_that_nobody_knows_is_refused_with_the_nearest(
        self, name: str, make: Call
    ) -> None:
        parameters = {
            "LLM": "temperature",
            "Run": "retry_failed",
            "Node": "max_retries",
            "BatchNode": "on_error",
            "Flow": "max_steps",
            "BatchFlow": "on_error",
        }
        meant = parameters.get(name, "max_steps" if name.endswith("Flow") else "validate")
        with pytest.raises(UnknownArgumentError, match=f"did you mean '{meant}'") as caught:
            make(**{meant[:-2] + meant[-1]: 1})
        assert caught.value.nearest == meant
        assert str(caught.value).startswith(name)

    @pytest.mark.parametrize(
        ("make", "name", "said"),
        [
            (MAKERS[0][1], "concurrency", "concurrency belongs to llm.map(...)"),
            (MAKERS[0][1], "budget", "budget belongs to Run(...)"),
            (MAKERS[0][1], "rpm", "write quota=Quota(rpm=...)"),
            (Run, "temperature", "temperature belongs to LLM(...), llm(...) or llm.map(...)"),
            (Run, "usd", "write budget=Budget(usd=...)"),
            (
                BatchNode,
                "mode",
                "mode belongs to LLM(...), llm.map(...), Run(...) or an async node",
            ),
            (AsyncFlow, "concurrency", "did you mean 'concurrency_limit'?"),
        ],
    )
    def test_a_name_of_another_place_says_which(self, make: Call, name: str, said: str) -> None:
        with pytest.raises(UnknownArgumentError) as caught:
            make(**{name: 1})
        assert said in str(caught.value)

    def test_the_users_own_class_is_told_too(self) -> None:
        class Mine(AsyncNode):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)

        with pytest.raises(UnknownArgumentError, match="did you mean 'timeout'"):
            Mine(timout=3)

    def test_signatures_are_still_seen(self) -> None:
        assert "temperature" in inspect.signature(LLM).parameters
        assert "budget" in inspect.signature(Run).parameters
        assert typing.get_type_hints(Budget.__init__, {"DIMENSIONS": 1})

    @pytest.mark.parametrize("value", [Budget(usd=5), Quota(rpm=5), Price(input=1, output=2)])
    def test_values_are_copied_and_pickled_as_before(self, value: Any) -> None:
        assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value


class TestWithoutAName:
    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: Budget(5), "write Budget(usd=5)"),  # type: ignore[misc]
            (lambda: Quota(500, 2), "write Quota(rpm=500, tpm=2)"),  # type: ignore[misc]
            (lambda: Retry(3), "write Retry(attempts=3)"),  # type: ignore[misc]
            (lambda: Timeout(3), "write Timeout(total=3)"),  # type: ignore[misc]
            (lambda: Price(1, 2), "write Price(input=1, output=2)"),  # type: ignore[misc]
            (lambda: Batch("x"), "write Batch("),  # type: ignore[misc]
            (lambda: Hedge(0.9), "write Hedge("),  # type: ignore[misc]
            (lambda: Run("x", Budget(usd=5)), "write Run(name, budget=...)"),  # type: ignore[misc]
            (lambda: LLM("sim/x", "secret"), "write llm = LLM(model), and then llm.run(prompt)"),  # type: ignore[misc]
        ],
    )
    def test_it_says_what_to_write(self, make: Call, said: str) -> None:
        with pytest.raises(UnknownArgumentError) as caught:
            make()
        assert said in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_it_is_a_type_error_as_python_has_it(self) -> None:
        with pytest.raises(TypeError):
            Budget(5)  # type: ignore[misc]

    def test_the_error_can_be_pickled(self) -> None:
        error = UnknownArgumentError("no", name="x", nearest="y")
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.name, again.nearest) == ("no", "x", "y")


class TestWhatTypeCheckersSee:
    @pytest.mark.parametrize(
        ("name", "function", "others"),
        [
            ("LLMOptions", LLM.__init__, {"self", "model", "output_type"}),
            ("Changes", LLM.varied, {"self", "output_type"}),
        ],
    )
    def test_it_is_what_is_taken(self, name: str, function: Any, others: set[str]) -> None:
        tree = ast.parse(inspect.getsource(llmflow.llm))
        (options,) = (
            each for each in ast.walk(tree) if isinstance(each, ast.ClassDef) and each.name == name
        )
        shown = [line.target.id for line in options.body if isinstance(line, ast.AnnAssign)]  # type: ignore[union-attr]
        taken = [each for each in inspect.signature(function).parameters if each not in others]
        assert shown == taken

    def test_an_llm_may_be_written_with_its_type(self) -> None:
        llm = LLM[int]("sim/demo", output_type=int)
        again = pickle.loads(pickle.dumps(llm))
        assert type(again) is type(llm) is LLM
        assert again.output_type is llm.output_type
